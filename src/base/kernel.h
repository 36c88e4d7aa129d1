// Kernels as slots: one signature with one slot per device.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <atomic>
#include <string>
#include <utility>

#include "base/array.h"
#include "base/device_library.h"

namespace mlf {

template <typename Signature>
class Kernel;

/// A kernel of the model path and of an op. The CPU slot is filled at load by a file of this
/// library; a slot of another device is a function registered as `my_llm_ffi.<name>.<device>`
/// ("my_llm_ffi.rms_norm.cuda") with the same arguments: by libmy_llm_ffi_cuda.so, which is loaded
/// at first need, or by anybody else. It is looked up once.
template <typename... A>
class Kernel<void(A...)> {
 public:
  using Fn = void (*)(A...);
  constexpr explicit Kernel(const char* name) : name_(name) {}

  /// Fills the CPU slot: `const bool kFilled = rms_norm_kernel.SetCpu(RmsNormCpu);`
  bool SetCpu(Fn fn) {
    cpu_ = fn;
    return true;
  }

  void operator()(DLDevice device, A... args) {
    if (device.device_type == kDLCPU) return cpu_(args...);
    Slot(device)(args...);
  }

  const char* name() const { return name_; }

 private:
  const ffi::Function& Slot(DLDevice device) {
    const int type = device.device_type;
    if (type < 0 || type >= kMaxDevices)
      TVM_FFI_THROW(NotImplementedError) << name_ << ": unknown device type " << type;
    const ffi::Function* fn = found_[type].load(std::memory_order_acquire);
    if (fn == nullptr) {
      // Leaked on purpose: registered functions live as long as the process, and callers may still
      // be inside.
      fn = new ffi::Function(FindDeviceKernel(name_, device));
      found_[type].store(fn, std::memory_order_release);
    }
    return *fn;
  }

  static constexpr int kMaxDevices = 32;
  const char* name_;
  Fn cpu_ = nullptr;
  std::atomic<const ffi::Function*> found_[kMaxDevices] = {};
};

}  // namespace mlf
