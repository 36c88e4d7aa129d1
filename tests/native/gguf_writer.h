// Writes GGUF files for tests, right ones and wrong ones. Shares no code with the reader in src/io.
#pragma once
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "quant/formats.h"

namespace mlf::test {

template <typename T>
constexpr uint32_t GgufType() {
  if constexpr (std::is_same_v<T, uint8_t>) return 0;
  if constexpr (std::is_same_v<T, int8_t>) return 1;
  if constexpr (std::is_same_v<T, uint16_t>) return 2;
  if constexpr (std::is_same_v<T, int16_t>) return 3;
  if constexpr (std::is_same_v<T, uint32_t>) return 4;
  if constexpr (std::is_same_v<T, int32_t>) return 5;
  if constexpr (std::is_same_v<T, float>) return 6;
  if constexpr (std::is_same_v<T, bool>) return 7;
  if constexpr (std::is_same_v<T, std::string>) return 8;
  if constexpr (std::is_same_v<T, uint64_t>) return 10;
  if constexpr (std::is_same_v<T, int64_t>) return 11;
  if constexpr (std::is_same_v<T, double>) return 12;
}
inline constexpr uint32_t kGgufArray = 9;

/// The bytes of a number, or of a string with its length.
template <typename T>
std::string GgufBytes(const T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    return GgufBytes(uint64_t{value.size()}) + value;
  } else if constexpr (std::is_same_v<T, bool>) {
    return std::string(1, value ? '\1' : '\0');
  } else {
    std::string bytes(sizeof(T), '\0');
    std::memcpy(bytes.data(), &value, sizeof(T));
    return bytes;
  }
}

/// An array value: item type, length, items.
template <typename T>
std::string GgufArrayBytes(const std::vector<T>& items) {
  std::string bytes = GgufBytes(GgufType<T>()) + GgufBytes(uint64_t{items.size()});
  for (const auto& item : items) bytes += GgufBytes<T>(item);
  return bytes;
}

/// An array of arrays, each made by GgufArrayBytes.
inline std::string GgufNestedBytes(const std::vector<std::string>& arrays) {
  std::string bytes = GgufBytes(kGgufArray) + GgufBytes(uint64_t{arrays.size()});
  for (const std::string& array : arrays) bytes += array;
  return bytes;
}

class GgufWriter {
 public:
  // What the header says, right unless a test sets it.
  std::string magic = "GGUF";
  uint32_t version = 3;
  std::optional<uint64_t> tensor_count, metadata_count;

  template <typename T>
  GgufWriter& Value(const std::string& key, const T& value) {
    return RawValue(key, GgufType<T>(), GgufBytes(value));
  }
  GgufWriter& Value(const std::string& key, const char* text) {
    return Value(key, std::string(text));
  }
  template <typename T>
  GgufWriter& Array(const std::string& key, const std::vector<T>& items) {
    return RawValue(key, kGgufArray, GgufArrayBytes(items));
  }
  GgufWriter& RawValue(const std::string& key, uint32_t type, const std::string& bytes) {
    entries_.push_back(GgufBytes(key) + GgufBytes(type) + bytes);
    return *this;
  }

  GgufWriter& Align(uint32_t alignment) {
    alignment_ = alignment;
    return Value("general.alignment", alignment);
  }

  /// Shape slowest first; the data is padded to the alignment before the next tensor's.
  GgufWriter& Tensor(const std::string& name, Format format, std::vector<uint64_t> shape,
                     std::string data) {
    const std::vector<uint64_t> dims(shape.rbegin(), shape.rend());
    tensors_.push_back({name, dims, static_cast<uint32_t>(format), std::nullopt, std::move(data)});
    return *this;
  }

  /// An info that says what it is given, dimensions in the file's order, with no data of its own.
  GgufWriter& RawTensor(const std::string& name, std::vector<uint64_t> dims, uint32_t type,
                        uint64_t offset) {
    tensors_.push_back({name, std::move(dims), type, offset, ""});
    return *this;
  }

  std::string Bytes() const { return Bytes(entries_, 0, tensors_.size()); }

  /// A set of `parts` files; the first has the metadata, the tensors are dealt out in order.
  std::vector<std::string> Split(uint16_t parts) const {
    std::vector<std::string> files;
    for (uint16_t i = 0; i < parts; ++i) {
      GgufWriter part;
      part.Value("split.no", i).Value("split.count", parts);
      part.Value("split.tensors.count", static_cast<int32_t>(tensors_.size()));
      std::vector<std::string> entries = i == 0 ? entries_ : std::vector<std::string>();
      entries.insert(entries.end(), part.entries_.begin(), part.entries_.end());
      if (i > 0 && alignment_ != 32) entries.push_back(GgufWriter().Align(alignment_).entries_[0]);
      files.push_back(
          Bytes(entries, tensors_.size() * i / parts, tensors_.size() * (i + 1) / parts));
    }
    return files;
  }

 private:
  struct TensorEntry {
    std::string name;
    std::vector<uint64_t> dims;
    uint32_t type;
    std::optional<uint64_t> offset;
    std::string data;
  };

  void Pad(std::string* bytes) const {
    while (bytes->size() % alignment_ != 0) *bytes += '\0';
  }

  std::string Bytes(const std::vector<std::string>& entries, size_t first, size_t last) const {
    std::string bytes = magic + GgufBytes(version) +
                        GgufBytes(tensor_count.value_or(uint64_t{last - first})) +
                        GgufBytes(metadata_count.value_or(uint64_t{entries.size()}));
    for (const std::string& entry : entries) bytes += entry;
    std::string data;
    for (size_t i = first; i < last; ++i) {
      const TensorEntry& tensor = tensors_[i];
      Pad(&data);
      bytes += GgufBytes(tensor.name) + GgufBytes(static_cast<uint32_t>(tensor.dims.size()));
      for (const uint64_t dim : tensor.dims) bytes += GgufBytes(dim);
      bytes += GgufBytes(tensor.type) + GgufBytes(tensor.offset.value_or(uint64_t{data.size()}));
      data += tensor.data;
    }
    if (first == last) return bytes;
    Pad(&bytes);
    return bytes + data;
  }

  uint32_t alignment_ = 32;
  std::vector<std::string> entries_;
  std::vector<TensorEntry> tensors_;
};

}  // namespace mlf::test
