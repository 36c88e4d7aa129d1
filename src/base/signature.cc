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
  if (count != tensors_.size()) RefuseCount(count);
  Symbols symbols;
  std::fill_n(symbols.begin(), symbols_.size(), Bound{-1, 0});
  size_t first = count;
  for (size_t i = 0; i < count; ++i) {
    if (tensors[i] == nullptr) continue;
    if (first == count) first = i;
    if (!MatchDtype(tensors, i)) RefuseDtype(tensors, i);
    if (!MatchShape(tensors, i, symbols)) RefuseShape(tensors, i, symbols);
    CheckMemory(tensors, i, first);
  }
  for (size_t i = 0; i < count; ++i) {
    if (tensors[i] != nullptr && tensors_[i].use != TensorSpec::Use::kInput) {
      CheckOverlap(tensors, i);
    }
  }
}

void Signature::RefuseCount(size_t count) const {
  TVM_FFI_THROW(InternalError) << op_ << ": checks " << count << " tensors, declares "
                               << tensors_.size();
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

bool Signature::MatchDtype(Tensors tensors, size_t i) const {
  const TensorSpec& spec = tensors_[i];
  const DLDataType dtype = tensors[i]->dtype();
  if (std::find(spec.dtypes.begin(), spec.dtypes.end(), dtype) != spec.dtypes.end()) return true;
  return spec.like >= 0 && tensors[spec.like] != nullptr && tensors[spec.like]->dtype() == dtype;
}

void Signature::RefuseDtype(Tensors tensors, size_t i) const {
  TVM_FFI_THROW(TypeError) << op_ << ": " << tensors_[i].name << " is "
                           << DtypeName(tensors[i]->dtype()) << ", expected "
                           << ExpectedDtypes(tensors, i);
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

bool Signature::MatchShape(Tensors tensors, size_t i, Symbols& symbols) const {
  const TensorSpec& spec = tensors_[i];
  const TensorView& t = *tensors[i];
  const auto n_dims = static_cast<int64_t>(spec.dims.size());
  const int64_t lead = t.ndim() - n_dims;
  if (lead < 0 || (lead > 0 && spec.batch < 0)) return false;
  const int64_t* shape = t.shape().data();
  if (shape == nullptr && t.ndim() > 0) RefuseNoShape(t, i);
  for (int64_t k = 0; k < t.ndim(); ++k) {
    if (shape[k] < 0) return false;
  }
  if (spec.batch >= 0 && !MatchBatch(tensors, i, lead, symbols)) return false;
  const int64_t* sizes = shape + lead;
  for (int64_t k = 0; k < n_dims; ++k) {
    const DimSpec& dim = spec.dims[k];
    if (dim.kind == DimSpec::Kind::kNumber && sizes[k] != dim.value) return false;
    if (dim.kind != DimSpec::Kind::kSymbol) continue;
    Bound& bound = symbols[dim.value];
    if (bound.by < 0) bound = {static_cast<int>(i), sizes[k]};
    if (bound.size != sizes[k]) return false;
  }
  return true;
}

void Signature::RefuseShape(Tensors tensors, size_t i, const Symbols& symbols) const {
  TVM_FFI_THROW(ValueError) << op_ << ": " << tensors_[i].name << " has shape "
                            << ShapeString(*tensors[i]) << ", expected ["
                            << ExpectedShape(tensors, i, symbols) << ']';
}

void Signature::RefuseNoShape(const TensorView& t, size_t i) const {
  TVM_FFI_THROW(ValueError) << op_ << ": " << tensors_[i].name << " has no shape, expected "
                            << t.ndim() << " sizes";
}

bool Signature::MatchBatch(Tensors tensors, size_t i, int64_t lead, Symbols& symbols) const {
  Bound& bound = symbols[tensors_[i].batch];
  if (bound.by < 0) {
    bound = {static_cast<int>(i), lead};
    return true;
  }
  if (bound.size != lead) return false;
  const int64_t *first = tensors[bound.by]->shape().data(), *here = tensors[i]->shape().data();
  for (int64_t k = 0; k < lead; ++k) {
    if (first[k] != here[k]) return false;
  }
  return true;
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

void Signature::CheckMemory(Tensors tensors, size_t i, size_t first) const {
  const TensorView& t = *tensors[i];
  if (!t.IsContiguous()) RefuseStrides(t, i);
  if (!SameDevice(*tensors[first], t)) RefuseDevice(tensors, i, first);
  // What a FakeTensor of torch arrives as; nothing else of any size is without memory.
  if (t.data_ptr() == nullptr && t.numel() != 0) RefuseNoMemory(i);
}

void Signature::RefuseStrides(const TensorView& t, size_t i) const {
  TVM_FFI_THROW(ValueError) << op_ << ": " << tensors_[i].name
                            << " must be contiguous, got strides of a view of shape "
                            << ShapeString(t);
}

void Signature::RefuseDevice(Tensors tensors, size_t i, size_t first) const {
  const DLDevice a = tensors[i]->device(), b = tensors[first]->device();
  TVM_FFI_THROW(ValueError) << op_ << ": " << tensors_[i].name << " is on device " << a.device_type
                            << ':' << a.device_id << ", " << tensors_[first].name << " is on "
                            << b.device_type << ':' << b.device_id;
}

void Signature::RefuseNoMemory(size_t i) const {
  TVM_FFI_THROW(ValueError) << op_ << ": " << tensors_[i].name
                            << " has no memory, got a fake or meta tensor";
}

void Signature::CheckOverlap(Tensors tensors, size_t i) const {
  const ByteRange mine(*tensors[i]);
  for (size_t j = 0; j < tensors_.size(); ++j) {
    if (j == i || tensors[j] == nullptr) continue;
    const ByteRange other(*tensors[j]);
    if (!mine.Overlaps(other)) continue;
    const auto& allowed = tensors_[i].may_be;
    const bool may_be =
        std::find(allowed.begin(), allowed.end(), static_cast<int>(j)) != allowed.end();
    // The other way round is told when its turn comes, by the one that has the permission.
    const auto& theirs = tensors_[j].may_be;
    const bool may_be_theirs =
        std::find(theirs.begin(), theirs.end(), static_cast<int>(i)) != theirs.end();
    if (may_be_theirs || (may_be && mine == other)) continue;
    RefuseOverlap(i, j, may_be);
  }
}

void Signature::RefuseOverlap(size_t i, size_t j, bool may_be) const {
  TVM_FFI_THROW(ValueError) << op_ << ": " << tensors_[i].name << " overlaps " << tensors_[j].name
                            << " in memory"
                            << (may_be ? "; it may be the whole of it or apart from it"
                                       : ", expected memory of its own");
}

}  // namespace mlf
