// Checks and defaults of a vocabulary. Counterpart: vocab_rules.h.
#include "text/vocab_rules.h"

#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <unordered_map>

#include "base/interrupt.h"
#include "base/quote.h"
#include "text/spm.h"

namespace mlf {
namespace {

/// Texts that end a turn or a document in the vocabularies about, whatever ids the file names: the
/// list of llama.cpp, less what belongs to pre-tokenizers that are not supported here.
constexpr std::array<std::string_view, 26> kEogTexts = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "<\xEF\xBD\x9C"
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",  // DeepSeek
    // Fill-in-the-middle: padding and the beginning of another file.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
};

void CheckModel(const VocabSpec& spec) {
  if (spec.model == "llama" || spec.model == "gpt2") return;
  TVM_FFI_THROW(NotImplementedError) << "tokenizer.ggml.model " << Quoted(spec.model)
                                     << " is not supported, expected one of llama (SPM), gpt2 "
                                        "(byte-level BPE)";
}

void CheckLength(const char* key, size_t length, size_t n_tokens) {
  if (length == 0 || length == n_tokens) return;
  TVM_FFI_THROW(ValueError) << key << " has " << length << " entries, expected " << n_tokens
                            << " (from tokenizer.ggml.tokens)";
}

void CheckSizes(const VocabSpec& spec) {
  const size_t n_tokens = spec.tokens.size();
  if (n_tokens == 0 || n_tokens > INT32_MAX) {
    TVM_FFI_THROW(ValueError) << "tokenizer.ggml.tokens has " << n_tokens
                              << " entries, expected 1 to " << INT32_MAX;
  }
  CheckLength("tokenizer.ggml.scores", spec.scores.size(), n_tokens);
  CheckLength("tokenizer.ggml.token_type", spec.types.size(), n_tokens);
  if (spec.model == "llama" && spec.scores.empty()) {
    TVM_FFI_THROW(ValueError) << "tokenizer.ggml.scores is missing, expected " << n_tokens
                              << " entries for tokenizer.ggml.model \"llama\"";
  }
  if (spec.model == "gpt2" && spec.merges.empty()) {
    TVM_FFI_THROW(ValueError)
        << "tokenizer.ggml.merges is missing, expected it for tokenizer.ggml.model \"gpt2\"";
  }
  for (size_t i = 0; i < spec.scores.size(); ++i) {
    if (std::isnan(spec.scores[i])) {
      TVM_FFI_THROW(ValueError) << "tokenizer.ggml.scores[" << i << "] is NaN, expected a number";
    }
  }
}

/// Empty tokens are holes: they may repeat.
void CheckDistinct(const std::vector<std::string>& tokens) {
  std::unordered_map<std::string_view, size_t> ids;
  ids.reserve(tokens.size());
  InterruptPoller poller;
  for (size_t id = 0; id < tokens.size(); ++id) {
    poller.PollAt(id);
    if (tokens[id].empty()) continue;
    const auto [first, inserted] = ids.emplace(tokens[id], id);
    if (inserted) continue;
    TVM_FFI_THROW(ValueError) << "tokenizer.ggml.tokens[" << id << "] is " << Quoted(tokens[id])
                              << " like tokenizer.ggml.tokens[" << first->second
                              << "], expected each token once";
  }
}

std::optional<int32_t> ResolveId(const char* key, std::optional<int64_t> id, int32_t fallback,
                                 size_t n_tokens) {
  constexpr int64_t kNone = 0xFFFFFFFF;  // -1 as the unsigned number files hold: no such token
  if (id == -1 || id == kNone) return std::nullopt;
  if (id && (*id < 0 || *id >= static_cast<int64_t>(n_tokens))) {
    TVM_FFI_THROW(ValueError) << key << " is " << *id << ", expected 0 to " << n_tokens - 1
                              << " (tokenizer.ggml.tokens has " << n_tokens << ")";
  }
  if (id) return static_cast<int32_t>(*id);
  const bool usable = fallback >= 0 && static_cast<size_t>(fallback) < n_tokens;
  return usable ? std::optional<int32_t>(fallback) : std::nullopt;
}

/// All the special ids of a file, checked.
struct SpecialIds {
  std::optional<int32_t> bos, eos, eot, eom, unk;
};

SpecialIds ResolveIds(const VocabSpec& spec, bool is_spm) {
  const size_t n = spec.tokens.size();
  ResolveId("tokenizer.ggml.padding_token_id", spec.pad_id, -1, n);
  return {ResolveId("tokenizer.ggml.bos_token_id", spec.bos_id, is_spm ? 1 : -1, n),
          ResolveId("tokenizer.ggml.eos_token_id", spec.eos_id, is_spm ? 2 : -1, n),
          ResolveId("tokenizer.ggml.eot_token_id", spec.eot_id, -1, n),
          ResolveId("tokenizer.ggml.eom_token_id", spec.eom_id, -1, n),
          ResolveId("tokenizer.ggml.unknown_token_id", spec.unk_id, is_spm ? 0 : -1, n)};
}

std::vector<TokenType> GuessTypes(const VocabSpec& spec, const SpecialIds& ids, bool is_spm) {
  std::vector<TokenType> types(spec.tokens.size(), TokenType::kNormal);
  for (size_t i = 0; is_spm && i < types.size(); ++i) {
    if (ParseByteToken(spec.tokens[i])) types[i] = TokenType::kByte;
  }
  for (const auto& id : {ids.bos, ids.eos, ids.eot, ids.eom}) {
    if (id) types[*id] = TokenType::kControl;
  }
  if (is_spm && ids.unk) types[*ids.unk] = TokenType::kUnknown;
  return types;
}

std::vector<TokenType> ReadTypes(const VocabSpec& spec) {
  std::vector<TokenType> types;
  types.reserve(spec.types.size());
  for (size_t i = 0; i < spec.types.size(); ++i) {
    const int32_t type = spec.types[i];
    if (type < 1 || type > 6) {
      TVM_FFI_THROW(ValueError) << "tokenizer.ggml.token_type[" << i << "] is " << type
                                << ", expected 1 to 6";
    }
    types.push_back(static_cast<TokenType>(type));
    if (types[i] == TokenType::kByte && !ParseByteToken(spec.tokens[i])) {
      TVM_FFI_THROW(ValueError) << "tokenizer.ggml.tokens[" << i << "] is "
                                << Quoted(spec.tokens[i])
                                << ", expected \"<0x00>\" to \"<0xFF>\" (its type is byte)";
    }
  }
  return types;
}

/// Marks the tokens that end generation. Those known by their text become control tokens: files
/// exist that call them normal, and then a plain text could spell them.
void FindEog(const VocabSpec& spec, const SpecialIds& ids, VocabRules* rules) {
  rules->eog.assign(spec.tokens.size(), false);
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    if (std::find(kEogTexts.begin(), kEogTexts.end(), spec.tokens[i]) == kEogTexts.end()) continue;
    rules->eog[i] = true;
    rules->types[i] = TokenType::kControl;
  }
  for (const auto& id : {ids.eos, ids.eot, ids.eom}) {
    if (id) rules->eog[*id] = true;
  }
}

void CheckAdded(const char* add_key, bool add, const char* id_key, std::optional<int32_t> id) {
  if (!add || id) return;
  TVM_FFI_THROW(ValueError) << add_key << " holds, but " << id_key << " names no token";
}

}  // namespace

VocabRules ResolveRules(const VocabSpec& spec) {
  CheckModel(spec);
  VocabRules rules;
  rules.is_spm = spec.model == "llama";
  if (!rules.is_spm) rules.pre = &FindPreTokenizer(spec.pre);
  CheckSizes(spec);
  CheckDistinct(spec.tokens);
  const SpecialIds ids = ResolveIds(spec, rules.is_spm);
  rules.types = spec.types.empty() ? GuessTypes(spec, ids, rules.is_spm) : ReadTypes(spec);
  rules.bos_id = ids.bos;
  rules.eos_id = ids.eos;
  rules.unk_id = ids.unk;
  FindEog(spec, ids, &rules);
  rules.add_bos = spec.add_bos.value_or(rules.is_spm || rules.pre->add_bos);
  rules.add_eos = spec.add_eos.value_or(false);
  rules.add_space_prefix = rules.is_spm && spec.add_space_prefix.value_or(true);
  CheckAdded("tokenizer.ggml.add_bos_token", rules.add_bos, "tokenizer.ggml.bos_token_id",
             rules.bos_id);
  CheckAdded("tokenizer.ggml.add_eos_token", rules.add_eos, "tokenizer.ggml.eos_token_id",
             rules.eos_id);
  return rules;
}

}  // namespace mlf
