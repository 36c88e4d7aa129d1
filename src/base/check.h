// Argument checks for ops. A Dim is bound by the first tensor that uses it and compared by the
// rest.
#pragma once
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "base/array.h"
#include "base/dtype.h"

namespace mlf {

struct Dim {
  const char* name;
  std::optional<int64_t> value{};  // optional, not -1 or 0: an empty batch is a size too
  const char* bound_by = "";
};

/// Leading dimensions of any rank (`*b` of a signature), bound by the first tensor that uses them.
struct Batch {
  const char* name;
  std::optional<std::vector<int64_t>> sizes{};
  const char* bound_by = "";
};

inline std::string ShapeString(const TensorView& t) {
  std::ostringstream os;
  os << '[';
  for (int i = 0; i < t.ndim(); ++i) os << (i ? ", " : "") << t.size(i);
  os << ']';
  return os.str();
}

/// Bytes of a contiguous tensor: [begin, end).
struct ByteRange {
  const char* begin;
  const char* end;
  explicit ByteRange(const TensorView& t)
      : begin(Data<const char>(t)), end(begin + t.numel() * DtypeBytes(t.dtype())) {}
  bool Overlaps(const ByteRange& other) const {
    const bool empty = begin == end || other.begin == other.end;
    return !empty && begin < other.end && other.begin < end;
  }
  bool operator==(const ByteRange& other) const { return begin == other.begin && end == other.end; }
};

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
    CheckShape(name, t, nullptr, dims);
    CheckLayout(name, t);
    return *this;
  }

  /// The same for a tensor of shape [*batch, dims...].
  Args& Tensor(const char* name, const TensorView& t, Batch* batch,
               std::initializer_list<Dim*> dims, std::initializer_list<DLDataType> dtypes) {
    CheckDtype(name, t, dtypes);
    CheckShape(name, t, batch, dims);
    CheckLayout(name, t);
    return *this;
  }

  /// Refuses an output that shares memory with an input, unless they are the same range and that is
  /// allowed.
  Args& NoOverlap(const char* out_name, const TensorView& out, const char* name,
                  const TensorView& t, bool may_be_same = false) {
    const ByteRange a(out), b(t);
    if (a.Overlaps(b) && !(may_be_same && a == b)) {
      TVM_FFI_THROW(ValueError) << op_ << ": " << out_name << " overlaps " << name << " in memory"
                                << (may_be_same ? "; it may be the whole of it or apart from it"
                                                : ", expected memory of its own");
    }
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

  void CheckShape(const char* name, const TensorView& t, Batch* batch,
                  std::initializer_list<Dim*> dims) const {
    const int n_dims = static_cast<int>(dims.size()),
              lead = batch != nullptr ? t.ndim() - n_dims : 0;
    bool match = lead >= 0 && t.ndim() == lead + n_dims;
    if (match && batch != nullptr) match = MatchBatch(name, t, lead, batch);
    for (int i = 0; match && i < n_dims; ++i) {
      Dim& d = *dims.begin()[i];
      if (!d.value) {
        d.value = t.size(lead + i);
        d.bound_by = name;
      }
      match = *d.value == t.size(lead + i);
    }
    if (match) return;
    TVM_FFI_THROW(ValueError) << op_ << ": " << name << " has shape " << ShapeString(t)
                              << ", expected [" << ExpectedShape(name, batch, dims) << ']';
  }

  static bool MatchBatch(const char* name, const TensorView& t, int lead, Batch* batch) {
    std::vector<int64_t> sizes;
    for (int i = 0; i < lead; ++i) sizes.push_back(t.size(i));
    if (!batch->sizes) {
      batch->sizes = sizes;
      batch->bound_by = name;
    }
    return *batch->sizes == sizes;
  }

  static std::string ExpectedShape(const char* name, const Batch* batch,
                                   std::initializer_list<Dim*> dims) {
    std::ostringstream os;
    if (batch != nullptr) {
      os << '*' << batch->name;
      if (batch->sizes && batch->bound_by != name) {
        os << '=';
        for (size_t i = 0; i < batch->sizes->size(); ++i) {
          os << (i == 0 ? "(" : ", ") << (*batch->sizes)[i];
        }
        os << (batch->sizes->empty() ? "()" : ")") << " (from " << batch->bound_by << ')';
      }
      if (dims.size() != 0) os << ", ";
    }
    for (const Dim* d : dims) {
      os << (d == *dims.begin() ? "" : ", ") << d->name;
      if (d->value) os << '=' << *d->value;
      if (d->value && d->bound_by != name) os << " (from " << d->bound_by << ')';
    }
    return os.str();
  }

  void CheckLayout(const char* name, const TensorView& t) {
    if (!t.IsContiguous()) {
      TVM_FFI_THROW(ValueError) << op_ << ": " << name
                                << " must be contiguous, got strides of a view of shape "
                                << ShapeString(t);
    }
    CheckDevice(name, t);
    // What a FakeTensor of torch arrives as; nothing else of any size is without memory.
    That(t.data_ptr() != nullptr || t.numel() == 0, name,
         " has no memory, got a fake or meta tensor");
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
