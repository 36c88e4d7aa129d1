// Counterpart: report.h.
#include "tensorrt/report.h"

#include <dlfcn.h>

#include <atomic>

namespace mlf::tensorrt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};
thread_local std::string last_error;

/// The logger that TensorRT was made with. It gives a finder to libraries that lie in a plan alone,
/// so that others ask the TensorRT that is loaded: no other is, and this library links with none.
nvinfer1::ILogger* FindLogger() {
  nvinfer1::ILoggerFinder* finder = logger_finder.load(std::memory_order_acquire);
  if (finder != nullptr) return finder->findLogger();
  const std::string major = std::to_string(NV_TENSORRT_MAJOR);
  for (const char* name : {"libnvinfer.so.", "libnvinfer_lean.so.", "libnvinfer_dispatch.so."}) {
    void* library = dlopen((name + major).c_str(), RTLD_NOW | RTLD_NOLOAD);
    if (library == nullptr) continue;
    using Get = nvinfer1::ILogger* (*)();
    const auto get = reinterpret_cast<Get>(dlsym(library, "getLogger"));
    nvinfer1::ILogger* logger = get == nullptr ? nullptr : get();
    dlclose(library);  // its count alone: somebody else has loaded it
    if (logger != nullptr) return logger;
  }
  return nullptr;
}

}  // namespace

void SetLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept {
  logger_finder.store(finder, std::memory_order_release);
}

void Report(const char* plugin, const char* method, const char* kind, const char* what) noexcept {
  try {
    last_error = std::string("my_llm_ffi: ") + plugin + "." + method + ": " + kind + ": " + what;
    nvinfer1::ILogger* logger = FindLogger();
    if (logger != nullptr) {
      logger->log(nvinfer1::ILogger::Severity::kERROR, last_error.c_str());
    }
  } catch (...) {  // no memory for the message; the status says that something failed
  }
}

const char* LastError() noexcept { return last_error.c_str(); }

}  // namespace mlf::tensorrt
