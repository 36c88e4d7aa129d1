// Errors: told to TensorRT's logger, and kept for who asks. Counterpart: report.cc.
#pragma once
#include <NvInferRuntime.h>
#include <tvm/ffi/tvm_ffi.h>

#include <exception>
#include <string>

namespace mlf::tensorrt {

namespace ffi = tvm::ffi;

/// Where the logger of the engine or context that calls is found; null: nowhere.
void SetLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept;

/// Says what went wrong in a plugin's method.
void Report(const char* plugin, const char* method, const char* kind, const char* what) noexcept;

/// The newest report of this thread; "" when there was none.
const char* LastError() noexcept;

/// fn(), or `failed` where it throws, which is reported: TensorRT's vtables let nothing through.
template <typename R, typename Fn>
R Guarded(const std::string& plugin, const char* method, R failed, Fn&& fn) noexcept {
  try {
    return fn();
  } catch (const ffi::Error& error) {
    Report(plugin.c_str(), method, error.kind().c_str(), error.message().c_str());
  } catch (const std::exception& error) {
    Report(plugin.c_str(), method, "RuntimeError", error.what());
  } catch (...) {
    Report(plugin.c_str(), method, "RuntimeError", "an exception that is no std::exception");
  }
  return failed;
}

/// The same for methods that return 0 or -1.
template <typename Fn>
int32_t GuardedStatus(const std::string& plugin, const char* method, Fn&& fn) noexcept {
  return Guarded(plugin, method, int32_t{-1}, [&fn] {
    fn();
    return int32_t{0};
  });
}

}  // namespace mlf::tensorrt
