// Arrays that own their memory, and random contents, for native tests and benchmarks.
#pragma once
#include <cmath>
#include <vector>

#include "base/array.h"
#include "base/dtype.h"
#include "base/rng.h"

namespace mlf {

template <typename T>
constexpr DLDataType DtypeOf() {
  if constexpr (std::is_same_v<T, float>) return kF32;
  if constexpr (std::is_same_v<T, F16>) return kF16;
  if constexpr (std::is_same_v<T, BF16>) return kBF16;
  if constexpr (std::is_same_v<T, int32_t>) return kI32;
  if constexpr (std::is_same_v<T, int64_t>) return kI64;
  if constexpr (std::is_same_v<T, uint8_t>) return kU8;
}

/// The memory ends where the array ends, so that sanitizers see every step beyond it.
template <typename T>
struct OwnedArray {
  std::vector<T> data;
  ArrayView view;

  explicit OwnedArray(std::initializer_list<int64_t> shape) {
    int64_t n = 1;
    for (int64_t s : shape) n *= s;
    data.resize(n);
    view = ArrayView(data.data(), DtypeOf<T>(), shape);
  }
  OwnedArray(OwnedArray&&) = default;  // the vector's memory stays where it is

  operator TensorView() const { return view; }  // NOLINT(google-explicit-constructor)
  T& operator[](int64_t i) { return data[i]; }
  const T& operator[](int64_t i) const { return data[i]; }
  int64_t size() const { return static_cast<int64_t>(data.size()); }
  double At(int64_t i) const { return static_cast<double>(static_cast<float>(data[i])); }
};

/// Normal deviates times `scale`.
template <typename T>
OwnedArray<T> RandomArray(std::initializer_list<int64_t> shape, uint64_t seed, float scale = 1.f) {
  OwnedArray<T> a(shape);
  for (int64_t i = 0; i < a.size(); ++i) {
    const double radius = std::sqrt(-2 * std::log(1 - RandomUniform(seed, 2 * i))),
                 angle = 6.283185307179586 * RandomUniform(seed, 2 * i + 1);
    a[i] = FromFloat<T>(static_cast<float>(scale * radius * std::cos(angle)));
  }
  return a;
}

/// Equal bit for bit.
template <typename T>
bool SameBits(const OwnedArray<T>& a, const OwnedArray<T>& b) {
  return a.size() == b.size() &&
         (a.size() == 0 || std::memcmp(a.data.data(), b.data.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace mlf
