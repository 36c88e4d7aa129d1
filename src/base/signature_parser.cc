// Reads the text of a signature: recursive descent. Counterparts: signature_parser.h, signature.h.
#include "base/signature_parser.h"

#include <algorithm>
#include <cctype>

#include "base/dtype.h"

namespace mlf {
namespace {

struct DtypeWord {
  std::string_view word;
  DLDataType dtype;
};
constexpr DtypeWord kDtypes[] = {{"f32", kF32}, {"f16", kF16}, {"bf16", kBF16},
                                 {"i32", kI32}, {"i64", kI64}, {"u8", kU8}};

bool IsName(std::string_view text) {
  return !text.empty() && std::isdigit(static_cast<unsigned char>(text[0])) == 0 &&
         std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; });
}
bool IsNumber(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(),
                                      [](unsigned char c) { return std::isdigit(c) != 0; });
}

/// Pieces between spaces that stand outside of parentheses.
std::vector<std::string_view> Words(std::string_view text) {
  std::vector<std::string_view> words;
  size_t begin = 0;
  int depth = 0;
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && text[i] != ' ') depth += (text[i] == '(') - (text[i] == ')');
    if (i < text.size() && (text[i] != ' ' || depth > 0)) continue;
    if (i > begin) words.push_back(text.substr(begin, i - begin));
    begin = i + 1;
  }
  return words;
}

}  // namespace

void SignatureParser::Parse() {
  Expect("(");
  while (!Accept(")")) {
    Parameter();
    if (!Accept(",")) {
      Expect(")");
      break;
    }
  }
  Expect("->");
  Result();
  SkipSpace();
  if (!rest_.empty()) Fail("more than a signature");
}

// ---- parameters and results ---------------------------------------------------------------------

void SignatureParser::Parameter() {
  if (Accept("*")) return;
  const std::string name = Name();
  Expect(":");
  if (Accept("T")) {
    Tensor(name, TensorSpec::Use::kInput);
  } else if (Accept("Mut")) {
    Tensor(name, TensorSpec::Use::kMutable);
  } else {
    AttributeType(name);
  }
  if (Accept("|")) {
    Expect("None");
    if (!out_.tensors_.empty() && out_.tensors_.back().name == name) {
      out_.tensors_.back().optional = true;
    }
  }
  if (Accept("=")) SkipDefault();
}

void SignatureParser::AttributeType(const std::string& name) {
  if (Accept("Literal")) {
    out_.choices_.push_back({name, Strings()});
  } else if (!Accept("float") && !Accept("int") && !Accept("bool")) {
    Fail("unknown type of ", name);
  }
}

void SignatureParser::Result() {
  if (Accept("None")) return;
  if (Accept("T")) return Tensor("out", TensorSpec::Use::kOutput);
  Expect("{");
  do {
    const std::string name = String();
    Expect(":");
    Expect("T");
    Tensor(name, TensorSpec::Use::kOutput);
  } while (Accept(","));
  Expect("}");
}

void SignatureParser::Tensor(const std::string& name, TensorSpec::Use use) {
  const std::vector<std::string> strings = Strings();
  if (strings.empty()) Fail(name, " has no shape");
  TensorSpec spec{.name = name, .use = use};
  Shape(strings[0], spec);
  for (size_t i = 1; i < strings.size(); ++i) DtypesOrAliases(strings[i], spec);
  if (spec.dtypes.empty() && spec.like < 0) {
    if (out_.tensors_.empty()) Fail(name, " has no dtype");
    spec.like = 0;
  }
  out_.tensors_.push_back(std::move(spec));
}

void SignatureParser::Shape(std::string_view text, TensorSpec& spec) {
  for (std::string_view word : Words(text)) {
    if (word[0] == '*' && spec.batch < 0 && spec.dims.empty()) {
      spec.batch = SymbolNamed(word.substr(1), spec.use != TensorSpec::Use::kOutput);
      if (spec.batch < 0) Fail("no tensor before has '", word, "'");
    } else if (IsNumber(word)) {
      spec.dims.push_back({DimSpec::Kind::kNumber, std::stoll(std::string(word))});
    } else {
      const bool input = spec.use != TensorSpec::Use::kOutput;
      if (input && !IsName(word)) Fail("'", word, "' is no dimension");
      const int symbol = IsName(word) ? SymbolNamed(word, input) : -1;
      spec.dims.push_back(symbol < 0 ? DimSpec{DimSpec::Kind::kExpression, 0}
                                     : DimSpec{DimSpec::Kind::kSymbol, symbol});
    }
  }
}

void SignatureParser::DtypesOrAliases(std::string_view text, TensorSpec& spec) {
  std::vector<std::string_view> words = Words(text);
  if (words.size() > 2 && words[0] == "may" && words[1] == "be") {
    for (size_t i = 2; i < words.size(); ++i) spec.may_be.push_back(TensorNamed(words[i]));
    return;
  }
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "or") continue;
    if (words[i] == "like" && i + 1 < words.size()) {
      spec.like = TensorNamed(words[++i]);
      continue;
    }
    const auto* found = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                     [&](const DtypeWord& d) { return d.word == words[i]; });
    if (found == std::end(kDtypes)) Fail("unknown dtype ", words[i]);
    spec.dtypes.push_back(found->dtype);
  }
}

int SignatureParser::TensorNamed(std::string_view name) const {
  for (size_t i = 0; i < out_.tensors_.size(); ++i) {
    if (out_.tensors_[i].name == name) return static_cast<int>(i);
  }
  Fail("no tensor before is named '", name, "'");
}

int SignatureParser::SymbolNamed(std::string_view name, bool may_be_new) {
  auto& symbols = out_.symbols_;
  const auto found = std::find(symbols.begin(), symbols.end(), name);
  if (found != symbols.end()) return static_cast<int>(found - symbols.begin());
  if (!may_be_new) return -1;
  if (symbols.size() == Signature::kMaxSymbols) Fail("too many dimensions");
  symbols.emplace_back(name);
  return static_cast<int>(symbols.size()) - 1;
}

// ---- tokens -------------------------------------------------------------------------------------

void SignatureParser::SkipSpace() {
  while (!rest_.empty() && std::isspace(static_cast<unsigned char>(rest_[0])) != 0) {
    rest_.remove_prefix(1);
  }
}

bool SignatureParser::Accept(std::string_view token) {
  SkipSpace();
  if (rest_.substr(0, token.size()) != token) return false;
  const std::string_view after = rest_.substr(token.size());
  if (IsName(token) && !after.empty() && IsName(after.substr(0, 1))) return false;  // a longer name
  rest_ = after;
  return true;
}

void SignatureParser::Expect(std::string_view token) {
  if (!Accept(token)) Fail("expected '", token, "'");
}

std::string SignatureParser::Name() {
  SkipSpace();
  size_t n = 0;
  while (n < rest_.size() && IsName(rest_.substr(0, n + 1))) ++n;
  if (n == 0) Fail("expected a name");
  const std::string name(rest_.substr(0, n));
  rest_.remove_prefix(n);
  return name;
}

std::string SignatureParser::String() {
  Expect("'");
  const size_t end = rest_.find('\'');
  if (end == std::string_view::npos) Fail("a string without end");
  std::string text(rest_.substr(0, end));
  rest_.remove_prefix(end + 1);
  return text;
}

std::vector<std::string> SignatureParser::Strings() {
  std::vector<std::string> strings;
  Expect("[");
  while (!Accept("]")) {
    strings.push_back(String());
    if (!Accept(",")) {
      Expect("]");
      break;
    }
  }
  return strings;
}

/// Defaults matter to callers only.
void SignatureParser::SkipDefault() {
  SkipSpace();
  if (!rest_.empty() && rest_[0] == '\'') {
    String();
    return;
  }
  const size_t end = rest_.find_first_of(",)");
  if (end == 0 || end == std::string_view::npos) Fail("expected a default");
  rest_.remove_prefix(end);
}

Signature::Signature(const char* op, std::string_view text) : op_(op) {
  SignatureParser(*this, text).Parse();
}

}  // namespace mlf
