// Sets of split GGUF files: names and counts of the parts. Counterpart: gguf_split.h.
//
// A part is called "<prefix>-00002-of-00003.gguf" and says in its metadata split.no = 1,
// split.count = 3 and split.tensors.count, the tensors of all parts.
#include "io/gguf_split.h"

#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string_view>
#include <utility>

#include "base/quote.h"
#include "io/gguf_value.h"

namespace mlf {
namespace {

constexpr const char* kNo = "split.no";
constexpr const char* kCount = "split.count";
constexpr const char* kTensorCount = "split.tensors.count";

struct PartName {
  std::string prefix;
  int64_t number;  // from 1
  int64_t count;
};

std::string PathOf(const PartName& name) {
  char suffix[64];
  std::snprintf(suffix, sizeof(suffix), "-%05lld-of-%05lld.gguf",
                static_cast<long long>(name.number), static_cast<long long>(name.count));
  return name.prefix + suffix;
}

std::optional<PartName> ParsePartName(const std::string& path) {
  constexpr std::string_view kPattern = "-00000-of-00000.gguf";
  if (path.size() <= kPattern.size()) return std::nullopt;
  const size_t prefix_bytes = path.size() - kPattern.size();
  int64_t numbers[2] = {0, 0};
  for (size_t i = 0; i < kPattern.size(); ++i) {
    const char c = path[prefix_bytes + i];
    if (kPattern[i] != '0') {
      if (c != kPattern[i]) return std::nullopt;
    } else if (c >= '0' && c <= '9') {
      int64_t& number = numbers[i > 6];  // the first number ends at index 5
      number = number * 10 + (c - '0');
    } else {
      return std::nullopt;
    }
  }
  return PartName{path.substr(0, prefix_bytes), numbers[0], numbers[1]};
}

std::optional<int64_t> SplitValue(const GgufFile& file, const char* key) {
  const GgufValue* value = file.part.metadata.Find(key);
  if (value == nullptr) return std::nullopt;
  return AsInt({file.bytes.path(), key}, *value);
}

void ExpectValue(const GgufFile& file, const char* key, int64_t expected, const char* why) {
  const std::optional<int64_t> value = SplitValue(file, key);
  if (value == expected) return;
  TVM_FFI_THROW(ValueError) << Quoted(file.bytes.path(), file.bytes.path().size())
                            << ": metadata key \"" << key << "\" is "
                            << (value ? std::to_string(*value) : "missing") << ", expected "
                            << expected << " (" << why << ")";
}

GgufFile OpenFile(const std::string& path) {
  MappedFile bytes(path);
  GgufPart part = ParseGguf(path, bytes.data(), bytes.size());
  return {std::move(bytes), std::move(part)};
}

GgufFile OpenPart(const PartName& name, const std::string& opened) {
  try {
    return OpenFile(PathOf(name));
  } catch (const tvm::ffi::Error& e) {
    if (e.kind() != "FileNotFoundError") throw;
    throw tvm::ffi::Error(e.kind(),
                          e.message() + " (part " + std::to_string(name.number) + " of the " +
                              std::to_string(name.count) + " that " +
                              Quoted(opened, opened.size()) + " belongs to)",
                          e.backtrace());
  }
}

PartName NameOfPart(const GgufFile& file, const std::string& path) {
  std::optional<PartName> name = ParsePartName(path);
  if (!name)
    TVM_FFI_THROW(ValueError) << Quoted(path, path.size())
                              << " is a part of a split file, expected a name like "
                                 "\"model-00001-of-00003.gguf\" by which its other parts are found";
  ExpectValue(file, kCount, name->count, "from the file's name");
  ExpectValue(file, kNo, name->number - 1, "from the file's name, counted from 0");
  return *std::move(name);
}

void CheckTensorCount(const std::vector<GgufFile>& files) {
  int64_t tensors = 0;
  for (const GgufFile& file : files) tensors += static_cast<int64_t>(file.part.tensors.size());
  for (const GgufFile& file : files) {
    if (file.part.metadata.Find(kTensorCount) != nullptr)
      ExpectValue(file, kTensorCount, tensors, "the tensors found in all parts");
  }
}

}  // namespace

std::vector<GgufFile> OpenGgufFiles(const std::string& path) {
  std::vector<GgufFile> files;
  files.push_back(OpenFile(path));
  const int64_t count = SplitValue(files[0], kCount).value_or(1);
  if (count == 0 || count == 1) return files;
  const PartName opened = NameOfPart(files[0], path);
  for (int64_t number = 1; number <= opened.count; ++number) {
    if (number == opened.number) continue;
    files.push_back(OpenPart({opened.prefix, number, opened.count}, path));
    ExpectValue(files.back(), kCount, opened.count, "from the file's name");
    ExpectValue(files.back(), kNo, number - 1, "from the file's name, counted from 0");
  }
  std::rotate(files.begin(), files.begin() + 1, files.begin() + opened.number);
  CheckTensorCount(files);
  return files;
}

}  // namespace mlf
