// Metadata values as the types that callers ask for. Counterpart: gguf_value.cc.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf.h"

namespace mlf {

/// Whose value it is, for messages.
struct GgufKey {
  const std::string& path;
  std::string_view name;
};

// Each throws ValueError naming path, key, what it is and what was expected. Integers of any width
// and sign convert where the value fits, to float where it is exact; an empty array is an array of
// anything.
int64_t AsInt(const GgufKey& key, const GgufValue& value);
double AsFloat(const GgufKey& key, const GgufValue& value);
bool AsBool(const GgufKey& key, const GgufValue& value);
std::string_view AsString(const GgufKey& key, const GgufValue& value);
const std::vector<std::string_view>& AsStrings(const GgufKey& key, const GgufValue& value);
std::vector<int64_t> AsInts(const GgufKey& key, const GgufValue& value);
std::vector<double> AsFloats(const GgufKey& key, const GgufValue& value);

}  // namespace mlf
