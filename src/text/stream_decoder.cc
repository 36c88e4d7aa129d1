// Holding back of incomplete UTF-8. Counterpart: stream_decoder.h.
#include "text/stream_decoder.h"

#include <tvm/ffi/tvm_ffi.h>

#include <string_view>
#include <utility>

#include "text/unicode.h"

namespace mlf {
namespace {

const Vocab& CheckedVocab(const std::shared_ptr<const Vocab>& vocab) {
  if (vocab == nullptr) TVM_FFI_THROW(ValueError) << "StreamDecoder: vocab is null";
  return *vocab;
}

}  // namespace

StreamDecoder::StreamDecoder(std::shared_ptr<const Vocab> vocab, bool skip_special, bool at_start)
    : vocab_(std::move(vocab)),
      skip_special_(skip_special),
      at_start_(at_start),
      detokenizer_(CheckedVocab(vocab_), skip_special, at_start) {}

std::string StreamDecoder::Push(int32_t id) {
  held_.append(detokenizer_.Next(id));
  std::string out;
  size_t pos = 0;
  while (pos < held_.size()) {
    const Utf8Span span = ScanUtf8(held_, pos);
    if (span.state == Utf8State::kIncomplete) break;
    if (span.state == Utf8State::kValid) {
      out.append(held_, pos, span.length);
    } else {
      AppendUtf8(kReplacementChar, &out);
    }
    pos += span.length;
  }
  held_.erase(0, pos);
  return out;
}

std::string StreamDecoder::Finish() {
  std::string out;
  if (!held_.empty()) AppendUtf8(kReplacementChar, &out);
  held_.clear();
  detokenizer_ = Detokenizer(*vocab_, skip_special_, at_start_);
  return out;
}

}  // namespace mlf
