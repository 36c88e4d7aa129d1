// Structures across the border: maps of named fields, each read once, none left over.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/array.h"

namespace mlf {

/// Reads the fields of a map into variables, which keep their values where the map has none or
/// None. TypeError and ValueError name structure and field.
class Fields {
 public:
  Fields(const char* structure, ffi::Map<ffi::String, ffi::Any> values)
      : structure_(structure), values_(std::move(values)) {}

  template <typename T>
  void Read(const char* name, T& out) {
    if (const auto value = Find(name)) out = As<T>(name, *value);
  }
  template <typename T>
  void Read(const char* name, std::optional<T>& out) {
    if (const auto value = Find(name)) out = As<T>(name, *value);
  }
  /// One of the numbers 0 … count - 1.
  template <typename Enum>
  void ReadEnum(const char* name, Enum& out, int64_t count) {
    int64_t number = static_cast<int64_t>(out);
    Read(name, number);
    if (number < 0 || number >= count) {
      TVM_FFI_THROW(ValueError) << structure_ << ": " << name << " is " << number
                                << ", expected 0 to " << count - 1;
    }
    out = static_cast<Enum>(number);
  }

  /// ValueError for a field that nobody read.
  void Finish() const {
    for (const auto& [name, value] : values_) {
      const std::string given(name.data(), name.size());
      if (known_.contains(given)) continue;
      std::string all;
      for (const std::string& field : known_) all += (all.empty() ? "" : ", ") + field;
      TVM_FFI_THROW(ValueError) << structure_ << ": there is no field \"" << given
                                << "\"; fields are " << all;
    }
  }

 private:
  std::optional<ffi::Any> Find(const char* name) {
    known_.insert(name);
    const auto found = values_.find(name);
    if (found == values_.end() || (*found).second == nullptr) return std::nullopt;
    return (*found).second;
  }

  template <typename T>
  T As(const char* name, const ffi::Any& value) const {
    if constexpr (std::is_same_v<T, std::string>) {
      const auto text = Cast<ffi::String>(name, value);
      return {text.data(), text.size()};
    } else if constexpr (std::is_same_v<T, std::vector<int32_t>>) {
      std::vector<int32_t> ids;
      for (const int64_t id : Cast<ffi::Array<int64_t>>(name, value)) {
        if (id < INT32_MIN || id > INT32_MAX) {
          TVM_FFI_THROW(ValueError)
              << structure_ << ": " << name << " has " << id << ", which is no token";
        }
        ids.push_back(static_cast<int32_t>(id));
      }
      return ids;
    } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
      std::vector<std::string> words;
      for (const ffi::Bytes& word : Cast<ffi::Array<ffi::Bytes>>(name, value)) {
        words.emplace_back(word.data(), word.size());
      }
      return words;
    } else {
      return static_cast<T>(Cast<Carrier<T>>(name, value));
    }
  }

  /// What crosses the border for a T.
  template <typename T>
  using Carrier = std::conditional_t<
      std::is_same_v<T, bool>, bool,
      std::conditional_t<std::is_integral_v<T>, int64_t,
                         std::conditional_t<std::is_floating_point_v<T>, double, T>>>;

  template <typename T>
  T Cast(const char* name, const ffi::Any& value) const {
    const std::optional<T> cast = value.try_cast<T>();
    if (!cast) {
      TVM_FFI_THROW(TypeError) << structure_ << ": " << name << " is " << value.GetTypeKey()
                               << ", expected " << ffi::details::Type2Str<T>::v();
    }
    return *cast;
  }

  const char* structure_;
  ffi::Map<ffi::String, ffi::Any> values_;
  std::set<std::string> known_;
};

}  // namespace mlf
