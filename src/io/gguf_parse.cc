// The bytes of one GGUF file as metadata and tensor infos. Counterpart: gguf_parse.h;
// gguf_metadata.cc reads keys and values.
#include "io/gguf_parse.h"

#include <algorithm>
#include <bit>
#include <unordered_set>

#include "base/quote.h"
#include "io/gguf_value.h"

namespace mlf {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr int64_t kHeaderBytes = 4 + 4 + 8 + 8;  // magic, version, tensor count, metadata count
constexpr int64_t kMinTensorInfoBytes = 8 + 4 + 8 + 4 + 8;  // name, rank, a dimension, type, offset
constexpr uint32_t kMaxDims = 4;
// The specification asks for a multiple of 8; the upper bound only refuses nonsense.
constexpr int64_t kDefaultAlignment = 32, kMinAlignment = 8, kMaxAlignment = int64_t{1} << 24;

struct Header {
  uint32_t version;
  uint64_t tensors;
  uint64_t entries;
};

// A tensor as its info tells it; the offset counts from the data section, whose place is known only
// after the last info.
struct TensorInfo {
  GgufTensor tensor;
  uint64_t offset;
  int64_t position;  // of the offset's field in the file
};

void CheckMagic(ByteReader& reader, const uint8_t* bytes, int64_t size) {
  const std::string_view found(reinterpret_cast<const char*>(bytes),
                               static_cast<size_t>(std::min<int64_t>(size, 4)));
  if (found != kMagic)
    reader.Fail(0, "not a GGUF file: it begins with " + Quoted(found) + ", expected \"GGUF\"");
  if (size < kHeaderBytes)
    reader.Fail(0, "the file has " + std::to_string(size) + " bytes, expected at least " +
                       std::to_string(kHeaderBytes) + ": it is truncated");
  reader.Read<uint32_t>("magic");
}

void CheckVersion(const ByteReader& reader, uint32_t version) {
  if (version == 2 || version == 3) return;
  const std::string supported = "; versions 2 and 3, little-endian, are supported";
  if ((version & 0xFFFF) == 0 && version != 0)
    reader.Fail(4,
                "the file is big-endian (version " + std::to_string(__builtin_bswap32(version)) +
                    ")" + supported,
                "NotImplementedError");
  reader.Fail(4, "GGUF version is " + std::to_string(version) + supported, "NotImplementedError");
}

Header ReadHeader(ByteReader& reader) {
  Header header;
  header.version = reader.Read<uint32_t>("version");
  CheckVersion(reader, header.version);
  header.tensors = reader.Read<uint64_t>("tensor count");
  header.entries = reader.Read<uint64_t>("metadata count");
  reader.CheckCount("tensor count", header.tensors, kMinTensorInfoBytes, 8);
  reader.CheckCount("metadata count", header.entries, kMinMetadataEntryBytes, 16);
  return header;
}

int64_t Alignment(const std::string& path, const uint8_t* bytes, const ByteReader& reader,
                  const GgufMetadata& metadata) {
  constexpr std::string_view kKey = "general.alignment";
  const auto found = metadata.index.find(kKey);
  if (found == metadata.index.end()) return kDefaultAlignment;
  const int64_t alignment = AsInt({path, kKey}, metadata.entries[found->second].second);
  if (alignment >= kMinAlignment && alignment <= kMaxAlignment &&
      std::has_single_bit(static_cast<uint64_t>(alignment)))
    return alignment;
  reader.Fail(reinterpret_cast<const uint8_t*>(found->first.data()) - bytes,
              "general.alignment is " + std::to_string(alignment) +
                  ", expected a power of two from " + std::to_string(kMinAlignment) + " to " +
                  std::to_string(kMaxAlignment));
}

std::vector<int64_t> ReadShape(ByteReader& reader) {
  const int64_t offset = reader.position();
  const auto n_dims = reader.Read<uint32_t>("number of dimensions");
  if (n_dims < 1 || n_dims > kMaxDims)
    reader.Fail(offset, "number of dimensions is " + std::to_string(n_dims) + ", expected 1 to " +
                            std::to_string(kMaxDims));
  std::vector<int64_t> shape(n_dims);
  for (uint32_t i = 0; i < n_dims; ++i) {
    const auto dim = reader.Read<uint64_t>("dimension");
    if (dim < 1 || dim > static_cast<uint64_t>(INT64_MAX))
      reader.Fail(reader.position() - 8, "dimension " + std::to_string(i) + " is " +
                                             std::to_string(dim) +
                                             ", expected 1 to 9223372036854775807");
    shape[n_dims - 1 - i] = static_cast<int64_t>(dim);
  }
  return shape;
}

const FormatInfo& ReadFormat(ByteReader& reader) {
  const int64_t offset = reader.position();
  const auto type = reader.Read<uint32_t>("type");
  const FormatInfo* format = FindFormat(static_cast<int64_t>(type));
  if (format != nullptr) return *format;
  reader.Fail(
      offset,
      "tensor type " + std::to_string(type) + " is not supported; supported are " + FormatNames(),
      "NotImplementedError");
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t dim : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(dim);
  return text + "]";
}

int64_t TensorBytes(const ByteReader& reader, int64_t offset, const std::vector<int64_t>& shape,
                    const FormatInfo& format) {
  if (shape.back() % format.block != 0)
    reader.Fail(offset, "rows of " + std::to_string(shape.back()) +
                            " weights, expected blocks of " + std::to_string(format.block) +
                            " for " + format.name);
  int64_t bytes = 0;
  bool overflow = __builtin_mul_overflow(shape.back() / format.block, format.block_bytes, &bytes);
  int64_t weights = shape.back();
  for (size_t i = 0; i + 1 < shape.size(); ++i) {
    overflow |= __builtin_mul_overflow(bytes, shape[i], &bytes);
    overflow |= __builtin_mul_overflow(weights, shape[i], &weights);
  }
  if (overflow)
    reader.Fail(offset, "shape " + ShapeText(shape) + " of " + format.name +
                            " takes 2^63 bytes or weights or more, expected fewer");
  return bytes;
}

TensorInfo ReadTensorInfo(ByteReader& reader, int64_t number, int64_t alignment) {
  TensorInfo info;
  info.tensor.name = ReadName(reader, "tensor", number);
  const int64_t shape_offset = reader.position();
  info.tensor.shape = ReadShape(reader);
  const FormatInfo& format = ReadFormat(reader);
  info.tensor.format = format.format;
  info.tensor.bytes = TensorBytes(reader, shape_offset, info.tensor.shape, format);
  info.tensor.data = nullptr;
  info.position = reader.position();
  info.offset = reader.Read<uint64_t>("data offset");
  if (info.offset % static_cast<uint64_t>(alignment) != 0)
    reader.Fail(info.position, "data offset is " + std::to_string(info.offset) +
                                   ", expected a multiple of the alignment " +
                                   std::to_string(alignment));
  return info;
}

std::vector<TensorInfo> ReadTensorInfos(ByteReader& reader, uint64_t count, int64_t alignment) {
  reader.CheckCount("tensor count", count, kMinTensorInfoBytes, 8);
  std::vector<TensorInfo> infos;
  infos.reserve(count);
  std::unordered_set<std::string> names;
  for (uint64_t i = 0; i < count; ++i) {
    const int64_t offset = reader.position();
    infos.push_back(ReadTensorInfo(reader, static_cast<int64_t>(i), alignment));
    if (!names.insert(infos.back().tensor.name).second)
      reader.Fail(offset, "appears twice, expected each name once");
  }
  return infos;
}

// Offsets and sizes are below 2^63, so that differences cannot overflow where sums could.
std::vector<GgufTensor> PlaceTensors(ByteReader& reader, std::vector<TensorInfo> infos,
                                     const uint8_t* bytes, int64_t size, int64_t alignment) {
  const int64_t data_begin = (reader.position() + alignment - 1) / alignment * alignment;
  const int64_t data_bytes = std::max<int64_t>(size - data_begin, 0);
  std::vector<GgufTensor> tensors;
  tensors.reserve(infos.size());
  for (TensorInfo& info : infos) {
    if (info.offset > static_cast<uint64_t>(data_bytes) ||
        info.tensor.bytes > data_bytes - static_cast<int64_t>(info.offset)) {
      reader.set_subject("tensor " + Quoted(info.tensor.name));
      reader.Fail(info.position, "data of " + std::to_string(info.tensor.bytes) +
                                     " bytes at offset " + std::to_string(info.offset) +
                                     " ends past the data section, which begins at byte " +
                                     std::to_string(data_begin) + " and has " +
                                     std::to_string(data_bytes) +
                                     " bytes: the file is truncated or damaged");
    }
    info.tensor.data = bytes + data_begin + static_cast<int64_t>(info.offset);
    tensors.push_back(std::move(info.tensor));
  }
  return tensors;
}

}  // namespace

GgufPart ParseGguf(const std::string& path, const uint8_t* bytes, int64_t size) {
  ByteReader reader(path, bytes, size);
  CheckMagic(reader, bytes, size);
  const Header header = ReadHeader(reader);
  GgufPart part{static_cast<int>(header.version), ReadMetadata(reader, header.entries), {}};
  const int64_t alignment = Alignment(path, bytes, reader, part.metadata);
  std::vector<TensorInfo> infos = ReadTensorInfos(reader, header.tensors, alignment);
  part.tensors = PlaceTensors(reader, std::move(infos), bytes, size, alignment);
  return part;
}

}  // namespace mlf
