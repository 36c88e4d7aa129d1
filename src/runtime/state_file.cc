// Saved states of a Context: SaveState and LoadState of context.h.
//
// File, little-endian: magic "MLFSTATE", u32 version, u32 length + bytes of the signature (what
// must be equal for the keys and values to mean the same), u32 sequences; per sequence u32 id, u32
// entries, then per entry u32 index in the table (so that sums run in the same order again), i32
// position, and its keys and values over all layers.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/os_error.h"
#include "base/quote.h"
#include "kernels/attention.h"
#include "runtime/context.h"
#include "runtime/exclusive.h"

namespace mlf {
namespace {

constexpr char kMagic[8] = {'M', 'L', 'F', 'S', 'T', 'A', 'T', 'E'};
constexpr uint32_t kVersion = 1;
constexpr size_t kShownBytes = 200;  // of a signature, in messages

std::string Signature(const Model& model, DLDataType kv_dtype) {
  const ModelConfig& c = model.config();
  std::string text = c.architecture + "/" + c.name;
  for (int64_t n : {c.n_layers, c.n_embd, c.n_heads, c.n_kv_heads, c.head_dim, c.n_vocab, c.n_ff}) {
    text += "/" + std::to_string(n);
  }
  return text + "/" + std::to_string(model.Fingerprint()) + "/" + DtypeName(kv_dtype);
}

class Writer {
 public:
  explicit Writer(const std::string& path)
      : path_(path), out_(path, std::ios::binary | std::ios::trunc) {
    Check();
  }
  void Bytes(const void* data, size_t n) {
    out_.write(static_cast<const char*>(data), static_cast<std::streamsize>(n));
    Check();
  }
  template <typename T>
  void Value(T value) {
    Bytes(&value, sizeof value);
  }
  void Close() {
    out_.close();
    Check();
  }

 private:
  void Check() {
    if (!out_) ThrowErrno(errno, path_, "write the state file");
  }
  std::string path_;
  std::ofstream out_;
};

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path), in_(path, std::ios::binary) {
    if (!in_) ThrowErrno(errno, path, "open the state file");
    std::error_code error;
    left_ = std::filesystem::file_size(path, error);
    if (error)
      TVM_FFI_THROW(OSError) << "load_state: cannot read " << path << ": " << error.message();
  }
  void Bytes(void* data, size_t n) {
    if (n > left_) TVM_FFI_THROW(ValueError) << "load_state: " << path_ << " is truncated";
    in_.read(static_cast<char*>(data), static_cast<std::streamsize>(n));
    if (!in_) TVM_FFI_THROW(OSError) << "load_state: cannot read " << path_;
    left_ -= n;
  }
  template <typename T>
  T Value() {
    T value;
    Bytes(&value, sizeof value);
    return value;
  }
  uint64_t left() const { return left_; }

 private:
  std::string path_;
  std::ifstream in_;
  uint64_t left_ = 0;
};

struct SavedSequence {
  int64_t id;
  std::vector<uint32_t> indices;
  std::vector<int32_t> positions;
  std::vector<uint8_t> entries;
};

/// Positions rise along the table unless a shift has moved some over others; they are never equal.
bool ArePositions(std::vector<int32_t> values) {
  std::sort(values.begin(), values.end());
  return values.empty() || (values.front() >= 0 && values.back() < INT32_MAX &&
                            std::adjacent_find(values.begin(), values.end()) == values.end());
}

SavedSequence ReadSequence(Reader& in, const std::string& path, int64_t entry_bytes) {
  SavedSequence saved{in.Value<uint32_t>(), {}, {}, {}};
  const uint64_t count = in.Value<uint32_t>();
  if (count * (entry_bytes + sizeof(uint32_t) + sizeof(int32_t)) > in.left()) {
    TVM_FFI_THROW(ValueError) << "load_state: " << path << " is truncated";
  }
  saved.entries.resize(count * entry_bytes);
  for (uint64_t i = 0; i < count; ++i) {
    const int64_t index = in.Value<uint32_t>(), before = i > 0 ? int64_t{saved.indices.back()} : -1;
    const int64_t page = i > 0 ? before / kPageSize : -1;
    // Every page of the table holds an entry.
    if (index <= before || index / kPageSize > page + 1) {
      TVM_FFI_THROW(ValueError) << "load_state: " << path << " holds entries out of order";
    }
    saved.indices.push_back(static_cast<uint32_t>(index));
    saved.positions.push_back(in.Value<int32_t>());
    in.Bytes(saved.entries.data() + i * entry_bytes, entry_bytes);
  }
  if (!ArePositions(saved.positions)) {
    TVM_FFI_THROW(ValueError) << "load_state: " << path
                              << " holds positions that are out of range or there twice";
  }
  return saved;
}

std::vector<SavedSequence> ReadState(const std::string& path, const std::string& signature,
                                     int64_t entry_bytes) {
  Reader in(path);
  char magic[sizeof kMagic];
  in.Bytes(magic, sizeof magic);
  if (std::memcmp(magic, kMagic, sizeof magic) != 0 || in.Value<uint32_t>() != kVersion) {
    TVM_FFI_THROW(ValueError) << "load_state: " << path << " is not a state file of version "
                              << kVersion;
  }
  const uint32_t length = in.Value<uint32_t>();
  std::string found(std::min<uint64_t>(length, in.left()), '\0');
  in.Bytes(found.data(), found.size());
  if (found != signature) {
    TVM_FFI_THROW(ValueError) << "load_state: " << path << " was saved by "
                              << Quoted(found, kShownBytes) << ", this context is "
                              << Quoted(signature, kShownBytes);
  }
  std::vector<SavedSequence> sequences;
  for (uint32_t n = in.Value<uint32_t>(); n > 0; --n)
    sequences.push_back(ReadSequence(in, path, entry_bytes));
  return sequences;
}

}  // namespace

void Context::SaveState(const std::string& path, std::optional<int64_t> seq) const {
  const ExclusiveUse exclusive = Use();
  if (seq) CheckSequence(*seq);
  const std::string part = path + ".part", signature = Signature(*model_, options_.kv_dtype);
  Writer out(part);
  out.Bytes(kMagic, sizeof kMagic);
  out.Value(kVersion);
  out.Value(static_cast<uint32_t>(signature.size()));
  out.Bytes(signature.data(), signature.size());
  const int64_t first = seq.value_or(0), end = seq ? *seq + 1 : n_seq_max();
  out.Value(static_cast<uint32_t>(end - first));
  std::vector<uint8_t> entry(cache_.entry_bytes());
  for (int64_t id = first; id < end; ++id) {
    const auto entries = cache_.Entries(id);
    out.Value(static_cast<uint32_t>(id));
    out.Value(static_cast<uint32_t>(entries.size()));
    for (const CacheEntry& e : entries) {
      cache_.ReadEntry(e.slot, entry.data());
      out.Value(static_cast<uint32_t>(e.index));
      out.Value(e.position);
      out.Bytes(entry.data(), entry.size());
    }
  }
  out.Close();
  std::error_code error;
  std::filesystem::rename(part, path, error);
  if (error)
    TVM_FFI_THROW(OSError) << "save_state: cannot write " << path << ": " << error.message();
}

void Context::LoadState(const std::string& path, std::optional<int64_t> seq) {
  const ExclusiveUse exclusive = Use();
  if (seq) CheckSequence(*seq);
  // Read and checked whole before anything changes.
  std::vector<SavedSequence> sequences =
      ReadState(path, Signature(*model_, options_.kv_dtype), cache_.entry_bytes());
  if (seq && sequences.size() != 1) {
    TVM_FFI_THROW(ValueError) << "load_state: " << path << " holds " << sequences.size()
                              << " sequences, expected one";
  }
  std::vector<int64_t> ids;
  int64_t pages = 0;
  for (SavedSequence& saved : sequences) {
    if (seq) saved.id = *seq;
    CheckSequence(saved.id);
    if (std::find(ids.begin(), ids.end(), saved.id) != ids.end()) {
      TVM_FFI_THROW(ValueError) << "load_state: " << path << " holds sequence " << saved.id
                                << " twice";
    }
    ids.push_back(saved.id);
    if (!saved.indices.empty()) pages += saved.indices.back() / kPageSize + 1;
    if (static_cast<int64_t>(saved.positions.size()) > n_ctx()) {
      TVM_FFI_THROW(ValueError) << "load_state: " << saved.positions.size()
                                << " entries do not fit n_ctx=" << n_ctx();
    }
  }
  cache_.CheckRoom(pages, cache_.FreePagesWithout(ids));
  for (const int64_t id : ids) cache_.Clear(id);
  for (const SavedSequence& saved : sequences) {
    for (size_t i = 0; i < saved.positions.size(); ++i) {
      const int64_t slot = cache_.AppendAt(saved.id, saved.indices[i], saved.positions[i]);
      cache_.WriteEntry(slot, saved.entries.data() + i * cache_.entry_bytes());
    }
  }
  logits_.reset();
}

}  // namespace mlf
