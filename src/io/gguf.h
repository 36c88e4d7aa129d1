// GGUF files, versions 2 and 3: bytes to metadata and named tensors. Counterpart: gguf.cc; the
// bytes are read in gguf_parse.h, sets of files in gguf_split.h. Format:
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "quant/formats.h"

namespace mlf {

struct GgufValue;

/// Arrays keep the order of the file. Strings are views into the file's bytes, valid as long as the
/// Gguf lives.
struct GgufArray {
  std::variant<std::vector<int64_t>, std::vector<uint64_t>, std::vector<double>, std::vector<bool>,
               std::vector<std::string_view>, std::vector<GgufArray>>
      items;
};

/// Integers widen to 64 bits, floats to double.
struct GgufValue {
  std::variant<int64_t, uint64_t, double, bool, std::string_view, GgufArray> value;
};

struct GgufTensor {
  std::string name;
  Format format;
  std::vector<int64_t>
      shape;            // slowest first, as NumPy has it: [rows, cols]; GGUF stores the reverse
  const uint8_t* data;  // nullptr where the file was opened without tensors
  int64_t bytes;
};

struct GgufOptions {
  bool mmap = true;     // false: tensor data is read into memory
  bool mlock = false;   // keep the mapping resident; throws RuntimeError where the limit forbids it
  bool tensors = true;  // false: metadata only (vocabularies); tensor infos are parsed and checked
                        // all the same, their data is neither read nor locked
};

/// An opened file or set of split files ("name-00001-of-00003.gguf"; any part opens all).
/// Immutable; every count, size and offset has been checked against the file before it is used.
class Gguf {
 public:
  /// Throws FileNotFoundError / PermissionError / IsADirectoryError / OSError (registered kinds)
  /// when a file cannot be read, MemoryError when it does not fit in memory, ValueError with path,
  /// byte offset and what was expected when it is not a valid GGUF, NotImplementedError for a
  /// version, byte order or tensor type that is unknown here.
  static std::shared_ptr<const Gguf> Open(const std::string& path, const GgufOptions& options = {});
  ~Gguf();

  int version() const;
  const std::string& path() const;
  int64_t file_bytes() const;  // of all parts

  /// Metadata in the file's order. Split files: the first part's, without the split.* keys of
  /// others.
  const std::vector<std::pair<std::string_view, GgufValue>>& metadata() const;
  const GgufValue* Find(std::string_view key) const;  // nullptr when absent

  // Typed look-up: nullopt / nullptr when absent, ValueError naming key and types when the type
  // does not fit. Integers of any width and sign convert where the value fits.
  std::optional<int64_t> Int(std::string_view key) const;
  std::optional<double> Float(std::string_view key) const;
  std::optional<bool> Bool(std::string_view key) const;
  std::optional<std::string_view> String(std::string_view key) const;
  const std::vector<std::string_view>* Strings(std::string_view key) const;
  std::optional<std::vector<int64_t>> Ints(std::string_view key) const;
  std::optional<std::vector<double>> Floats(std::string_view key) const;
  int64_t RequireInt(std::string_view key) const;  // ValueError "metadata key … is missing"

  const std::vector<GgufTensor>& tensors() const;
  const GgufTensor* FindTensor(std::string_view name) const;

  /// Tells the system that the tensor's pages are no longer needed (they come back from the file if
  /// read again).
  void Release(const GgufTensor& tensor) const;

 private:
  Gguf();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mlf
