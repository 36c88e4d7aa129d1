// Reads the text of a signature. Counterparts: signature_parser.cc, signature.h (the grammar).
#pragma once
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/signature.h"

namespace mlf {

class SignatureParser {
 public:
  /// Fills `signature`, which is empty.
  SignatureParser(Signature& signature, std::string_view text) : out_(signature), rest_(text) {}

  /// Throws InternalError saying where the text is no signature.
  void Parse();

 private:
  void Parameter();
  void AttributeType(const std::string& name);
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
  std::string String();
  std::vector<std::string> Strings();
  void SkipDefault();

  Signature& out_;
  std::string_view rest_;
};

}  // namespace mlf
