// The bytes of one GGUF file as metadata and tensor infos, nothing of them believed. Counterpart:
// gguf_parse.cc (file and tensor infos) and gguf_metadata.cc (keys and values).
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "io/byte_reader.h"
#include "io/gguf.h"

namespace mlf {

/// Keys in the file's order, each once.
struct GgufMetadata {
  std::vector<std::pair<std::string_view, GgufValue>> entries;
  std::unordered_map<std::string_view, size_t> index;  // key -> entries

  const GgufValue* Find(std::string_view key) const {
    const auto it = index.find(key);
    return it == index.end() ? nullptr : &entries[it->second].second;
  }
};

/// One file: whole, or a part of a set. Views and tensor data point into the bytes it came from.
struct GgufPart {
  int version;
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;
};

/// Throws ValueError or NotImplementedError, see Gguf::Open. Tensor data is not read, its range is
/// checked. `path` is for messages.
GgufPart ParseGguf(const std::string& path, const uint8_t* bytes, int64_t size);

/// The smallest entry: an empty key's length, its type, a value of one byte.
inline constexpr int64_t kMinMetadataEntryBytes = 8 + 4 + 1;

/// The `count` entries that begin at the reader's position.
GgufMetadata ReadMetadata(ByteReader& reader, uint64_t count);

/// Reads a metadata key or tensor name: UTF-8, not empty, at most 64 KiB. `what` and `number` name
/// it until its text is known.
std::string_view ReadName(ByteReader& reader, const char* what, int64_t number);

}  // namespace mlf
