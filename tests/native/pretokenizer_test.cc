// UTF-8, character classes and word splitting. Counterparts: src/text/unicode.h,
// src/text/pretokenizer.h.
#include "text/pretokenizer.h"

#include <string>
#include <vector>

#include "check.h"
#include "text/unicode.h"

namespace mlf {
namespace {

using Words = std::vector<std::string>;

Words Split(const char* pre, std::string_view text) {
  WordSplitter splitter(FindPreTokenizer(pre).pattern, text);
  Words words;
  for (std::string_view w = splitter.Next(); !w.empty(); w = splitter.Next()) words.emplace_back(w);
  MLF_EXPECT(splitter.Next().empty());
  std::string joined;
  for (const std::string& word : words) joined += word;
  MLF_EXPECT(joined == text);
  return words;
}

void TestClasses() {
  MLF_EXPECT(ClassOf('a') == CharClass::kLetter && ClassOf(0x4E00) == CharClass::kLetter);
  MLF_EXPECT(ClassOf(0x9FFF) == CharClass::kLetter && ClassOf(0x2FA1D) == CharClass::kLetter);
  MLF_EXPECT(ClassOf('7') == CharClass::kNumber && ClassOf(0xBD) == CharClass::kNumber);
  MLF_EXPECT(ClassOf(0x2167) == CharClass::kNumber && ClassOf(0x1D7CE) == CharClass::kNumber);
  for (const uint32_t code : {0x09u, 0x0Du, 0x20u, 0x85u, 0xA0u, 0x2003u, 0x2028u, 0x3000u}) {
    MLF_EXPECT(ClassOf(code) == CharClass::kSpace);
  }
  // Python calls 1C..1F white space, Unicode does not; then NUL, a mark, a zero-width space, an
  // emoji, a surrogate, an unassigned code point and the last one.
  for (const uint32_t code :
       {0x1Cu, 0x1Fu, 0u, 0x300u, 0x200Bu, 0x1F600u, 0xD800u, 0x378u, 0x10FFFFu}) {
    MLF_EXPECT(ClassOf(code) == CharClass::kOther);
  }
}

void TestUtf8() {
  for (const uint32_t code :
       {0u, 0x7Fu, 0x80u, 0x7FFu, 0x800u, 0xD7FFu, 0xE000u, 0xFFFFu, 0x10000u, 0x10FFFFu}) {
    std::string text;
    AppendUtf8(code, &text);
    const Utf8Char c = DecodeUtf8(text, 0);
    MLF_EXPECT(c.valid && c.code == code && c.length == text.size());
    MLF_EXPECT(ScanUtf8(text, 0).state == Utf8State::kValid);
    for (size_t cut = 1; cut < text.size(); ++cut) {
      const Utf8Span span = ScanUtf8(text.substr(0, cut), 0);
      MLF_EXPECT(span.state == Utf8State::kIncomplete && span.length == cut);
    }
  }
  struct Case {
    std::string_view text;
    uint8_t length;  // of the maximal subpart
  };
  // A continuation alone, overlong forms, a surrogate, past U+10FFFF, broken off.
  for (const Case& c : {Case{"\x80", 1},
                        {"\xC0\x80", 1},
                        {"\xE0\x80\x80", 1},
                        {"\xED\xA0\x80", 1},
                        {"\xF4\x90\x80\x80", 1},
                        {"\xF5", 1},
                        {"\xFF", 1},
                        {"\xC3(", 1},
                        {"\xE2\x82(", 2},
                        {"\xF0\x9F\x98(", 3}}) {
    const Utf8Span span = ScanUtf8(c.text, 0);
    MLF_EXPECT(span.state == Utf8State::kInvalid && span.length == c.length);
    const Utf8Char decoded = DecodeUtf8(c.text, 0);
    MLF_EXPECT(!decoded.valid && decoded.length == 1);
  }
}

void TestGpt2() {
  MLF_EXPECT(Split("gpt-2", "").empty());
  MLF_EXPECT(Split("gpt-2", " ") == Words{" "});
  MLF_EXPECT((Split("gpt-2", "I'll say it's  OK  ") ==
              Words{"I", "'ll", " say", " it", "'s", " ", " OK", "  "}));
  MLF_EXPECT((Split("gpt-2", "I'LL'x'") == Words{"I", "'", "LL", "'", "x", "'"}));
  MLF_EXPECT((Split("gpt-2", "a1234 567!? b") == Words{"a", "1234", " 567", "!?", " b"}));
  MLF_EXPECT((Split("gpt-2", "\n\n x\t\ty") == Words{"\n\n", " x", "\t", "\t", "y"}));
  MLF_EXPECT((Split("gpt-2", "é\xFF\xFE z") == Words{"é", "\xFF\xFE", " z"}));
  MLF_EXPECT(
      (Split("phi-2", std::string_view("a\0b", 3)) == Words{"a", std::string(1, '\0'), "b"}));
}

void TestLlama3AndQwen2() {
  MLF_EXPECT((Split("llama-bpe", "12345") == Words{"123", "45"}));
  MLF_EXPECT((Split("llama3", "I'LL 1") == Words{"I", "'LL", " ", "1"}));
  MLF_EXPECT((Split("llama-v3", "a!\r\n\n b") == Words{"a", "!\r\n\n", " b"}));
  MLF_EXPECT((Split("llama-bpe", "(foo\tbar") == Words{"(foo", "\tbar"}));
  MLF_EXPECT((Split("llama-bpe", "x  \n \n  y") == Words{"x", "  \n \n", " ", " y"}));
  MLF_EXPECT((Split("llama-bpe", "\nfoo ") == Words{"\n", "foo", " "}));
  MLF_EXPECT((Split("llama-bpe", "  ") == Words{"  "}));
  MLF_EXPECT((Split("llama-bpe", " \xFF\n") == Words{" \xFF\n"}));
  MLF_EXPECT((Split("qwen2", "12345") == Words{"1", "2", "3", "4", "5"}));
  MLF_EXPECT((Split("deepseek-r1-qwen", "DON'T  go") == Words{"DON", "'T", " ", " go"}));
}

void TestSmolLM() {
  MLF_EXPECT((Split("smollm", "a 12") == Words{"a", " ", "1", "2"}));
  // Each stretch between digits is split by itself: its white space is at an end.
  MLF_EXPECT((Split("smollm", "a   5") == Words{"a", "   ", "5"}));
  MLF_EXPECT((Split("smollm", "a   b") == Words{"a", "  ", " b"}));
  MLF_EXPECT((Split("smollm", "'5s it's") == Words{"'", "5", "s", " it", "'s"}));
  MLF_EXPECT((Split("smollm", "½x") == Words{"½", "x"}));
}

void TestNames() {
  MLF_EXPECT(FindPreTokenizer("llama-bpe").ignore_merges && FindPreTokenizer("llama-bpe").add_bos);
  MLF_EXPECT(!FindPreTokenizer("qwen2").ignore_merges && !FindPreTokenizer("qwen2").add_bos);
  MLF_EXPECT_THROWS(FindPreTokenizer("default"), "NotImplementedError", "\"default\"");
  MLF_EXPECT_THROWS(FindPreTokenizer(""), "NotImplementedError", "gpt-2");
  MLF_EXPECT_THROWS(FindPreTokenizer("tekken"), "NotImplementedError", "smollm");
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestClasses();
  mlf::TestUtf8();
  mlf::TestGpt2();
  mlf::TestLlama3AndQwen2();
  mlf::TestSmolLM();
  mlf::TestNames();
  return 0;
}
