// A vocabulary: text to token ids and back. Counterpart: vocab.cc; the algorithms are spm.cc and
// bpe.cc, the checks and defaults vocab_rules.cc.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mlf {

/// Numbers as in GGUF's tokenizer.ggml.token_type.
enum class TokenType : int8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

/// What a file says of its vocabulary, before anything is believed. Keys of GGUF beside each field.
struct VocabSpec {
  std::string model;  // tokenizer.ggml.model: "llama" (SPM), "gpt2" (BPE)
  std::string pre;    // tokenizer.ggml.pre: "default", "gpt-2", "llama-bpe", "qwen2", "smollm" …
  std::vector<std::string> tokens;  // tokenizer.ggml.tokens
  std::vector<float> scores;        // tokenizer.ggml.scores; may be empty for BPE
  std::vector<int32_t> types;       // tokenizer.ggml.token_type; may be empty
  std::vector<std::string> merges;  // tokenizer.ggml.merges, "left right", best first
  std::optional<int64_t> bos_id, eos_id, eot_id, eom_id, unk_id, pad_id;
  std::optional<bool> add_bos, add_eos, add_space_prefix;
  std::string chat_template;  // tokenizer.chat_template; empty: none
};

/// Immutable, usable from any thread at once.
class Vocab {
 public:
  /// Throws NotImplementedError naming an unknown model or pre-tokenizer, ValueError for a
  /// vocabulary that contradicts itself (sizes, ids out of range, malformed merges).
  static std::shared_ptr<const Vocab> Create(VocabSpec spec);
  ~Vocab();
  Vocab(const Vocab&) = delete;
  Vocab& operator=(const Vocab&) = delete;

  /// Ids of UTF-8 `text`; bytes that are not UTF-8 are encoded like any others by byte tokens
  /// (never an error). add_special: BOS / EOS as the file asks for them; a text that itself begins
  /// with BOS (or ends with EOS) written out and parsed gets no second one. parse_special: control
  /// and unknown tokens written in the text ("<|im_start|>") become their ids; user-defined tokens
  /// always do; of several that begin at one place the longest. plain_at: byte offsets in rising
  /// order at which control and unknown tokens are text all the same. Throws ValueError for 2 GiB
  /// or more.
  std::vector<int32_t> Tokenize(std::string_view text, bool add_special, bool parse_special,
                                std::span<const int64_t> plain_at = {}) const;

  /// Bytes of the ids in order. skip_special leaves control and unknown tokens out. SPM: the spaces
  /// that add_space_prefix put in front are taken off again. Throws IndexError for an id out of
  /// range.
  std::string Detokenize(std::span<const int32_t> ids, bool skip_special) const;

  /// The bytes a token stands for inside running text (" the", "\n", "<|im_end|>"). Throws
  /// IndexError, as do Type and IsEog.
  std::string_view Piece(int32_t id) const;

  int32_t size() const;
  TokenType Type(int32_t id) const;
  /// Ends generation: eos, eot, eom, and well-known end-of-turn names.
  bool IsEog(int32_t id) const;
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  bool add_bos() const;
  bool add_space_prefix() const;
  std::string_view model() const;
  std::string_view chat_template() const;

 private:
  struct Impl;
  explicit Vocab(std::unique_ptr<const Impl> impl);

  std::unique_ptr<const Impl> impl_;
};

}  // namespace mlf
