// A batch of tokens for Context::Decode.
#pragma once
#include <cstdint>
#include <vector>

namespace mlf {

struct BatchToken {
  int64_t token;
  int64_t position;
  std::vector<int64_t> sequences;  // at least one; the first is the one whose past the token sees
  bool logits;
};

/// Tokens of any mix of sequences, in the order in which they are computed. Values are checked by
/// Decode.
struct Batch {
  std::vector<BatchToken> tokens;
};

}  // namespace mlf
