// Sizes and places of a plan's tensors. Counterparts: plan.h, plan.cc, plan_steps.cc.
#include <tvm/ffi/extra/c_env_api.h>

#include <algorithm>

#include "base/dtype.h"
#include "base/quote.h"
#include "plan/plan.h"

namespace mlf {

using Kind = PlanTensor::Kind;

void Plan::LayOutTensors() {
  const std::vector<PlanTensor>& tensors = program_.tensors();
  numel_.assign(tensors.size(), 0);
  offsets_.assign(tensors.size(), 0);
  size_t dims = 0;
  for (const PlanTensor& t : tensors) dims += t.shape.size();
  sizes_.assign(2 * dims, 0);
  int64_t* sizes = sizes_.data();
  for (const PlanTensor& t : tensors) {
    const auto ndim = static_cast<int32_t>(t.shape.size());
    tensors_.push_back(
        {const_cast<uint8_t*>(t.data), device_, ndim, t.dtype, sizes, sizes + ndim, 0});
    sizes += 2 * ndim;
    if (t.kind == Kind::kView)
      views_.push_back({static_cast<int32_t>(tensors_.size()) - 1, t.source});
  }
}

int64_t Plan::BytesOf(int32_t tensor) const {
  return numel_[tensor] * DtypeBytes(tensors_[tensor].dtype);
}

/// What it refuses names the tensor.
int64_t Plan::Evaluate(const SizeExpression& size, int32_t tensor) const {
  try {
    return size.Evaluate(symbols_);
  } catch (const ffi::Error& error) {
    TVM_FFI_THROW(ValueError) << "plan: " << program_.TensorName(tensor) << ": "
                              << std::string(error.message());
  }
}

/// All sizes that follow from what was given, and with them the places of buffers.
void Plan::Resize() {
  const auto count = static_cast<int32_t>(tensors_.size());
  for (int32_t i = 0; i < count; ++i) SizeTensor(i);
  CheckOutputs();
  PlaceStorage();
  moved_ = true;
  sized_ = true;
}

void Plan::SizeTensor(int32_t index) {
  const PlanTensor& declared = program_.tensors()[index];
  DLTensor& t = tensors_[index];
  bool fits = true, empty = false;
  int64_t bytes = DtypeBytes(t.dtype);
  for (int i = 0; i < t.ndim; ++i) {
    t.shape[i] = Evaluate(declared.shape[i], index);
    if (t.shape[i] < 0)
      TVM_FFI_THROW(ValueError) << "plan: " << program_.TensorName(index) << " would have size "
                                << declared.shape[i].text() << "=" << t.shape[i];
    empty = empty || t.shape[i] == 0;
  }
  int64_t stride = 1;
  for (int i = t.ndim - 1; i >= 0; --i) {
    t.strides[i] = stride;
    fits = fits && !__builtin_mul_overflow(bytes, t.shape[i], &bytes);
    stride = fits ? stride * t.shape[i] : 1;
  }
  if (!fits && !empty)
    TVM_FFI_THROW(ValueError) << "plan: " << program_.TensorName(index) << " would have shape "
                              << ShapeString(TensorView(&t)) << ", which is more than any memory";
  numel_[index] = empty ? 0 : stride;
  if (declared.kind != Kind::kView) return;
  offsets_[index] = Evaluate(declared.offset, index);
  CheckView(index);
}

void Plan::CheckView(int32_t index) const {
  const PlanTensor& view = program_.tensors()[index];
  const int64_t offset = offsets_[index], room = numel_[view.source];
  if (offset >= 0 && offset <= room && numel_[index] <= room - offset) return;
  TVM_FFI_THROW(ValueError) << "plan: view " << index << " would take " << numel_[index]
                            << " elements from " << offset << " on, "
                            << program_.TensorName(view.source) << " has " << room;
}

void Plan::CheckOutputs() const {
  for (const PlanOutput& output : made_) {
    const int32_t root = program_.tensors()[output.tensor].root;
    if (numel_[output.tensor] == numel_[root]) continue;
    TVM_FFI_THROW(ValueError) << "plan: output " << Quoted(output.name) << " has "
                              << numel_[output.tensor] << " of the " << numel_[root]
                              << " elements of " << program_.TensorName(root)
                              << ", expected the whole of it";
  }
}

void Plan::PlaceStorage() {
  bool same = layout_bytes_ >= 0;  // negative where the last attempt failed
  for (size_t i = 0; i < lives_.size(); ++i) {
    const int64_t bytes = BytesOf(life_of_[i]);
    same = same && lives_[i].bytes == bytes;
    lives_[i].bytes = bytes;
  }
  if (!same) {
    layout_bytes_ = -1;
    layout_bytes_ = PlaceBuffers(lives_);
  }
  Allocate();
}

/// Grows only: a plan that goes through many sizes keeps the memory of the largest.
void Plan::Allocate() {
  uint8_t* base = nullptr;
  if (device_.device_type == kDLCPU) {
    if (storage_.bytes() < layout_bytes_) {
      storage_ = Buffer();
      storage_ = Buffer::For("the buffers of a plan", layout_bytes_);
    }
    base = storage_.data();
  } else {
    // The memory of the framework that the inputs come from.
    if (!device_storage_ || device_storage_->size(0) < layout_bytes_) {
      device_storage_.reset();
      device_storage_ = ffi::Tensor::FromEnvAlloc(TVMFFIEnvTensorAlloc, ffi::Shape({layout_bytes_}),
                                                  kU8, device_);
    }
    base = static_cast<uint8_t*>(device_storage_->data_ptr());
  }
  for (size_t i = 0; i < lives_.size(); ++i) {
    tensors_[life_of_[i]].data = base + lives_[i].offset;
  }
}

void Plan::MoveViews() {
  for (const auto& [view, of] : views_) {
    auto* source = static_cast<uint8_t*>(tensors_[of].data);
    if (source == nullptr) continue;  // empty, or used by nobody
    tensors_[view].data = source + offsets_[view] * DtypeBytes(tensors_[view].dtype);
  }
}

}  // namespace mlf
