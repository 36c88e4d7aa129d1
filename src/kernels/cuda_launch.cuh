// Launching CUDA kernels on the caller's device and stream. Every .cu file includes this in place
// of <cuda_runtime.h>: another compiler than nvcc gets the emulator of tests/native, which runs the
// same kernels without a GPU.
#pragma once
#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "cuda_emulator.h"
#endif
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/reflection/registry.h>

#include <atomic>
#include <initializer_list>
#include <vector>

#include "base/array.h"
#include "base/dtype.h"

namespace mlf {

/// The dynamic shared memory of the block, aligned to 16 bytes, as many bytes as the launch said.
template <typename T>
__device__ inline T* DynamicShared() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char mlf_dynamic_shared[];
  return reinterpret_cast<T*>(mlf_dynamic_shared);
#else
  return static_cast<T*>(emulated::DynamicSharedMemory());
#endif
}

/// One call of a CUDA slot: checks where its tensors lie, makes their device the current one until
/// its end, and launches on the stream that the caller has set for it.
///
///   const CudaCall call("rms_norm", {{"x", x}, {"weight", weight}, {"out", out}});
///   call.Launch(RmsNormKernel<float>, blocks, 256, 0, Data<float>(out), Data<const float>(x), …);
class CudaCall {
 public:
  struct Argument {
    const char* name;
    TensorView tensor;
  };

  /// A tensor without data (an optional one that was left out, an empty one) may be anywhere. The
  /// op has checked all else.
  CudaCall(const char* kernel, std::initializer_list<Argument> arguments)
      : kernel_(kernel), arguments_(arguments), device_(CheckedDevice()) {
    Check(cudaGetDevice(&callers_device_));
    if (callers_device_ != device_.device_id) Check(cudaSetDevice(device_.device_id));
    stream_ = static_cast<cudaStream_t>(TVMFFIEnvGetStream(kDLCUDA, device_.device_id));
  }
  CudaCall(const CudaCall&) = delete;
  CudaCall& operator=(const CudaCall&) = delete;
  ~CudaCall() {
    if (callers_device_ != device_.device_id) cudaSetDevice(callers_device_);
  }

  /// An empty grid launches nothing. Throws RuntimeError with the op, its tensors and the reason.
  template <typename... Parameters, typename... Arguments>
  void Launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
              const Arguments&... arguments) const {
    static_assert(sizeof...(Parameters) == sizeof...(Arguments));
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    if (shared_bytes > kSharedBytesOfAnyKernel) {
      Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                 cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes)));
    }
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream_;
    Check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
  }

  DLDevice device() const { return device_; }
  cudaStream_t stream() const { return stream_; }
  int multiprocessors() const { return Attribute<cudaDevAttrMultiProcessorCount>(); }

  /// 90 for 9.0.
  int compute_capability() const {
    return 10 * Attribute<cudaDevAttrComputeCapabilityMajor>() +
           Attribute<cudaDevAttrComputeCapabilityMinor>();
  }

  /// Throws RuntimeError with the op, its tensors and the reason unless `error` is none.
  void Check(cudaError_t error) const {
    if (error == cudaSuccess) return;
    static_cast<void>(cudaGetLastError());  // or the framework would find it at its next call
    Fail(cudaGetErrorString(error));
  }

  /// Throws RuntimeError with the op, its tensors and the reason.
  void Fail(const std::string& reason) const {
    TVM_FFI_THROW(RuntimeError) << Described() << ": " << reason;
  }

  /// Throws NotImplementedError with the same: what the op takes, but not on this device.
  void Refuse(const std::string& reason) const {
    TVM_FFI_THROW(NotImplementedError) << Described() << ": " << reason;
  }

 private:
  static constexpr size_t kSharedBytesOfAnyKernel = 48 * 1024;  // above it a kernel must ask
  static constexpr int kCachedDevices = 64;

  /// The op and its tensors.
  std::string Described() const {
    std::ostringstream os;
    os << kernel_ << ".cuda: ";
    const char* separator = "";
    for (const Argument& a : arguments_) {
      if (a.tensor.data_ptr() == nullptr) continue;
      os << separator << a.name << ' ' << ShapeString(a.tensor) << ' '
         << DtypeName(a.tensor.dtype());
      separator = ", ";
    }
    return os.str();
  }

  /// The device of all tensors.
  DLDevice CheckedDevice() const {
    const Argument* first = nullptr;
    for (const Argument& a : arguments_) {
      if (a.tensor.data_ptr() == nullptr) continue;
      const DLDevice device = a.tensor.device();
      if (device.device_type != kDLCUDA) {
        TVM_FFI_THROW(ValueError) << kernel_ << ".cuda: " << a.name
                                  << " is not a CUDA tensor: its device type is "
                                  << device.device_type << ", expected " << int{kDLCUDA};
      }
      if (first == nullptr) first = &a;
      if (device.device_id != first->tensor.device().device_id) {
        TVM_FFI_THROW(ValueError) << kernel_ << ".cuda: " << a.name << " is on device "
                                  << device.device_id << ", " << first->name << " is on "
                                  << first->tensor.device().device_id;
      }
    }
    if (first == nullptr) TVM_FFI_THROW(ValueError) << kernel_ << ".cuda: no tensor has data";
    return first->tensor.device();
  }

  /// An attribute of the device, asked for once per process; 0 stands for not yet.
  template <cudaDeviceAttr kAttribute>
  int Attribute() const {
    static std::atomic<int> cached[kCachedDevices];  // plus 1: a minor version may be 0
    const int id = device_.device_id;
    if (id < kCachedDevices) {
      if (const int value = cached[id].load(std::memory_order_relaxed); value != 0)
        return value - 1;
    }
    int value = 0;
    Check(cudaDeviceGetAttribute(&value, kAttribute, id));
    if (id < kCachedDevices) cached[id].store(value + 1, std::memory_order_relaxed);
    return value;
  }

  const char* kernel_;
  std::vector<Argument> arguments_;
  DLDevice device_;
  int callers_device_ = 0;
  cudaStream_t stream_ = nullptr;
};

/// Fills the slot `name`, unless somebody has filled it before this library was loaded: theirs
/// stays, and an error could go nowhere but to the process's end.
template <typename Fn>
void RegisterCudaKernel(const char* name, Fn kernel) {
  if (tvm::ffi::Function::GetGlobal(name).has_value()) return;
  tvm::ffi::reflection::GlobalDef().def(name, kernel);
}

}  // namespace mlf
