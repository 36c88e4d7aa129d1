// The signature of an op: one line in Python grammar, read once, and the checks that it implies.
// Counterparts: signature.cc (checks), signature_parser.cc (grammar), python declaration.py.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/array.h"

namespace mlf {

// (x: T['*batch hidden', 'f32 f16 bf16'], weight: T['hidden'], *, eps: float = 1e-06)
//     -> T['*batch hidden', 'may be x']
//
// T is read, Mut is written in place, what stands after the arrow is an output. First string: the
// shape. `*name` is any number of leading dimensions; a name is bound by the first tensor that uses
// it; numbers stand for themselves; outputs may have expressions of names and attributes, which the
// op checks itself. Further strings: dtypes ("f32 f16", "like x", "like x or u8" with an input x
// before; none means like the first tensor), and "may be x y" for an output that may be exactly the
// memory of x or y. Callers get an output of the dtype of x; of the first dtype that is named where
// there is no x, or where x holds bytes.
// Attributes are float, int, bool, Literal['a', 'b'], each perhaps `| None`.

struct DimSpec {
  enum class Kind { kSymbol, kNumber, kExpression };
  Kind kind;
  int64_t value;  // index of the symbol, or the number
};

struct TensorSpec {
  enum class Use { kInput, kMutable, kOutput };
  std::string name{};
  Use use = Use::kInput;
  bool optional = false;
  int batch = -1;  // symbol of the leading dimensions
  std::vector<DimSpec> dims{};
  std::vector<DLDataType> dtypes{};
  int like = -1;              // tensor whose dtype is allowed besides `dtypes`
  std::vector<int> may_be{};  // tensors whose memory this output may be
};

struct ChoiceSpec {
  std::string attribute{};
  std::vector<std::string> values{};
};

class Signature {
 public:
  static constexpr int kMaxSymbols = 16;

  /// Empty, for a SignatureParser to fill.
  explicit Signature(const char* op) : op_(op) {}

  /// Throws InternalError when `text` is no signature.
  Signature(const char* op, std::string_view text);

  /// Dtype, shape, contiguity, device, memory and overlap of all tensors: inputs as they stand,
  /// then outputs; null where an optional one is absent. Throws ValueError or TypeError naming op
  /// and tensor.
  void Check(const TensorView* const* tensors, size_t count) const;

  /// Index of `value` among the choices of an attribute; ValueError when it is none of them.
  int Choice(std::string_view attribute, std::string_view value) const;

  /// Inputs in their order, then outputs.
  const std::vector<TensorSpec>& tensors() const { return tensors_; }

 private:
  friend class SignatureParser;

  /// What a symbol stands for within one call.
  struct Bound {
    int by;        // the tensor that bound it; -1 as long as none did
    int64_t size;  // of the dimension; number of leading dimensions for a batch
  };
  using Symbols = std::array<Bound, kMaxSymbols>;  // those of the signature are set
  using Tensors = const TensorView* const*;

  bool MatchDtype(Tensors tensors, size_t i) const;
  bool MatchShape(Tensors tensors, size_t i, Symbols& symbols) const;
  bool MatchBatch(Tensors tensors, size_t i, int64_t lead, Symbols& symbols) const;
  void CheckMemory(Tensors tensors, size_t i, size_t first) const;
  void CheckOverlap(Tensors tensors, size_t i) const;

  // Apart from the checks, which every call goes through.
  [[noreturn]] void RefuseCount(size_t count) const;
  [[noreturn]] void RefuseDtype(Tensors tensors, size_t i) const;
  [[noreturn]] void RefuseShape(Tensors tensors, size_t i, const Symbols& symbols) const;
  [[noreturn]] void RefuseNoShape(const TensorView& t, size_t i) const;
  [[noreturn]] void RefuseStrides(const TensorView& t, size_t i) const;
  [[noreturn]] void RefuseDevice(Tensors tensors, size_t i, size_t first) const;
  [[noreturn]] void RefuseNoMemory(size_t i) const;
  [[noreturn]] void RefuseOverlap(size_t i, size_t j, bool may_be) const;
  std::string ExpectedShape(Tensors tensors, size_t i, const Symbols& symbols) const;
  std::string ExpectedDtypes(Tensors tensors, size_t i) const;

  const char* op_;
  std::vector<TensorSpec> tensors_{};
  std::vector<std::string> symbols_{};
  std::vector<ChoiceSpec> choices_{};
};

}  // namespace mlf
