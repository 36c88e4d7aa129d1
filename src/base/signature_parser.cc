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

constexpr size_t kMaxDigits = 18;  // of a number that fits 64 bits

size_t Digits(std::string_view text) {
  return std::min(text.find_first_not_of("0123456789"), text.size());
}

/// Whether Python reads it as a decimal number that fits 64 bits.
bool IsDecimal(std::string_view text, bool may_have_fraction) {
  if (!text.empty() && text[0] == '-') text.remove_prefix(1);
  const size_t whole = Digits(text);
  if (whole == 0 || whole > kMaxDigits || (whole > 1 && text[0] == '0')) return false;
  text.remove_prefix(whole);
  if (!may_have_fraction) return text.empty();
  if (!text.empty() && text[0] == '.') text.remove_prefix(1 + Digits(text.substr(1)));
  if (text.empty()) return true;
  if (text[0] != 'e') return false;
  text.remove_prefix(1);
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  return !text.empty() && text.size() <= 3 && Digits(text) == text.size();
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

// What Python's keyword.kwlist holds, and its soft keywords do not: those are names as well.
constexpr std::string_view kKeywords[] = {
    "False", "None",     "True",  "and",    "as",   "assert", "async",  "await",    "break",
    "class", "continue", "def",   "del",    "elif", "else",   "except", "finally",  "for",
    "from",  "global",   "if",    "import", "in",   "is",     "lambda", "nonlocal", "not",
    "or",    "pass",     "raise", "return", "try",  "while",  "with",   "yield"};

}  // namespace

bool IsIdentifier(std::string_view text) {
  return IsName(text) && text[0] != '_' &&
         std::find(std::begin(kKeywords), std::end(kKeywords), text) == std::end(kKeywords);
}

void SignatureParser::Parse() {
  Expect("(");
  while (!Accept(")")) {
    Parameter();
    if (!Accept(",")) {
      Expect(")");
      break;
    }
  }
  if (after_star_ && options_.empty()) Fail("no option behind the '*'");
  Expect("->");
  Result();
  SkipSpace();
  if (!rest_.empty()) Fail("more than a signature");
}

std::vector<ArgumentSpec> SignatureParser::Arguments() const {
  std::vector<ArgumentSpec> arguments;
  for (const TensorSpec& tensor : out_.tensors_) {
    arguments.push_back({tensor.name, "tensor", tensor.optional});
  }
  arguments.insert(arguments.end(), options_.begin(), options_.end());
  return arguments;
}

void SignatureParser::RefuseUnchecked() const {
  const std::vector<TensorSpec>& tensors = out_.tensors_;
  if (tensors.empty() || tensors[0].use == TensorSpec::Use::kOutput || tensors[0].optional)
    Fail("a signature must begin with a tensor that is always given");
  std::vector<std::string> bound;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].use != TensorSpec::Use::kOutput) {
      if (tensors[i].optional) continue;
      bound.insert(bound.end(), shapes_[i].begin(), shapes_[i].end());
      continue;
    }
    for (const std::string& word : shapes_[i]) {
      if (IsNumber(word) || std::find(bound.begin(), bound.end(), word) != bound.end()) continue;
      Fail(tensors[i].name, " has the size ", word, ", expected a number or a size of an input");
    }
  }
}

// ---- parameters and results ---------------------------------------------------------------------

void SignatureParser::Parameter() {
  if (Accept("*")) {
    if (after_star_) Fail("a second '*'");
    after_star_ = true;
    return;
  }
  const std::string name = NewName(Name());
  Expect(":");
  const bool in_place = Accept("Mut");
  if (!in_place && !Accept("T")) return Option(name);
  if (after_star_) Fail(name, " is a tensor behind the '*'");
  Tensor(name, in_place ? TensorSpec::Use::kMutable : TensorSpec::Use::kInput);
  TensorDefault(name);
}

void SignatureParser::TensorDefault(const std::string& name) {
  bool& optional = out_.tensors_.back().optional;
  const bool after_optional = std::any_of(out_.tensors_.begin(), out_.tensors_.end() - 1,
                                          [](const TensorSpec& before) { return before.optional; });
  if (Accept("|")) {
    Expect("None");
    Expect("=");
    Expect("None");
    optional = true;
  }
  if (after_optional && !optional) Fail(name, " must be given, but one before it need not");
}

void SignatureParser::Option(const std::string& name) {
  ArgumentSpec option{.name = name};
  if (Accept("Literal")) {
    option.kind = "choice";
    out_.choices_.push_back({name, Strings()});
    if (out_.choices_.back().values.empty()) Fail(name, " has no choices");
  }
  for (const char* kind : {"float", "int", "bool"}) {
    if (option.kind.empty() && Accept(kind)) option.kind = kind;
  }
  if (option.kind.empty()) Fail("unknown type of ", name);
  if (!after_star_) Fail(name, " is an option before the '*'");
  if (Accept("|")) {
    Expect("None");
    option.optional = true;
  }
  if (Accept("=")) {
    SkipSpace();
    const std::string_view before = rest_;
    OptionDefault(option);
    option.fallback = before.substr(0, before.size() - rest_.size());
  }
  options_.push_back(std::move(option));
}

/// Defaults matter to callers only, but they must be able to read them.
void SignatureParser::OptionDefault(const ArgumentSpec& option) {
  SkipSpace();
  bool fits = option.optional && Accept("None");
  if (!fits && option.kind == "bool") {
    fits = Accept("True") || Accept("False");
  } else if (!fits && option.kind == "choice") {
    const std::vector<std::string>& values = out_.choices_.back().values;
    fits = std::find(values.begin(), values.end(), String()) != values.end();
  } else if (!fits) {
    const size_t length = std::min(rest_.find_first_of(",) "), rest_.size());
    fits = IsDecimal(rest_.substr(0, length), option.kind == "float");
    if (fits) rest_.remove_prefix(length);
  }
  if (!fits) Fail("expected a default that fits ", option.name);
}

void SignatureParser::Result() {
  if (Accept("None")) return;
  if (Accept("T")) return Tensor("out", TensorSpec::Use::kOutput);
  Expect("{");
  do {
    const std::string name = NewName(String());
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
  const TensorSpec* model = spec.like < 0 ? nullptr : &out_.tensors_[spec.like];
  if (model != nullptr && model->use == TensorSpec::Use::kOutput)
    Fail(name, " is like ", model->name, ", which is no input");
  if (model != nullptr && model->optional && use == TensorSpec::Use::kOutput && spec.dtypes.empty())
    Fail(name, " is like ", model->name, ", which may be None; expected a dtype beside it");
  out_.tensors_.push_back(std::move(spec));
}

void SignatureParser::Shape(std::string_view text, TensorSpec& spec) {
  auto& words = shapes_.emplace_back();
  for (std::string_view word : Words(text)) {
    words.emplace_back(word);
    if (word[0] == '*' && spec.batch < 0 && spec.dims.empty()) {
      spec.batch = SymbolNamed(word.substr(1), spec.use != TensorSpec::Use::kOutput);
      if (spec.batch < 0) Fail("no tensor before has '", word, "'");
    } else if (IsNumber(word)) {
      if (word.size() > kMaxDigits) Fail(word, " is no size");
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

/// A name of an argument, which no other one has and every language can say.
std::string SignatureParser::NewName(std::string name) {
  if (!IsIdentifier(name)) Fail("'", name, "' is no name");
  if (name == "out") Fail("'out' is what callers name the outputs");
  if (std::find(names_.begin(), names_.end(), name) != names_.end()) Fail("a second ", name);
  return names_.emplace_back(std::move(name));
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

Signature::Signature(const char* op, std::string_view text) : op_(op) {
  SignatureParser(*this, text).Parse();
}

}  // namespace mlf
