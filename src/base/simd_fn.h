// Functions compiled once per CPU level. Light on purpose: *_simd.cc files include this and other
// plain headers only.
#pragma once
#include <utility>

#include "base/cpu.h"

// A *_simd.cc file is compiled once per level, with that level's instructions and MLF_LEVEL set to
// its name (CMake). All that it defines, and all inline code it includes, must live in namespace
// mlf::MLF_LEVEL: two levels must never share a symbol, or the linker would keep one of them for
// both and an older CPU would meet an illegal instruction. For the same reason these files have no
// static initializers and include neither tvm-ffi nor the containers of the standard library.
//
//   norm_simd.h:   MLF_SIMD_FN(rms_norm_row, RmsNormRow, void(float* out, const float* x, int64_t
//   n)) norm_simd.cc:  namespace mlf::MLF_LEVEL { void RmsNormRow(float* out, const float* x,
//   int64_t n) { … } } norm.cc:       rms_norm_row(out, x, n);   // calls the level in use
#if defined(__x86_64__)
#define MLF_SIMD_FN(name, Fn, ...) \
  namespace baseline {             \
  using name##_type = __VA_ARGS__; \
  name##_type Fn;                  \
  }                                \
  namespace avx2 {                 \
  using name##_type = __VA_ARGS__; \
  name##_type Fn;                  \
  }                                \
  namespace avx512 {               \
  using name##_type = __VA_ARGS__; \
  name##_type Fn;                  \
  }                                \
  inline constexpr SimdFn<__VA_ARGS__> name{{baseline::Fn, avx2::Fn, avx512::Fn, nullptr}};
#else
#define MLF_SIMD_FN(name, Fn, ...) \
  namespace baseline {             \
  using name##_type = __VA_ARGS__; \
  name##_type Fn;                  \
  }                                \
  namespace dotprod {              \
  using name##_type = __VA_ARGS__; \
  name##_type Fn;                  \
  }                                \
  inline constexpr SimdFn<__VA_ARGS__> name{{baseline::Fn, nullptr, nullptr, dotprod::Fn}};
#endif

namespace mlf {

template <typename Signature>
class SimdFn;

template <typename R, typename... A>
class SimdFn<R(A...)> {
 public:
  using Fn = R (*)(A...);
  struct Levels {
    Fn of[kCpuLevels];
  };
  constexpr SimdFn(Levels levels) : levels_(levels) {}  // NOLINT(google-explicit-constructor)

  R operator()(A... args) const {
    return levels_.of[static_cast<int>(CpuLevelInUse())](std::forward<A>(args)...);
  }

 private:
  Levels levels_;
};

}  // namespace mlf
