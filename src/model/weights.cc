// Weights. Counterpart: weights.h.
#include "model/weights.h"

#include "base/interrupt.h"
#include "kernels/linear.h"

namespace mlf {
namespace {

std::string Dims(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::string Purpose(const std::string& name) { return "tensor " + name; }

}  // namespace

ArrayView Weight::view() const {
  if (file == nullptr) return {tiled.data(), kU8, {tiled.bytes()}};
  return {const_cast<uint8_t*>(file), kU8, {rows, RowBytes(format, cols)}};
}

WeightLoader::WeightLoader(std::shared_ptr<const Gguf> file, LoadOptions options)
    : file_(std::move(file)), options_(std::move(options)) {
  for (const GgufTensor& t : file_->tensors()) total_bytes_ += t.bytes;
}

const GgufTensor& WeightLoader::Take(const std::string& name,
                                     std::initializer_list<int64_t> shape) {
  const GgufTensor* tensor = file_->FindTensor(name);
  if (tensor == nullptr)
    TVM_FFI_THROW(ValueError) << file_->path() << ": tensor " << name << " is missing";
  if (tensor->shape != std::vector<int64_t>(shape)) {
    TVM_FFI_THROW(ValueError) << file_->path() << ": tensor " << name << " has shape "
                              << Dims(tensor->shape) << ", expected " << Dims(shape);
  }
  taken_.insert(name);
  return *tensor;
}

void WeightLoader::Report(int64_t bytes) {
  done_bytes_ += bytes;
  PollInterrupt();
  if (!options_.progress) return;
  const double fraction = static_cast<double>(done_bytes_) / static_cast<double>(total_bytes_);
  if (!options_.progress(fraction))
    TVM_FFI_THROW(RuntimeError) << "loading was cancelled by the progress callback";
}

int64_t WeightLoader::Number(const std::string& name, int64_t rows, int64_t cols) {
  matrices_.push_back({name, rows, cols});
  return static_cast<int64_t>(matrices_.size()) - 1;
}

Weight WeightLoader::Matrix(const std::string& name, int64_t rows, int64_t cols) {
  if (!options_.repack) return Table(name, rows, cols);
  const GgufTensor& tensor = Take(name, {rows, cols});
  Weight w{tensor.format, rows,
           cols,          Buffer::For(Purpose(name), PackedBytes(tensor.format, rows, cols)),
           nullptr,       Number(name, rows, cols)};
  const ArrayView source(const_cast<uint8_t*>(tensor.data), kU8,
                         {rows, RowBytes(tensor.format, cols)});
  pack_weight_kernel({kDLCPU, 0}, w.view(), source, static_cast<int64_t>(w.format), cols);
  file_->Release(tensor);
  Report(tensor.bytes);
  return w;
}

Weight WeightLoader::Table(const std::string& name, int64_t rows, int64_t cols) {
  const GgufTensor& tensor = Take(name, {rows, cols});
  Report(tensor.bytes);
  return {tensor.format, rows, cols, Buffer(), tensor.data, Number(name, rows, cols)};
}

Vector WeightLoader::Values(const std::string& name, int64_t size) {
  const GgufTensor& tensor = Take(name, {size});
  const FormatInfo& format = InfoOf(tensor.format);
  if (size % format.block != 0) {
    TVM_FFI_THROW(ValueError) << file_->path() << ": tensor " << name << " of " << size
                              << " values cannot be " << format.name;
  }
  Vector v{Buffer::For(Purpose(name), size * static_cast<int64_t>(sizeof(float))), size};
  format.dequantize_row(tensor.data, v.data.data<float>(), size);
  Report(tensor.bytes);
  return v;
}

Vector WeightLoader::OptionalValues(const std::string& name, int64_t size) {
  return Has(name) ? Values(name, size) : Vector{};
}

void WeightLoader::Finish() const {
  std::string extra;
  int64_t count = 0;
  for (const GgufTensor& t : file_->tensors()) {
    if (taken_.count(t.name) != 0) continue;
    if (++count <= 4) extra += (extra.empty() ? "" : ", ") + t.name;
  }
  if (count == 0) return;
  TVM_FFI_THROW(NotImplementedError)
      << file_->path() << ": " << count << " tensors that this architecture does not use: " << extra
      << (count > 4 ? ", …" : "");
}

}  // namespace mlf
