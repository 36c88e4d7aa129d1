// Arrays for the emulated CUDA kernels: host memory whose tensors say that it is a CUDA device's.
#pragma once
#include <utility>

#include "owned_array.h"

namespace mlf {

inline constexpr DLDevice kCuda{kDLCUDA, 0};

/// `OnCuda(RandomArray<T>({rows, n}, seed))`.
template <typename T>
OwnedArray<T> OnCuda(OwnedArray<T> a) {
  a.view = a.view.On(kCuda);
  return a;
}

/// To be written: every element is not a number, so that what a kernel leaves out shows.
template <typename T>
OwnedArray<T> CudaOutput(std::initializer_list<int64_t> shape) {
  OwnedArray<T> a(shape);
  if (a.size() > 0) std::memset(a.data.data(), 0xFF, a.data.size() * sizeof(T));
  return OnCuda(std::move(a));
}

/// The array from element `offset` on, which is what takes 16-byte accesses out of step.
template <typename T>
ArrayView From(OwnedArray<T>& a, int64_t offset, std::initializer_list<int64_t> shape) {
  return ArrayView(a.data.data() + offset, DtypeOf<T>(), shape, kCuda);
}

}  // namespace mlf
