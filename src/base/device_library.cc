// Finds kernels of devices other than the CPU. Counterpart: device_library.h.
#include "base/device_library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <mutex>

#include "base/registry.h"

namespace mlf {
namespace {

namespace ffi = tvm::ffi;

std::string DeviceName(DLDevice device) {
  switch (device.device_type) {
    case kDLCPU:
      return "cpu";
    case kDLCUDA:
      return "cuda";
    case kDLROCM:
      return "rocm";
    case kDLMetal:
      return "metal";
    default:
      return "device" + std::to_string(device.device_type);
  }
}

/// The folder of this shared library, whoever loaded it.
std::string OwnFolder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&CudaLibraryStatus), &info) == 0) return ".";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

/// Loads the CUDA library once. Its registration blocks fill the slots; nothing else of it is used.
std::string LoadCudaLibrary() {
  const std::string path = OwnFolder() + "/libmy_llm_ffi_cuda.so";
  if (access(path.c_str(), R_OK) != 0)
    return "this build has no CUDA kernels (" + path + " is not there)";
  if (dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) != nullptr) return "found";
  const char* reason = dlerror();
  return std::string("its CUDA kernels do not load: ") +
         (reason != nullptr ? reason : "unknown reason");
}

}  // namespace

std::string CudaLibraryStatus() {
  static std::once_flag once;
  static std::string status;
  std::call_once(once, [] { status = LoadCudaLibrary(); });
  return status;
}

ffi::Function FindDeviceKernel(const char* kernel, DLDevice device) {
  const std::string device_name = DeviceName(device),
                    slot = std::string("my_llm_ffi.") + kernel + "." + device_name;
  if (auto fn = ffi::Function::GetGlobal(slot)) return ThroughC(*fn);
  std::string why = "nobody has registered " + slot;
  if (device.device_type == kDLCUDA) {
    const std::string status = CudaLibraryStatus();
    if (auto fn = ffi::Function::GetGlobal(slot)) return ThroughC(*fn);
    if (status != "found") why = status;
  }
  TVM_FFI_THROW(NotImplementedError)
      << kernel << ": no kernel for device " << device_name << ": " << why;
}

}  // namespace mlf
