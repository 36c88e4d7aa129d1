// Untrusted bytes made fit for an error message. Counterpart: quote.cc.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace mlf {

/// Bytes of the well-formed UTF-8 character that `text` begins with (no surrogate, no overlong
/// form, at most U+10FFFF); 0 when there is none.
size_t Utf8CharBytes(std::string_view text);

bool IsUtf8(std::string_view text);

/// `text` in double quotes. What is no UTF-8, a control character, a quote or a backslash is
/// escaped, because Python refuses a message that does not decode; what exceeds max_bytes is cut
/// and counted.
std::string Quoted(std::string_view text, size_t max_bytes = 80);

}  // namespace mlf
