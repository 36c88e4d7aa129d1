// Untrusted bytes and numbers made fit for an error message. Counterpart: quote.h.
#include "base/quote.h"

#include <algorithm>
#include <charconv>
#include <cstdint>

namespace mlf {
namespace {

// The second byte decides what the first leaves open (Unicode, table 3-7); the rest are 80..BF.
bool SecondByteFits(uint8_t first, uint8_t second) {
  switch (first) {
    case 0xE0:
      return second >= 0xA0 && second <= 0xBF;
    case 0xED:
      return second >= 0x80 && second <= 0x9F;
    case 0xF0:
      return second >= 0x90 && second <= 0xBF;
    case 0xF4:
      return second >= 0x80 && second <= 0x8F;
    default:
      return second >= 0x80 && second <= 0xBF;
  }
}

void AppendEscaped(uint8_t byte, std::string* out) {
  constexpr char kHex[] = "0123456789abcdef";
  if (byte == '"' || byte == '\\') {
    *out += {'\\', static_cast<char>(byte)};
  } else if (byte == '\n') {
    *out += "\\n";
  } else {
    *out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
  }
}

}  // namespace

size_t Utf8CharBytes(std::string_view text) {
  if (text.empty()) return 0;
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4) return 0;
  const size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  if (text.size() < length || !SecondByteFits(first, byte(1))) return 0;
  for (size_t i = 2; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  return length;
}

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = Utf8CharBytes(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string Quoted(std::string_view text, size_t max_bytes) {
  std::string out = "\"";
  size_t done = 0;
  while (done < text.size()) {
    const size_t length = Utf8CharBytes(text.substr(done));
    const size_t taken = std::max<size_t>(length, 1);
    if (taken > max_bytes - done) break;
    const uint8_t first = static_cast<uint8_t>(text[done]);
    if (length == 0 || first < 0x20 || first == 0x7F || first == '"' || first == '\\') {
      AppendEscaped(first, &out);
    } else {
      out += text.substr(done, length);
    }
    done += taken;
  }
  out += '"';
  if (done < text.size()) out += "… (" + std::to_string(text.size()) + " bytes)";
  return out;
}

std::string Shortest(double number) {
  char text[32];  // a sign, 17 digits, a point and an exponent
  return {text, std::to_chars(text, text + sizeof(text), number).ptr};
}

std::string Shortest(int64_t number) { return std::to_string(number); }

}  // namespace mlf
