// The op softcap: its declaration and its kernel for the CPU. Counterparts: softcap.h, softcap.cu.
#include "softcap.h"

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

using tvm::ffi::TensorView;

struct BFloat16 {
  uint16_t bits;
};

float Widen(float value) { return value; }
float Widen(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

void Store(float value, float& out) { out = value; }
void Store(float value, BFloat16& out) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t half_way = 0x7fff + (bits >> 16 & 1);  // to the nearest, ties to even
  out.bits = static_cast<uint16_t>((std::isnan(value) ? bits | 0x400000 : bits + half_way) >> 16);
}

template <typename T>
void Softcap(const TensorView& x, const TensorView& out, float cap) {
  const T* from = my_llm_ffi::Data<const T>(x);
  T* to = my_llm_ffi::Data<T>(out);
  for (int64_t i = 0, n = x.numel(); i < n; ++i) {
    Store(cap * std::tanh(Widen(from[i]) / cap), to[i]);
  }
}

}  // namespace

void SoftcapCpu(TensorView x, TensorView out, double cap) {
  my_llm_ffi::Require(cap > 0, "softcap", "cap must be positive, got ", cap);
  // The signature allows these two.
  const auto kernel = x.dtype().code == kDLBfloat ? Softcap<BFloat16> : Softcap<float>;
  kernel(x, out, static_cast<float>(cap));
}

MY_LLM_FFI_OPS() {
  const auto op = my_llm_ffi::Declare(
      "softcap",
      "(x: T['*batch n', 'f32 bf16'], *, cap: float = 30.0) -> T['*batch n', 'may be x']",
      R"(Keeps logits between -cap and cap, smoothly.

``out = cap * tanh(x / cap)``, in float32 (Gemma Team, "Gemma 2", arXiv:2408.00118).

x: Logits.
cap: The bound, positive.
)");
  op.Kernel("cpu", SoftcapCpu);
#ifdef MY_OP_CUDA
  op.Kernel("cuda", SoftcapCuda);
#endif
}
