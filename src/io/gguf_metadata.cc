// GGUF metadata: keys and values of every type. Counterpart: gguf_parse.h.
#include "base/interrupt.h"
#include "base/quote.h"
#include "io/gguf_parse.h"

namespace mlf {
namespace {

// Numbers as in the file.
enum ValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// The specification sets the key's limit; nothing known nests arrays deeper than twice.
constexpr uint64_t kMaxNameBytes = 65535;
constexpr int kMaxArrayDepth = 8;

[[noreturn]] void FailValueType(const ByteReader& reader, int64_t offset, uint32_t type) {
  reader.Fail(offset, "value type is " + std::to_string(type) +
                          ", expected 0 to 12 (integers, floats, bool, string, array)");
}

template <typename Item, typename ReadItem>
GgufArray ReadItems(ByteReader& reader, int64_t item_bytes, const ReadItem& read) {
  const int64_t count = reader.ReadCount("array length", item_bytes);
  std::vector<Item> items;
  items.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) items.push_back(read());
  return GgufArray{std::move(items)};
}

template <typename Wide, typename Stored>
GgufArray ReadNumbers(ByteReader& reader) {
  return ReadItems<Wide>(reader, sizeof(Stored),
                         [&] { return static_cast<Wide>(reader.Read<Stored>("array item")); });
}

class ValueReader {
 public:
  explicit ValueReader(ByteReader& reader) : reader_(reader) {}

  GgufValue Read() {
    const int64_t offset = reader_.position();
    const auto type = reader_.Read<uint32_t>("value type");
    interrupts_.Poll();
    switch (type) {
      case kUint8:
        return {uint64_t{reader_.Read<uint8_t>("value")}};
      case kInt8:
        return {int64_t{reader_.Read<int8_t>("value")}};
      case kUint16:
        return {uint64_t{reader_.Read<uint16_t>("value")}};
      case kInt16:
        return {int64_t{reader_.Read<int16_t>("value")}};
      case kUint32:
        return {uint64_t{reader_.Read<uint32_t>("value")}};
      case kInt32:
        return {int64_t{reader_.Read<int32_t>("value")}};
      case kFloat32:
        return {double{reader_.Read<float>("value")}};
      case kBool:
        return {reader_.ReadBool("value")};
      case kString:
        return {reader_.ReadString("value")};
      case kArray:
        return {ReadArray(1)};
      case kUint64:
        return {reader_.Read<uint64_t>("value")};
      case kInt64:
        return {reader_.Read<int64_t>("value")};
      case kFloat64:
        return {reader_.Read<double>("value")};
      default:
        FailValueType(reader_, offset, type);
    }
  }

 private:
  static constexpr int64_t kMinStringBytes = 8, kMinArrayBytes = 4 + 8;

  GgufArray ReadArray(int depth) {
    const int64_t offset = reader_.position();
    const auto type = reader_.Read<uint32_t>("array item type");
    interrupts_.Poll();
    switch (type) {
      case kUint8:
        return ReadNumbers<uint64_t, uint8_t>(reader_);
      case kInt8:
        return ReadNumbers<int64_t, int8_t>(reader_);
      case kUint16:
        return ReadNumbers<uint64_t, uint16_t>(reader_);
      case kInt16:
        return ReadNumbers<int64_t, int16_t>(reader_);
      case kUint32:
        return ReadNumbers<uint64_t, uint32_t>(reader_);
      case kInt32:
        return ReadNumbers<int64_t, int32_t>(reader_);
      case kFloat32:
        return ReadNumbers<double, float>(reader_);
      case kBool:
        return ReadItems<bool>(reader_, 1, [&] { return reader_.ReadBool("array item"); });
      case kString:
        return ReadItems<std::string_view>(reader_, kMinStringBytes,
                                           [&] { return reader_.ReadString("array item"); });
      case kArray:
        if (depth == kMaxArrayDepth)
          reader_.Fail(offset, "arrays are nested deeper than " + std::to_string(kMaxArrayDepth) +
                                   " levels, expected at most that");
        return ReadItems<GgufArray>(reader_, kMinArrayBytes, [&] { return ReadArray(depth + 1); });
      case kUint64:
        return ReadNumbers<uint64_t, uint64_t>(reader_);
      case kInt64:
        return ReadNumbers<int64_t, int64_t>(reader_);
      case kFloat64:
        return ReadNumbers<double, double>(reader_);
      default:
        FailValueType(reader_, offset, type);
    }
  }

  ByteReader& reader_;
  InterruptPoller interrupts_;
};

}  // namespace

std::string_view ReadName(ByteReader& reader, const char* what, int64_t number) {
  reader.set_subject(std::string(what) + " " + std::to_string(number));
  const int64_t offset = reader.position();
  const std::string_view name = reader.ReadString("name", kMaxNameBytes);
  if (name.empty()) reader.Fail(offset, "name is empty, expected at least one character");
  if (!IsUtf8(name)) reader.Fail(offset, "name is " + Quoted(name) + ", expected UTF-8");
  reader.set_subject(std::string(what) + " " + Quoted(name));
  return name;
}

GgufMetadata ReadMetadata(ByteReader& reader, uint64_t count) {
  GgufMetadata metadata;
  metadata.entries.reserve(count);
  metadata.index.reserve(count);
  ValueReader values(reader);
  for (uint64_t i = 0; i < count; ++i) {
    const int64_t offset = reader.position();
    const std::string_view key = ReadName(reader, "metadata key", static_cast<int64_t>(i));
    if (!metadata.index.emplace(key, i).second)
      reader.Fail(offset, "appears twice, expected each key once");
    metadata.entries.emplace_back(key, values.Read());
  }
  reader.set_subject("");
  return metadata;
}

}  // namespace mlf
