// Untrusted bytes and numbers made fit for an error message. Counterpart: quote.cc.
#pragma once
#include <cstddef>
#include <cstdint>
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

/// The shortest text that reads back as `number`: streams round, and show 1.0000001 as 1.
std::string Shortest(double number);
/// All digits: streams show a double of a million as 1e+06.
std::string Shortest(int64_t number);

}  // namespace mlf
