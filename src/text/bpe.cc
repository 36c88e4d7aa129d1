// Byte-level BPE. Counterpart: bpe.h.
#include "text/bpe.h"

#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>

#include "base/interrupt.h"
#include "text/unicode.h"

namespace mlf {
namespace {

constexpr int32_t kNoToken = -2;  // MergeTable reserves -1

/// Printable Latin-1 stands for itself; the other bytes, in order, for U+0100 and on.
std::array<uint32_t, 256> ByteAlphabet() {
  std::array<uint32_t, 256> alphabet{};
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
    alphabet[byte] = printable ? byte : next++;
  }
  return alphabet;
}

/// The other way round, for the code points below the alphabet's end; -1: in no alphabet.
const std::array<int16_t, 0x144>& BytesByChar() {
  static const auto bytes = [] {
    std::array<int16_t, 0x144> table;
    table.fill(-1);
    const auto alphabet = ByteAlphabet();
    for (int16_t byte = 0; byte < 256; ++byte) table[alphabet[byte]] = byte;
    return table;
  }();
  return bytes;
}

bool IsWord(TokenType type) { return type == TokenType::kNormal || type == TokenType::kUnused; }

/// Plain text must not spell these, whatever the merges say.
bool IsSpecial(TokenType type) {
  return type == TokenType::kControl || type == TokenType::kUnknown;
}

struct MergeText {
  std::string_view left, right;
};

MergeText ParseMerge(const std::vector<std::string>& merges, size_t i) {
  const std::string_view text = merges[i];
  // From 1: a left part may begin with the space it consists of.
  const size_t space = text.find(' ', 1);
  if (text.empty() || space == std::string_view::npos || space + 1 == text.size()) {
    TVM_FFI_THROW(ValueError) << "tokenizer.ggml.merges[" << i << "] is \"" << text
                              << "\", expected \"left right\"";
  }
  return {text.substr(0, space), text.substr(space + 1)};
}

}  // namespace

std::string DecodeByteAlphabet(std::string_view text) {
  const auto& bytes = BytesByChar();
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Char c = DecodeUtf8(text, pos);
    if (c.valid && c.code < bytes.size() && bytes[c.code] >= 0) {
      out.push_back(static_cast<char>(bytes[c.code]));
    } else {
      out.append(text.substr(pos, c.length));
    }
    pos += c.length;
  }
  return out;
}

BpeEncoder::BpeEncoder(const VocabSpec& spec, const std::vector<TokenType>& types,
                       const std::vector<std::string>& pieces, const PreTokenizer& pre)
    : pattern_(pre.pattern), ignore_merges_(pre.ignore_merges), merges_(spec.merges.size()) {
  LoadMerges(spec, types);
  if (!ignore_merges_) return;
  words_.reserve(pieces.size());
  InterruptPoller poller;
  for (size_t id = 0; id < pieces.size(); ++id) {
    poller.PollAt(id);
    if (!IsWord(types[id])) continue;
    words_.emplace(pieces[id], static_cast<int32_t>(id));
    longest_word_ = std::max(longest_word_, pieces[id].size());
  }
}

void BpeEncoder::LoadMerges(const VocabSpec& spec, const std::vector<TokenType>& types) {
  std::unordered_map<std::string_view, int32_t> ids;
  ids.reserve(spec.tokens.size());
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    ids.emplace(spec.tokens[id], static_cast<int32_t>(id));
  }
  const auto alphabet = ByteAlphabet();
  for (size_t byte = 0; byte < 256; ++byte) {
    std::string text;
    AppendUtf8(alphabet[byte], &text);
    const auto found = ids.find(text);
    const bool usable = found != ids.end() && !IsSpecial(types[found->second]);
    byte_ids_[byte] = usable ? found->second : kNoToken;
  }
  InterruptPoller poller;
  for (size_t i = 0; i < spec.merges.size(); ++i) {
    poller.PollAt(i);
    const auto id_of = [&](std::string_view text) {
      const auto found = ids.find(text);
      if (found != ids.end()) return found->second;
      TVM_FFI_THROW(ValueError) << "tokenizer.ggml.merges[" << i << "] is \"" << spec.merges[i]
                                << "\", but \"" << text << "\" is no token";
    };
    const auto [left, right] = ParseMerge(spec.merges, i);
    const std::string merged = std::string(left).append(right);
    const int32_t left_id = id_of(left);
    const int32_t right_id = id_of(right);
    const PairMerge merge{static_cast<uint32_t>(i), id_of(merged)};
    if (!IsSpecial(types[merge.merged])) merges_.Insert(left_id, right_id, merge);
  }
}

int32_t BpeEncoder::WholeWord(std::string_view word) const {
  if (!ignore_merges_ || word.size() > longest_word_) return -1;
  const auto found = words_.find(word);
  return found == words_.end() ? -1 : found->second;
}

void BpeEncoder::Encode(std::string_view text, std::vector<int32_t>* ids) const {
  Merger merger(merges_);
  WordSplitter words(pattern_, text);
  for (std::string_view word = words.Next(); !word.empty(); word = words.Next()) {
    if (const int32_t id = WholeWord(word); id >= 0) {
      ids->push_back(id);
      continue;
    }
    const size_t begin = ids->size();
    bool complete = true;
    for (const char c : word) {
      ids->push_back(byte_ids_[static_cast<uint8_t>(c)]);
      complete &= ids->back() != kNoToken;
    }
    merger.Run(ids, begin);
    if (!complete) ids->erase(std::remove(ids->begin() + begin, ids->end(), kNoToken), ids->end());
  }
}

}  // namespace mlf
