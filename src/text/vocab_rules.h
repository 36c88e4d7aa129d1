// What a VocabSpec means once it is checked: types, special ids, switches, with the defaults filled
// in. Counterpart: vocab_rules.cc.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "text/pretokenizer.h"
#include "text/vocab.h"

namespace mlf {

struct VocabRules {
  bool is_spm = false;
  const PreTokenizer* pre = nullptr;  // BPE only
  std::vector<TokenType> types;       // one per token
  std::optional<int32_t> bos_id, eos_id, unk_id;
  bool add_bos = false;
  bool add_eos = false;
  bool add_space_prefix = false;
  std::vector<bool> eog;  // one per token
};

/// Throws NotImplementedError for an unknown model or pre-tokenizer, ValueError for a specification
/// that contradicts itself. Merges are checked by BpeEncoder.
///
/// Defaults, those of llama.cpp: SPM has bos 1, eos 2, unk 0 where these ids exist, adds BOS and
/// the space in front; BPE has no default ids and adds BOS as its pre-tokenizer says. Without
/// token types, SPM's "<0x..>" are byte tokens and the special ids are control tokens.
VocabRules ResolveRules(const VocabSpec& spec);

}  // namespace mlf
