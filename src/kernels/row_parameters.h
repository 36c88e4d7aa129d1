// Parameters of rows: checks of their values, which only a CPU tensor shows, and their defaults.
// Used by sampling.cc, logit_mask.cc and penalties.cc.
#pragma once
#include "base/array.h"
#include "base/op.h"

namespace mlf {

using OptionalTensor = ffi::Optional<TensorView>;

/// ValueError naming the first value of a CPU tensor that ok(value) refuses.
template <typename T, typename Ok>
void CheckValues(const Op& op, const char* name, const TensorView& t, Ok ok, const char* expected) {
  if (t.device().device_type != kDLCPU) return;
  const T* values = Data<const T>(t);
  for (int64_t i = 0; i < t.numel(); ++i) {
    op.That(ok(values[i]), name, '[', i, "] is ", values[i], ", expected ", expected);
  }
}
template <typename T, typename Ok>
void CheckValues(const Op& op, const char* name, const OptionalTensor& t, Ok ok,
                 const char* expected) {
  if (t.has_value()) CheckValues<T>(op, name, *t, ok, expected);
}

/// One value per row, the same default where the tensor is absent.
template <typename T>
class RowParameter {
 public:
  RowParameter(const OptionalTensor& t, T fallback)
      : values_(t.has_value() ? Data<const T>(*t) : nullptr), fallback_(fallback) {}
  T operator[](int64_t row) const { return values_ == nullptr ? fallback_ : values_[row]; }

 private:
  const T* values_;
  T fallback_;
};

}  // namespace mlf
