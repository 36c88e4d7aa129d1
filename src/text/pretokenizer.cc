// Scanners for the patterns of pretokenizer.h, which is the counterpart.
#include "text/pretokenizer.h"

#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>
#include <array>
#include <string>

#include "base/quote.h"

namespace mlf {
namespace {

using enum SplitPattern;

/// Names whose files llama.cpp reads with exactly these expressions and switches.
constexpr std::array kPreTokenizers = {
    PreTokenizer{"gpt-2", kGpt2, false, false},
    PreTokenizer{"phi-2", kGpt2, false, false},
    PreTokenizer{"mpt", kGpt2, false, false},
    PreTokenizer{"olmo", kGpt2, false, false},
    PreTokenizer{"jais", kGpt2, false, false},
    PreTokenizer{"trillion", kGpt2, false, false},
    PreTokenizer{"exaone4", kGpt2, false, false},
    PreTokenizer{"gigachat", kGpt2, false, false},
    PreTokenizer{"a.x-4.0", kGpt2, false, false},
    PreTokenizer{"mellum", kGpt2, false, false},
    PreTokenizer{"granite-docling", kGpt2, false, false},
    PreTokenizer{"llama-bpe", kLlama3, true, true},
    PreTokenizer{"llama3", kLlama3, true, true},
    PreTokenizer{"llama-v3", kLlama3, true, true},
    PreTokenizer{"falcon3", kLlama3, true, true},
    PreTokenizer{"falcon-h1", kLlama3, true, true},
    PreTokenizer{"pixtral", kLlama3, true, true},
    PreTokenizer{"midm-2.0", kLlama3, true, true},
    PreTokenizer{"lfm2", kLlama3, true, true},
    PreTokenizer{"dbrx", kLlama3, false, false},
    PreTokenizer{"smaug-bpe", kLlama3, false, false},
    PreTokenizer{"qwen2", kQwen2, false, false},
    PreTokenizer{"deepseek-r1-qwen", kQwen2, false, false},
    PreTokenizer{"megrez", kQwen2, false, false},
    PreTokenizer{"stablelm2", kQwen2, false, false},
    PreTokenizer{"hunyuan", kQwen2, false, false},
    PreTokenizer{"kormo", kQwen2, false, false},
    PreTokenizer{"smollm", kSmolLM, false, false},
    PreTokenizer{"starcoder", kSmolLM, false, false},
    PreTokenizer{"refact", kSmolLM, false, false},
    PreTokenizer{"command-r", kSmolLM, false, false},
    PreTokenizer{"codeshell", kSmolLM, false, false},
    PreTokenizer{"exaone", kSmolLM, false, false},
    PreTokenizer{"minerva-7b", kSmolLM, false, false},
    PreTokenizer{"mellum2", kSmolLM, false, false},
};

}  // namespace

const PreTokenizer& FindPreTokenizer(std::string_view name) {
  const auto found = std::find_if(kPreTokenizers.begin(), kPreTokenizers.end(),
                                  [&](const PreTokenizer& p) { return p.name == name; });
  if (found != kPreTokenizers.end()) return *found;
  std::string known;
  for (const PreTokenizer& p : kPreTokenizers) {
    known.append(known.empty() ? "" : ", ").append(p.name);
  }
  TVM_FFI_THROW(NotImplementedError)
      << "tokenizer.ggml.pre " << Quoted(name) << " is not supported, expected one of " << known;
}

std::string_view WordSplitter::Next() {
  const size_t begin = pos_;
  if (begin == text_.size()) return {};
  if (begin == end_) end_ = StretchEnd();
  const bool gpt2 = pattern_ == kGpt2 || pattern_ == kSmolLM;
  pos_ = gpt2 ? Gpt2End() : Llama3End();
  return text_.substr(begin, pos_ - begin);
}

WordSplitter::Look WordSplitter::At(size_t pos) const {
  if (pos >= end_) return {};
  const Utf8Char c = DecodeUtf8(text_, pos);
  return {c.code, c.length, c.valid ? ClassOf(c.code) : CharClass::kOther};
}

/// kSmolLM only: one digit, or all up to the next digit.
size_t WordSplitter::StretchEnd() const {
  size_t pos = pos_;
  while (pos < text_.size()) {
    const Utf8Char c = DecodeUtf8(text_, pos);
    const bool digit = c.valid && ClassOf(c.code) == CharClass::kNumber;
    if (digit) return pos == pos_ ? pos + c.length : pos;
    pos += c.length;
  }
  return pos;
}

size_t WordSplitter::Gpt2End() const {
  if (const size_t n = ContractionLength(/*any_case=*/false)) return pos_ + n;
  const Look first = At(pos_);
  if (first.code == ' ') {
    const Look next = At(pos_ + 1);
    if (next.length > 0 && !next.Is(CharClass::kSpace)) {
      return SkipClass(pos_ + 1, next.char_class);
    }
  }
  return first.Is(CharClass::kSpace) ? SpacesEnd() : SkipClass(pos_, first.char_class);
}

size_t WordSplitter::Llama3End() const {
  if (const size_t n = ContractionLength(/*any_case=*/true)) return pos_ + n;
  const Look first = At(pos_);
  if (first.Is(CharClass::kNumber)) return DigitsEnd();
  if (first.Is(CharClass::kLetter)) return SkipClass(pos_, CharClass::kLetter);
  const size_t second = pos_ + first.length;
  if (!first.IsNewline() && At(second).Is(CharClass::kLetter)) {
    return SkipClass(second, CharClass::kLetter);
  }
  const size_t symbols = first.code == ' ' ? second : pos_;
  if (At(symbols).Is(CharClass::kOther)) {
    size_t pos = SkipClass(symbols, CharClass::kOther);
    while (At(pos).IsNewline()) ++pos;
    return pos;
  }
  const size_t newlines_end = NewlinesEnd();
  return newlines_end > pos_ ? newlines_end : SpacesEnd();
}

/// 0 when there is none at pos_.
size_t WordSplitter::ContractionLength(bool any_case) const {
  if (text_[pos_] != '\'') return 0;
  const auto letter = [&](size_t pos) -> char {
    if (pos >= end_) return '\0';
    const char c = text_[pos];
    return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  };
  const char a = letter(pos_ + 1);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  const char b = letter(pos_ + 2);
  const bool three = (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l');
  return three ? 3 : 0;
}

size_t WordSplitter::SkipClass(size_t pos, CharClass c) const {
  for (Look look = At(pos); look.Is(c); look = At(pos)) pos += look.length;
  return pos;
}

size_t WordSplitter::DigitsEnd() const {
  size_t pos = pos_;
  for (size_t n = 0; n < max_digits_; ++n) {
    const Look look = At(pos);
    if (!look.Is(CharClass::kNumber)) break;
    pos += look.length;
  }
  return pos;
}

/// \s*[\r\n]+ : behind the last newline of the white space at pos_, or pos_ where there is none.
size_t WordSplitter::NewlinesEnd() const {
  size_t end = pos_;
  size_t pos = pos_;
  for (Look look = At(pos); look.Is(CharClass::kSpace); look = At(pos)) {
    pos += look.length;
    if (look.IsNewline()) end = pos;
  }
  return end;
}

/// \s+(?!\S)|\s+ : all the white space at the end of the stretch; elsewhere all but the last
/// character, which may belong to the next word, unless it is the only one.
size_t WordSplitter::SpacesEnd() const {
  size_t last = pos_;
  size_t pos = pos_;
  for (Look look = At(pos); look.Is(CharClass::kSpace); look = At(pos)) {
    last = pos;
    pos += look.length;
  }
  return pos == end_ || last == pos_ ? pos : last;
}

}  // namespace mlf
