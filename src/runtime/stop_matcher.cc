// Stop strings over streamed text. Counterpart: stop_matcher.h.
#include "runtime/stop_matcher.h"

#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>
#include <utility>

namespace mlf {

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) {
    if (stop.empty()) TVM_FFI_THROW(ValueError) << "stop: a stop string is empty";
  }
}

/// Length of the longest end of the pending text that begins a stop string.
size_t StopMatcher::HeldBack() const {
  size_t held = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, pending_.size()); n > held; --n) {
      if (pending_.compare(pending_.size() - n, n, stop, 0, n) == 0) held = n;
    }
  }
  return held;
}

std::string StopMatcher::Push(std::string_view text) {
  if (stopped_) return "";
  pending_ += text;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, pending_.find(stop));
  if (first != std::string::npos) {
    stopped_ = true;
    return std::exchange(pending_, "").substr(0, first);
  }
  const size_t safe = pending_.size() - HeldBack();
  std::string out = pending_.substr(0, safe);
  pending_.erase(0, safe);
  return out;
}

std::string StopMatcher::Finish() { return std::exchange(pending_, ""); }

}  // namespace mlf
