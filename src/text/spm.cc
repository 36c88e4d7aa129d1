// SentencePiece BPE. Counterpart: spm.h.
//
// The reference looks up the text of every pair it tries to merge. Here all pairs of symbols that
// make up a token are known beforehand, so that merging compares numbers only; and since nothing
// merges across two characters that are neighbours in no token, the text falls into short
// stretches that are merged one by one.
#include "text/spm.h"

#include <algorithm>
#include <functional>

#include "base/interrupt.h"
#include "text/unicode.h"

namespace mlf {
namespace {

constexpr uint32_t kSpaceMark = 0x2581;
constexpr std::string_view kSpaceMarkUtf8 = "\xE2\x96\x81";
constexpr int32_t kNoSymbol = -2;  // MergeTable reserves -1

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

bool StandsForText(TokenType type) {
  return type == TokenType::kNormal || type == TokenType::kUserDefined ||
         type == TokenType::kUnused;
}

/// Dense ranks of the scores, the highest 0; equal scores share one.
std::vector<uint32_t> RanksOf(const std::vector<float>& scores) {
  std::vector<float> distinct = scores;
  std::sort(distinct.begin(), distinct.end(), std::greater<>());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  std::vector<uint32_t> ranks;
  ranks.reserve(scores.size());
  for (const float score : scores) {
    const auto at = std::lower_bound(distinct.begin(), distinct.end(), score, std::greater<>());
    ranks.push_back(static_cast<uint32_t>(at - distinct.begin()));
  }
  return ranks;
}

}  // namespace

std::optional<uint8_t> ParseByteToken(std::string_view text) {
  if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return std::nullopt;
  const int high = HexDigit(text[3]);
  const int low = HexDigit(text[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<uint8_t>(high << 4 | low);
}

std::string UnescapeSpaces(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const bool mark = text.substr(pos, kSpaceMarkUtf8.size()) == kSpaceMarkUtf8;
    out.push_back(mark ? ' ' : text[pos]);
    pos += mark ? kSpaceMarkUtf8.size() : 1;
  }
  return out;
}

/// Fills an encoder's tables.
class SpmEncoder::Builder {
 public:
  Builder(const VocabSpec& spec, const std::vector<TokenType>& types, SpmEncoder* encoder)
      : spec_(spec), types_(types), encoder_(*encoder) {}

  void Build() {
    FindTextTokens();
    FindBytes();
    const std::vector<uint32_t> ranks = RanksOf(spec_.scores);
    InterruptPoller poller;
    for (const int32_t id : text_tokens_) {
      poller.PollAt(id);
      AddMerges(id, ranks[id]);
    }
    for (const int32_t id : text_tokens_) {
      poller.PollAt(id);
      AddNeighbours(id);
    }
  }

 private:
  /// Offsets of the characters of a token and its end; empty for a text that is not UTF-8, which
  /// no merging of characters makes.
  const std::vector<size_t>& Cuts(std::string_view text) {
    cuts_.clear();
    for (size_t pos = 0; pos < text.size();) {
      const Utf8Char c = DecodeUtf8(text, pos);
      if (!c.valid) {
        cuts_.clear();
        return cuts_;
      }
      cuts_.push_back(pos);
      pos += c.length;
    }
    cuts_.push_back(text.size());
    return cuts_;
  }

  void FindTextTokens() {
    symbols_.reserve(spec_.tokens.size());
    for (size_t i = 0; i < spec_.tokens.size(); ++i) {
      const std::string_view text = spec_.tokens[i];
      if (!StandsForText(types_[i]) || text.empty() || Cuts(text).empty()) continue;
      const auto id = static_cast<int32_t>(i);
      text_tokens_.push_back(id);
      symbols_.emplace(text, id);
      if (cuts_.size() == 2) SetCharSymbol(DecodeUtf8(text, 0).code, id);
    }
    for (const int32_t id : text_tokens_) {
      const std::string_view text = spec_.tokens[id];
      for (size_t pos = 0; pos < text.size();) pos += AddExtraChar(text, pos);
    }
  }

  size_t AddExtraChar(std::string_view text, size_t pos) {
    const Utf8Char c = DecodeUtf8(text, pos);
    const std::string_view bytes = text.substr(pos, c.length);
    const auto symbol = static_cast<int32_t>(spec_.tokens.size() + encoder_.extra_chars_.size());
    if (symbols_.emplace(bytes, symbol).second) {
      encoder_.extra_chars_.emplace_back(bytes);
      SetCharSymbol(c.code, symbol);
    }
    return c.length;
  }

  void SetCharSymbol(uint32_t code, int32_t symbol) {
    if (code < encoder_.ascii_symbols_.size()) {
      encoder_.ascii_symbols_[code] = symbol;
    } else {
      encoder_.char_symbols_[code] = symbol;
    }
  }

  void FindBytes() {
    for (size_t id = 0; id < spec_.tokens.size(); ++id) {
      if (types_[id] != TokenType::kByte) continue;
      int32_t& slot = encoder_.byte_ids_[*ParseByteToken(spec_.tokens[id])];
      if (slot < 0) slot = static_cast<int32_t>(id);
    }
  }

  /// Every way to put the token together from two symbols.
  void AddMerges(int32_t id, uint32_t rank) {
    const std::string_view text = spec_.tokens[id];
    const std::vector<size_t>& cuts = Cuts(text);
    for (size_t i = 1; i + 1 < cuts.size(); ++i) {
      const auto left = symbols_.find(text.substr(0, cuts[i]));
      if (left == symbols_.end()) continue;
      const auto right = symbols_.find(text.substr(cuts[i]));
      if (right == symbols_.end()) continue;
      encoder_.merges_.Insert(left->second, right->second, {rank, id});
    }
  }

  void AddNeighbours(int32_t id) {
    int32_t previous = kNoSymbol;
    const std::string_view text = spec_.tokens[id];
    for (size_t pos = 0; pos < text.size();) {
      const Utf8Char c = DecodeUtf8(text, pos);
      const int32_t symbol = encoder_.CharSymbol(c.code);
      if (pos > 0) encoder_.merges_.Insert(previous, symbol, {kNoMerge, -1});
      previous = symbol;
      pos += c.length;
    }
  }

  const VocabSpec& spec_;
  const std::vector<TokenType>& types_;
  SpmEncoder& encoder_;
  std::vector<int32_t> text_tokens_;
  std::unordered_map<std::string_view, int32_t> symbols_;  // tokens and single characters
  std::vector<size_t> cuts_;
};

/// One call of Encode.
class SpmEncoder::Run {
 public:
  Run(const SpmEncoder& encoder, std::vector<int32_t>* ids)
      : encoder_(encoder), merger_(encoder.merges_), ids_(ids) {}

  /// One character; spaces come as U+2581.
  void Add(uint32_t code, std::string_view bytes) {
    const int32_t symbol = encoder_.CharSymbol(code);
    if (symbol == kNoSymbol) {
      Flush();
      Spell(bytes);
      return;
    }
    if (!stretch_.empty() && encoder_.merges_.Find(stretch_.back(), symbol) == nullptr) Flush();
    stretch_.push_back(symbol);
  }

  void AddInvalid(std::string_view byte) {
    Flush();
    Spell(byte);
  }

  void Flush() {
    merger_.Run(&stretch_);
    for (const int32_t symbol : stretch_) {
      if (symbol < encoder_.n_tokens_) {
        ids_->push_back(symbol);
        after_unknown_ = false;
      } else {
        Spell(encoder_.extra_chars_[symbol - encoder_.n_tokens_]);
      }
    }
    stretch_.clear();
  }

 private:
  void Spell(std::string_view bytes) {
    for (const char c : bytes) {
      const int32_t id = encoder_.byte_ids_[static_cast<uint8_t>(c)];
      if (id >= 0) {
        ids_->push_back(id);
      } else if (!after_unknown_ && encoder_.unk_id_ >= 0) {
        ids_->push_back(encoder_.unk_id_);
      }
      after_unknown_ = id < 0;
    }
  }

  const SpmEncoder& encoder_;
  Merger merger_;
  std::vector<int32_t>* ids_;
  std::vector<int32_t> stretch_;  // symbols not merged yet
  bool after_unknown_ = false;
};

SpmEncoder::SpmEncoder(const VocabSpec& spec, const std::vector<TokenType>& types,
                       std::optional<int32_t> unk_id)
    : n_tokens_(static_cast<int32_t>(spec.tokens.size())), unk_id_(unk_id.value_or(-1)) {
  ascii_symbols_.fill(kNoSymbol);
  byte_ids_.fill(-1);
  Builder(spec, types, this).Build();
}

int32_t SpmEncoder::CharSymbol(uint32_t code) const {
  if (code < ascii_symbols_.size()) return ascii_symbols_[code];
  const auto found = char_symbols_.find(code);
  return found == char_symbols_.end() ? kNoSymbol : found->second;
}

void SpmEncoder::Encode(std::string_view text, bool space_in_front,
                        std::vector<int32_t>* ids) const {
  Run run(*this, ids);
  if (space_in_front) run.Add(kSpaceMark, kSpaceMarkUtf8);
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Char c = DecodeUtf8(text, pos);
    const std::string_view bytes = text.substr(pos, c.length);
    if (!c.valid) {
      run.AddInvalid(bytes);
    } else if (c.code == ' ') {
      run.Add(kSpaceMark, kSpaceMarkUtf8);
    } else {
      run.Add(c.code, bytes);
    }
    pos += c.length;
  }
  run.Flush();
}

}  // namespace mlf
