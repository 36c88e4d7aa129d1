// Owned device memory. Counterpart: buffer.h.
#include "base/buffer.h"

#include <sys/mman.h>

namespace mlf {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

int64_t MappedBytes(int64_t bytes) {
  const int64_t unit = bytes >= kHugePage ? kHugePage : 4096;
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

Buffer::Buffer(int64_t bytes, DLDevice device) : bytes_(bytes), device_(device) {
  if (device.device_type != kDLCPU) {
    TVM_FFI_THROW(NotImplementedError) << "no allocator for device type " << device.device_type;
  }
  if (bytes < 0) TVM_FFI_THROW(InternalError) << "Buffer: negative size " << bytes;
  if (bytes == 0) return;
  // Large ones are mapped with room to align to a huge page; the kernel commits pages when they are
  // touched.
  const int64_t mapped = MappedBytes(bytes), slack = bytes >= kHugePage ? kHugePage : 0;
  void* map = mmap(nullptr, mapped + slack, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) {
    TVM_FFI_THROW(MemoryError) << "cannot allocate " << (bytes >> 20) << " MiB (" << bytes
                               << " bytes)";
  }
  auto* begin = static_cast<uint8_t*>(map);
  data_ = begin;
  if (slack == 0) return;
  data_ = begin + (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  if (data_ > begin) munmap(begin, data_ - begin);
  if (begin + slack > data_) munmap(data_ + mapped, begin + slack - data_);
  madvise(data_, mapped, MADV_HUGEPAGE);
}

Buffer Buffer::For(const std::string& purpose, int64_t bytes) {
  try {
    return Buffer(bytes);
  } catch (const tvm::ffi::Error& error) {
    if (error.kind() != "MemoryError") throw;
    TVM_FFI_THROW(MemoryError) << purpose << ": " << std::string(error.message());
  }
}

Buffer::~Buffer() {
  if (data_ != nullptr) munmap(data_, MappedBytes(bytes_));
}

}  // namespace mlf
