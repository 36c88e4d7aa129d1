// Byte-level BPE: words of bytes, merged by rank (GPT-2, Llama 3, Qwen2, SmolLM). Counterpart:
// bpe.cc.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/merge.h"
#include "text/pretokenizer.h"
#include "text/vocab.h"

namespace mlf {

/// Bytes that the text of a token stands for in GPT-2's byte alphabet, where every byte has a
/// printable character ("Ġthe" is " the"). Characters outside the alphabet stay as they are.
std::string DecodeByteAlphabet(std::string_view text);

class BpeEncoder {
 public:
  /// `types` has one entry per token; `pieces` too and must outlive the encoder. Throws ValueError
  /// for a merge that is not "left right" or that names what is no token.
  BpeEncoder(const VocabSpec& spec, const std::vector<TokenType>& types,
             const std::vector<std::string>& pieces, const PreTokenizer& pre);

  /// Appends the ids of `text`. A byte for which the vocabulary has no token (SmolLM2 lacks 21
  /// that occur in no UTF-8 text, or only as rare control characters) is left out, as the
  /// reference tokenizers do.
  void Encode(std::string_view text, std::vector<int32_t>* ids) const;

 private:
  void LoadMerges(const VocabSpec& spec, const std::vector<TokenType>& types);
  int32_t WholeWord(std::string_view word) const;  // -1: none

  SplitPattern pattern_;
  bool ignore_merges_;
  std::array<int32_t, 256> byte_ids_;
  MergeTable merges_;
  std::unordered_map<std::string_view, int32_t> words_;  // only for ignore_merges_
  size_t longest_word_ = 0;                              // bytes
};

}  // namespace mlf
