// Ctrl-C and the end of the interpreter in long native work. Counterpart: interrupt.h.
#include "base/interrupt.h"

#include <dlfcn.h>
#include <sys/syscall.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/tvm_ffi.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <initializer_list>
#include <thread>

namespace mlf {
namespace {

namespace refl = tvm::ffi::reflection;
using std::chrono::milliseconds;

using Clock = std::chrono::steady_clock;

std::atomic<int> long_calls{0}, staying{0};
// Who registered with atexit before us may wait for a thread that stays: then it goes on.
std::atomic<Clock::time_point> patience_ends{};

bool OnMainThread() { return syscall(SYS_gettid) == getpid(); }

void ThrowWhenExiting() {
  if (ExitGate::exiting.load() && !OnMainThread())
    TVM_FFI_THROW(RuntimeError) << "Python is exiting";
}

/// A function of the Python that is in this process, null where there is none.
template <typename Fn>
Fn* OfPython(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (void* found = dlsym(RTLD_DEFAULT, name)) return reinterpret_cast<Fn*>(found);
  }
  return nullptr;
}

/// May be asked without the GIL. The name had an underscore before 3.13.
bool Finalizing() {
  static const auto fn = OfPython<int()>({"Py_IsFinalizing", "_Py_IsFinalizing"});
  return fn != nullptr && fn() != 0;
}

/// Whether this thread may hold the GIL. May be asked without it.
bool IsPythons() {
  static const auto fn = OfPython<void*()>({"PyGILState_GetThisThreadState"});
  return fn != nullptr && fn() != nullptr;
}

TVM_FFI_STATIC_INIT_BLOCK() { refl::GlobalDef().def("my_llm_ffi.begin_exit", BeginExit); }

}  // namespace

int BeginExit() {
  constexpr milliseconds kStep{5}, kLongest{3000}, kPatience{500};
  const auto last = Clock::now() + kLongest;
  patience_ends.store(last + kPatience);
  ExitGate::exiting.store(true);
  while (long_calls.load() > 0 && Clock::now() < last) std::this_thread::sleep_for(kStep);
  patience_ends.store(Clock::now() + kPatience);
  return staying.load();
}

void ExitGate::Stay() noexcept {
  constexpr milliseconds kStep{5};
  if (OnMainThread() || !IsPythons()) return;
  ++staying;
  do {
    while (Finalizing()) pause();
    std::this_thread::sleep_for(kStep);
  } while (Clock::now() < patience_ends.load());
  --staying;
}

void ExitGate::Enter() {
  Stay();
  ThrowWhenExiting();
}

LongCall::LongCall() {
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
