// Vocabularies made by hand, against expected ids and against merging written the slow, obvious
// way. Counterpart: src/text/vocab.h.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "text/bpe.h"
#include "text/stream_decoder.h"
#include "text/unicode.h"
#include "text/vocab.h"

namespace mlf {
namespace {

using Ids = std::vector<int32_t>;
using VocabPtr = std::shared_ptr<const Vocab>;

constexpr double kSlow = 5;  // seconds; a quadratic algorithm takes minutes
constexpr std::string_view kMark = "\xE2\x96\x81";

void Add(VocabSpec* spec, std::string text, TokenType type, float score = 0) {
  spec->tokens.push_back(std::move(text));
  spec->types.push_back(static_cast<int32_t>(type));
  spec->scores.push_back(score);
}

// <unk> <s> </s> <|im_start|> <tool>, the bytes from 5 on, pieces from 261 on.
constexpr int32_t kByte0 = 5;
constexpr int32_t kPiece0 = 261;

VocabSpec SpmSpec(bool with_bytes = true) {
  VocabSpec spec;
  spec.model = "llama";
  spec.pre = "default";
  Add(&spec, "<unk>", TokenType::kUnknown);
  Add(&spec, "<s>", TokenType::kControl);
  Add(&spec, "</s>", TokenType::kControl);
  Add(&spec, "<|im_start|>", TokenType::kControl);
  Add(&spec, "<tool>", TokenType::kUserDefined);
  for (int i = 0; with_bytes && i < 256; ++i) {
    char text[8];
    std::snprintf(text, sizeof(text), "<0x%02X>", i);
    Add(&spec, text, TokenType::kByte);
  }
  float score = -1;
  const std::string mark(kMark);
  for (const std::string& piece : {mark + "h",         std::string("el"),
                                   std::string("lo"),  std::string("ell"),
                                   mark + "hell",      mark + "hello",
                                   mark + mark,        std::string("aa"),
                                   std::string("aaa"), mark,
                                   std::string("h"),   std::string("e"),
                                   std::string("l"),   std::string("o"),
                                   std::string("a"),   std::string("<"),
                                   std::string("s"),   std::string(">"),
                                   std::string("<s"),  std::string("xy")}) {
    Add(&spec, piece, TokenType::kNormal, score--);
  }
  return spec;
}

// The text of a token that stands for `bytes`, found by search: the table is not repeated here.
std::string Alphabet(std::string_view bytes) {
  std::string out;
  for (const char byte : bytes) {
    for (uint32_t code = 0x21; code < 0x144; ++code) {
      std::string text;
      AppendUtf8(code, &text);
      if (code == 0x7F || DecodeByteAlphabet(text) != std::string(1, byte)) continue;
      out += text;
      break;
    }
  }
  return out;
}

// The bytes 0..255, merged pieces from 256 on, then <|endoftext|> <|im_start|> <|im_end|> <fn>.
VocabSpec BpeSpec(const char* pre, const std::vector<std::pair<std::string, std::string>>& merges) {
  VocabSpec spec;
  spec.model = "gpt2";
  spec.pre = pre;
  for (int i = 0; i < 256; ++i) {
    Add(&spec, Alphabet(std::string(1, static_cast<char>(i))), TokenType::kNormal);
  }
  for (const auto& [left, right] : merges) {
    Add(&spec, Alphabet(left + right), TokenType::kNormal);
    spec.merges.push_back(Alphabet(left) + " " + Alphabet(right));
  }
  for (const char* text : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    Add(&spec, text, TokenType::kControl);
  }
  Add(&spec, "<fn>", TokenType::kUserDefined);
  spec.scores.clear();
  return spec;
}

VocabSpec HelloSpec(const char* pre = "gpt-2") {
  return BpeSpec(pre, {{"l", "l"}, {"h", "e"}, {"he", "ll"}, {"a", "a"}, {"aa", "aa"}, {" ", "a"}});
}

void TestSpm() {
  const VocabPtr v = Vocab::Create(SpmSpec());
  MLF_EXPECT(v->size() == kPiece0 + 20 && v->bos_id() == 1 && v->eos_id() == 2);
  MLF_EXPECT(v->add_bos() && v->add_space_prefix() && v->model() == "llama");
  MLF_EXPECT(v->Tokenize("", false, false).empty() && v->Tokenize("", true, false) == Ids{1});
  MLF_EXPECT((v->Tokenize("hell", true, false) == Ids{1, kPiece0 + 4}));
  // "el" and "lo" score above "ell", so "hello" is never reached.
  MLF_EXPECT((v->Tokenize("hello", false, false) == Ids{kPiece0, kPiece0 + 1, kPiece0 + 2}));
  MLF_EXPECT((v->Tokenize("aaaa", false, false) == Ids{kPiece0 + 9, kPiece0 + 7, kPiece0 + 7}));
  // No token for a character of "é": its bytes. The parts of "xy" are no tokens, "xy" is one.
  MLF_EXPECT(
      (v->Tokenize("\xC3\xA9", false, false) == Ids{kPiece0 + 9, kByte0 + 0xC3, kByte0 + 0xA9}));
  MLF_EXPECT((v->Tokenize("xyx", false, false) == Ids{kPiece0 + 9, kPiece0 + 19, kByte0 + 'x'}));
  MLF_EXPECT((v->Tokenize("\xFFl", false, false) == Ids{kPiece0 + 9, kByte0 + 0xFF, kPiece0 + 12}));
  // Plain text never spells a control or a byte token, though "<s" and ">" are tokens.
  MLF_EXPECT((v->Tokenize("<s>", false, false) == Ids{kPiece0 + 9, kPiece0 + 18, kPiece0 + 17}));
  MLF_EXPECT(v->Tokenize("<0x41>", false, false).size() > 1);
}

void TestSpmSpecial() {
  const VocabPtr v = Vocab::Create(SpmSpec());
  MLF_EXPECT(
      (v->Tokenize("<|im_start|>a</s>", false, true) == Ids{3, kPiece0 + 9, kPiece0 + 14, 2}));
  MLF_EXPECT((v->Tokenize("<tool>", false, false) == Ids{4}));
  MLF_EXPECT((v->Tokenize("<s>a", true, true) == Ids{1, kPiece0 + 9, kPiece0 + 14}));  // one BOS
  MLF_EXPECT((v->Tokenize("<s><s>", true, true) == Ids{1, 1}));
  for (const char* text : {"", " ", "hello", "  a  ", "<s> a<tool>h</s>", "\xC3\xA9\xFF"}) {
    const Ids ids = v->Tokenize(text, false, true);
    MLF_EXPECT(v->Detokenize(ids, false) == text);
  }
  const Ids ids = v->Tokenize("hello</s>", true, true);
  MLF_EXPECT(v->Detokenize(ids, true) == "hello" && v->Detokenize(ids, false) == "<s>hello</s>");
  MLF_EXPECT(v->IsEog(2) && !v->IsEog(1) && !v->IsEog(4));
  MLF_EXPECT(v->Piece(kPiece0) == " h" && v->Piece(kByte0) == std::string(1, '\0'));
  MLF_EXPECT(v->Type(kByte0) == TokenType::kByte && v->Type(4) == TokenType::kUserDefined);
}

void TestSpmOptions() {
  VocabSpec spec = SpmSpec(/*with_bytes=*/false);
  spec.add_space_prefix = false;
  spec.add_bos = false;
  spec.add_eos = true;
  spec.chat_template = "{{ messages }}";
  const VocabPtr v = Vocab::Create(spec);
  // No byte tokens: one unknown token for a stretch.
  const int32_t a = 5 + 14;
  MLF_EXPECT((v->Tokenize("a\xE4\xBD\xA0\xE5\xA5\xBD"
                          "a",
                          true, false) == Ids{a, 0, a, 2}));
  MLF_EXPECT((v->Tokenize("a</s>", true, true) == Ids{a, 2}));
  MLF_EXPECT(v->Detokenize(v->Tokenize(" a", false, false), false) == " a");
  MLF_EXPECT(v->chat_template() == "{{ messages }}");
  spec.types.clear();  // then special ids and byte texts say what is what
  MLF_EXPECT(Vocab::Create(spec)->Type(2) == TokenType::kControl);
  MLF_EXPECT(Vocab::Create(spec)->Type(0) == TokenType::kUnknown);
}

void TestBpe() {
  const VocabPtr v = Vocab::Create(HelloSpec());
  MLF_EXPECT(!v->bos_id() && !v->add_bos() && !v->add_space_prefix());
  MLF_EXPECT((v->Tokenize("hell", true, false) == Ids{258}));
  MLF_EXPECT((v->Tokenize("hello aaaaa", false, false) == Ids{258, 'o', ' ', 260, 'a'}));
  MLF_EXPECT((v->Tokenize("<|im_start|>a<fn>", false, true) == Ids{263, 'a', 265}));
  MLF_EXPECT((v->Tokenize("<fn>", false, false) == Ids{265}));
  MLF_EXPECT(v->Tokenize("<|im_start|>", false, false).size() == 12);
  MLF_EXPECT(v->Piece(261) == " a" && v->Piece(263) == "<|im_start|>");
  MLF_EXPECT(v->IsEog(262) && v->IsEog(264) && !v->IsEog(263));
  std::string all;
  for (int i = 0; i < 256; ++i) all.push_back(static_cast<char>(i));
  MLF_EXPECT(v->Detokenize(v->Tokenize(all, false, false), false) == all);
  const std::string_view nul("a\0a", 3);
  MLF_EXPECT((v->Tokenize(nul, false, false) == Ids{'a', 0, 'a'}));
}

void TestBpeOptions() {
  // A word that is a token is taken whole by llama-bpe only: no merge leads to "loo" here.
  for (const char* pre : {"llama-bpe", "gpt-2"}) {
    VocabSpec spec = HelloSpec(pre);
    Add(&spec, "loo", TokenType::kNormal);
    spec.scores.clear();
    spec.bos_id = 262;
    const VocabPtr v = Vocab::Create(spec);
    const bool llama = spec.pre == "llama-bpe";
    MLF_EXPECT(v->add_bos() == llama);
    MLF_EXPECT(v->Tokenize("loo", false, false) == (llama ? Ids{266} : Ids{'l', 'o', 'o'}));
    MLF_EXPECT(v->Tokenize("", true, false) == (llama ? Ids{262} : Ids{}));
  }
  VocabSpec spec = HelloSpec();
  spec.tokens['z'] = "[hole]";  // no token for a byte: left out
  spec.types[264] = 1;          // an end-of-turn name is a control token whatever the file says
  spec.eos_id = 262;
  spec.eot_id = 263;
  spec.pad_id = 0xFFFFFFFF;  // -1 in the unsigned number that files hold
  const VocabPtr v = Vocab::Create(spec);
  MLF_EXPECT((v->Tokenize("azllz", false, false) == Ids{'a', 256}));
  MLF_EXPECT(v->Type(264) == TokenType::kControl && v->IsEog(263));
}

void TestLongestSpecial() {
  VocabSpec spec = HelloSpec();
  for (const char* text : {"<<", "<<<<", "<<a"}) Add(&spec, text, TokenType::kUserDefined);
  spec.scores.clear();
  const VocabPtr v = Vocab::Create(spec);
  MLF_EXPECT((v->Tokenize("<<<<<<a<", false, false) == Ids{267, 268, '<'}));
  MLF_EXPECT((v->Tokenize("<<<a", false, false) == Ids{266, '<', 'a'}));
}

void Reject(VocabSpec spec, const std::function<void(VocabSpec*)>& spoil, const char* kind,
            const char* part) {
  spoil(&spec);
  MLF_EXPECT_THROWS(Vocab::Create(spec), kind, part);
}

void TestRejections() {
  const auto spm = [](auto spoil, const char* part) {
    Reject(SpmSpec(), spoil, "ValueError", part);
  };
  const auto bpe = [](auto spoil, const char* part) {
    Reject(HelloSpec(), spoil, "ValueError", part);
  };
  const char* missing = "NotImplementedError";
  Reject(SpmSpec(), [](VocabSpec* s) { s->model = "bert"; }, missing, "\"bert\"");
  Reject(HelloSpec(), [](VocabSpec* s) { s->pre = "default"; }, missing, "\"default\"");
  spm([](VocabSpec* s) { s->tokens.clear(); }, "tokens has 0");
  spm([](VocabSpec* s) { s->scores.pop_back(); }, "scores has 280");
  spm([](VocabSpec* s) { s->scores.clear(); }, "scores is missing");
  spm([](VocabSpec* s) { s->scores[3] = std::nanf(""); }, "scores[3] is NaN");
  spm([](VocabSpec* s) { s->types.push_back(1); }, "token_type has 282");
  spm([](VocabSpec* s) { s->types[7] = 7; }, "token_type[7] is 7");
  spm([](VocabSpec* s) { s->types[7] = 0; }, "token_type[7] is 0");
  spm([](VocabSpec* s) { s->tokens[kByte0] = "<0xZZ>"; }, "tokens[5] is \"<0xZZ>\"");
  spm([](VocabSpec* s) { s->tokens[kPiece0] = "el"; }, "tokens[262] is \"el\"");
  spm([](VocabSpec* s) { s->bos_id = 281; }, "bos_token_id is 281, expected 0 to 280");
  spm([](VocabSpec* s) { s->eos_id = -2; }, "eos_token_id is -2");
  spm([](VocabSpec* s) { s->eot_id = 999; }, "eot_token_id is 999");
  spm([](VocabSpec* s) { s->eom_id = 999; }, "eom_token_id is 999");
  spm([](VocabSpec* s) { s->unk_id = INT64_MAX; }, "unknown_token_id is");
  spm([](VocabSpec* s) { s->pad_id = 281; }, "padding_token_id is 281");
  bpe([](VocabSpec* s) { s->add_bos = true; }, "bos_token_id names no token");
  bpe([](VocabSpec* s) { s->add_eos = true; }, "eos_token_id names no token");
  bpe([](VocabSpec* s) { s->merges.clear(); }, "merges is missing");
  for (const char* merge : {"", " ", "ll", "l ", " l"}) {
    bpe([&](VocabSpec* s) { s->merges[1] = merge; }, "merges[1] is");
  }
  bpe([](VocabSpec* s) { s->merges[2] = "qq l"; }, "\"qq\" is no token");
  bpe([](VocabSpec* s) { s->merges[2] = "l qq"; }, "\"qq\" is no token");
  bpe([](VocabSpec* s) { s->merges[2] = "q q"; }, "\"qq\" is no token");
}

void TestIdErrors() {
  const VocabPtr v = Vocab::Create(HelloSpec());
  for (const int32_t id : {-1, v->size(), INT32_MIN, INT32_MAX}) {
    MLF_EXPECT_THROWS(v->Piece(id), "IndexError", "out of range, expected 0 to 265");
    MLF_EXPECT_THROWS(v->Type(id), "IndexError", "token id");
    MLF_EXPECT_THROWS(v->IsEog(id), "IndexError", "token id");
    MLF_EXPECT_THROWS(v->Detokenize(Ids{'a', id}, false), "IndexError", "token id");
    StreamDecoder decoder(v, false);
    MLF_EXPECT(decoder.Push(0xE2).empty());
    MLF_EXPECT_THROWS(decoder.Push(id), "IndexError", "token id");
    MLF_EXPECT(decoder.Push(0x82).empty() && decoder.Push(0xAC) == "\xE2\x82\xAC");
  }
  MLF_EXPECT_THROWS(StreamDecoder(nullptr, false), "ValueError", "vocab is null");
}

std::string Stream(const VocabPtr& v, const Ids& ids, bool skip_special) {
  StreamDecoder decoder(v, skip_special);
  std::string out;
  for (const int32_t id : ids) {
    const std::string text = decoder.Push(id);
    for (size_t pos = 0; pos < text.size();) {  // whole characters at every step
      const Utf8Char c = DecodeUtf8(text, pos);
      MLF_EXPECT(c.valid);
      pos += c.length;
    }
    out += text;
  }
  return out + decoder.Finish();
}

void TestStreamDecoder() {
  const VocabPtr v = Vocab::Create(HelloSpec());
  const std::string r = "\xEF\xBF\xBD";
  // Expected: Python 3, bytes.decode(errors="replace").
  for (const auto& [bytes, text] : std::vector<std::pair<std::string, std::string>>{
           {"", ""},
           {"h\xC3\xA9", "h\xC3\xA9"},
           {"\xF0\x9F\x98\x80", "\xF0\x9F\x98\x80"},
           {"\xF0\x9F\x98", r},
           {"\xF0\x9F\x98"
            "a",
            r + "a"},
           {"\xF0\x9F\xE2\x82\xAC", r + "\xE2\x82\xAC"},
           {"\x80\x80", r + r},
           {"\xED\xA0\x80", r + r + r},
           {"\xE0\x80"
            "a",
            r + r + "a"},
           {"\xC0\xAF", r + r},
           {std::string("a\0b", 3), std::string("a\0b", 3)}}) {
    Ids ids;
    for (const char c : bytes) ids.push_back(static_cast<uint8_t>(c));
    MLF_EXPECT(Stream(v, ids, false) == text);
  }
  MLF_EXPECT(Stream(v, {'a', 263, 'a', 265}, true) == "aa<fn>");
  StreamDecoder decoder(v, false);
  MLF_EXPECT(decoder.Push(0xE2).empty() && decoder.Finish() == r && decoder.Finish().empty());
  const VocabPtr spm = Vocab::Create(SpmSpec());
  const Ids ids = spm->Tokenize("hello \xC3\xA9</s>", true, true);
  MLF_EXPECT(Stream(spm, ids, true) == "hello \xC3\xA9");
  StreamDecoder again(spm, false);
  for (int i = 0; i < 2; ++i) {  // Finish begins a new text: the space in front goes again
    MLF_EXPECT(again.Push(kPiece0) == "h" && again.Push(kPiece0) == " h" && again.Finish().empty());
  }
}

// The best pair, leftmost among equals, found by looking at all of them each time.
std::vector<std::string> SlowMerge(
    std::vector<std::string> parts,
    const std::function<std::optional<float>(const std::string&, const std::string&)>& score) {
  for (;;) {
    size_t best = 0;
    std::optional<float> best_score;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto s = score(parts[i], parts[i + 1]);
      if (s && (!best_score || *s > *best_score)) {
        best = i;
        best_score = s;
      }
    }
    if (!best_score) return parts;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + best + 1);
  }
}

// Random tokens over four letters with few scores, so that ties and overlaps are frequent.
void TestAgainstSlowSpm() {
  std::mt19937 random(1);
  const auto word = [&](size_t length) {
    std::string text;
    while (text.size() < length) text.push_back("abcd"[random() % 4]);
    return text;
  };
  for (int round = 0; round < 30; ++round) {
    VocabSpec spec = SpmSpec();
    std::map<std::string, float> scores;
    for (int i = 0; i < 60; ++i) scores.emplace(word(1 + random() % 5), -float(random() % 6));
    spec.tokens.resize(kPiece0);
    spec.types.resize(kPiece0);
    spec.scores.resize(kPiece0);
    for (const auto& [text, score] : scores) Add(&spec, text, TokenType::kNormal, score);
    spec.add_space_prefix = false;
    const VocabPtr v = Vocab::Create(spec);
    for (const size_t length : {1, 2, 7, 60, 1500}) {
      const std::string text = word(length);
      std::vector<std::string> parts;
      for (const char c : text) parts.emplace_back(1, c);
      parts = SlowMerge(parts, [&](const std::string& a, const std::string& b) {
        const auto found = scores.find(a + b);
        return found == scores.end() ? std::nullopt : std::optional<float>(found->second);
      });
      const Ids ids = v->Tokenize(text, false, false);
      MLF_EXPECT(ids.size() == parts.size());
      for (size_t i = 0; i < ids.size(); ++i) MLF_EXPECT(v->Piece(ids[i]) == parts[i]);
    }
  }
}

void TestAgainstSlowBpe() {
  std::mt19937 random(2);
  for (int round = 0; round < 30; ++round) {
    std::vector<std::string> known = {"a", "b", "c"};
    std::map<std::pair<std::string, std::string>, float> ranks;
    std::vector<std::pair<std::string, std::string>> merges;
    while (merges.size() < 40) {
      const std::string left = known[random() % known.size()];
      const std::string right = known[random() % known.size()];
      if (std::find(known.begin(), known.end(), left + right) != known.end()) continue;
      ranks.emplace(std::pair(left, right), -static_cast<float>(merges.size()));
      merges.emplace_back(left, right);
      known.push_back(left + right);
    }
    const VocabPtr v = Vocab::Create(BpeSpec("gpt-2", merges));
    for (const size_t length : {1, 2, 7, 60, 1500}) {
      std::vector<std::string> parts;
      std::string text;
      for (size_t i = 0; i < length; ++i) text += parts.emplace_back(1, "abc"[random() % 3]);
      parts = SlowMerge(parts, [&](const std::string& a, const std::string& b) {
        const auto found = ranks.find({a, b});
        return found == ranks.end() ? std::nullopt : std::optional<float>(found->second);
      });
      const Ids ids = v->Tokenize(text, false, false);
      MLF_EXPECT(ids.size() == parts.size());
      for (size_t i = 0; i < ids.size(); ++i) MLF_EXPECT(v->Piece(ids[i]) == parts[i]);
    }
  }
}

void TestLongInputs() {
  std::string emoji;
  while (emoji.size() < 1000000) emoji += "\xF0\x9F\x98\x80";
  const std::map<std::string, std::string> inputs = {{"a", std::string(1000000, 'a')},
                                                     {"space", std::string(1000000, ' ')},
                                                     {"newline", std::string(1000000, '\n')},
                                                     {"digit", std::string(1000000, '7')},
                                                     {"<", std::string(1000000, '<')},
                                                     {"invalid", std::string(1000000, '\xFF')},
                                                     {"emoji", emoji}};
  std::map<std::string, VocabPtr> vocabs = {{"spm", Vocab::Create(SpmSpec())}};
  for (const char* pre : {"gpt-2", "llama-bpe", "qwen2", "smollm"}) {
    VocabSpec spec = HelloSpec(pre);
    spec.add_bos = false;
    vocabs[pre] = Vocab::Create(spec);
  }
  for (const auto& [name, vocab] : vocabs) {
    for (const auto& [kind, text] : inputs) {
      const auto start = std::chrono::steady_clock::now();
      const Ids ids = vocab->Tokenize(text, false, true);
      const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
      std::printf("%s, 1 MB of %s: %.3f s\n", name.c_str(), kind.c_str(), time.count());
      MLF_EXPECT(vocab->Detokenize(ids, false) == text);
      MLF_EXPECT(time.count() < kSlow);
    }
  }
}

void TestPlainAt() {
  const VocabPtr vocab = Vocab::Create(SpmSpec());
  const std::string_view text = "<s>h<|im_start|><tool><s>";
  const auto ids = [&](std::vector<int64_t> plain_at, bool parse = true) {
    return vocab->Tokenize(text, false, parse, plain_at);
  };
  const auto count = [](const Ids& found, int32_t id) {
    return std::count(found.begin(), found.end(), id);
  };
  MLF_EXPECT(count(ids({}), 1) == 2 && count(ids({}), 3) == 1 && count(ids({}), 4) == 1);
  MLF_EXPECT(count(ids({0}), 1) == 1 && ids({0}).back() == 1 && count(ids({0}), 3) == 1);
  MLF_EXPECT(count(ids({4}), 1) == 2 && count(ids({4}), 3) == 0);
  MLF_EXPECT(ids({0, 4, 16, 22}) == ids({}, false));  // a user-defined one is read all the same
  MLF_EXPECT(ids({1, 5, 21, 25, 1000}) == ids({}));
  MLF_EXPECT(vocab->Detokenize(ids({0, 22}), false) == text);
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestPlainAt();
  mlf::TestSpm();
  mlf::TestSpmSpecial();
  mlf::TestSpmOptions();
  mlf::TestBpe();
  mlf::TestBpeOptions();
  mlf::TestLongestSpecial();
  mlf::TestRejections();
  mlf::TestIdErrors();
  mlf::TestStreamDecoder();
  mlf::TestAgainstSlowSpm();
  mlf::TestAgainstSlowBpe();
  mlf::TestLongInputs();
  return 0;
}
