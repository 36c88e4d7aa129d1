// An op: its declaration and its registration, in one place. Counterpart: signature.h.
#pragma once
#include <atomic>
#include <memory>
#include <sstream>
#include <string>

#include "base/registry.h"
#include "base/signature.h"

namespace mlf {

/// What every language sees of an op is made from this and from the C++ type of the function it
/// registers: functions, stubs, torch ops, documentation (docs/architecture.md, "Declared once").
///
///   const Op kNegate{"negate", "(x: T['*b d', 'f32']) -> T['*b d', 'may be x']", R"(Minus x.
///
///   x: What to negate.
///   )"};
///   void Negate(TensorView x, TensorView out) {
///     kNegate.Check(x, out);
///     negate_kernel(x.device(), out, x);
///   }
///   TVM_FFI_STATIC_INIT_BLOCK() { kNegate.Register(Negate); }
///
/// A function takes its tensors as the signature lists them, then the outputs, then the attributes.
/// The documentation is a line, paragraphs, and `name: text` for each argument; shapes, dtypes and
/// the errors of the checks are added to it.
class Op {
 public:
  /// Literals, so that an op is there before any code of the library runs; the signature is read at
  /// the first call.
  constexpr Op(const char* name, const char* signature, const char* doc)
      : name_(name), signature_(signature), doc_(doc) {}

  /// All that the signature says of the tensors (signature.h).
  template <typename... T>
  const Op& Check(const T&... tensors) const {
    const TensorView* pointers[] = {Pointer(tensors)...};
    Parsed().Check(pointers, sizeof...(tensors));
    return *this;
  }

  /// ValueError with the op's name and `message` unless `ok`.
  template <typename... Message>
  const Op& That(bool ok, const Message&... message) const {
    if (!ok) Refuse(message...);
    return *this;
  }

  /// The same where the message takes work to make.
  template <typename... Message>
  [[noreturn, gnu::cold, gnu::noinline]] void Refuse(const Message&... message) const {
    std::ostringstream os;
    (os << ... << message);
    TVM_FFI_THROW(ValueError) << name_ << ": " << os.str();
  }

  /// Index of the value of a Literal among its choices; ValueError for another.
  int Choice(std::string_view attribute, const ffi::String& value) const {
    return Parsed().Choice(attribute, {value.data(), value.size()});
  }

  const char* name() const { return name_; }

  template <typename Fn>
  void Register(Fn fn) const {
    const std::string name = std::string("my_llm_ffi.") + name_;
    FunctionDef().def(name.c_str(), fn, doc_, {{"op", signature_}, {"doc", doc_}});
  }

 private:
  static const TensorView* Pointer(const TensorView& t) { return &t; }
  static const TensorView* Pointer(const ffi::Optional<TensorView>& t) {
    return t.has_value() ? &*t : nullptr;
  }

  const Signature& Parsed() const {
    const Signature* parsed = parsed_.load(std::memory_order_acquire);
    if (parsed != nullptr) return *parsed;
    auto made = std::make_unique<const Signature>(name_, signature_);
    // Another thread may have been faster; what is kept lives as long as the process, because
    // callers may be inside.
    if (parsed_.compare_exchange_strong(parsed, made.get())) return *made.release();
    return *parsed;
  }

  const char* name_;
  const char* signature_;
  const char* doc_;
  mutable std::atomic<const Signature*> parsed_{nullptr};
};

}  // namespace mlf
