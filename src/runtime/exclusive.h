// Guard of objects that one thread at a time may use.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <atomic>

#include "base/interrupt.h"

namespace mlf {

/// Held for one call. A second call at the same time throws instead of corrupting what the first
/// one works on.
class ExclusiveUse {
 public:
  ExclusiveUse(std::atomic_flag& in_use, const char* object) : in_use_(in_use) {
    if (!in_use.test_and_set(std::memory_order_acquire)) return;
    TVM_FFI_THROW(RuntimeError) << "this " << object
                                << " is in use by another thread; give each thread its own";
  }
  ~ExclusiveUse() { in_use_.clear(std::memory_order_release); }
  ExclusiveUse(const ExclusiveUse&) = delete;
  ExclusiveUse& operator=(const ExclusiveUse&) = delete;

 private:
  LongCall call_;
  std::atomic_flag& in_use_;
};

}  // namespace mlf
