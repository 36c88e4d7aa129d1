// Weights of any format as floats on CUDA. Counterparts: dequantize.h, dequantize.cc.
#include "kernels/cuda_blocks.cuh"
#include "kernels/cuda_elements_launch.h"
#include "kernels/cuda_launch.cuh"
#include "kernels/dequantize.h"

namespace mlf {
namespace {

/// Rows have no gaps and hold whole blocks, so that all of them are one row. A thread makes 16
/// bytes of output at a time.
template <typename F, typename T>
__global__ void __launch_bounds__(kElementThreads)
    DequantizeKernel(T* out, const uint8_t* weight, int64_t n, bool aligned) {
  constexpr int kN = kVectorLanes<T>;
  const int64_t groups = n / kN, stride = int64_t{gridDim.x} * kElementThreads;
  for (int64_t g = int64_t{blockIdx.x} * kElementThreads + threadIdx.x; g < groups; g += stride) {
    float w[kN];
    DecodeWeights<F>(weight, g * kN, w);
    StoreFloats(out + g * kN, w, aligned);
  }
  if constexpr (!kIsBlockFormat<F>) {
    const int64_t rest = groups * kN + threadIdx.x;
    if (blockIdx.x == 0 && rest < n) {
      float w[1];
      DecodeWeights<F>(weight, rest, w);
      StoreFloats(out + rest, w, true);
    }
  }
}

/// The slot `my_llm_ffi.dequantize.cuda`.
void DequantizeCuda(TensorView out, TensorView weight, int64_t format_number) {
  const CudaCall call("dequantize", {{"weight", weight}, {"out", out}});
  const int64_t n = out.numel();
  DispatchFormat(static_cast<Format>(format_number), [&]<typename F>() {
    DispatchFloat(out.dtype(), [&]<typename T>() {
      T* o = Data<T>(out);
      const unsigned blocks = BlocksOf(n, int64_t{kElementThreads} * kVectorLanes<T>);
      call.Launch(DequantizeKernel<F, T>, blocks, kElementThreads, 0, o,
                  Data<const uint8_t>(weight), n, IsVectorAligned(o));
    });
  });
}

TVM_FFI_STATIC_INIT_BLOCK() { RegisterCudaKernel("my_llm_ffi.dequantize.cuda", DequantizeCuda); }

}  // namespace
}  // namespace mlf
