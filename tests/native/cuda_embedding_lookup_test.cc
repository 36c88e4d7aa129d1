// Rows of a table on CUDA, in the emulator, through the op: bit for bit the rows that the CPU
// gives.
#include "check.h"
#include "cuda_array.h"
#include "cuda_emulator.h"
#include "kernels/linear.h"
#include "random_weight.h"

namespace mlf {
namespace {

constexpr DLDevice kCpu{kDLCPU, 0};

const ffi::Function& LookupOp() {
  static const ffi::Function op = ffi::Function::GetGlobalRequired("my_llm_ffi.embedding_lookup");
  return op;
}

template <typename Id>
OwnedArray<Id> Ids(int64_t n, int64_t rows) {
  OwnedArray<Id> ids({n});
  for (int64_t i = 0; i < n; ++i) ids[i] = static_cast<Id>((i * 7 + 3) % rows);
  return ids;
}

/// A table of floats in its own dtype and as float32, at an offset from an aligned address.
template <typename T, typename To>
void TestFloats(int64_t rows, int64_t cols, int64_t n, int64_t offset) {
  auto table = RandomArray<T>({rows * cols + offset}, cols);
  if (cols > 4) table[offset + 3] = FromFloat<T>(std::nanf(""));
  const auto ids = Ids<int64_t>(n, rows);
  OwnedArray<To> want({n, cols});
  auto got = CudaOutput<To>({n, cols});
  const auto from = From(table, offset, {rows, cols});
  const auto run = [&](DLDevice device, const OwnedArray<To>& out) {
    LookupOp()(TensorView(from.On(device)), TensorView(ids.view.On(device)),
               TensorView(out.view.On(device)), nullptr, false, nullptr);
  };
  run(kCpu, want);
  run(kCuda, got);
  MLF_EXPECT(SameBits(got, want));
}

template <typename T>
void TestFloatTables() {
  for (int64_t cols : {1, 7, 8, 64, 100, 3000}) {
    for (int64_t offset : {0, 1}) {
      TestFloats<T, T>(13, cols, 9, offset);
      TestFloats<T, float>(13, cols, 9, offset);
    }
  }
  TestFloats<T, T>(3, 16, 0, 0);
}

/// Blocks in the file's layout and tiled.
void TestBlocks(Format format, int64_t units) {
  const FormatInfo& info = InfoOf(format);
  const int64_t rows = 21, cols = units * RowUnit(format), row_bytes = RowBytes(format, cols);
  OwnedArray<uint8_t> table({rows, row_bytes});
  for (int64_t i = 0; i < table.size(); ++i) {
    table[i] = static_cast<uint8_t>(256 * RandomUniform(units, i));
  }
  for (int64_t b = 0; b < table.size() / info.block_bytes; ++b) {
    for (int64_t offset : HalfOffsets(format)) {
      const F16 scale = F16::From(static_cast<float>(RandomUniform(7, b) - 0.4));
      std::memcpy(&table[b * info.block_bytes + offset], &scale, sizeof scale);
    }
  }
  OwnedArray<uint8_t> packed({PackedBytes(format, rows, cols)});
  pack_weight_kernel(kCpu, packed, table, static_cast<int64_t>(format), cols);
  const auto ids = Ids<int32_t>(10, rows);
  OwnedArray<float> want({10, cols});
  const ffi::String name(info.name);
  LookupOp()(TensorView(table), TensorView(ids), TensorView(want), name, false, nullptr);
  auto got = CudaOutput<float>({10, cols}), tiled = CudaOutput<float>({10, cols});
  LookupOp()(TensorView(table.view.On(kCuda)), TensorView(ids.view.On(kCuda)), TensorView(got),
             name, false, nullptr);
  MLF_EXPECT(SameBits(got, want));
  embedding_lookup_kernel(kCuda, tiled, packed.view.On(kCuda), ids.view.On(kCuda),
                          static_cast<int64_t>(format), cols);
  MLF_EXPECT(SameBits(tiled, want));
}

/// Ids that the CPU refuses give rows of zeros.
void TestOutside() {
  auto table = OnCuda(RandomArray<float>({4, 6}, 1)), out = CudaOutput<float>({4, 6});
  auto ids = OnCuda(OwnedArray<int64_t>({4}));
  ids[0] = -1, ids[1] = 4, ids[2] = 3, ids[3] = int64_t{1} << 40;
  LookupOp()(TensorView(table), TensorView(ids), TensorView(out), nullptr, false, nullptr);
  for (int64_t i = 0; i < 24; ++i) MLF_EXPECT(out[i] == (i / 6 == 2 ? table[i + 6] : 0.f));
}

}  // namespace
}  // namespace mlf

int main() {
  for (uint64_t seed : {1, 2}) {
    mlf::emulated::SetSeed(seed);
    mlf::TestFloatTables<float>();
    mlf::TestFloatTables<mlf::F16>();
    mlf::TestFloatTables<mlf::BF16>();
    for (mlf::Format format : mlf::kAllFormats) {
      if (mlf::InfoOf(format).block == 1) continue;
      for (int64_t units : {1, 3, 70}) mlf::TestBlocks(format, units);
    }
    mlf::TestOutside();
  }
  return 0;
}
