// Longest match over a sorted list of tokens. Counterpart: special_tokens.h.
#include "text/special_tokens.h"

#include <algorithm>
#include <utility>

namespace mlf {

SpecialTokens::SpecialTokens(std::vector<Token> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const Token& t) { return t.text.empty(); });
  std::sort(tokens_.begin(), tokens_.end(),
            [](const Token& a, const Token& b) { return a.text < b.text; });
  for (uint32_t i = 0; i < tokens_.size(); ++i) {
    Range& range = by_first_byte_[static_cast<uint8_t>(tokens_[i].text[0])];
    if (range.end == 0) range.begin = i;
    range.end = i + 1;
  }
}

SpecialTokens::Match SpecialTokens::Find(std::string_view text, size_t from) const {
  if (tokens_.empty()) return {};
  for (size_t begin = from; begin < text.size(); ++begin) {
    const Match match = At(text, begin);
    if (match.length > 0) return match;
  }
  return {};
}

SpecialTokens::Match SpecialTokens::At(std::string_view text, size_t begin) const {
  if (by_first_byte_[static_cast<uint8_t>(text[begin])].end == 0) return {};
  return LongestAt(text, begin);
}

/// Narrows the range of tokens that agree with the text so far by one byte after the other.
SpecialTokens::Match SpecialTokens::LongestAt(std::string_view text, size_t begin) const {
  const Range range = by_first_byte_[static_cast<uint8_t>(text[begin])];
  auto low = tokens_.begin() + range.begin;
  auto high = tokens_.begin() + range.end;
  Match match;
  for (size_t depth = 1;; ++depth) {
    if (low->text.size() == depth) {  // the shortest sorts first
      match = {begin, depth, low->id};
      ++low;
    }
    if (low == high || begin + depth >= text.size()) return match;
    const auto byte = static_cast<uint8_t>(text[begin + depth]);
    const auto byte_of = [&](const Token& t) { return static_cast<uint8_t>(t.text[depth]); };
    low = std::partition_point(low, high, [&](const Token& t) { return byte_of(t) < byte; });
    high = std::partition_point(low, high, [&](const Token& t) { return byte_of(t) == byte; });
    if (low == high) return match;
  }
}

}  // namespace mlf
