// Op my_llm_ffi.quantize_q8_0, and activations as the matmul takes them. Counterparts: dequantize.h
// and linear.h (kernels), quantize_simd.cc.
#include <algorithm>

#include "base/op.h"
#include "base/thread_pool.h"
#include "kernels/dequantize.h"
#include "kernels/linear.h"
#include "kernels/linear_simd.h"

namespace mlf {
namespace {

constexpr int64_t kValuesAtOnce = 16 << 10;  // that a thread takes: some microseconds

void QuantizeActivationsCpu(TensorView q, TensorView x, int64_t planes) {
  const int64_t tokens = x.size(0), cols = x.size(1), row_bytes = QuantizedRowBytes(cols, planes);
  if (cols == 0) return;
  uint8_t* out = Data<uint8_t>(q);
  const float* in = Data<const float>(x);
  ParallelFor(tokens, kValuesAtOnce / cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      quantize_row(out + t * row_bytes, in + t * cols, cols, static_cast<int>(planes));
    }
  });
}

template <typename T>
struct Blocks;
template <>
struct Blocks<float> {
  static constexpr auto& kFrom = quantize_q8_f32;
};
template <>
struct Blocks<F16> {
  static constexpr auto& kFrom = quantize_q8_f16;
};
template <>
struct Blocks<BF16> {
  static constexpr auto& kFrom = quantize_q8_bf16;
};

void QuantizeQ8Cpu(TensorView out, TensorView x) {
  constexpr int64_t kUnit = 32;  // blocks, which fill whole lines of the cache
  constexpr int64_t kUnitBytes = kUnit * quant::Q8_0::kBytes, kUnitValues = kUnit * kQuantBlock;
  uint8_t* q = Data<uint8_t>(out);
  const int64_t blocks = x.numel() / kQuantBlock, units = (blocks + kUnit - 1) / kUnit;
  // By the size of x, which goes through the caches in any case.
  const bool stream =
      WorthStreaming(q, Data<void>(x), x.numel() * DtypeBytes(x.dtype()), kUnitBytes);
  DispatchFloat(x.dtype(), [&]<typename T>() {
    const T* in = Data<const T>(x);
    ParallelFor(units, kValuesAtOnce / kUnitValues, [&](int64_t begin, int64_t end) {
      Blocks<T>::kFrom({q + begin * kUnitBytes, stream}, in + begin * kUnitValues,
                       std::min(end * kUnit, blocks) - begin * kUnit);
    });
  });
}

[[maybe_unused]] const bool kFilled = quantize_activations_kernel.SetCpu(QuantizeActivationsCpu) &&
                                      quantize_q8_0_kernel.SetCpu(QuantizeQ8Cpu);

const Op kQuantizeQ8{"quantize_q8_0",
                     "(x: T['rows cols', 'f32 f16 bf16']) -> T['rows cols//32*34', 'u8']",
                     R"(Rows of floats in the format Q8_0: blocks of 32 bytes and a float16 scale.

``scale = max(abs(block)) / 127`` and ``q = round(block / scale)``, ties away from zero, computed in
float32: bit for bit as ggml and PyPI's ``gguf`` quantize. A block with a NaN or an infinity gets it
as its scale.

x: Rows of whole blocks of 32; may have no rows.
)"};

void QuantizeQ8(TensorView x, TensorView out) {
  const int64_t block = kQuantBlock, block_bytes = quant::Q8_0::kBytes;
  kQuantizeQ8.Check(x, out)
      .That(x.size(1) % block == 0, "x has rows of ", x.size(1), ", expected a multiple of ", block)
      .That(out.size(1) == x.size(1) / block * block_bytes, "out has rows of ", out.size(1),
            " bytes, expected ", x.size(1) / block * block_bytes, " (from x)");
  if (x.numel() != 0) quantize_q8_0_kernel(x.device(), out, x);
}

TVM_FFI_STATIC_INIT_BLOCK() { kQuantizeQ8.Register(QuantizeQ8); }

}  // namespace

int ActivationPlanes(Format format) {
  return DispatchFormat(format, []<typename F>() {
    if constexpr (kIsBlockFormat<F>) {
      return F::kPlanes;
    } else {
      return 0;
    }
  });
}

int64_t QuantizedRowBytes(int64_t cols, int64_t planes) {
  if (planes == 0) return cols * static_cast<int64_t>(sizeof(float));
  const size_t block = planes == 1 ? sizeof(ActivationBlock<1>) : sizeof(ActivationBlock<2>);
  return cols / kQuantBlock * static_cast<int64_t>(block);
}

}  // namespace mlf
