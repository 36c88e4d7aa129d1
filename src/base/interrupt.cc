// Ctrl-C and the end of the interpreter in long native work. Counterpart: interrupt.h.
#include "base/interrupt.h"

#include <sys/syscall.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/tvm_ffi.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace mlf {
namespace {

namespace refl = tvm::ffi::reflection;
using std::chrono::milliseconds;

std::atomic<bool> exiting{false};
std::atomic<int> long_calls{0};
std::atomic<bool> other_threads_called{false};

bool OnMainThread() { return syscall(SYS_gettid) == getpid(); }

void ThrowWhenExiting() {
  if (exiting.load() && !OnMainThread()) TVM_FFI_THROW(RuntimeError) << "Python is exiting";
}

TVM_FFI_STATIC_INIT_BLOCK() { refl::GlobalDef().def("my_llm_ffi.begin_exit", BeginExit); }

}  // namespace

void BeginExit() {
  // After the last call the other threads still have their way back into Python, and to their end.
  constexpr milliseconds kStep{5}, kSettled{100}, kLongest{1000};
  exiting.store(true);
  if (!other_threads_called.load()) return;
  milliseconds settled{0};
  for (milliseconds waited{0}; settled < kSettled && waited < kLongest; waited += kStep) {
    std::this_thread::sleep_for(kStep);
    settled = long_calls.load() > 0 ? milliseconds{0} : settled + kStep;
  }
}

LongCall::LongCall() {
  if (!OnMainThread()) other_threads_called.store(true, std::memory_order_relaxed);
  ++long_calls;
  try {
    ThrowWhenExiting();
  } catch (...) {
    --long_calls;
    throw;
  }
}

LongCall::~LongCall() { --long_calls; }

void PollInterrupt() {
  if (HoldInterrupts::held != 0) return;
  ThrowWhenExiting();
  // Python handles signals on the main thread only. The others must not even ask: a daemon thread
  // that wants the GIL while the interpreter ends is ended there, in the middle of our frames.
  if (OnMainThread() && TVMFFIEnvCheckSignals() != 0) throw tvm::ffi::EnvErrorAlreadySet();
}

}  // namespace mlf
