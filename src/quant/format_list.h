// The only list of weight formats. A new one is its header, included here, and one line below.
// Light: *_simd.cc files include it; names and sizes at run time are in quant/formats.h.
#pragma once
#include "quant/bf16.h"
#include "quant/f16.h"
#include "quant/f32.h"
#include "quant/iq2_xxs.h"
#include "quant/iq4_nl.h"
#include "quant/mxfp4.h"
#include "quant/q2_k.h"
#include "quant/q3_k.h"
#include "quant/q4_0.h"
#include "quant/q4_1.h"
#include "quant/q4_k.h"
#include "quant/q5_0.h"
#include "quant/q5_1.h"
#include "quant/q5_k.h"
#include "quant/q6_k.h"
#include "quant/q8_0.h"

// Each a struct of namespace mlf::quant.
#define MLF_FORMATS(X) \
  X(F32)               \
  X(F16)               \
  X(BF16)              \
  X(Q8_0)              \
  X(Q4_0)              \
  X(Q4_1)              \
  X(Q5_0)              \
  X(Q5_1)              \
  X(Q2_K)              \
  X(Q3_K)              \
  X(Q4_K)              \
  X(Q5_K)              \
  X(Q6_K)              \
  X(IQ4_NL)            \
  X(MXFP4)             \
  X(IQ2_XXS)

// Their names as a type of a signature (base/op.h): "Literal['F32', …]".
#define MLF_FORMAT_NAME(name) "'" #name "', "
#define MLF_FORMAT_LITERAL "Literal[" MLF_FORMATS(MLF_FORMAT_NAME) "]"

namespace mlf {

/// kF32, kF16, …; the numbers are those of GGUF.
enum class Format : int32_t {
#define MLF_FORMAT_ENUM(name) k##name = quant::name::kGgufType,
  MLF_FORMATS(MLF_FORMAT_ENUM)
#undef MLF_FORMAT_ENUM
};

/// Formats of blocks multiply with 8-bit activations, the others with float32 ones.
template <typename F>
inline constexpr bool kIsBlockFormat = F::kWeights > 1;

/// Bytes of one tile: what its 16 rows take in the file.
template <typename F>
inline constexpr int64_t kTileBytes = kTileRows * F::kBytes;

/// Blocks of 32 in a tile of a block format.
template <typename F>
inline constexpr int kTileBlocks = static_cast<int>(F::kWeights / kQuantBlock);

/// The tiles that micro-kernels read: those of the format, or wide ones made of them.
template <typename F>
struct ReadTiles {
  using Format = F;
};
template <typename F>
  requires requires { typename F::Wide; }
struct ReadTiles<F> {
  using Format = typename F::Wide;
};
template <typename F>
inline constexpr bool kIsWidened = requires { typename F::Wide; };

/// fn.template operator()<quant::Q4_0>() for Format::kQ4_0, and so on. The format is one of the
/// list: numbers from outside go through FindFormat first.
template <typename Fn>
static inline __attribute__((always_inline)) decltype(auto) DispatchFormat(Format format, Fn&& fn) {
  switch (format) {
#define MLF_FORMAT_CASE(name) \
  case Format::k##name:       \
    return fn.template operator()<quant::name>();
    MLF_FORMATS(MLF_FORMAT_CASE)
#undef MLF_FORMAT_CASE
  }
  __builtin_unreachable();
}

}  // namespace mlf
