// Finding tokens that are written in a text as they are ("<|im_start|>"). Counterpart:
// special_tokens.cc.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mlf {

class SpecialTokens {
 public:
  struct Token {
    std::string text;
    int32_t id;
  };

  struct Match {
    size_t begin = 0;
    size_t length = 0;  // 0: no match
    int32_t id = -1;
  };

  explicit SpecialTokens(std::vector<Token> tokens = {});

  /// The leftmost token at or after `from`, the longest of those that begin there. Each byte of
  /// the text is looked at no more often than the longest token is long.
  Match Find(std::string_view text, size_t from) const;
  /// The longest token that begins at `begin`.
  Match At(std::string_view text, size_t begin) const;

 private:
  struct Range {
    uint32_t begin = 0, end = 0;
  };

  Match LongestAt(std::string_view text, size_t begin) const;

  std::vector<Token> tokens_;             // sorted by text: a trie laid flat
  std::array<Range, 256> by_first_byte_;  // of tokens_
};

}  // namespace mlf
