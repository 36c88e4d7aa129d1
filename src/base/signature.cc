// Checks of an op's tensors against its signature. Counterparts: signature.h, signature_parser.cc.
#include "base/signature.h"

#include <algorithm>
#include <sstream>

#include "base/dtype.h"
#include "base/quote.h"

namespace mlf {
namespace {

/// Bytes of a contiguous tensor: [begin, end).
struct ByteRange {
  const char* begin;
  const char* end;
  explicit ByteRange(const TensorView& t)
      : begin(Data<const char>(t)), end(begin + t.numel() * DtypeBytes(t.dtype())) {}
  bool Overlaps(const ByteRange& other) const {
    const bool empty = begin == end || other.begin == other.end;
    return !empty && begin < other.end && other.begin < end;
  }
  bool operator==(const ByteRange& other) const { return begin == other.begin && end == other.end; }
};

bool SameDevice(const TensorView& a, const TensorView& b) {
  return a.device().device_type == b.device().device_type &&
         a.device().device_id == b.device().device_id;
}

}  // namespace

void Signature::Check(Tensors tensors, size_t count) const {
  if (count != tensors_.size()) {
    TVM_FFI_THROW(InternalError) << op_ << ": checks " << count << " tensors, declares "
                                 << tensors_.size();
  }
  Symbols symbols;
  for (size_t i = 0; i < count; ++i) {
    if (tensors[i] == nullptr) continue;
    CheckDtype(tensors, i);
    CheckShape(tensors, i, symbols);
    CheckLayout(tensors, i);
  }
  for (size_t i = 0; i < count; ++i) {
    if (tensors[i] != nullptr && tensors_[i].use != TensorSpec::Use::kInput) {
      CheckOverlap(tensors, i);
    }
  }
}

int Signature::Choice(std::string_view attribute, std::string_view value) const {
  for (const ChoiceSpec& choice : choices_) {
    if (choice.attribute != attribute) continue;
    const auto found = std::find(choice.values.begin(), choice.values.end(), value);
    if (found != choice.values.end()) return static_cast<int>(found - choice.values.begin());
    std::ostringstream expected;
    for (const std::string& v : choice.values) {
      expected << (&v == choice.values.data() ? "'" : ", '") << v << "'";
    }
    TVM_FFI_THROW(ValueError) << op_ << ": " << choice.attribute << " is " << Quoted(value)
                              << ", expected one of " << expected.str();
  }
  TVM_FFI_THROW(InternalError) << op_ << ": " << std::string(attribute) << " has no choices";
}

// ---- dtype --------------------------------------------------------------------------------------

void Signature::CheckDtype(Tensors tensors, size_t i) const {
  const TensorSpec& spec = tensors_[i];
  const DLDataType dtype = tensors[i]->dtype();
  if (std::find(spec.dtypes.begin(), spec.dtypes.end(), dtype) != spec.dtypes.end()) return;
  if (spec.like >= 0 && tensors[spec.like] != nullptr && tensors[spec.like]->dtype() == dtype) {
    return;
  }
  TVM_FFI_THROW(TypeError) << op_ << ": " << spec.name << " is " << DtypeName(dtype)
                           << ", expected " << ExpectedDtypes(tensors, i);
}

std::string Signature::ExpectedDtypes(Tensors tensors, size_t i) const {
  const TensorSpec& spec = tensors_[i];
  std::string list;
  if (spec.like >= 0 && tensors[spec.like] != nullptr) {
    list = DtypeName(tensors[spec.like]->dtype()) + " (like " + tensors_[spec.like].name + ")";
  }
  for (DLDataType d : spec.dtypes) list += (list.empty() ? "" : ", ") + DtypeName(d);
  return (list.find(", ") == std::string::npos ? "" : "one of ") + list;
}

// ---- shape --------------------------------------------------------------------------------------

void Signature::CheckShape(Tensors tensors, size_t i, Symbols& symbols) const {
  const TensorSpec& spec = tensors_[i];
  const TensorView& t = *tensors[i];
  const auto n_dims = static_cast<int64_t>(spec.dims.size());
  const int64_t lead = spec.batch >= 0 ? t.ndim() - n_dims : 0;
  if (t.ndim() > 0 && t.shape().data() == nullptr) {
    TVM_FFI_THROW(ValueError) << op_ << ": " << spec.name << " has no shape, expected " << t.ndim()
                              << " sizes";
  }
  bool match = lead >= 0 && t.ndim() == lead + n_dims;
  for (int64_t k = 0; match && k < t.ndim(); ++k) match = t.shape()[k] >= 0;
  if (match && spec.batch >= 0) match = MatchBatch(tensors, i, lead, symbols);
  for (int64_t k = 0; match && k < n_dims; ++k) {
    const DimSpec& dim = spec.dims[k];
    const int64_t size = t.shape()[lead + k];
    if (dim.kind == DimSpec::Kind::kNumber) match = size == dim.value;
    if (dim.kind != DimSpec::Kind::kSymbol) continue;
    Bound& bound = symbols[dim.value];
    if (bound.by < 0) bound = {static_cast<int>(i), size};
    match = bound.size == size;
  }
  if (match) return;
  TVM_FFI_THROW(ValueError) << op_ << ": " << spec.name << " has shape " << ShapeString(t)
                            << ", expected [" << ExpectedShape(tensors, i, symbols) << ']';
}

bool Signature::MatchBatch(Tensors tensors, size_t i, int64_t lead, Symbols& symbols) const {
  Bound& bound = symbols[tensors_[i].batch];
  if (bound.by < 0) {
    bound = {static_cast<int>(i), lead};
    return true;
  }
  const auto first = tensors[bound.by]->shape().begin(), here = tensors[i]->shape().begin();
  return bound.size == lead && std::equal(first, first + lead, here);
}

std::string Signature::ExpectedShape(Tensors tensors, size_t i, const Symbols& symbols) const {
  const TensorSpec& spec = tensors_[i];
  std::ostringstream os;
  const auto from = [&](const Bound& bound) {
    if (bound.by != static_cast<int>(i)) os << " (from " << tensors_[bound.by].name << ')';
  };
  if (spec.batch >= 0) {
    const Bound& bound = symbols[spec.batch];
    os << '*' << symbols_[spec.batch];
    if (bound.by >= 0 && bound.by != static_cast<int>(i)) {
      os << "=(";
      for (int64_t k = 0; k < bound.size; ++k) {
        os << (k == 0 ? "" : ", ") << tensors[bound.by]->shape()[k];
      }
      os << ')';
      from(bound);
    }
  }
  bool first = spec.batch < 0;
  for (const DimSpec& dim : spec.dims) {
    if (!first) os << ", ";
    first = false;
    if (dim.kind == DimSpec::Kind::kNumber) os << dim.value;
    if (dim.kind == DimSpec::Kind::kExpression) os << '?';
    if (dim.kind != DimSpec::Kind::kSymbol) continue;
    const Bound& bound = symbols[dim.value];
    os << symbols_[dim.value];
    if (bound.by < 0) continue;
    os << '=' << bound.size;
    from(bound);
  }
  return os.str();
}

// ---- memory -------------------------------------------------------------------------------------

void Signature::CheckLayout(Tensors tensors, size_t i) const {
  const TensorView& t = *tensors[i];
  const std::string& name = tensors_[i].name;
  if (!t.IsContiguous()) {
    TVM_FFI_THROW(ValueError) << op_ << ": " << name
                              << " must be contiguous, got strides of a view of shape "
                              << ShapeString(t);
  }
  CheckDevice(tensors, i);
  // What a FakeTensor of torch arrives as; nothing else of any size is without memory.
  if (t.data_ptr() == nullptr && t.numel() != 0) {
    TVM_FFI_THROW(ValueError) << op_ << ": " << name << " has no memory, got a fake or meta tensor";
  }
}

void Signature::CheckDevice(Tensors tensors, size_t i) const {
  const auto first = std::find_if(tensors, tensors + i, [](auto* t) { return t != nullptr; });
  if (SameDevice(**first, *tensors[i])) return;
  const DLDevice a = tensors[i]->device(), b = (*first)->device();
  TVM_FFI_THROW(ValueError) << op_ << ": " << tensors_[i].name << " is on device " << a.device_type
                            << ':' << a.device_id << ", " << tensors_[first - tensors].name
                            << " is on " << b.device_type << ':' << b.device_id;
}

void Signature::CheckOverlap(Tensors tensors, size_t i) const {
  const TensorSpec& spec = tensors_[i];
  const ByteRange mine(*tensors[i]);
  for (size_t j = 0; j < tensors_.size(); ++j) {
    if (j == i || tensors[j] == nullptr) continue;
    const ByteRange other(*tensors[j]);
    if (!mine.Overlaps(other)) continue;
    const auto& allowed = spec.may_be;
    const bool may_be =
        std::find(allowed.begin(), allowed.end(), static_cast<int>(j)) != allowed.end();
    // The other way round is told when its turn comes, by the one that has the permission.
    const auto& theirs = tensors_[j].may_be;
    const bool may_be_theirs =
        std::find(theirs.begin(), theirs.end(), static_cast<int>(i)) != theirs.end();
    if (may_be_theirs || (may_be && mine == other)) continue;
    TVM_FFI_THROW(ValueError) << op_ << ": " << spec.name << " overlaps " << tensors_[j].name
                              << " in memory"
                              << (may_be ? "; it may be the whole of it or apart from it"
                                         : ", expected memory of its own");
  }
}

}  // namespace mlf
