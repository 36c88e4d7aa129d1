// Argument checks for ops. A Dim is bound by the first tensor that uses it and compared by the
// rest.
#pragma once
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <string>

#include "base/array.h"
#include "base/dtype.h"

namespace mlf {

struct Dim {
  const char* name;
  std::optional<int64_t> value{};  // optional, not -1 or 0: an empty batch is a size too
  const char* bound_by = "";
};

inline std::string ShapeString(const TensorView& t) {
  std::ostringstream os;
  os << '[';
  for (int i = 0; i < t.ndim(); ++i) os << (i ? ", " : "") << t.size(i);
  os << ']';
  return os.str();
}

/// Checks the arguments of one op in the order they are given; every message names the op and the
/// argument.
///   Args("rms_norm").Tensor("x", x, {&tokens, &hidden}, {kF32, kBF16}).That(eps > 0, "eps must be
///   > 0, got ", eps);
/// Throws ValueError (shape, stride, device, value) or TypeError (dtype).
class Args {
 public:
  explicit Args(const char* op) : op_(op) {}

  Args& Tensor(const char* name, const TensorView& t, std::initializer_list<Dim*> dims,
               std::initializer_list<DLDataType> dtypes) {
    CheckDtype(name, t, dtypes);
    CheckShape(name, t, dims);
    if (!t.IsContiguous()) {
      TVM_FFI_THROW(ValueError) << op_ << ": " << name
                                << " must be contiguous, got strides of a view of shape "
                                << ShapeString(t);
    }
    CheckDevice(name, t);
    // What a FakeTensor of torch arrives as; nothing else of any size is without memory.
    That(t.data_ptr() != nullptr || t.numel() == 0, name,
         " has no memory, got a fake or meta tensor");
    return *this;
  }

  template <typename... Message>
  Args& That(bool ok, const Message&... message) {
    if (!ok) {
      std::ostringstream os;
      (os << ... << message);
      TVM_FFI_THROW(ValueError) << op_ << ": " << os.str();
    }
    return *this;
  }

 private:
  void CheckDtype(const char* name, const TensorView& t,
                  std::initializer_list<DLDataType> dtypes) const {
    if (std::find(dtypes.begin(), dtypes.end(), t.dtype()) != dtypes.end()) return;
    std::string allowed;
    for (DLDataType d : dtypes) allowed += (allowed.empty() ? "" : ", ") + DtypeName(d);
    TVM_FFI_THROW(TypeError) << op_ << ": " << name << " is " << DtypeName(t.dtype())
                             << (dtypes.size() > 1 ? ", expected one of " : ", expected ")
                             << allowed;
  }

  void CheckShape(const char* name, const TensorView& t, std::initializer_list<Dim*> dims) const {
    bool match = t.ndim() == static_cast<int>(dims.size());
    for (int i = 0; match && i < t.ndim(); ++i) {
      Dim& d = *dims.begin()[i];
      if (!d.value) {
        d.value = t.size(i);
        d.bound_by = name;
      }
      match = *d.value == t.size(i);
    }
    if (match) return;
    std::ostringstream expected;
    for (const Dim* d : dims) {
      expected << (d == *dims.begin() ? "" : ", ") << d->name;
      if (d->value) expected << '=' << *d->value;
      if (d->value && d->bound_by != name) expected << " (from " << d->bound_by << ')';
    }
    TVM_FFI_THROW(ValueError) << op_ << ": " << name << " has shape " << ShapeString(t)
                              << ", expected [" << expected.str() << ']';
  }

  void CheckDevice(const char* name, const TensorView& t) {
    if (!device_) {
      device_ = t.device();
      device_of_ = name;
    }
    if (t.device().device_type != device_->device_type ||
        t.device().device_id != device_->device_id) {
      TVM_FFI_THROW(ValueError) << op_ << ": " << name << " is on device " << t.device().device_type
                                << ':' << t.device().device_id << ", " << device_of_ << " is on "
                                << device_->device_type << ':' << device_->device_id;
    }
  }

  const char* op_;
  std::optional<DLDevice> device_{};
  const char* device_of_ = "";
};

}  // namespace mlf
