// Counterpart: device.h.
#include "tensorrt/device.h"

#include <dlfcn.h>
#include <tvm/ffi/extra/c_env_api.h>

#include <atomic>
#include <cstdint>
#include <cstring>

namespace mlf::tensorrt {
namespace {

std::atomic<bool> on_host{false};

/// The functions of the driver that are taken, in its own types; null where there is no driver.
struct Driver {
  int (*get_device)(int* ordinal) = nullptr;
  int (*copy)(uint64_t target, uint64_t source, size_t bytes, void* stream) = nullptr;
};

Driver LoadDriver() {
  Driver driver;
  void* library =
      dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);  // for as long as the process lives
  if (library == nullptr) return driver;
  driver.get_device =
      reinterpret_cast<decltype(driver.get_device)>(dlsym(library, "cuCtxGetDevice"));
  driver.copy = reinterpret_cast<decltype(driver.copy)>(dlsym(library, "cuMemcpyDtoDAsync_v2"));
  return driver;
}

const Driver& TheDriver() {
  static const Driver driver = LoadDriver();
  if (driver.get_device == nullptr || driver.copy == nullptr)
    TVM_FFI_THROW(RuntimeError) << "this needs a GPU of NVIDIA: there is no driver (libcuda.so.1)";
  return driver;
}

}  // namespace

void SetHostMemory(bool host) noexcept { on_host.store(host, std::memory_order_relaxed); }

DLDevice CurrentDevice() {
  if (on_host.load(std::memory_order_relaxed)) return {kDLCPU, 0};
  int ordinal = 0;
  if (TheDriver().get_device(&ordinal) != 0)
    TVM_FFI_THROW(RuntimeError) << "no CUDA context is current in this thread";
  return {kDLCUDA, ordinal};
}

void Copy(DLDevice device, void* target, const void* source, size_t bytes, void* stream) {
  if (bytes == 0) return;
  if (device.device_type == kDLCPU) {
    std::memmove(target, source, bytes);
    return;
  }
  const int status = TheDriver().copy(reinterpret_cast<uint64_t>(target),
                                      reinterpret_cast<uint64_t>(source), bytes, stream);
  if (status != 0) TVM_FFI_THROW(RuntimeError) << "cuMemcpyDtoDAsync failed with " << status;
}

CurrentStream::CurrentStream(DLDevice device, void* stream) : device_(device) {
  if (device_.device_type == kDLCPU) return;
  TVM_FFI_CHECK_SAFE_CALL(
      TVMFFIEnvSetStream(device_.device_type, device_.device_id, stream, &before_));
}

CurrentStream::~CurrentStream() {
  if (device_.device_type == kDLCPU) return;
  TVMFFIEnvSetStream(device_.device_type, device_.device_id, before_, nullptr);
}

}  // namespace mlf::tensorrt
