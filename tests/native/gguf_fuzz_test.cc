// Damaged GGUF files: cut at every byte and mutated at random. Each opens or gives one typed error.
#include <cstring>
#include <memory>
#include <random>
#include <variant>

#include "check.h"
#include "gguf_writer.h"
#include "io/gguf.h"
#include "io/gguf_parse.h"
#include "temp_dir.h"

namespace mlf {
namespace {

using test::GgufArrayBytes;
using test::GgufNestedBytes;
using test::GgufWriter;
using test::TempDir;

constexpr int kMutations = 20000;

std::string SmallFile(uint32_t version) {
  GgufWriter writer;
  writer.version = version;
  writer.Value("general.architecture", "test").Align(64);
  writer.Value("u8", uint8_t{1}).Value("i64", int64_t{-5}).Value("f", 0.5f).Value("yes", true);
  writer.Array("bools", std::vector<bool>{true, false});
  writer.Array("ints", std::vector<int32_t>{1, 2, 3});
  writer.Array("words", std::vector<std::string>{"a", "", "bc"});
  writer.RawValue("nested", test::kGgufArray,
                  GgufNestedBytes({GgufArrayBytes(std::vector<uint16_t>{7}),
                                   GgufNestedBytes({GgufArrayBytes(std::vector<double>{1.5})})}));
  writer.Tensor("f32", Format::kF32, {2, 3}, std::string(24, 'f'));
  writer.Tensor("q8", Format::kQ8_0, {2, 32}, std::string(68, 'q'));
  writer.Tensor("f16", Format::kF16, {1, 2, 1, 5}, std::string(20, 'h'));
  return writer.Bytes();
}

// Reads all that an opened file offers, so that a bad view or range is met here.
struct Sum {
  uint64_t total = 0;

  void operator()(std::string_view text) {
    for (const char c : text) total += static_cast<uint8_t>(c);
  }
  void operator()(const GgufArray& array) {
    std::visit(
        [&](const auto& items) {
          for (const auto& item : items) (*this)(item);
        },
        array.items);
  }
  void operator()(int64_t number) { total += static_cast<uint64_t>(number); }
  void operator()(uint64_t number) { total += number; }
  void operator()(bool flag) { total += flag; }
  void operator()(double number) { total += std::bit_cast<uint64_t>(number); }

  void AddMetadata(const std::vector<std::pair<std::string_view, GgufValue>>& entries) {
    for (const auto& [key, value] : entries) {
      (*this)(key);
      std::visit(*this, value.value);
    }
  }
  void AddTensors(const std::vector<GgufTensor>& tensors) {
    for (const GgufTensor& tensor : tensors)
      (*this)({reinterpret_cast<const char*>(tensor.data), static_cast<size_t>(tensor.bytes)});
  }
};

enum class Outcome { kOpened, kValueError, kNotImplemented, kFileNotFound };

template <typename Action>
Outcome OutcomeOf(const Action& action) {
  try {
    action();
    return Outcome::kOpened;
  } catch (const tvm::ffi::Error& e) {
    MLF_EXPECT(!e.message().empty());
    if (e.kind() == "NotImplementedError") return Outcome::kNotImplemented;
    if (e.kind() == "FileNotFoundError") return Outcome::kFileNotFound;
    MLF_EXPECT(e.kind() == "ValueError");
    return Outcome::kValueError;
  }
}

// On a heap block of exactly the file's size, where a sanitizer sees the first byte too far.
Outcome Parse(const std::string& bytes) {
  return OutcomeOf([&] {
    const auto copy = std::make_unique<uint8_t[]>(bytes.size());
    std::memcpy(copy.get(), bytes.data(), bytes.size());
    const GgufPart part = ParseGguf("memory", copy.get(), static_cast<int64_t>(bytes.size()));
    Sum sum;
    sum.AddMetadata(part.metadata.entries);
    sum.AddTensors(part.tensors);
  });
}

Outcome Open(const TempDir& dir, const std::string& bytes, bool mmap) {
  const std::string path = dir.Write("damaged.gguf", bytes);
  return OutcomeOf([&] {
    const auto gguf = Gguf::Open(path, {.mmap = mmap});
    Sum sum;
    sum.AddMetadata(gguf->metadata());
    sum.AddTensors(gguf->tensors());
    for (const GgufTensor& tensor : gguf->tensors()) gguf->Release(tensor);
  });
}

void TestTruncation(const TempDir& dir, uint32_t version) {
  const std::string whole = SmallFile(version);
  MLF_EXPECT(Open(dir, whole, true) == Outcome::kOpened);
  MLF_EXPECT(Parse(whole) == Outcome::kOpened);
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string cut = whole.substr(0, size);
    MLF_EXPECT(Parse(cut) == Outcome::kValueError);
    MLF_EXPECT(Open(dir, cut, size % 2 == 0) == Outcome::kValueError);
  }
}

std::string Mutated(std::string bytes, std::mt19937_64* random) {
  constexpr uint64_t kTelling[] = {
      0,         1, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, uint64_t{1} << 32, INT64_MAX, uint64_t{1} << 63,
      UINT64_MAX};
  const auto below = [&](uint64_t n) { return (*random)() % n; };
  for (uint64_t n = 1 + below(4); n > 0; --n) {
    const uint64_t width = uint64_t{1} << below(4);
    const uint64_t at = below(bytes.size() - width + 1);
    uint64_t value = below(2) == 0 ? (*random)() : kTelling[below(std::size(kTelling))];
    if (below(4) == 0) {
      std::memcpy(&value, bytes.data() + at, width);
      value += below(2) == 0 ? 1 : UINT64_MAX;
    }
    std::memcpy(bytes.data() + at, &value, width);
  }
  if (below(16) == 0) bytes.resize(below(bytes.size() + 64));
  return bytes;
}

void TestMutations(const TempDir& dir) {
  std::mt19937_64 random(2);
  const std::string files[] = {SmallFile(2), SmallFile(3)};
  // Most bytes that matter stand before the data.
  int outcomes[4] = {};
  for (int i = 0; i < kMutations; ++i) {
    const std::string bytes = Mutated(files[i % 2], &random);
    const Outcome parsed = Parse(bytes);
    MLF_EXPECT(Open(dir, bytes, i % 8 != 0) == parsed);
    ++outcomes[static_cast<int>(parsed)];
  }
  std::fprintf(stderr, "%d mutations: %d opened, %d ValueError, %d NotImplementedError\n",
               kMutations, outcomes[0], outcomes[1], outcomes[2]);
  MLF_EXPECT(outcomes[0] > kMutations / 100 && outcomes[1] > kMutations / 10 && outcomes[2] > 0);
}

}  // namespace
}  // namespace mlf

int main() {
  const mlf::test::TempDir dir;
  mlf::TestTruncation(dir, 2);
  mlf::TestTruncation(dir, 3);
  mlf::TestMutations(dir);
  return 0;
}
