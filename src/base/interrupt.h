// Ctrl-C and the end of the interpreter in long native work. Counterpart: interrupt.cc.
#pragma once
#include <time.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

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

/// Work of other threads than the main one ends as soon as it polls, and ExitGate lets no thread of
/// Python back. Registered as my_llm_ffi.begin_exit and called when Python begins to exit. Returns
/// when there is no LongCall left, after three seconds at most: how many threads ExitGate holds.
int BeginExit();

/// Stands around the call of every registered function. tvm-ffi takes the GIL when a call returns;
/// after the interpreter is gone, CPython ends a thread that does so, inside tvm-ffi's frames, and
/// with it the process. Hence a daemon thread stays in here once Python exits, as CPython's own do
/// from 3.14 on. Costs two loads before that.
class ExitGate {
 public:
  /// RuntimeError when Python has begun to exit and does not come to its end: it may be waiting for
  /// this thread.
  ExitGate() {
    if (exiting.load(std::memory_order_relaxed)) [[unlikely]]
      Enter();
  }
  ~ExitGate() {
    if (exiting.load(std::memory_order_relaxed)) [[unlikely]]
      Stay();
  }
  ExitGate(const ExitGate&) = delete;
  ExitGate& operator=(const ExitGate&) = delete;

  static inline std::atomic<bool> exiting{false};

 private:
  static void Enter();
  static void Stay() noexcept;
};

/// One that lives marks a call which BeginExit waits for. RuntimeError once the exit began.
class LongCall {
 public:
  LongCall();
  ~LongCall();
  LongCall(const LongCall&) = delete;
  LongCall& operator=(const LongCall&) = delete;
};

/// Throws what makes Python raise its pending exception (KeyboardInterrupt) when a signal is
/// waiting on the main thread, and RuntimeError on another one once Python exits. Takes the GIL on
/// the main thread: callers in a loop use InterruptPoller.
void PollInterrupt();

/// PollInterrupt at most every 10 ms; cheap enough for every microsecond of work.
class InterruptPoller {
 public:
  void Poll() {
    const int64_t now = NowMs();
    if (now - last_ < 10) return;
    last_ = now;
    PollInterrupt();
  }

  /// For the i-th turn of a loop whose turns take well under a microsecond.
  void PollAt(size_t i) {
    constexpr size_t kTurns = 4096;
    if (i % kTurns == 0) Poll();
  }

 private:
  /// As of the last tick of the system, a few milliseconds ago: five times as fast as the time.
  static int64_t NowMs() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
  }

  int64_t last_ = NowMs();
};

}  // namespace mlf
