// A view of memory that carries its own shape, for code below the ops' border; converts to the
// TensorView kernels take.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <cassert>
#include <initializer_list>
#include <sstream>
#include <string>

#include "base/dtype.h"

namespace mlf {

namespace ffi = tvm::ffi;
using ffi::TensorView;

/// Row-major, contiguous, at most four dimensions. The TensorView made from it points into this
/// object: keep it alive for the call.
class ArrayView {
 public:
  static constexpr int kMaxDims = 4;

  ArrayView() = default;
  ArrayView(void* data, DLDataType dtype, std::initializer_list<int64_t> shape,
            DLDevice device = {kDLCPU, 0})
      : data_(data), dtype_(dtype), device_(device) {
    assert(shape.size() <= kMaxDims);
    for (int64_t n : shape) shape_[ndim_++] = n;
    int64_t stride = 1;
    for (int i = ndim_ - 1; i >= 0; --i) {
      strides_[i] = stride;
      stride *= shape_[i];
    }
  }

  operator TensorView() const {  // NOLINT(google-explicit-constructor): the point of the class
    DLTensor t{};
    t.data = data_;
    t.device = device_;
    t.ndim = ndim_;
    t.dtype = dtype_;
    t.shape = const_cast<int64_t*>(shape_);
    t.strides = const_cast<int64_t*>(strides_);
    return TensorView(&t);
  }

  /// The same memory, said to lie on another device.
  ArrayView On(DLDevice device) const {
    ArrayView view = *this;
    view.device_ = device;
    return view;
  }

  template <typename T>
  T* data() const {
    return static_cast<T*>(data_);
  }
  int64_t size(int i) const { return shape_[i]; }
  int ndim() const { return ndim_; }
  DLDataType dtype() const { return dtype_; }
  DLDevice device() const { return device_; }
  bool defined() const { return data_ != nullptr; }

 private:
  void* data_ = nullptr;
  DLDataType dtype_{};
  DLDevice device_{kDLCPU, 0};
  int ndim_ = 0;
  int64_t shape_[kMaxDims] = {};
  int64_t strides_[kMaxDims] = {};
};

/// "[2, 3]" for messages.
inline std::string ShapeString(const TensorView& t) {
  std::ostringstream os;
  os << '[';
  for (int i = 0; i < t.ndim(); ++i) os << (i ? ", " : "") << t.shape()[i];
  os << ']';
  return os.str();
}

/// Data of a view as T, for kernels: the dtype has been checked by the op or fixed by the model
/// path.
template <typename T>
T* Data(const TensorView& t) {
  return reinterpret_cast<T*>(static_cast<char*>(t.data_ptr()) + t.byte_offset());
}

}  // namespace mlf
