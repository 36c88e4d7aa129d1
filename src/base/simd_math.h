// Functions of sixteen float lanes that few kernels need. Counterpart: simd.h, which has Exp.
#pragma once
#include "base/simd.h"

namespace mlf::MLF_LEVEL {

MLF_INLINE F32 Abs(F32 x) {
  return Map<F32>([&](int p) { return (NativeF32)((NativeI32)x.part[p] & 0x7FFFFFFF); });
}

/// |magnitude| with the sign of `sign`.
MLF_INLINE F32 CopySign(F32 magnitude, F32 sign) {
  return Map<F32>([&](int p) {
    const NativeI32 bits = (NativeI32)magnitude.part[p] & 0x7FFFFFFF;
    return (NativeF32)(bits | ((NativeI32)sign.part[p] & INT32_MIN));
  });
}

/// tanh x to 4 ulp, also near 0, because it is (e^2|x| − 1) / (e^2|x| + 1) of an e^2|x| − 1 without
/// cancellation; ±1 from 9.02 on; NaN propagates.
MLF_INLINE F32 Tanh(F32 x) {
  const F32 a = Abs(x), one = Set(1.f);
  const ExpParts parts = SplitExp(Min(Set(20.f), a + a));
  const F32 power = Map<F32>(
      [&](int p) { return (NativeF32)(((NativeI32)parts.shifted.part[p] << 23) + 0x3F800000); });
  const F32 r = parts.r, near = Fma(ExpSeries(r), r * r, r);  // e^r − 1
  const F32 e = Fma(power, near, power - one);
  return CopySign(e / (e + Set(2.f)), x);
}

/// Natural logarithm to 2 ulp, subnormals included; −inf at 0, NaN below 0; NaN propagates.
MLF_INLINE F32 Log(F32 x) {
  const F32 least = Set(1.17549435e-38f);
  const F32 normal = Map<F32>([&](int p) -> NativeF32 {
    return x.part[p] < least.part[p] ? x.part[p] * 8388608.f : x.part[p];
  });
  constexpr int32_t kRootHalf = 0x3F3504F3;  // bits of sqrt(1/2): x = 2^n m, m from there to sqrt 2
  const I32 offset =
      Map<I32>([&](int p) -> NativeI32 { return (NativeI32)normal.part[p] - kRootHalf; });
  const F32 n = ToFloat(Map<I32>([&](int p) -> NativeI32 {
    return (offset.part[p] >> 23) - ((x.part[p] < least.part[p]) & 23);
  }));
  const F32 f = BitsToFloat(Map<I32>(
                    [&](int p) -> NativeI32 { return (offset.part[p] & 0x7FFFFF) + kRootHalf; })) -
                Set(1.f);
  // (log(1 + f) − f + f²/2) / f³, minimax on [sqrt(1/2) − 1, sqrt(2) − 1]: error 6e-9.
  F32 poly = Set(-7.634497433900833e-2f);
  poly = Fma(poly, f, Set(1.276157796382904e-1f));
  poly = Fma(poly, f, Set(-1.3160182535648346e-1f));
  poly = Fma(poly, f, Set(1.4201757311820984e-1f));
  poly = Fma(poly, f, Set(-1.6623356938362122e-1f));
  poly = Fma(poly, f, Set(2.0001226663589478e-1f));
  poly = Fma(poly, f, Set(-2.5000819563865662e-1f));
  poly = Fma(poly, f, Set(3.333333134651184e-1f));
  const F32 square = f * f;
  F32 rest = Fma(poly, square * f, n * Set(-2.12194440e-4f));
  rest = Fma(square, Set(-0.5f), rest);
  const F32 log = Fma(n, Set(0.693359375f), f + rest);
  return Map<F32>([&](int p) -> NativeF32 {
    const NativeF32 v = x.part[p], infinity = __builtin_inff() - NativeF32{};
    const NativeF32 outside = v == 0.f ? -infinity : __builtin_nanf("") - NativeF32{};
    return v > 0.f ? (v < infinity ? log.part[p] : v) : outside;
  });
}

/// Distribution function of the normal distribution, (1 + erf(x / sqrt 2)) / 2, to 1e-6 of itself
/// down to x = −13.2, below which it is 0: not by erf, which would cancel in the lower tail. The
/// tail e^(−z²/2) R(z), z = |x|, has R(z) (z + 3) = P((z − 3) / (z + 3)), P minimax on [0, 14] with
/// error 5e-8.
MLF_INLINE F32 NormalCdf(F32 x) {
  const F32 z = Min(Set(14.f), Abs(x)), inverse = Set(1.f) / (z + Set(3.f)),
            q = (z - Set(3.f)) * inverse;
  F32 poly = Set(-2.6676582638174295e-4f);
  poly = Fma(poly, q, Set(-9.032518719322979e-4f));
  poly = Fma(poly, q, Set(1.0760363657027483e-3f));
  poly = Fma(poly, q, Set(6.923921871930361e-3f));
  poly = Fma(poly, q, Set(-1.0479935444891453e-2f));
  poly = Fma(poly, q, Set(-4.725610092282295e-2f));
  poly = Fma(poly, q, Set(2.3001934587955475e-1f));
  poly = Fma(poly, q, Set(-5.093322992324829e-1f));
  poly = Fma(poly, q, Set(7.290836572647095e-1f));
  // Where multiply-add is fused, what the rounding of z² took comes back to first order.
  const F32 square = z * z, lost = Fma(z, z, Zero() - square);
  const F32 bell = Exp(square * Set(-0.5f));
  const F32 tail = Fma(bell, lost * Set(-0.5f), bell) * (poly * inverse);
  const F32 upper = Set(1.f) - tail;
  return Map<F32>(
      [&](int p) -> NativeF32 { return x.part[p] < 0.f ? tail.part[p] : upper.part[p]; });
}

}  // namespace mlf::MLF_LEVEL
