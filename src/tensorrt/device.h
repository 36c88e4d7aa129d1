// The device whose addresses plugins are given: NVIDIA's driver, found at run time, or the host.
// Counterparts: device.cc, python/my_llm_ffi/tensorrt/memory.py.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <cstddef>

namespace mlf::tensorrt {

/// Says that addresses are the host's and that there are no streams: for tests of the interface on
/// machines without a GPU. In all threads.
void SetHostMemory(bool host) noexcept;

/// The device of the CUDA context that is current in this thread, or the CPU after
/// SetHostMemory(true). Throws RuntimeError where there is neither.
DLDevice CurrentDevice();

/// Copies between addresses of a device, on a stream. Throws RuntimeError when the driver refuses.
void Copy(DLDevice device, void* target, const void* source, size_t bytes, void* stream);

/// On a GPU, the stream that ops launch on in this thread while one of these lives.
class CurrentStream {
 public:
  CurrentStream(DLDevice device, void* stream);
  ~CurrentStream();
  CurrentStream(const CurrentStream&) = delete;
  CurrentStream& operator=(const CurrentStream&) = delete;

 private:
  DLDevice device_;
  void* before_ = nullptr;
};

}  // namespace mlf::tensorrt
