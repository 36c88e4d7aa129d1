// Metadata values as the types that callers ask for. Counterpart: gguf_value.h.
#include "io/gguf_value.h"

#include <tvm/ffi/tvm_ffi.h>

#include <limits>
#include <type_traits>

#include "base/quote.h"

namespace mlf {
namespace {

// In the order of the variants' alternatives.
constexpr const char* kScalarNames[] = {"an integer", "an unsigned integer", "a float", "a bool",
                                        "a string"};
constexpr const char* kArrayNames[] = {"an array of integers", "an array of unsigned integers",
                                       "an array of floats",   "an array of bools",
                                       "an array of strings",  "an array of arrays"};

const char* TypeName(const GgufValue& value) {
  if (const auto* array = std::get_if<GgufArray>(&value.value))
    return kArrayNames[array->items.index()];
  return kScalarNames[value.value.index()];
}

[[noreturn]] void FailType(const GgufKey& key, const GgufValue& value, const char* expected) {
  TVM_FFI_THROW(ValueError) << Quoted(key.path, key.path.size()) << ": metadata key "
                            << Quoted(key.name) << " is " << TypeName(value) << ", expected "
                            << expected;
}

[[noreturn]] void FailRange(const GgufKey& key, const std::string& number, const char* expected) {
  TVM_FFI_THROW(ValueError) << Quoted(key.path, key.path.size()) << ": metadata key "
                            << Quoted(key.name) << " has the value " << number << ", expected "
                            << expected;
}

template <typename T>
int64_t IntFrom(const GgufKey& key, T number) {
  if constexpr (std::is_unsigned_v<T>) {
    if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      FailRange(key, std::to_string(number), "at most 9223372036854775807");
  }
  return static_cast<int64_t>(number);
}

template <typename T>
double FloatFrom(const GgufKey& key, T number) {
  if constexpr (std::is_integral_v<T>) {
    constexpr T kExact = T{1} << std::numeric_limits<double>::digits;
    const bool exact = number <= kExact && (std::is_unsigned_v<T> || number >= T{0} - kExact);
    if (!exact) FailRange(key, std::to_string(number), "a magnitude of at most 2^53");
  }
  return static_cast<double>(number);
}

const GgufArray* ArrayOf(const GgufValue& value) { return std::get_if<GgufArray>(&value.value); }

bool IsEmpty(const GgufArray& array) {
  return std::visit([](const auto& items) { return items.empty(); }, array.items);
}

// T is the number wanted, From... the item types that convert to it.
template <typename T, typename... From, typename Convert>
std::vector<T> Numbers(const GgufKey& key, const GgufValue& value, const char* expected,
                       const Convert& convert) {
  const GgufArray* array = ArrayOf(value);
  if (array == nullptr) FailType(key, value, expected);
  std::vector<T> numbers;
  bool known = IsEmpty(*array);
  const auto append = [&](const auto* items) {
    if (items == nullptr) return;
    known = true;
    numbers.reserve(items->size());
    for (const auto item : *items) numbers.push_back(convert(key, item));
  };
  (append(std::get_if<std::vector<From>>(&array->items)), ...);
  if (!known) FailType(key, value, expected);
  return numbers;
}

}  // namespace

int64_t AsInt(const GgufKey& key, const GgufValue& value) {
  if (const auto* number = std::get_if<int64_t>(&value.value)) return *number;
  if (const auto* number = std::get_if<uint64_t>(&value.value)) return IntFrom(key, *number);
  FailType(key, value, "an integer");
}

double AsFloat(const GgufKey& key, const GgufValue& value) {
  if (const auto* number = std::get_if<double>(&value.value)) return *number;
  if (const auto* number = std::get_if<int64_t>(&value.value)) return FloatFrom(key, *number);
  if (const auto* number = std::get_if<uint64_t>(&value.value)) return FloatFrom(key, *number);
  FailType(key, value, "a float");
}

bool AsBool(const GgufKey& key, const GgufValue& value) {
  if (const auto* flag = std::get_if<bool>(&value.value)) return *flag;
  FailType(key, value, "a bool");
}

std::string_view AsString(const GgufKey& key, const GgufValue& value) {
  if (const auto* text = std::get_if<std::string_view>(&value.value)) return *text;
  FailType(key, value, "a string");
}

const std::vector<std::string_view>& AsStrings(const GgufKey& key, const GgufValue& value) {
  static const std::vector<std::string_view> kNone;
  if (const GgufArray* array = ArrayOf(value)) {
    if (IsEmpty(*array)) return kNone;
    if (const auto* items = std::get_if<std::vector<std::string_view>>(&array->items))
      return *items;
  }
  FailType(key, value, "an array of strings");
}

std::vector<int64_t> AsInts(const GgufKey& key, const GgufValue& value) {
  return Numbers<int64_t, int64_t, uint64_t>(
      key, value, "an array of integers",
      [](const GgufKey& k, auto number) { return IntFrom(k, number); });
}

std::vector<double> AsFloats(const GgufKey& key, const GgufValue& value) {
  return Numbers<double, double, int64_t, uint64_t>(
      key, value, "an array of floats",
      [](const GgufKey& k, auto number) { return FloatFrom(k, number); });
}

}  // namespace mlf
