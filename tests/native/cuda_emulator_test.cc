// The emulator of CUDA: it computes what CUDA computes, and faults planted in kernels are noticed.
#include "cuda_emulator.h"

#include <array>
#include <vector>

#include "check.h"
#include "cuda_array.h"
#include "kernels/cuda_launch.cuh"
#include "kernels/cuda_mma.cuh"
#include "kernels/cuda_vector.cuh"

namespace mlf {
namespace {

/// A call over one tensor, for kernels that need none of what a call says.
struct AnyCall {
  OwnedArray<float> x = OnCuda(OwnedArray<float>({2, 3}));
  CudaCall call{"any", {{"x", x}}};
};

/// How many of `seeds` orders of the threads give a result that `right` refuses.
template <typename Run>
int WrongOrders(Run run) {
  int wrong = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    emulated::SetSeed(seed);
    wrong += !run();
  }
  return wrong;
}

// ---- barriers -----------------------------------------------------------------------------------

enum class Without { kNothing, kBarrierBefore, kBarrierAfter };

/// Two block sums in a row, which share their memory: BlockSum, with a barrier taken out.
template <Without kWithout>
__global__ void TwoSums(float* out) {
  __shared__ float warp_sum[8];
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float total = 0;
  for (int turn = 1; turn <= 2; ++turn) {
    const float sum = WarpSum(static_cast<float>(turn));
    if (kWithout != Without::kBarrierBefore) __syncthreads();
    if (lane == 0) warp_sum[warp] = sum;
    if (kWithout != Without::kBarrierAfter) __syncthreads();
    total += WarpSum(lane < 8 ? warp_sum[lane] : 0.f);
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = total;
}

template <Without kWithout>
bool SumsAreRight() {
  const AnyCall any;
  std::vector<float> out(512);
  any.call.Launch(TwoSums<kWithout>, 2, 256, 0, out.data());
  return std::all_of(out.begin(), out.end(), [](float o) { return o == 3 * 256; });
}

__global__ void Reverse(int* values, bool synchronise) {  // within a warp, by shared memory
  int* shared = DynamicShared<int>();
  shared[threadIdx.x] = values[threadIdx.x];
  if (synchronise) __syncwarp();
  values[threadIdx.x] = shared[31 - threadIdx.x];
}

bool ReverseIsRight(bool synchronise) {
  const AnyCall any;
  std::vector<int> values(32);
  for (int i = 0; i < 32; ++i) values[i] = i;
  any.call.Launch(Reverse, 1, 32, 32 * sizeof(int), values.data(), synchronise);
  for (int i = 0; i < 32; ++i)
    if (values[i] != 31 - i) return false;
  return true;
}

void TestMissingBarriers() {
  MLF_EXPECT(WrongOrders(SumsAreRight<Without::kNothing>) == 0);
  MLF_EXPECT(WrongOrders(SumsAreRight<Without::kBarrierBefore>) > 10);
  MLF_EXPECT(WrongOrders(SumsAreRight<Without::kBarrierAfter>) > 10);
  MLF_EXPECT(WrongOrders([] { return ReverseIsRight(true); }) == 0);
  MLF_EXPECT(WrongOrders([] { return ReverseIsRight(false); }) > 10);
}

__global__ void HalfAtBarrier(int* out) {
  if (threadIdx.x < 40) __syncthreads();
  if (threadIdx.x >= 40) __shfl_xor_sync(kFullWarp, 1, 16);
  *out = 1;
}

__global__ void OthersHaveEnded(int* out) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
  atomicAdd(out, 1);
}

__global__ void AnothersMask() { __syncwarp(1); }

void TestThreadsThatNeverCome() {
  const AnyCall any;
  int out = 0;
  MLF_EXPECT_THROWS(any.call.Launch(HalfAtBarrier, dim3(1, 3), 64, 0, &out), "RuntimeError",
                    "any.cuda: x [2, 3] float32: deadlock: 24 threads from 40 on wait at "
                    "__shfl_xor_sync with mask ffffffff, 40 threads from 0 on wait at "
                    "__syncthreads, 0 have ended in block (0, ");
  MLF_EXPECT(out == 0);
  any.call.Launch(OthersHaveEnded, 2, 64, 0, &out);  // and the emulator goes on
  MLF_EXPECT(out == 80);
  MLF_EXPECT_THROWS(any.call.Launch(AnothersMask, 1, 32, 0), "RuntimeError",
                    "a thread's own lane is not in the mask it gives");
}

// ---- exchanges ----------------------------------------------------------------------------------

__global__ void Exchanges(int* out) {  // 8 of each lane
  const int lane = static_cast<int>(threadIdx.x);
  int* own = out + 8 * lane;
  own[0] = __shfl_sync(kFullWarp, lane, 5);
  own[1] = __shfl_sync(kFullWarp, lane, 3, 8);
  own[2] = __shfl_xor_sync(kFullWarp, lane, 6);
  own[3] = __shfl_down_sync(kFullWarp, lane, 3, 16);
  own[4] = __shfl_up_sync(kFullWarp, lane, 3);
  own[5] = static_cast<int>(__ballot_sync(kFullWarp, lane % 3 == 0));
  if (lane < 8) {
    own[6] = __any_sync(0xFFu, lane == 2);
    own[7] = static_cast<int>(__shfl_sync(0xFFu, 1ll << 40, 3) >> 40);
  } else {
    own[6] = __all_sync(0xFFFFFF00u, lane > 8);
    own[7] = __shfl_sync(0xFFFFFF00u, lane, 3);  // which is not in the mask
  }
}

void TestExchanges() {
  const AnyCall any;
  std::vector<int> out(8 * 32);
  any.call.Launch(Exchanges, 1, 32, 0, out.data());
  for (int lane = 0; lane < 32; ++lane) {
    const int want[] = {5,
                        lane / 8 * 8 + 3,
                        lane ^ 6,
                        lane % 16 < 13 ? lane + 3 : lane,
                        lane < 3 ? lane : lane - 3,
                        0x49249249,
                        lane < 8,
                        lane < 8 ? 1 : -1};
    for (int i = 0; i < 8; ++i) MLF_EXPECT(out[8 * lane + i] == want[i]);
  }
}

__global__ void Counts(int* out) {
  const int thread = static_cast<int>(threadIdx.x + blockDim.x * threadIdx.y);
  const int count = __syncthreads_count(thread % 3 == 0);
  atomicMax(out, count);
  if (__syncthreads_or(thread == 49)) atomicAdd(out + 1, 1);
  if (atomicCAS(out + 2, 0, 7) == 0) atomicExch(out + 3, 9);
}

void TestCounts() {
  const AnyCall any;
  std::array<int, 4> out{};
  any.call.Launch(Counts, dim3(2, 1, 3), dim3(25, 2), 0, out.data());
  MLF_EXPECT(out[0] == 17 && out[1] == 300 && out[2] == 7 && out[3] == 9);
}

// ---- tensor cores and copies --------------------------------------------------------------------

/// c = a * b of [16, 16] and [16, 8], by way of shared memory.
template <typename T, bool kWait>
__global__ void Product(float* c, const T* a, const T* b) {
  T* shared = DynamicShared<T>();  // a, then b, whose rows are its k
  const unsigned lane = threadIdx.x;
  CopyAsync16(shared + lane * 8, a + lane * 8, true);
  CopyAsyncCommit();
  CopyAsync16(shared + 256 + lane * 8, b + lane % 16 * 8, lane < 16);
  CopyAsyncCommit();
  CopyAsyncWait<kWait ? 0 : 1>();
  __syncwarp();
  uint32_t fa[4], fb[4];
  LoadMatrix4(fa, shared + lane % 16 * 16 + lane / 16 * 8);
  LoadMatrix4Transposed(fb, shared + 256 + lane * 8);
  const uint32_t low[2] = {fb[0], fb[1]}, zero[2] = {fb[2], fb[3]};  // rows 16 to 31: not valid
  float sums[4] = {};
  if constexpr (std::is_same_v<T, BF16>) {
    MmaBf16(sums, fa, low);
    MmaBf16(sums, fa, zero);
  } else {
    MmaF16(sums, fa, low);
    MmaF16(sums, fa, zero);
  }
  for (unsigned i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

template <typename T>
void TestProduct() {
  const AnyCall any;
  const auto a = RandomArray<T>({16, 16}, 1), b = RandomArray<T>({16, 8}, 2);
  std::vector<float> c(128);
  any.call.Launch(Product<T, true>, 1, 32, 1024, c.data(), a.data.data(), b.data.data());
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      double want = 0;
      for (int k = 0; k < 16; ++k) want += a.At(i * 16 + k) * b.At(k * 8 + j);
      MLF_EXPECT(std::abs(c[i * 8 + j] - want) < 1e-5);
    }
  }
  any.call.Launch(Product<T, false>, 1, 32, 1024, c.data(), a.data.data(), b.data.data());
  MLF_EXPECT(std::isnan(c[0]));  // what has not been waited for is not there
}

// ---- the call -----------------------------------------------------------------------------------

__global__ void Fill(float* out, float value) {
  out[blockIdx.x] = value + DynamicShared<float>()[0];
}

void TestLaunches() {
  const AnyCall any;
  const CudaCall& call = any.call;
  float out = 0;
  call.Launch(Fill, 1, 1, 160 * 1024, &out, 1);
  MLF_EXPECT(std::isnan(out));  // shared memory is never zero by chance
  call.Launch(Fill, 0, 1, 4, nullptr, 1);
  call.Launch(Fill, dim3(1, 0), 1, 4, nullptr, 1);
  MLF_EXPECT_THROWS(call.Launch(Fill, 1, 1, 164 * 1024, &out, 1), "RuntimeError",
                    "any.cuda: x [2, 3] float32: invalid argument");
  MLF_EXPECT_THROWS(call.Launch(Fill, 1, 1025, 4, &out, 1), "RuntimeError",
                    "any.cuda: x [2, 3] float32: invalid configuration argument");
  MLF_EXPECT_THROWS(call.Launch(Fill, dim3(1, 65536), 1, 4, &out, 1), "RuntimeError",
                    "invalid configuration");
  MLF_EXPECT(call.multiprocessors() == 4 && call.compute_capability() == 80);
  MLF_EXPECT(call.multiprocessors() == 4 && call.stream() == nullptr);
}

void TestDevices() {
  const auto first = OnCuda(OwnedArray<float>({2})), other = OnCuda(OwnedArray<float>({3}));
  const ArrayView second = other.view.On({kDLCUDA, 1}), third = other.view.On({kDLCUDA, 2}),
                  host = other.view.On({kDLCPU, 0});
  MLF_EXPECT_THROWS(CudaCall("any", {{"x", first}, {"y", host}}), "ValueError",
                    "any.cuda: y is not a CUDA tensor: its device type is 1, expected 2");
  MLF_EXPECT_THROWS(CudaCall("any", {{"x", first}, {"y", second}}), "ValueError",
                    "any.cuda: y is on device 1, x is on 0");
  MLF_EXPECT_THROWS(CudaCall("any", {{"x", ArrayView()}}), "ValueError", "no tensor has data");
  MLF_EXPECT_THROWS(CudaCall("any", {{"x", third}}), "RuntimeError",
                    "any.cuda: x [3] float32: invalid device ordinal");
  int device = -1;
  {
    const CudaCall call("any", {{"none", ArrayView()}, {"x", second}});
    MLF_EXPECT(call.device().device_id == 1 && cudaGetDevice(&device) == 0 && device == 1);
  }
  MLF_EXPECT(cudaGetDevice(&device) == 0 && device == 0);
}

void TestAllocator() {
  const auto t = ffi::Tensor::FromEnvAlloc(TVMFFIEnvTensorAlloc, ffi::Shape({3, 4}), kF32, kCuda);
  MLF_EXPECT(t.device().device_type == kDLCUDA && t.size(1) == 4);
  MLF_EXPECT(std::isnan(static_cast<const float*>(t.data_ptr())[11]));
}

/// A kernel of somebody's that was there first stays.
void TestSlots() {
  namespace ffi = tvm::ffi;
  const auto first = [] { return 1; };
  const auto second = [] { return 2; };
  ffi::reflection::GlobalDef().def("my_llm_ffi.test_slot.cuda", first);
  RegisterCudaKernel("my_llm_ffi.test_slot.cuda", second);
  RegisterCudaKernel("my_llm_ffi.test_other.cuda", second);
  const auto call = [](const char* name) {
    return ffi::Function::GetGlobalRequired(name)().cast<int>();
  };
  MLF_EXPECT(call("my_llm_ffi.test_slot.cuda") == 1 && call("my_llm_ffi.test_other.cuda") == 2);
}

void TestArithmetic() {
  MLF_EXPECT(__dp4a(0x01FF7F80, 0x02037F80, 5) == 2 - 3 + 127 * 127 + 128 * 128 + 5);
  MLF_EXPECT(__dp4a(0x01FFu, 0x0203u, 5u) == 2 + 255 * 3 + 5);
  MLF_EXPECT(__byte_perm(0x33221100, 0x77665584, 0x5174) == 0x55117784);
  MLF_EXPECT(__byte_perm(0x33221100, 0x77665584, 0xC) == 0x000000FF);
  MLF_EXPECT(__float2int_rn(2.5f) == 2 && __clz(1) == 31 && __ffs(8) == 4 && __popc(7) == 3);
  MLF_EXPECT(min(3, 2) == 2 && max(1.f, 2.f) == 2.f && __umulhi(1u << 31, 4) == 2);
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestMissingBarriers();
  mlf::TestThreadsThatNeverCome();
  mlf::TestExchanges();
  mlf::TestCounts();
  mlf::TestProduct<mlf::BF16>();
  mlf::TestProduct<mlf::F16>();
  mlf::TestLaunches();
  mlf::TestDevices();
  mlf::TestAllocator();
  mlf::TestSlots();
  mlf::TestArithmetic();
  return 0;
}
