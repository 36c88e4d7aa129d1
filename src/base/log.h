// Messages for whoever embeds the library: silent until a callback is set. Counterpart: log.cc.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <exception>
#include <string>

namespace mlf {

enum class LogLevel : int { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3 };

/// "debug", "info", "warning" or "error".
const char* LogLevelName(LogLevel level);

/// The one process-wide receiver, called as fn(level: str, message: str) from whichever thread
/// logs, several at once if they do; nullptr makes the library silent again. Registered as
/// `my_llm_ffi.set_log_callback` for every language.
void SetLogCallback(tvm::ffi::Optional<tvm::ffi::Function> callback);

/// Whether anybody listens; spares the formatting of costly messages.
bool LogEnabled();

/// Hands the message to the callback. What the callback raises is swallowed (logging must not break
/// what it reports on) and the callback stays set; only KeyboardInterrupt is passed on, because it
/// asks the caller to stop: do not log from destructors.
void Log(LogLevel level, const std::string& message);

/// Logs "<what>: <error>" from where an error has been caught: without memory for it, nothing.
void LogCaught(LogLevel level, const char* what, const std::exception& error) noexcept;

}  // namespace mlf
