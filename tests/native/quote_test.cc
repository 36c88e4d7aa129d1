// Tests of src/base/quote.cc.
#include "base/quote.h"

#include <cstdint>
#include <limits>

#include "check.h"

namespace mlf {
namespace {

void TestUtf8() {
  MLF_EXPECT(IsUtf8(""));
  MLF_EXPECT(IsUtf8("a\xC2\x80\xDF\xBF\xE0\xA0\x80\xED\x9F\xBF\xEF\xBF\xBF"));
  MLF_EXPECT(IsUtf8("\xF0\x90\x80\x80\xF4\x8F\xBF\xBF"));
  // A lone continuation, overlong forms, surrogates, above U+10FFFF, cut characters.
  for (const char* bad : {"\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
                          "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xC3", "\xE2\x82",
                          "\xF0\x9F\x98", "\xE2\x82\x41", "\xF0\x9F\x98\x41"}) {
    MLF_EXPECT(!IsUtf8(bad));
    MLF_EXPECT(IsUtf8(Quoted(bad)));
  }
}

void TestQuoted() {
  MLF_EXPECT(Quoted("") == "\"\"");
  MLF_EXPECT(Quoted("na\xC3\xAFve") == "\"na\xC3\xAFve\"");
  MLF_EXPECT(Quoted("a\"b\\c\nd\x01\x7F") == "\"a\\\"b\\\\c\\nd\\x01\\x7f\"");
  MLF_EXPECT(Quoted("\xFFok\xE2\x82") == "\"\\xffok\\xe2\\x82\"");
  MLF_EXPECT(Quoted("abcd", 4) == "\"abcd\"");
  MLF_EXPECT(Quoted("abcde", 4) == "\"abcd\"… (5 bytes)");
  MLF_EXPECT(Quoted("abc\xC3\xAF", 4) == "\"abc\"… (5 bytes)");  // never half a character
  MLF_EXPECT(Quoted("a", 0) == "\"\"… (1 bytes)");
}

void TestShortest() {
  MLF_EXPECT(Shortest(1.0000001) == "1.0000001");
  MLF_EXPECT(Shortest(-0.1) == "-0.1");
  MLF_EXPECT(Shortest(2.0) == "2");
  MLF_EXPECT(Shortest(-std::numeric_limits<double>::denorm_min()) == "-5e-324");
  MLF_EXPECT(Shortest(-std::numeric_limits<double>::max()) == "-1.7976931348623157e+308");
  MLF_EXPECT(Shortest(std::numeric_limits<double>::quiet_NaN()) == "nan");
  MLF_EXPECT(Shortest(std::numeric_limits<double>::infinity()) == "inf");
  MLF_EXPECT(Shortest(int64_t{1'000'000}) == "1000000");
  MLF_EXPECT(Shortest(std::numeric_limits<int64_t>::min()) == "-9223372036854775808");
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestUtf8();
  mlf::TestQuoted();
  mlf::TestShortest();
  return 0;
}
