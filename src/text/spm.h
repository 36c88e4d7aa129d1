// SentencePiece BPE, GGUF's "llama": characters merged by score, the rest spelled in byte tokens.
// Counterpart: spm.cc.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/merge.h"
#include "text/vocab.h"

namespace mlf {

/// The byte of a token text "<0x00>" … "<0xFF>"; nullopt for any other text.
std::optional<uint8_t> ParseByteToken(std::string_view text);

/// Text of a normal token with U+2581 turned back into spaces.
std::string UnescapeSpaces(std::string_view text);

class SpmEncoder {
 public:
  /// `types` has one entry per token. Tokens that stand for no text (control, unknown, byte) take
  /// no part in merging, so that no plain text spells them.
  SpmEncoder(const VocabSpec& spec, const std::vector<TokenType>& types,
             std::optional<int32_t> unk_id);

  /// Appends the ids of `text`, with one space more in front if `space_in_front`. What has neither
  /// a token nor byte tokens becomes one unknown token per stretch.
  void Encode(std::string_view text, bool space_in_front, std::vector<int32_t>* ids) const;

 private:
  class Builder;
  class Run;

  int32_t CharSymbol(uint32_t code) const;  // kNoSymbol: in no token

  MergeTable merges_;  // an entry of rank kNoMerge: neighbours inside some token, no token together
  std::array<int32_t, 128> ascii_symbols_;
  std::unordered_map<uint32_t, int32_t> char_symbols_;
  // Symbols from n_tokens_ on are characters that occur in tokens but are none: their bytes.
  int32_t n_tokens_;
  std::vector<std::string> extra_chars_;
  std::array<int32_t, 256> byte_ids_;  // -1: none
  int32_t unk_id_;                     // -1: none
};

}  // namespace mlf
