// Memory that a kernel needs for the length of one call.
#pragma once
#include <cstdint>
#include <utility>

#include "base/buffer.h"

namespace mlf {

/// Borrows the memory that this thread keeps for it; a call inside the call (of a signal handler,
/// say) gets memory of its own. Contents are arbitrary.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) : buffer_(std::move(Kept())) {
    if (buffer_.bytes() < bytes) buffer_ = Buffer(bytes);
  }
  ~Scratch() {
    if (buffer_.bytes() > Kept().bytes()) Kept() = std::move(buffer_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  /// The next `bytes`, aligned to a cache line; all together at most what Padded() of each says.
  uint8_t* Take(int64_t bytes) {
    uint8_t* begin = buffer_.data() + taken_;
    taken_ += Padded(bytes);
    return begin;
  }
  static int64_t Padded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

 private:
  static Buffer& Kept() {
    thread_local Buffer kept;
    return kept;
  }

  Buffer buffer_;
  int64_t taken_ = 0;
};

}  // namespace mlf
