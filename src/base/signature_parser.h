// Reads the text of a signature. Counterparts: signature_parser.cc, signature.h (the grammar).
#pragma once
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/signature.h"

namespace mlf {

/// Whether Python, C++ and Rust can say it: letters, digits and '_', neither a keyword of Python
/// nor begun with a digit or '_'.
bool IsIdentifier(std::string_view text);

/// An argument of a call, as others than the op's own C++ see it.
struct ArgumentSpec {
  std::string name{};
  std::string kind{};  // tensor, float, int, bool or choice
  bool optional = false;
  std::string fallback{};  // text of an option's default, as it stands there; empty: none
};

class SignatureParser {
 public:
  /// Fills `signature`, which is empty.
  SignatureParser(Signature& signature, std::string_view text) : out_(signature), rest_(text) {}

  /// Throws InternalError saying where the text is no signature.
  void Parse();

  /// Tensors, outputs, options: the order of a call. After Parse, as what follows.
  std::vector<ArgumentSpec> Arguments() const;

  /// Throws InternalError unless the checks of a signature alone hold all accesses of a kernel
  /// inside its tensors: the size of each output is that of an input, or a number.
  void RefuseUnchecked() const;

 private:
  void Parameter();
  void TensorDefault(const std::string& name);
  void Option(const std::string& name);
  void OptionDefault(const ArgumentSpec& option);
  void Result();
  void Tensor(const std::string& name, TensorSpec::Use use);
  void Shape(std::string_view text, TensorSpec& spec);
  void DtypesOrAliases(std::string_view text, TensorSpec& spec);
  int TensorNamed(std::string_view name) const;
  int SymbolNamed(std::string_view name, bool may_be_new);

  /// Throws InternalError with the place.
  template <typename... Words>
  [[noreturn]] void Fail(const Words&... words) const {
    std::ostringstream os;
    (os << ... << words);
    TVM_FFI_THROW(InternalError) << out_.op_ << ": bad signature, " << os.str() << " at '"
                                 << rest_.substr(0, 30) << "'";
  }
  void SkipSpace();
  bool Accept(std::string_view token);
  void Expect(std::string_view token);
  std::string Name();
  std::string NewName(std::string name);
  std::string String();
  std::vector<std::string> Strings();

  Signature& out_;
  std::string_view rest_;
  bool after_star_ = false;
  std::vector<std::string> names_{};
  std::vector<ArgumentSpec> options_{};
  std::vector<std::vector<std::string>> shapes_{};  // words, as long as out_.tensors_
};

}  // namespace mlf
