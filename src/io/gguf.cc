// Opened GGUF files: look-up of metadata and tensors over all parts. Counterpart: gguf.h; the bytes
// are read by gguf_parse.cc, sets of files by gguf_split.cc.
#include "io/gguf.h"

#include <tvm/ffi/tvm_ffi.h>

#include <new>

#include "base/quote.h"
#include "io/gguf_split.h"
#include "io/gguf_value.h"

namespace mlf {

struct Gguf::State {
  std::string path;
  std::vector<GgufFile> files;  // at least one; the first has the metadata
  std::vector<GgufTensor> tensors;
  std::unordered_map<std::string_view, size_t> tensor_index;  // name -> tensors

  const GgufMetadata& metadata() const { return files[0].part.metadata; }
  void TakeTensors(bool with_data);
  void MakeResident(const GgufOptions& options);
};

void Gguf::State::TakeTensors(bool with_data) {
  size_t count = 0;
  for (const GgufFile& file : files) count += file.part.tensors.size();
  tensors.reserve(count);  // the index points at names that must not move
  for (GgufFile& file : files) {
    for (GgufTensor& tensor : file.part.tensors) {
      if (!with_data) tensor.data = nullptr;
      tensors.push_back(std::move(tensor));
      if (tensor_index.emplace(tensors.back().name, tensors.size() - 1).second) continue;
      TVM_FFI_THROW(ValueError) << Quoted(file.bytes.path(), file.bytes.path().size())
                                << ": tensor " << Quoted(tensors.back().name)
                                << " is also in another part, expected each name once";
    }
    file.part.tensors.clear();
  }
}

void Gguf::State::MakeResident(const GgufOptions& options) {
  for (GgufFile& file : files) {
    if (!options.mmap) file.bytes.ReadIntoMemory();
    if (options.mlock) file.bytes.Lock();
  }
}

Gguf::Gguf() : state_(std::make_unique<State>()) {}
Gguf::~Gguf() = default;

std::shared_ptr<const Gguf> Gguf::Open(const std::string& path, const GgufOptions& options) {
  try {
    std::shared_ptr<Gguf> gguf(new Gguf());
    gguf->state_->path = path;
    gguf->state_->files = OpenGgufFiles(path);
    gguf->state_->TakeTensors(options.tensors);
    if (options.tensors) gguf->state_->MakeResident(options);
    return gguf;
  } catch (const std::bad_alloc&) {
    TVM_FFI_THROW(MemoryError) << Quoted(path, path.size()) << ": its metadata does not fit in "
                               << "memory";
  }
}

int Gguf::version() const { return state_->files[0].part.version; }
const std::string& Gguf::path() const { return state_->path; }

int64_t Gguf::file_bytes() const {
  int64_t bytes = 0;
  for (const GgufFile& file : state_->files) bytes += file.bytes.size();
  return bytes;
}

const std::vector<std::pair<std::string_view, GgufValue>>& Gguf::metadata() const {
  return state_->metadata().entries;
}

const GgufValue* Gguf::Find(std::string_view key) const { return state_->metadata().Find(key); }

std::optional<int64_t> Gguf::Int(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  return AsInt({state_->path, key}, *value);
}

std::optional<double> Gguf::Float(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  return AsFloat({state_->path, key}, *value);
}

std::optional<bool> Gguf::Bool(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  return AsBool({state_->path, key}, *value);
}

std::optional<std::string_view> Gguf::String(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  return AsString({state_->path, key}, *value);
}

const std::vector<std::string_view>* Gguf::Strings(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return nullptr;
  return &AsStrings({state_->path, key}, *value);
}

std::optional<std::vector<int64_t>> Gguf::Ints(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  return AsInts({state_->path, key}, *value);
}

std::optional<std::vector<double>> Gguf::Floats(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  return AsFloats({state_->path, key}, *value);
}

int64_t Gguf::RequireInt(std::string_view key) const {
  const std::optional<int64_t> number = Int(key);
  if (number) return *number;
  TVM_FFI_THROW(ValueError) << Quoted(state_->path, state_->path.size()) << ": metadata key "
                            << Quoted(key) << " is missing, expected an integer";
}

const std::vector<GgufTensor>& Gguf::tensors() const { return state_->tensors; }

const GgufTensor* Gguf::FindTensor(std::string_view name) const {
  const auto found = state_->tensor_index.find(name);
  return found == state_->tensor_index.end() ? nullptr : &state_->tensors[found->second];
}

void Gguf::Release(const GgufTensor& tensor) const {
  for (const GgufFile& file : state_->files) {
    if (tensor.data != nullptr && file.bytes.Contains(tensor.data))
      file.bytes.Release(tensor.data, tensor.bytes);
  }
}

}  // namespace mlf
