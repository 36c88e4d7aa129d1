// Splitting text into words before byte-level BPE: the regular expressions of known tokenizers as
// hand-written, linear-time scanners. Counterpart: pretokenizer.cc.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "text/unicode.h"

namespace mlf {

/// The expressions, where "rest" is \s+(?!\S)|\s+ :
///   kGpt2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|rest
///   kLlama3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}
///            | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|rest
///   kQwen2   kLlama3 with \p{N} for \p{N}{1,3}
///   kSmolLM  first every \p{N} alone, then kGpt2 on what lies between, each stretch by itself
enum class SplitPattern : uint8_t { kGpt2, kLlama3, kQwen2, kSmolLM };

/// What tokenizer.ggml.pre stands for.
struct PreTokenizer {
  std::string_view name;
  SplitPattern pattern;
  bool ignore_merges;  // a word that is a token is taken whole, whatever the merges say
  bool add_bos;        // when the file does not say
};

/// Throws NotImplementedError, with the known names, for any other.
const PreTokenizer& FindPreTokenizer(std::string_view name);

/// The words of `text` in order; put together they are `text`. Bytes that are not UTF-8 count as
/// one symbol each.
class WordSplitter {
 public:
  WordSplitter(SplitPattern pattern, std::string_view text)
      : pattern_(pattern),
        text_(text),
        end_(pattern == SplitPattern::kSmolLM ? 0 : text.size()),
        max_digits_(pattern == SplitPattern::kLlama3 ? 3 : 1) {}

  /// Empty at the end.
  std::string_view Next();

 private:
  struct Look {  // what stands at a place; length 0 at the end of the stretch
    uint32_t code = kReplacementChar;
    size_t length = 0;
    CharClass char_class = CharClass::kOther;

    bool Is(CharClass c) const { return length > 0 && char_class == c; }
    bool IsNewline() const { return length > 0 && (code == '\r' || code == '\n'); }
  };

  Look At(size_t pos) const;
  size_t StretchEnd() const;
  size_t Gpt2End() const;
  size_t Llama3End() const;
  size_t ContractionLength(bool any_case) const;
  size_t SkipClass(size_t pos, CharClass c) const;
  size_t DigitsEnd() const;
  size_t NewlinesEnd() const;
  size_t SpacesEnd() const;

  SplitPattern pattern_;
  std::string_view text_;
  size_t pos_ = 0;
  size_t end_;  // of the stretch being split: no pattern looks past it
  size_t max_digits_;
};

}  // namespace mlf
