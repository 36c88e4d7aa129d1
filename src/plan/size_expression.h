// Sizes of a plan's tensors: numbers, names, and expressions of them. Counterpart:
// size_expression.cc.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mlf {

/// `n`, `576`, `n * 9`, `(n + 31) // 32`: names, numbers, + - * // and parentheses, in 64 bits.
class SizeExpression {
 public:
  /// Names stand for their places in `symbols`; a text that is one name alone adds it there where
  /// `may_bind`. ValueError where the text is no expression, or has a name that is not there.
  static SizeExpression Parse(std::string_view text, bool may_bind,
                              std::vector<std::string>* symbols);

  /// ValueError where a result leaves 64 bits, or a divisor is not positive.
  int64_t Evaluate(std::span<const int64_t> symbols) const;

  const std::string& text() const { return text_; }
  bool is_number() const { return code_.size() == 1 && code_[0].kind == Kind::kNumber; }
  /// The place of the name that this is and nothing else; -1 for all others.
  int64_t symbol() const {
    return code_.size() == 1 && code_[0].kind == Kind::kSymbol ? code_[0].value : -1;
  }

 private:
  friend class SizeParser;
  enum class Kind : uint8_t { kNumber, kSymbol, kAdd, kSubtract, kMultiply, kDivide };
  /// Reverse Polish: an operator takes the two results before it.
  struct Code {
    Kind kind;
    int64_t value;
  };
  static constexpr int kMaxStack = 32;

  int64_t EvaluateCode(std::span<const int64_t> symbols) const;
  [[noreturn]] void FailOverflow() const;

  std::string text_{};
  std::vector<Code> code_{};
};

}  // namespace mlf
