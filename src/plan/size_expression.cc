// Sizes of a plan's tensors. Counterpart: size_expression.h.
#include "plan/size_expression.h"

#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <sstream>

#include "base/quote.h"

namespace mlf {
namespace {

constexpr size_t kMaxText = 256, kMaxNames = 4096;

bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

/// Recursive descent; as deep as parentheses are nested, which kMaxStack bounds.
class SizeParser {
 public:
  SizeParser(std::string_view text, std::vector<std::string>* symbols)
      : text_(text), rest_(text), symbols_(*symbols) {}

  void Parse(bool may_bind, SizeExpression* out) {
    if (text_.size() > kMaxText) Fail("it is longer than ", kMaxText, " characters");
    Skip();
    if (may_bind && IsNameAlone() && Find(rest_) < 0) {
      if (symbols_.size() == kMaxNames) Fail("it would be name ", kMaxNames + 1);
      symbols_.emplace_back(rest_);
    }
    Sum(0);
    if (!rest_.empty()) Fail("there is ", Quoted(rest_), " after its end");
    out->text_ = text_;
    out->code_ = std::move(code_);
  }

 private:
  using Kind = SizeExpression::Kind;

  template <typename... Words>
  [[noreturn]] void Fail(const Words&... words) const {
    std::ostringstream os;
    (os << ... << words);
    TVM_FFI_THROW(ValueError) << "size " << Quoted(text_)
                              << " is no expression of sizes: " << os.str();
  }

  void Skip() {
    while (!rest_.empty() && rest_[0] == ' ') rest_.remove_prefix(1);
    while (!rest_.empty() && rest_.back() == ' ') rest_.remove_suffix(1);
  }
  bool Accept(std::string_view token) {
    if (!rest_.starts_with(token)) return false;
    rest_.remove_prefix(token.size());
    Skip();
    return true;
  }
  bool IsNameAlone() const {
    return !rest_.empty() && IsLetter(rest_[0]) &&
           std::all_of(rest_.begin(), rest_.end(),
                       [](char c) { return IsLetter(c) || IsDigit(c); });
  }
  int64_t Find(std::string_view name) const {
    const auto found = std::find(symbols_.begin(), symbols_.end(), name);
    return found == symbols_.end() ? -1 : found - symbols_.begin();
  }

  void Emit(Kind kind, int64_t value = 0) {
    stack_ += kind == Kind::kNumber || kind == Kind::kSymbol ? 1 : -1;
    if (stack_ > SizeExpression::kMaxStack) Fail("it is nested too deeply");
    code_.push_back({kind, value});
  }

  void Sum(int depth) {
    Product(depth);
    for (;;) {
      if (Accept("+")) {
        Product(depth);
        Emit(Kind::kAdd);
      } else if (Accept("-")) {
        Product(depth);
        Emit(Kind::kSubtract);
      } else {
        return;
      }
    }
  }

  void Product(int depth) {
    Atom(depth);
    for (;;) {
      if (Accept("*")) {
        Atom(depth);
        Emit(Kind::kMultiply);
      } else if (Accept("//")) {
        Atom(depth);
        Emit(Kind::kDivide);
      } else {
        return;
      }
    }
  }

  void Atom(int depth) {
    if (depth >= SizeExpression::kMaxStack) Fail("it is nested too deeply");
    if (Accept("(")) {
      Sum(depth + 1);
      if (!Accept(")")) Fail("a parenthesis is not closed");
    } else if (!rest_.empty() && IsDigit(rest_[0])) {
      int64_t number = 0;
      const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), number);
      if (error != std::errc()) Fail("a number does not fit 64 bits");
      rest_.remove_prefix(end - rest_.data());
      Skip();
      Emit(Kind::kNumber, number);
    } else if (!rest_.empty() && IsLetter(rest_[0])) {
      Symbol();
    } else {
      Fail("expected a number, a name or a parenthesis at ", Quoted(rest_));
    }
  }

  void Symbol() {
    size_t n = 1;
    while (n < rest_.size() && (IsLetter(rest_[n]) || IsDigit(rest_[n]))) ++n;
    const std::string_view name = rest_.substr(0, n);
    const int64_t symbol = Find(name);
    if (symbol < 0) Fail("no input or parameter before says what ", Quoted(name), " is");
    rest_.remove_prefix(n);
    Skip();
    Emit(Kind::kSymbol, symbol);
  }

  std::string_view text_, rest_;
  std::vector<std::string>& symbols_;
  std::vector<SizeExpression::Code> code_{};
  int stack_ = 0;
};

SizeExpression SizeExpression::Parse(std::string_view text, bool may_bind,
                                     std::vector<std::string>* symbols) {
  SizeExpression parsed;
  SizeParser(text, symbols).Parse(may_bind, &parsed);
  return parsed;
}

int64_t SizeExpression::Evaluate(std::span<const int64_t> symbols) const {
  if (code_.size() != 1) return EvaluateCode(symbols);
  return code_[0].kind == Kind::kNumber ? code_[0].value : symbols[code_[0].value];
}

int64_t SizeExpression::EvaluateCode(std::span<const int64_t> symbols) const {
  std::array<int64_t, kMaxStack> stack;
  int top = -1;
  for (const Code& code : code_) {
    if (code.kind == Kind::kNumber || code.kind == Kind::kSymbol) {
      stack[++top] = code.kind == Kind::kNumber ? code.value : symbols[code.value];
      continue;
    }
    const int64_t b = stack[top--], a = stack[top];
    bool overflow = false;
    if (code.kind == Kind::kAdd) overflow = __builtin_add_overflow(a, b, &stack[top]);
    if (code.kind == Kind::kSubtract) overflow = __builtin_sub_overflow(a, b, &stack[top]);
    if (code.kind == Kind::kMultiply) overflow = __builtin_mul_overflow(a, b, &stack[top]);
    if (overflow) FailOverflow();
    if (code.kind != Kind::kDivide) continue;
    if (b <= 0)
      TVM_FFI_THROW(ValueError) << "size " << Quoted(text_) << " divides by " << b
                                << ", expected a positive number";
    stack[top] = a / b - (a % b < 0 ? 1 : 0);  // downwards, as Python's //
  }
  return stack[0];
}

void SizeExpression::FailOverflow() const {
  TVM_FFI_THROW(ValueError) << "size " << Quoted(text_) << " does not fit 64 bits";
}

}  // namespace mlf
