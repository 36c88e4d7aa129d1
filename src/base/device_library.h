// Finds kernels of devices other than the CPU: registered functions, or libmy_llm_ffi_cuda.so
// beside this library.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <string>

namespace mlf {

/// The function registered as `my_llm_ffi.<kernel>.<device>`, after loading the device's library
/// when nobody has registered one. Throws NotImplementedError naming kernel and device, with the
/// loader's reason if there is one.
tvm::ffi::Function FindDeviceKernel(const char* kernel, DLDevice device);

/// "found" when libmy_llm_ffi_cuda.so lies beside this library and loads, else why not.
std::string CudaLibraryStatus();

}  // namespace mlf
