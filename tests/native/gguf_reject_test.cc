// Tests that src/io refuses wrong GGUF files, each with one typed error that names what is wrong.
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>

#include "check.h"
#include "gguf_writer.h"
#include "io/gguf.h"
#include "temp_dir.h"

namespace mlf {
namespace {

using test::GgufArrayBytes;
using test::GgufBytes;
using test::GgufNestedBytes;
using test::GgufWriter;
using test::TempDir;

constexpr uint32_t kF32 = 0, kQ4_0 = 2, kQ4_K = 12, kIQ1_M = 29;

std::shared_ptr<const Gguf> Open(const TempDir& dir, const std::string& bytes) {
  return Gguf::Open(dir.Write("wrong.gguf", bytes));
}

/// The file must be refused with `part` in the message, and with the path.
void Refused(const TempDir& dir, const std::string& bytes, const char* part,
             const char* kind = "ValueError") {
  MLF_EXPECT_THROWS(Open(dir, bytes), kind, part);
  MLF_EXPECT_THROWS(Open(dir, bytes), kind, dir.Path("wrong.gguf"));
  const std::string path = dir.Path("wrong.gguf");
  MLF_EXPECT_THROWS(Gguf::Open(path, {.mmap = false}), kind, part);
  MLF_EXPECT_THROWS(Gguf::Open(path, {.tensors = false}), kind, part);
}

GgufWriter WithVersion(uint32_t version) {
  GgufWriter writer;
  writer.version = version;
  return writer;
}

void TestHeader(const TempDir& dir) {
  Refused(dir, "", "at byte 0: not a GGUF file: it begins with \"\", expected \"GGUF\"");
  Refused(dir, "GG", "it begins with \"GG\"");
  Refused(dir, "GGUF", "the file has 4 bytes, expected at least 24");
  Refused(dir, GgufWriter().Bytes().substr(0, 23), "has 23 bytes, expected at least 24");
  Refused(dir, "version https://git-lfs.github.com/spec/v1\n", "it begins with \"vers\"");
  Refused(dir, std::string(100, '\xFF'), "\"\\xff\\xff\\xff\\xff\"");
  const char* kind = "NotImplementedError";
  for (uint32_t version : {0u, 1u, 4u, 0x10003u, UINT32_MAX}) {
    const std::string what = "at byte 4: GGUF version is " + std::to_string(version) + ";";
    Refused(dir, WithVersion(version).Bytes(), what.c_str(), kind);
  }
  Refused(dir, WithVersion(0x03000000).Bytes(), "the file is big-endian (version 3)", kind);
  Refused(dir, WithVersion(0x02000000).Bytes(), "the file is big-endian (version 2)", kind);
}

void TestLyingCounts(const TempDir& dir) {
  for (const uint64_t lie : {uint64_t{1} << 63, uint64_t{1} << 32, UINT64_MAX, uint64_t{1} << 20}) {
    GgufWriter tensors, entries;
    tensors.Value("key", uint8_t{1}).tensor_count = lie;
    entries.Value("key", uint8_t{1}).metadata_count = lie;
    const std::string number = std::to_string(lie);
    Refused(dir, tensors.Bytes(), ("at byte 8: tensor count is " + number).c_str());
    Refused(dir, entries.Bytes(), ("at byte 16: metadata count is " + number).c_str());
    for (uint32_t type = 0; type <= 12; ++type) {
      GgufWriter array;
      array.RawValue("key", test::kGgufArray, GgufBytes(type) + GgufBytes(lie) + "12345678");
      Refused(dir, array.Bytes(), ("array length is " + number + ", expected at most").c_str());
    }
    GgufWriter text;
    text.RawValue("key", 8, GgufBytes(lie) + "text");
    Refused(dir, text.Bytes(), ("value needs " + number + " bytes, but only 4 remain").c_str());
    Refused(dir,
            GgufWriter()
                .RawValue("key", 9,
                          GgufBytes(uint32_t{8}) + GgufBytes(uint64_t{1}) + GgufBytes(lie) + "text")
                .Bytes(),
            ("array item needs " + number + " bytes").c_str());
  }
}

// One more than there is: the count alone may pass the check, reading must not.
void TestOneTooMany(const TempDir& dir) {
  GgufWriter entries, tensors, tensors_after_metadata;
  entries.Value("a", "some text").Value("b", "more text").metadata_count = 3;
  Refused(dir, entries.Bytes(), "metadata key 2: name needs 8 bytes, but only 0 remain");
  // Two infos would fit, but padding stands where the second should be.
  tensors.RawTensor("a", {1, 1, 1, 1}, kF32, 0).tensor_count = 2;
  Refused(dir, tensors.Bytes(), "at byte 81: tensor 1: name is empty");
  tensors.tensor_count = 3;
  Refused(dir, tensors.Bytes(), "at byte 8: tensor count is 3, expected at most 2");
  tensors_after_metadata.Value("key", std::string(100, 'x')).tensor_count = 3;
  Refused(dir, tensors_after_metadata.Bytes(), "at byte 8: tensor count is 3, expected at most 0");
  GgufWriter array;
  array.RawValue("key", 9, GgufBytes(uint32_t{4}) + GgufBytes(uint64_t{3}) + "12345678901");
  Refused(dir, array.Bytes(), "array length is 3, expected at most 2");
}

void TestKeys(const TempDir& dir) {
  GgufWriter twice, empty, wide;
  Refused(dir, twice.Value("a", 1).Value("key", 1).Value("key", 2).Bytes(),
          "metadata key \"key\": appears twice");
  Refused(dir, empty.Value("", 1).Bytes(), "at byte 24: metadata key 0: name is empty");
  MLF_EXPECT(Open(dir, wide.Value(std::string(65535, 'k'), 1).Bytes())->metadata().size() == 1);
  Refused(dir, GgufWriter().Value(std::string(65536, 'k'), 1).Bytes(),
          "name has 65536 bytes, expected at most 65535");
  Refused(dir, GgufWriter().Value("k\xFF", 1).Bytes(), "name is \"k\\xff\", expected UTF-8");
}

void TestValues(const TempDir& dir) {
  Refused(dir, GgufWriter().RawValue("key", 13, "12345678").Bytes(),
          "at byte 35: metadata key \"key\": value type is 13, expected 0 to 12");
  Refused(dir, GgufWriter().RawValue("key", 9, GgufBytes(uint32_t{99}) + "12345678").Bytes(),
          "value type is 99, expected 0 to 12");
  Refused(dir, GgufWriter().RawValue("key", 7, "\2").Bytes(), "value is 2, expected 0 or 1");
  Refused(dir,
          GgufWriter()
              .RawValue("key", 9, GgufBytes(uint32_t{7}) + GgufBytes(uint64_t{2}) + "\1\xFF")
              .Bytes(),
          "array item is 255, expected 0 or 1");
  std::string nested = GgufArrayBytes(std::vector<uint8_t>{1});
  for (int depth = 2; depth <= 8; ++depth) nested = GgufNestedBytes({nested});
  MLF_EXPECT(Open(dir, GgufWriter().RawValue("key", 9, nested).Bytes())->metadata().size() == 1);
  for (int depth = 9; depth <= 4000; ++depth) {
    nested = GgufNestedBytes({nested});
    if (depth == 9 || depth == 4000)
      Refused(dir, GgufWriter().RawValue("key", 9, nested).Bytes(), "nested deeper than 8 levels");
  }
}

void TestAlignment(const TempDir& dir) {
  for (const int64_t wrong : {int64_t{0}, int64_t{1}, int64_t{4}, int64_t{24}, int64_t{33},
                              int64_t{1} << 25, int64_t{1} << 62, int64_t{-32}}) {
    const std::string what = "at byte 32: general.alignment is " + std::to_string(wrong) +
                             ", expected a power of two from 8 to 16777216";
    Refused(dir, GgufWriter().Value("general.alignment", wrong).Bytes(), what.c_str());
  }
  Refused(dir, GgufWriter().Value("general.alignment", "32").Bytes(),
          "\"general.alignment\" is a string, expected an integer");
}

void TestTensorInfos(const TempDir& dir) {
  const auto one = [](std::vector<uint64_t> dims, uint32_t type, uint64_t offset) {
    return GgufWriter().RawTensor("w", std::move(dims), type, offset).Bytes() +
           std::string(1 << 12, '\0');
  };
  MLF_EXPECT(Open(dir, one({32, 4}, kQ4_0, 64))->tensors().size() == 1);
  Refused(dir, one({}, kF32, 0), "number of dimensions is 0, expected 1 to 4");
  Refused(dir, one({1, 1, 1, 1, 1}, kF32, 0),
          "at byte 33: tensor \"w\": number of dimensions is 5");
  Refused(dir, one({32, 0}, kF32, 0), "dimension 1 is 0, expected 1 to");
  Refused(dir, one({uint64_t{1} << 63}, kF32, 0), "dimension 0 is 9223372036854775808");
  Refused(dir, one({33, 4}, kQ4_0, 0), "rows of 33 weights, expected blocks of 32 for Q4_0");
  Refused(dir, one({16, 2}, kQ4_0, 0), "rows of 16 weights, expected blocks of 32");
  const uint64_t big = uint64_t{1} << 32;
  Refused(dir, one({big, big}, kF32, 0),
          "shape [4294967296, 4294967296] of F32 takes 2^63 bytes or");
  Refused(dir, one({big, big / 4}, kQ4_0, 0), "ends past the data section");
  Refused(dir, one({big, big, big, big}, kQ4_0, 0), "takes 2^63");
  Refused(dir, one({uint64_t{INT64_MAX}}, kF32, 0), "takes 2^63");
  Refused(dir, one({128, 2}, kQ4_K, 0), "rows of 128 weights, expected blocks of 256 for Q4_K");
  Refused(dir, one({32}, kIQ1_M, 0),
          "tensor \"w\": tensor type 29 is not supported; supported are "
          "F32, F16, ",
          "NotImplementedError");
  Refused(dir, one({32}, UINT32_MAX, 0), "tensor type 4294967295", "NotImplementedError");
}

void TestTensorPlaces(const TempDir& dir) {
  GgufWriter twice, cut;
  twice.Tensor("w", Format::kF32, {1}, "1234").Tensor("w", Format::kF32, {1}, "1234");
  Refused(dir, twice.Bytes(), "tensor \"w\": appears twice, expected each name once");
  const auto at = [](uint64_t offset) {
    return GgufWriter().RawTensor("w", {8}, kF32, offset).Bytes() + std::string(64, '\0');
  };
  MLF_EXPECT(Open(dir, at(32))->tensors()[0].bytes == 32);
  Refused(dir, at(16),
          "at byte 49: tensor \"w\": data offset is 16, expected a multiple of the "
          "alignment 32");
  Refused(dir, at(64),
          "data of 32 bytes at offset 64 ends past the data section, which begins at "
          "byte 64 and has 64 bytes");
  Refused(dir, at(96), "at offset 96 ends past the data section");
  Refused(dir, at(uint64_t{1} << 63), "at offset 9223372036854775808 ends past");
  Refused(dir, at(UINT64_MAX - 31), "ends past the data section");
  cut.Align(64).Tensor("w", Format::kF32, {8}, std::string(32, 'x'));
  const std::string whole = cut.Bytes();
  Refused(dir, whole.substr(0, whole.size() - 1), "ends past the data section");
  MLF_EXPECT(Open(dir, whole)->tensors().size() == 1);
  Refused(dir, GgufWriter().Tensor("", Format::kF32, {1}, "1234").Bytes(),
          "tensor 0: name is empty");
  Refused(dir, GgufWriter().Tensor("\xC3", Format::kF32, {1}, "1234").Bytes(), "expected UTF-8");
  Refused(dir, GgufWriter().Tensor(std::string(65536, 't'), Format::kF32, {1}, "1234").Bytes(),
          "tensor 0: name has 65536 bytes");
}

void WriteSet(const TempDir& dir, const std::vector<std::string>& parts) {
  for (size_t i = 0; i < parts.size(); ++i)
    dir.Write(
        "set-0000" + std::to_string(i + 1) + "-of-0000" + std::to_string(parts.size()) + ".gguf",
        parts[i]);
}

GgufWriter TwoTensors(const std::string& second = "b") {
  GgufWriter writer;
  writer.Tensor("a", Format::kF32, {1}, "1234").Tensor(second, Format::kF32, {1}, "5678");
  return writer;
}

GgufWriter SplitKeys(uint16_t no, uint16_t count, int32_t tensors) {
  GgufWriter writer;
  writer.Value("split.no", no).Value("split.count", count).Value("split.tensors.count", tensors);
  return writer;
}

void TestSplitSets(const TempDir& dir) {
  const std::string first = dir.Path("set-00001-of-00002.gguf");
  const std::string second = dir.Path("set-00002-of-00002.gguf");
  const std::vector<std::string> right = TwoTensors().Split(2);
  WriteSet(dir, right);
  MLF_EXPECT(Gguf::Open(second)->tensors().size() == 2);

  MLF_EXPECT(unlink(second.c_str()) == 0);
  MLF_EXPECT_THROWS(Gguf::Open(first), "FileNotFoundError", second);
  MLF_EXPECT_THROWS(Gguf::Open(first), "FileNotFoundError", "(part 2 of the 2 that");

  WriteSet(dir, {right[0], right[1].substr(0, right[1].size() - 1)});
  MLF_EXPECT_THROWS(Gguf::Open(first), "ValueError", second);
  WriteSet(dir, {right[0], right[0]});
  MLF_EXPECT_THROWS(Gguf::Open(first), "ValueError", "\"split.no\" is 0, expected 1");
  MLF_EXPECT_THROWS(Gguf::Open(second), "ValueError", "\"split.no\" is 0, expected 1");
  WriteSet(dir, {right[0], TwoTensors().Bytes()});
  MLF_EXPECT_THROWS(Gguf::Open(first), "ValueError", "\"split.count\" is missing, expected 2");
  WriteSet(dir, {right[0], SplitKeys(1, 3, 2).Bytes()});
  MLF_EXPECT_THROWS(Gguf::Open(first), "ValueError", "\"split.count\" is 3, expected 2");
  MLF_EXPECT_THROWS(Gguf::Open(second), "ValueError", "\"split.count\" is 3, expected 2");
  WriteSet(dir, {right[0], SplitKeys(1, 2, 2).Bytes()});
  MLF_EXPECT_THROWS(Gguf::Open(first), "ValueError", "\"split.tensors.count\" is 2, expected 1");
  WriteSet(dir, {right[0], SplitKeys(1, 2, 7).Tensor("b", Format::kF32, {1}, "5678").Bytes()});
  MLF_EXPECT_THROWS(Gguf::Open(first), "ValueError", "\"split.tensors.count\" is 7, expected 2");
  WriteSet(dir, TwoTensors("a").Split(2));
  MLF_EXPECT_THROWS(Gguf::Open(first), "ValueError", "tensor \"a\" is also in another part");
  for (const char* name : {"renamed.gguf", "set-1-of-2.gguf", "set-00001-of-00002.GGUF",
                           "set-0000x-of-00002.gguf", "-00001-of-00002.gguf.part"})
    MLF_EXPECT_THROWS(Gguf::Open(dir.Write(name, right[0])), "ValueError", "expected a name like");
  MLF_EXPECT_THROWS(Gguf::Open(dir.Write("set-00001-of-00009.gguf", right[0])), "ValueError",
                    "\"split.count\" is 2, expected 9");
  GgufWriter words;
  MLF_EXPECT_THROWS(Open(dir, words.Value("split.count", "two").Bytes()), "ValueError",
                    "\"split.count\" is a string");
}

void TestUnreadable(const TempDir& dir) {
  MLF_EXPECT_THROWS(Gguf::Open(dir.Path("absent.gguf")), "FileNotFoundError", "absent.gguf");
  MLF_EXPECT_THROWS(Gguf::Open(dir.Path("")), "IsADirectoryError", "Is a directory");
}

/// From here on a large allocation fails, so that one made for a lie is seen as MemoryError.
void LimitMemory() {
#ifndef __SANITIZE_ADDRESS__
  std::ifstream statm("/proc/self/statm");
  rlim_t pages = 0;
  statm >> pages;
  const rlim_t most = pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) + (rlim_t{16} << 20);
  const rlimit limit{most, most};
  MLF_EXPECT(setrlimit(RLIMIT_AS, &limit) == 0);
#endif
}

}  // namespace
}  // namespace mlf

int main() {
  const mlf::test::TempDir dir;
  mlf::TestHeader(dir);
  mlf::TestOneTooMany(dir);
  mlf::TestKeys(dir);
  mlf::TestValues(dir);
  mlf::TestAlignment(dir);
  mlf::TestTensorInfos(dir);
  mlf::TestTensorPlaces(dir);
  mlf::TestSplitSets(dir);
  mlf::TestUnreadable(dir);
  mlf::LimitMemory();
  mlf::TestLyingCounts(dir);
  return 0;
}
