// UTF-8 that never fails, and the character classes of the pre-tokenizers. Counterpart: unicode.cc;
// the classes are in unicode_tables.cc.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace mlf {

/// \p{L}, \p{N}, White_Space, and everything else (marks, symbols, unassigned, invalid bytes).
enum class CharClass : uint8_t { kOther = 0, kLetter = 1, kNumber = 2, kSpace = 3 };

CharClass ClassOf(uint32_t code_point);

constexpr uint32_t kReplacementChar = 0xFFFD;

/// One code unit of text: a character, or one byte that belongs to none.
struct Utf8Char {
  uint32_t code = kReplacementChar;  // kReplacementChar where !valid
  uint8_t length = 1;                // bytes
  bool valid = false;
};

/// The code unit at `pos` < text.size().
Utf8Char DecodeUtf8(std::string_view text, size_t pos);

enum class Utf8State : uint8_t { kValid, kInvalid, kIncomplete };

/// What stands at `pos`: a character; bytes that no continuation can mend, as the maximal subpart
/// that one U+FFFD replaces (Unicode 15, section 3.9); or the beginning of a character that the
/// end of the text cuts off.
struct Utf8Span {
  Utf8State state;
  uint8_t length;  // bytes
};

Utf8Span ScanUtf8(std::string_view text, size_t pos);

void AppendUtf8(uint32_t code_point, std::string* out);

}  // namespace mlf
