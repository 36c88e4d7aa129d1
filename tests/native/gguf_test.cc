// Tests of src/io/gguf.cc with right files: values, tensors, split sets, options, real files. Wrong
// files: gguf_reject_test.cc and gguf_fuzz_test.cc.
#include "io/gguf.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "check.h"
#include "gguf_writer.h"
#include "temp_dir.h"

namespace mlf {
namespace {

using test::GgufArrayBytes;
using test::GgufNestedBytes;
using test::GgufWriter;
using test::TempDir;

std::string Filled(size_t bytes, char seed) {
  std::string data(bytes, '\0');
  for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<char>(seed + i * 7);
  return data;
}

template <typename T>
void PutLimits(GgufWriter* writer, const std::string& name) {
  using Limits = std::numeric_limits<T>;
  writer->Value(name + ".min", Limits::lowest()).Value(name + ".max", Limits::max());
  writer->Array(name + ".array", std::vector<T>{Limits::lowest(), T{1}, Limits::max()});
}

/// Stored as T, read as Wide.
template <typename T, typename Wide>
void ExpectLimits(const Gguf& gguf, const std::string& name) {
  using Limits = std::numeric_limits<T>;
  MLF_EXPECT(std::get<Wide>(gguf.Find(name + ".min")->value) == Wide{Limits::lowest()});
  MLF_EXPECT(std::get<Wide>(gguf.Find(name + ".max")->value) == Wide{Limits::max()});
  const auto& array = std::get<GgufArray>(gguf.Find(name + ".array")->value);
  MLF_EXPECT((std::get<std::vector<Wide>>(array.items) ==
              std::vector<Wide>{Limits::lowest(), T{1}, Limits::max()}));
}

GgufWriter EveryType(uint32_t version) {
  GgufWriter writer;
  writer.version = version;
  writer.Value("general.architecture", "test");
  PutLimits<uint8_t>(&writer, "u8");
  PutLimits<int8_t>(&writer, "i8");
  PutLimits<uint16_t>(&writer, "u16");
  PutLimits<int16_t>(&writer, "i16");
  PutLimits<uint32_t>(&writer, "u32");
  PutLimits<int32_t>(&writer, "i32");
  PutLimits<uint64_t>(&writer, "u64");
  PutLimits<int64_t>(&writer, "i64");
  PutLimits<float>(&writer, "f32");
  PutLimits<double>(&writer, "f64");
  writer.Value("yes", true).Value("no", false);
  writer.Array("bools", std::vector<bool>{true, false, true});
  writer.Value("text", std::string("a\0\xFF z", 5)).Value("no text", "");
  writer.Array("texts", std::vector<std::string>{"", "one", std::string(300, 'x')});
  writer.Array("nothing", std::vector<uint8_t>{});
  writer.RawValue("nested", test::kGgufArray,
                  GgufNestedBytes({GgufArrayBytes(std::vector<int32_t>{1, -2}),
                                   GgufNestedBytes({GgufArrayBytes(std::vector<float>{0.5f})}),
                                   GgufArrayBytes(std::vector<std::string>{"deep"})}));
  return writer;
}

void ExpectNested(const Gguf& gguf) {
  const auto& outer = std::get<GgufArray>(gguf.Find("nested")->value);
  const auto& arrays = std::get<std::vector<GgufArray>>(outer.items);
  MLF_EXPECT(arrays.size() == 3);
  MLF_EXPECT((std::get<std::vector<int64_t>>(arrays[0].items) == std::vector<int64_t>{1, -2}));
  const auto& inner = std::get<std::vector<GgufArray>>(arrays[1].items);
  MLF_EXPECT(std::get<std::vector<double>>(inner.at(0).items) == std::vector<double>{0.5});
  MLF_EXPECT(std::get<std::vector<std::string_view>>(arrays[2].items).at(0) == "deep");
}

void TestEveryType(const TempDir& dir, uint32_t version) {
  const auto gguf = Gguf::Open(dir.Write("types.gguf", EveryType(version).Bytes()));
  MLF_EXPECT(gguf->version() == static_cast<int>(version));
  ExpectLimits<uint8_t, uint64_t>(*gguf, "u8");
  ExpectLimits<int8_t, int64_t>(*gguf, "i8");
  ExpectLimits<uint16_t, uint64_t>(*gguf, "u16");
  ExpectLimits<int16_t, int64_t>(*gguf, "i16");
  ExpectLimits<uint32_t, uint64_t>(*gguf, "u32");
  ExpectLimits<int32_t, int64_t>(*gguf, "i32");
  ExpectLimits<uint64_t, uint64_t>(*gguf, "u64");
  ExpectLimits<int64_t, int64_t>(*gguf, "i64");
  ExpectLimits<float, double>(*gguf, "f32");
  ExpectLimits<double, double>(*gguf, "f64");
  MLF_EXPECT(gguf->Bool("yes") == true && gguf->Bool("no") == false);
  const auto& bools = std::get<GgufArray>(gguf->Find("bools")->value);
  MLF_EXPECT((std::get<std::vector<bool>>(bools.items) == std::vector<bool>{true, false, true}));
  MLF_EXPECT(gguf->String("text") == std::string_view("a\0\xFF z", 5));
  MLF_EXPECT(gguf->String("no text") == "");
  const auto* texts = gguf->Strings("texts");
  MLF_EXPECT(texts->size() == 3 && (*texts)[0] == "" && (*texts)[1] == "one" &&
             (*texts)[2] == std::string(300, 'x'));
  ExpectNested(*gguf);
  MLF_EXPECT(gguf->metadata().front().first == "general.architecture");
  MLF_EXPECT(gguf->metadata().back().first == "nested");
  MLF_EXPECT(gguf->tensors().empty());
}

void TestLookUpConverts(const TempDir& dir) {
  const auto gguf = Gguf::Open(dir.Write("types.gguf", EveryType(3).Bytes()));
  MLF_EXPECT(gguf->Int("u8.max") == 255 && gguf->Int("i64.min") == INT64_MIN);
  MLF_EXPECT(gguf->RequireInt("u32.max") == UINT32_MAX);
  MLF_EXPECT(gguf->Float("f64.max") == std::numeric_limits<double>::max());
  MLF_EXPECT(gguf->Float("i32.min") == -2147483648.0 && gguf->Float("u32.max") == 4294967295.0);
  MLF_EXPECT((gguf->Ints("u16.array") == std::vector<int64_t>{0, 1, 65535}));
  MLF_EXPECT((gguf->Ints("i8.array") == std::vector<int64_t>{-128, 1, 127}));
  MLF_EXPECT((gguf->Floats("i8.array") == std::vector<double>{-128, 1, 127}));
  MLF_EXPECT(gguf->Floats("f32.array")->at(1) == 1.0);
  // An empty array says nothing of what it would hold.
  MLF_EXPECT(gguf->Strings("nothing")->empty() && gguf->Ints("nothing")->empty() &&
             gguf->Floats("nothing")->empty());
  MLF_EXPECT(!gguf->Int("absent") && !gguf->Float("absent") && !gguf->Bool("absent") &&
             !gguf->String("absent") && !gguf->Ints("absent") && !gguf->Floats("absent") &&
             gguf->Strings("absent") == nullptr && gguf->Find("absent") == nullptr);
}

void TestLookUpRefuses(const TempDir& dir) {
  const std::string path = dir.Write("types.gguf", EveryType(3).Bytes());
  const auto gguf = Gguf::Open(path);
  MLF_EXPECT_THROWS(gguf->RequireInt("absent"), "ValueError", "\"absent\" is missing");
  MLF_EXPECT_THROWS(gguf->Int("text"), "ValueError", "is a string, expected an integer");
  MLF_EXPECT_THROWS(gguf->Int("text"), "ValueError", path);
  MLF_EXPECT_THROWS(gguf->Int("f32.max"), "ValueError", "is a float, expected an integer");
  MLF_EXPECT_THROWS(gguf->Int("yes"), "ValueError", "is a bool, expected an integer");
  MLF_EXPECT_THROWS(gguf->Int("u64.max"), "ValueError", "18446744073709551615");
  MLF_EXPECT_THROWS(gguf->Int("u8.array"), "ValueError", "an array of unsigned integers");
  MLF_EXPECT_THROWS(gguf->Float("yes"), "ValueError", "expected a float");
  MLF_EXPECT_THROWS(gguf->Float("u64.max"), "ValueError", "2^53");
  MLF_EXPECT_THROWS(gguf->Float("i64.min"), "ValueError", "2^53");
  MLF_EXPECT_THROWS(gguf->Bool("u8.min"), "ValueError", "expected a bool");
  MLF_EXPECT_THROWS(gguf->String("i8.min"), "ValueError", "an integer, expected a string");
  MLF_EXPECT_THROWS(gguf->Strings("text"), "ValueError", "expected an array of strings");
  MLF_EXPECT_THROWS(gguf->Strings("nested"), "ValueError", "an array of arrays, expected");
  MLF_EXPECT_THROWS(gguf->Ints("u64.array"), "ValueError", "18446744073709551615");
  MLF_EXPECT_THROWS(gguf->Ints("f64.array"), "ValueError", "an array of floats, expected");
  MLF_EXPECT_THROWS(gguf->Ints("bools"), "ValueError", "an array of bools, expected");
  MLF_EXPECT_THROWS(gguf->Floats("texts"), "ValueError", "an array of strings, expected");
  MLF_EXPECT_THROWS(gguf->Floats("i64.array"), "ValueError", "2^53");
}

struct Wanted {
  std::string name;
  Format format;
  std::vector<uint64_t> shape;
  std::string data;
};

std::vector<Wanted> EveryFormat() {
  return {{"f32", Format::kF32, {1}, Filled(4, 1)},
          {"f16", Format::kF16, {3, 5}, Filled(30, 2)},
          {"bf16", Format::kBF16, {2, 3, 5}, Filled(60, 3)},
          {"q8_0", Format::kQ8_0, {3, 64}, Filled(3 * 2 * 34, 4)},
          {"q4_0", Format::kQ4_0, {1, 32}, Filled(18, 5)},
          {"q4_1", Format::kQ4_1, {2, 1, 2, 32}, Filled(4 * 20, 6)},
          {"q5_0", Format::kQ5_0, {5, 32}, Filled(5 * 22, 7)},
          {"q5_1", Format::kQ5_1, {96}, Filled(3 * 24, 8)}};
}

GgufWriter TensorWriter(uint32_t version, uint32_t alignment) {
  GgufWriter writer;
  writer.version = version;
  writer.Value("general.architecture", "test");
  if (alignment != 32) writer.Align(alignment);
  for (const Wanted& w : EveryFormat()) writer.Tensor(w.name, w.format, w.shape, w.data);
  return writer;
}

void ExpectTensors(const Gguf& gguf, uint32_t alignment) {
  const std::vector<Wanted> wanted = EveryFormat();
  MLF_EXPECT(gguf.tensors().size() == wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    const GgufTensor& tensor = gguf.tensors()[i];
    MLF_EXPECT(tensor.name == wanted[i].name && tensor.format == wanted[i].format);
    MLF_EXPECT(tensor.shape ==
               std::vector<int64_t>(wanted[i].shape.begin(), wanted[i].shape.end()));
    MLF_EXPECT(tensor.bytes == static_cast<int64_t>(wanted[i].data.size()));
    MLF_EXPECT(std::memcmp(tensor.data, wanted[i].data.data(), wanted[i].data.size()) == 0);
    MLF_EXPECT(reinterpret_cast<uintptr_t>(tensor.data) % alignment == 0);
    MLF_EXPECT(gguf.FindTensor(wanted[i].name) == &tensor);
  }
  MLF_EXPECT(gguf.FindTensor("absent") == nullptr && gguf.FindTensor("") == nullptr);
}

void TestTensors(const TempDir& dir, uint32_t version, uint32_t alignment) {
  const std::string bytes = TensorWriter(version, alignment).Bytes();
  const std::string path = dir.Write("tensors.gguf", bytes);
  for (bool mmap : {true, false}) {
    const auto gguf = Gguf::Open(path, {.mmap = mmap, .mlock = true});
    MLF_EXPECT(gguf->path() == path);
    MLF_EXPECT(gguf->file_bytes() == static_cast<int64_t>(bytes.size()));
    ExpectTensors(*gguf, alignment);
    for (const GgufTensor& tensor : gguf->tensors()) gguf->Release(tensor);
    ExpectTensors(*gguf, alignment);
  }
  const auto gguf = Gguf::Open(path, {.mmap = false, .mlock = true, .tensors = false});
  MLF_EXPECT(gguf->tensors().size() == EveryFormat().size());
  for (const GgufTensor& tensor : gguf->tensors()) {
    MLF_EXPECT(tensor.data == nullptr && tensor.bytes > 0);
    gguf->Release(tensor);
  }
}

void TestSplit(const TempDir& dir, uint32_t alignment) {
  const std::vector<std::string> parts = TensorWriter(3, alignment).Split(3);
  size_t bytes = 0;
  for (int i = 0; i < 3; ++i) {
    bytes += parts[i].size();
    dir.Write("set-0000" + std::to_string(i + 1) + "-of-00003.gguf", parts[i]);
  }
  for (const char* name :
       {"set-00001-of-00003.gguf", "set-00002-of-00003.gguf", "set-00003-of-00003.gguf"}) {
    for (bool mmap : {true, false}) {
      const auto gguf = Gguf::Open(dir.Path(name), {.mmap = mmap});
      ExpectTensors(*gguf, alignment);
      MLF_EXPECT(gguf->path() == dir.Path(name));
      MLF_EXPECT(gguf->file_bytes() == static_cast<int64_t>(bytes));
      MLF_EXPECT(gguf->String("general.architecture") == "test");
      MLF_EXPECT(gguf->Int("split.no") == 0 && gguf->Int("split.count") == 3);
      for (const GgufTensor& tensor : gguf->tensors()) gguf->Release(tensor);
      ExpectTensors(*gguf, alignment);
    }
  }
  // A set of one needs no particular name, and a name alone makes no set.
  ExpectTensors(*Gguf::Open(dir.Write("one.gguf", TensorWriter(3, alignment).Split(1)[0])),
                alignment);
  ExpectTensors(*Gguf::Open(dir.Write("a-00002-of-00009.gguf", TensorWriter(3, alignment).Bytes())),
                alignment);
}

void TestVocabularyOnly(const TempDir& dir) {
  GgufWriter writer;
  writer.Value("general.architecture", "test");
  writer.Array("tokenizer.ggml.tokens", std::vector<std::string>{"<s>", "a", "b"});
  const std::string path = dir.Write("vocab.gguf", writer.Bytes());
  for (bool tensors : {true, false}) {
    const auto gguf = Gguf::Open(path, {.mmap = false, .tensors = tensors});
    MLF_EXPECT(gguf->Strings("tokenizer.ggml.tokens")->size() == 3 && gguf->tensors().empty());
  }
  MLF_EXPECT(Gguf::Open(dir.Write("empty.gguf", GgufWriter().Bytes()))->metadata().empty());
}

void ExpectRealFile(const std::filesystem::path& path, bool model) {
  const auto gguf = Gguf::Open(path.string());
  MLF_EXPECT(gguf->version() == 3);
  MLF_EXPECT(gguf->file_bytes() == static_cast<int64_t>(std::filesystem::file_size(path)));
  MLF_EXPECT(gguf->tensors().empty() != model);
  const size_t tokens = gguf->Strings("tokenizer.ggml.tokens")->size();
  MLF_EXPECT(tokens == gguf->Ints("tokenizer.ggml.token_type")->size());
  if (!model) return;
  // 5 layers of 9 tensors, the embedding and the last norm; a vocabulary of 512, d = 64.
  const std::string architecture(*gguf->String("general.architecture"));
  MLF_EXPECT(gguf->tensors().size() == 47 && tokens == 512);
  MLF_EXPECT(gguf->RequireInt(architecture + ".block_count") == 5);
  const GgufTensor* embedding = gguf->FindTensor("token_embd.weight");
  MLF_EXPECT((embedding->shape == std::vector<int64_t>{512, 64}));
  MLF_EXPECT(embedding->bytes == 512 * RowBytes(embedding->format, 64));
}

void TestRealFiles() {
  const char* data = std::getenv("MY_LLM_FFI_TEST_DATA");
  if (data == nullptr || *data == '\0') {
    std::fprintf(stderr, "real files skipped: MY_LLM_FFI_TEST_DATA is not set\n");
    return;
  }
  int files = 0;
  for (const char* folder : {"models", "vocabs"}) {
    for (const auto& entry :
         std::filesystem::directory_iterator(std::string(data) + "/" + folder)) {
      if (entry.path().extension() != ".gguf") continue;
      const bool model = std::string_view(folder) == "models";
      ExpectRealFile(entry.path(), model);
      ++files;
    }
  }
  MLF_EXPECT(files > 0);
  const std::string large = std::string(data) + "/vocabs/ggml-vocab-llama-bpe.gguf";
  const auto gguf = Gguf::Open(large);
  MLF_EXPECT(gguf->Strings("tokenizer.ggml.tokens")->size() == 128256);
  std::fprintf(stderr, "%d real files\n", files);
}

}  // namespace
}  // namespace mlf

int main() {
  const mlf::test::TempDir dir;
  for (uint32_t version : {2, 3}) {
    mlf::TestEveryType(dir, version);
    for (uint32_t alignment : {32, 64, 8, 4096}) mlf::TestTensors(dir, version, alignment);
  }
  mlf::TestLookUpConverts(dir);
  mlf::TestLookUpRefuses(dir);
  mlf::TestSplit(dir, 32);
  mlf::TestSplit(dir, 64);
  mlf::TestVocabularyOnly(dir);
  mlf::TestRealFiles();
  return 0;
}
