// Messages for whoever embeds the library. Counterpart: log.h.
#include "base/log.h"

#include <atomic>
#include <mutex>
#include <optional>

#include "base/interrupt.h"
#include "base/registry.h"

namespace mlf {
namespace {

namespace ffi = tvm::ffi;

constexpr const char* kNames[] = {"debug", "info", "warning", "error"};

struct Receiver {
  std::atomic<bool> set{false};
  std::mutex mutex;
  ffi::Optional<ffi::Function> callback;
};

/// Leaked on purpose: the callback may be a Python function, and at exit Python is gone before our
/// destructors run.
Receiver& TheReceiver() {
  static Receiver* receiver = new Receiver;
  return *receiver;
}

ffi::Optional<ffi::Function> CurrentCallback() {
  Receiver& receiver = TheReceiver();
  std::lock_guard<std::mutex> lock(receiver.mutex);
  return receiver.callback;
}

LogLevel ParseLevel(const std::string& name) {
  for (int i = 0; i < 4; ++i) {
    if (name == kNames[i]) return static_cast<LogLevel>(i);
  }
  TVM_FFI_THROW(ValueError) << "log: level is \"" << name
                            << "\", expected debug, info, warning or error";
}

TVM_FFI_STATIC_INIT_BLOCK() {
  FunctionDef()
      .def("my_llm_ffi.set_log_callback", SetLogCallback,
           {{"doc",
             "(callback: Callable[[str, str], None]): Where messages of the "
             "library go: callback(level, message); None: nowhere."}})
      .def("my_llm_ffi.log",
           [](const ffi::String& level, const ffi::String& message) {
             Log(ParseLevel(level), message);
           },
           {{"doc",
             "(level, message): Sends a message to that callback. level: "
             "debug, info, warning or error."}});
}

}  // namespace

const char* LogLevelName(LogLevel level) { return kNames[static_cast<int>(level)]; }

void SetLogCallback(ffi::Optional<ffi::Function> callback) {
  Receiver& receiver = TheReceiver();
  {
    std::lock_guard<std::mutex> lock(receiver.mutex);
    receiver.set = callback.has_value();
    std::swap(receiver.callback, callback);
  }
  // The old callback is released here, outside of the lock: its destructor may run Python code.
}

bool LogEnabled() { return TheReceiver().set; }

void Log(LogLevel level, const std::string& message) {
  if (!LogEnabled()) return;
  // A copy, called without the lock: it may log or replace the callback itself.
  const ffi::Optional<ffi::Function> callback = CurrentCallback();
  if (!callback.has_value()) return;
  try {
    const LongCall call;  // where Python ends, its function is not called any more
    (*callback)(LogLevelName(level), message);
  } catch (const ffi::Error& error) {
    const std::string kind = error.kind();
    if (kind == "KeyboardInterrupt" || kind == "EnvErrorAlreadySet") throw;
  } catch (const std::exception&) {
  }
}

void LogCaught(LogLevel level, const char* what, const std::exception& error) noexcept {
  try {
    Log(level, std::string(what) + ": " + error.what());
  } catch (...) {  // NOLINT(bugprone-empty-catch): what is being handled matters more
  }
}

}  // namespace mlf
