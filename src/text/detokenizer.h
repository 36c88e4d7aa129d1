// Token ids to bytes, one at a time. Counterpart: vocab.h (whole texts), stream_decoder.h (UTF-8).
#pragma once
#include <cstdint>
#include <string_view>

#include "text/vocab.h"

namespace mlf {

/// Undoes the spaces that tokenizing put in front of each text that begins the input or follows a
/// control or user-defined token.
class Detokenizer {
 public:
  /// `vocab` must outlive this. skip_special leaves control and unknown tokens out. at_start: the
  /// first id begins a text; otherwise it continues one, and a space in front of it is meant.
  Detokenizer(const Vocab& vocab, bool skip_special, bool at_start = true)
      : vocab_(&vocab), skip_special_(skip_special), at_start_(at_start) {}

  /// What `id` adds to the text. Throws IndexError, and then nothing has changed.
  std::string_view Next(int32_t id) {
    const TokenType type = vocab_->Type(id);
    std::string_view piece = vocab_->Piece(id);
    const bool strip = at_start_ && vocab_->add_space_prefix();
    at_start_ = type == TokenType::kControl || type == TokenType::kUserDefined;
    if (type == TokenType::kControl || type == TokenType::kUnknown) {
      return skip_special_ ? std::string_view{} : piece;
    }
    const bool merged = type == TokenType::kNormal || type == TokenType::kUnused;
    if (strip && merged && piece.substr(0, 1) == " ") piece.remove_prefix(1);
    return piece;
  }

 private:
  const Vocab* vocab_;
  bool skip_special_;
  bool at_start_;
};

}  // namespace mlf
