// Owned device memory: the only allocator of the model path.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace mlf {

/// Aligned to 64 bytes (2 MiB where large), zero when fresh, moved but never copied. CPU memory is
/// committed at first touch, so that a cache sized for the longest context costs what is used of
/// it. Throws MemoryError (with the size) when the system refuses, NotImplementedError for a device
/// without an allocator.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t bytes, DLDevice device = {kDLCPU, 0});
  /// On the CPU; the MemoryError begins with `purpose` ("a KV cache of n_ctx=8 entries").
  static Buffer For(const std::string& purpose, int64_t bytes);
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(device_, other.device_);
    return *this;
  }
  ~Buffer();

  template <typename T = uint8_t>
  T* data() const {
    return reinterpret_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }
  DLDevice device() const { return device_; }

 private:
  uint8_t* data_ = nullptr;
  int64_t bytes_ = 0;
  DLDevice device_{kDLCPU, 0};
};

}  // namespace mlf
