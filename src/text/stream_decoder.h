// Text of tokens as they are generated, whole characters only. Counterpart: stream_decoder.cc.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "text/detokenizer.h"
#include "text/vocab.h"

namespace mlf {

/// What Push and Finish return, put together, is Detokenize of all the ids with every maximal
/// subpart of invalid UTF-8 replaced by U+FFFD, as Python's bytes.decode(errors="replace") does.
/// Belongs to one thread.
class StreamDecoder {
 public:
  /// at_start: the first id begins a text (Detokenize of all the ids); false: it continues one, as
  /// an answer continues its prompt.
  StreamDecoder(std::shared_ptr<const Vocab> vocab, bool skip_special, bool at_start = true);

  /// The characters that `id` completes; may be empty. Throws IndexError for an id out of range,
  /// and then the decoder is as it was.
  std::string Push(int32_t id);

  /// What was held back: at most one U+FFFD. The decoder then begins a new text.
  std::string Finish();

 private:
  std::shared_ptr<const Vocab> vocab_;
  bool skip_special_, at_start_;
  Detokenizer detokenizer_;
  std::string held_;  // the beginning of a character, at most 3 bytes
};

}  // namespace mlf
