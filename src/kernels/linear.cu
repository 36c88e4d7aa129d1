// Matrix multiplication on CUDA: the slot `my_llm_ffi.linear.cuda`, which chooses a kernel, and
// that of pack_weight, which refuses. Counterparts: linear.h, linear.cc (the op), linear_cuda.h
// (kernels).
#include "kernels/linear_cuda.h"
#include "kernels/linear_launch.h"

namespace mlf {
namespace {

bool IsFloat(DLDataType t) { return t == kF32 || t == kF16 || t == kBF16; }

void RefuseOthers(const TensorView& x, const TensorView& weight) {
  if (weight.ndim() != 2) {
    TVM_FFI_THROW(NotImplementedError)
        << "linear.cuda: weight is packed, which is a layout for CPUs; expected the rows that "
           "pack_weight was given";
  }
  if (!IsFloat(x.dtype())) {
    TVM_FFI_THROW(NotImplementedError)
        << "linear.cuda: x has dtype " << DtypeName(x.dtype())
        << ", expected float32, float16 or bfloat16: quantized activations are for CPUs";
  }
}

/// The op has checked all else.
void LinearCuda(TensorView out, TensorView x, TensorView weight, TensorView bias,
                int64_t format_number, int64_t cols) {
  RefuseOthers(x, weight);
  const CudaCall call("linear", {{"x", x}, {"weight", weight}, {"bias", bias}, {"out", out}});
  const cuda_linear::Product p{
      .format = static_cast<Format>(format_number),
      .out = {Data<uint8_t>(out), out.dtype()},
      .x = {Data<uint8_t>(x), x.dtype()},
      .weight = Data<const uint8_t>(weight),
      .weight_bytes = weight.numel(),
      .bias = {bias.data_ptr() == nullptr ? nullptr : Data<uint8_t>(bias), out.dtype()},
      .tokens = out.size(0),
      .rows = out.size(1),
      .cols = cols};
  if (p.tokens == 0 || p.rows == 0) return;
  bool blocks = false;
  DispatchFormat(p.format, [&]<typename F>() { blocks = kIsBlockFormat<F>; });
  if (blocks && cols > 0) {
    return p.tokens <= cuda_linear::kFewTokens ? FewTokens(call, p) : TokenTiles(call, p);
  }
  const bool few = p.tokens <= cuda_linear::kFloatTokens || cols == 0;
  return few || !CublasTakes(p) ? FloatRows(call, p) : CublasProduct(call, p);
}

void PackWeightCuda(TensorView, TensorView, int64_t, int64_t) {
  TVM_FFI_THROW(NotImplementedError)
      << "pack_weight.cuda: the tiled layout is for CPUs; on CUDA linear reads the weight as it is";
}

TVM_FFI_STATIC_INIT_BLOCK() {
  RegisterCudaKernel("my_llm_ffi.linear.cuda", LinearCuda);
  RegisterCudaKernel("my_llm_ffi.pack_weight.cuda", PackWeightCuda);
}

}  // namespace
}  // namespace mlf
