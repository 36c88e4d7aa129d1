// What an exception says, for those who may not throw another one.
#pragma once
#include <exception>
#include <new>
#include <string>

namespace mlf {

/// Short enough for a string without memory of its own.
inline constexpr const char* kOutOfMemory = "out of memory";

inline std::string TextWhereMemoryAllows(const char* text) noexcept {
  try {
    return text;
  } catch (...) {
    return kOutOfMemory;
  }
}

inline std::string ErrorText(const std::exception& error) noexcept {
  const bool no_memory = dynamic_cast<const std::bad_alloc*>(&error) != nullptr;
  return TextWhereMemoryAllows(no_memory ? kOutOfMemory : error.what());
}

}  // namespace mlf
