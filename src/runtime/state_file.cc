// Saved states of a Context: SaveState and LoadState of context.h.
//
// File, little-endian: magic "MLFSTATE", u32 version, u32 length + bytes of the signature (what
// must be equal for the keys and values to mean the same). u32 pages, per page kPageSize × i32
// position (−1: empty), then keys and values over all layers of each entry that is not empty. u32
// sequences, per sequence u32 id, u32 pages, then u32 number of each page in order. Pages that
// sequences share are there once, and sums run in the same order again.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <unordered_map>
#include <vector>

#include "base/file_writer.h"
#include "base/os_error.h"
#include "base/quote.h"
#include "kernels/attention.h"
#include "runtime/context.h"
#include "runtime/exclusive.h"

namespace mlf {
namespace {

constexpr char kMagic[8] = {'M', 'L', 'F', 'S', 'T', 'A', 'T', 'E'};
constexpr uint32_t kVersion = 3;
constexpr size_t kShownBytes = 200;  // of a signature, in messages

std::string Signature(const Model& model, const RopeSettings& rope, const ContextOptions& options) {
  const ModelConfig& c = model.config();
  std::string text = c.architecture + "/" + c.name;
  for (int64_t n : {c.n_layers, c.n_embd, c.n_heads, c.n_kv_heads, c.head_dim, c.n_vocab, c.n_ff}) {
    text.append("/").append(std::to_string(n));
  }
  text.append("/").append(std::to_string(model.Fingerprint()));
  char angles[80];  // of the keys' rotation, to the bit
  std::snprintf(angles, sizeof angles, "/rope base %.17g, scale %.17g", rope.base, rope.freq_scale);
  text.append(angles).append("/").append(DtypeName(options.kv_dtype));
  for (const AdapterUse& use : options.lora) {
    char adapter[80];
    std::snprintf(adapter, sizeof adapter, "/lora %016llx, scale %.9g",
                  static_cast<unsigned long long>(use.adapter->fingerprint()),
                  static_cast<float>(use.scale));
    text.append(adapter);
  }
  return text;
}

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path) {
    RefuseIrregularFile("load_state", path);
    in_.open(path, std::ios::binary);
    if (!in_) ThrowErrno(errno, path, "open the state file");
    std::error_code error;
    left_ = std::filesystem::file_size(path, error);
    if (error)
      TVM_FFI_THROW(OSError) << "load_state: cannot read " << QuotedPath(path) << ": "
                             << error.message();
  }
  void Bytes(void* data, size_t n) {
    if (n > left_)
      TVM_FFI_THROW(ValueError) << "load_state: " << QuotedPath(path_) << " is truncated";
    in_.read(static_cast<char*>(data), static_cast<std::streamsize>(n));
    if (!in_) TVM_FFI_THROW(OSError) << "load_state: cannot read " << QuotedPath(path_);
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

/// What a file holds, checked as far as that needs no context.
struct SavedState {
  std::vector<int32_t> positions;  // [pages, kPageSize], −1: empty
  std::vector<uint8_t> entries;    // of the positions that are not empty, in their order
  std::vector<SavedTable> tables;
};

[[noreturn]] void RefuseState(const std::string& path, const char* fault) {
  TVM_FFI_THROW(ValueError) << "load_state: " << QuotedPath(path) << " holds " << fault;
}

void ReadHeader(Reader& in, const std::string& path, const std::string& signature) {
  char magic[sizeof kMagic];
  in.Bytes(magic, sizeof magic);
  if (std::memcmp(magic, kMagic, sizeof magic) != 0)
    TVM_FFI_THROW(ValueError) << "load_state: " << QuotedPath(path) << " is not a state file";
  const auto version = in.Value<uint32_t>();
  if (version != kVersion) {
    TVM_FFI_THROW(ValueError) << "load_state: " << QuotedPath(path)
                              << " is a state file of version " << version << ", expected version "
                              << kVersion;
  }
  const uint32_t length = in.Value<uint32_t>();
  std::string found(std::min<uint64_t>(length, in.left()), '\0');
  in.Bytes(found.data(), found.size());
  if (found != signature) {
    TVM_FFI_THROW(ValueError) << "load_state: " << QuotedPath(path) << " was saved by "
                              << Quoted(found, kShownBytes) << ", this context is "
                              << Quoted(signature, kShownBytes);
  }
}

void ReadPages(Reader& in, const std::string& path, int64_t entry_bytes, SavedState* state) {
  const uint64_t n_pages = in.Value<uint32_t>();
  if (n_pages * (kPageSize * sizeof(int32_t) + entry_bytes) > in.left())
    TVM_FFI_THROW(ValueError) << "load_state: " << QuotedPath(path) << " is truncated";
  state->positions.resize(n_pages * kPageSize);
  for (uint64_t page = 0; page < n_pages; ++page) {
    int32_t* positions = state->positions.data() + page * kPageSize;
    in.Bytes(positions, kPageSize * sizeof(int32_t));
    const int64_t empty = std::count(positions, positions + kPageSize, -1);
    if (empty == kPageSize) RefuseState(path, "a page without entries");
    if (*std::min_element(positions, positions + kPageSize) < -1 ||
        *std::max_element(positions, positions + kPageSize) == INT32_MAX) {
      RefuseState(path, "positions that are out of range");
    }
    const size_t begin = state->entries.size(), bytes = (kPageSize - empty) * entry_bytes;
    if (bytes > in.left())
      TVM_FFI_THROW(ValueError) << "load_state: " << QuotedPath(path) << " is truncated";
    state->entries.resize(begin + bytes);
    in.Bytes(state->entries.data() + begin, bytes);
  }
}

std::vector<int32_t> HeldPositions(const SavedState& state, const SavedTable& table) {
  std::vector<int32_t> held;
  for (const uint32_t row : table.rows) {
    const int32_t* positions = state.positions.data() + row * kPageSize;
    std::copy_if(positions, positions + kPageSize, std::back_inserter(held),
                 [](int32_t position) { return position >= 0; });
  }
  return held;
}

/// Positions rise along the table unless a shift has moved some over others; they are never equal.
bool AreDistinct(std::vector<int32_t> held) {
  std::sort(held.begin(), held.end());
  return std::adjacent_find(held.begin(), held.end()) == held.end();
}

void ReadTables(Reader& in, const std::string& path, SavedState* state) {
  const uint64_t n_pages = state->positions.size() / kPageSize;
  std::vector<bool> owned(n_pages);
  for (uint32_t n = in.Value<uint32_t>(); n > 0; --n) {
    SavedTable table{in.Value<uint32_t>(), {}};
    const uint32_t length = in.Value<uint32_t>();
    if (length > n_pages) RefuseState(path, "a sequence with a page twice");
    for (uint32_t i = 0; i < length; ++i) {
      table.rows.push_back(in.Value<uint32_t>());
      if (table.rows.back() >= n_pages)
        RefuseState(path, "a sequence with a page that is not there");
      owned[table.rows.back()] = true;
    }
    if (!AreDistinct(HeldPositions(*state, table)))
      RefuseState(path, "positions that are there twice");
    state->tables.push_back(std::move(table));
  }
  if (std::find(owned.begin(), owned.end(), false) != owned.end())
    RefuseState(path, "a page of no sequence");
  if (in.left() != 0) RefuseState(path, "more than its sequences");
}

SavedState ReadState(const std::string& path, const std::string& signature, int64_t entry_bytes) {
  Reader in(path);
  SavedState state;
  ReadHeader(in, path, signature);
  ReadPages(in, path, entry_bytes, &state);
  ReadTables(in, path, &state);
  return state;
}

}  // namespace

void Context::SaveState(const std::string& path, std::optional<int64_t> seq) const {
  const ExclusiveUse exclusive = Use();
  if (seq) CheckSequence(*seq);
  const int64_t first = seq.value_or(0), end = seq ? *seq + 1 : n_seq_max();
  std::vector<int32_t> pages;                  // each once
  std::unordered_map<int32_t, uint32_t> rows;  // page -> its number in the file
  for (int64_t id = first; id < end; ++id) {
    for (const int32_t page : cache_.pages(id)) {
      if (rows.emplace(page, static_cast<uint32_t>(pages.size())).second) pages.push_back(page);
    }
  }
  const std::string signature = Signature(*model_, rope_, options_);
  FileWriter out("save_state", "the state file", path);
  out.Bytes(kMagic, sizeof kMagic);
  out.Value(kVersion);
  out.Value(static_cast<uint32_t>(signature.size()));
  out.Bytes(signature.data(), signature.size());
  out.Value(static_cast<uint32_t>(pages.size()));
  std::vector<uint8_t> entry(cache_.entry_bytes());
  for (const int32_t page : pages) {
    const int32_t* positions = cache_.page_positions().data<int32_t>() + page * kPageSize;
    out.Bytes(positions, kPageSize * sizeof(int32_t));
    for (int64_t i = 0; i < kPageSize; ++i) {
      if (positions[i] < 0) continue;
      cache_.ReadEntry(page * kPageSize + i, entry.data());
      out.Bytes(entry.data(), entry.size());
    }
  }
  out.Value(static_cast<uint32_t>(end - first));
  for (int64_t id = first; id < end; ++id) {
    out.Value(static_cast<uint32_t>(id));
    out.Value(static_cast<uint32_t>(cache_.pages(id).size()));
    for (const int32_t page : cache_.pages(id)) out.Value(rows.at(page));
  }
  out.Finish();
}

void Context::LoadState(const std::string& path, std::optional<int64_t> seq) {
  const ExclusiveUse exclusive = Use();
  if (seq) CheckSequence(*seq);
  // Read and checked whole before anything changes.
  SavedState state = ReadState(path, Signature(*model_, rope_, options_), cache_.entry_bytes());
  if (seq && state.tables.size() != 1) {
    TVM_FFI_THROW(ValueError) << "load_state: " << QuotedPath(path) << " holds "
                              << state.tables.size() << " sequences, expected one";
  }
  std::vector<bool> seen(n_seq_max());
  for (SavedTable& table : state.tables) {
    if (seq) table.seq = *seq;
    CheckSequence(table.seq);
    if (seen[table.seq]) {
      TVM_FFI_THROW(ValueError) << "load_state: " << QuotedPath(path) << " holds sequence "
                                << table.seq << " twice";
    }
    seen[table.seq] = true;
    const size_t held = HeldPositions(state, table).size();
    if (static_cast<int64_t>(held) > n_ctx()) {
      TVM_FFI_THROW(ValueError) << "load_state: " << held
                                << " entries do not fit n_ctx=" << n_ctx();
    }
  }
  const std::vector<int32_t> pages = cache_.Replace(state.tables, state.positions);
  const uint8_t* entry = state.entries.data();
  for (size_t i = 0; i < state.positions.size(); ++i) {
    if (state.positions[i] < 0) continue;
    cache_.WriteEntry(pages[i / kPageSize] * kPageSize + i % kPageSize, entry);
    entry += cache_.entry_bytes();
  }
  logits_.reset();
  embeddings_.reset();
}

}  // namespace mlf
