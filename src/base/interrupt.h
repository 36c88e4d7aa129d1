// Ctrl-C in long native work.
#pragma once
#include <sys/syscall.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/tvm_ffi.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>

namespace mlf {

/// While one lives, this thread does not see Ctrl-C: for short work that must not stop half-way.
class HoldInterrupts {
 public:
  HoldInterrupts() { ++held; }
  ~HoldInterrupts() { --held; }
  HoldInterrupts(const HoldInterrupts&) = delete;
  HoldInterrupts& operator=(const HoldInterrupts&) = delete;

  static inline thread_local int held = 0;
};

/// Throws what makes Python raise its pending exception (KeyboardInterrupt) when a signal is
/// waiting; does nothing where no Python is running or off the main thread. Takes the GIL: callers
/// in a loop use InterruptPoller.
inline void PollInterrupt() {
  // Python handles signals on the main thread only. The others must not even ask: a daemon thread
  // that wants the GIL while the interpreter ends is ended there, in the middle of our frames.
  const bool main_thread = syscall(SYS_gettid) == getpid();
  if (main_thread && HoldInterrupts::held == 0 && TVMFFIEnvCheckSignals() != 0)
    throw tvm::ffi::EnvErrorAlreadySet();
}

/// PollInterrupt at most every 10 ms; cheap enough for every few microseconds of work.
class InterruptPoller {
 public:
  void Poll() {
    const auto now = std::chrono::steady_clock::now();
    if (now - last_ < std::chrono::milliseconds(10)) return;
    last_ = now;
    PollInterrupt();
  }

  /// For the i-th turn of a loop whose turns take well under a microsecond.
  void PollAt(size_t i) {
    constexpr size_t kTurns = 4096;
    if (i % kTurns == 0) Poll();
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace mlf
