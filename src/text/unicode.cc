// UTF-8 decoding and character classes. Counterpart: unicode.h.
#include "text/unicode.h"

#include <algorithm>
#include <array>

#include "text/unicode_tables.h"

namespace mlf {
namespace {

constexpr uint32_t kAsciiEnd = 0x80;

CharClass SearchRuns(uint32_t code_point) {
  const uint32_t* end = kCharClassRuns + kCharClassRunCount;
  // Any class of this code point sorts at or below code_point << 2 | 3.
  const uint32_t* next = std::upper_bound(kCharClassRuns, end, code_point << 2 | 3);
  return static_cast<CharClass>(next[-1] & 3);
}

/// Bytes of the character that `lead` begins, and the range its second byte must lie in: narrower
/// than 80..BF where an overlong form, a surrogate or a value past 10FFFF would follow.
struct Lead {
  uint8_t length = 0;  // 0: begins no character
  uint8_t second_min = 0x80;
  uint8_t second_max = 0xBF;
};

Lead LeadOf(uint8_t lead) {
  if (lead < 0x80) return {1};
  if (lead < 0xC2) return {0};
  if (lead < 0xE0) return {2};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead < 0xF0) return {3};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead < 0xF4) return {4};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {0};
}

}  // namespace

CharClass ClassOf(uint32_t code_point) {
  static const auto ascii = [] {
    std::array<CharClass, kAsciiEnd> classes{};
    for (uint32_t i = 0; i < kAsciiEnd; ++i) classes[i] = SearchRuns(i);
    return classes;
  }();
  return code_point < kAsciiEnd ? ascii[code_point] : SearchRuns(code_point);
}

Utf8Span ScanUtf8(std::string_view text, size_t pos) {
  const Lead lead = LeadOf(static_cast<uint8_t>(text[pos]));
  if (lead.length == 0) return {Utf8State::kInvalid, 1};
  for (uint8_t i = 1; i < lead.length; ++i) {
    if (pos + i >= text.size()) return {Utf8State::kIncomplete, i};
    const auto byte = static_cast<uint8_t>(text[pos + i]);
    const bool fits =
        i == 1 ? byte >= lead.second_min && byte <= lead.second_max : byte >= 0x80 && byte <= 0xBF;
    if (!fits) return {Utf8State::kInvalid, i};
  }
  return {Utf8State::kValid, lead.length};
}

Utf8Char DecodeUtf8(std::string_view text, size_t pos) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[pos + i]); };
  if (byte(0) < kAsciiEnd) return {byte(0), 1, true};
  const Utf8Span span = ScanUtf8(text, pos);
  if (span.state != Utf8State::kValid) return {};
  uint32_t code = byte(0) & (0x7F >> span.length);
  for (uint8_t i = 1; i < span.length; ++i) code = code << 6 | (byte(i) & 0x3F);
  return {code, span.length, true};
}

void AppendUtf8(uint32_t code_point, std::string* out) {
  const auto tail = [&](int shift) {
    out->push_back(static_cast<char>(0x80 | ((code_point >> shift) & 0x3F)));
  };
  if (code_point < 0x80) {
    out->push_back(static_cast<char>(code_point));
  } else if (code_point < 0x800) {
    out->push_back(static_cast<char>(0xC0 | code_point >> 6));
    tail(0);
  } else if (code_point < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | code_point >> 12));
    tail(6);
    tail(0);
  } else {
    out->push_back(static_cast<char>(0xF0 | code_point >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

}  // namespace mlf
