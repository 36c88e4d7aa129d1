// The caller's allocator of a framework, for emulated CUDA kernels that ask for scratch memory.
#pragma once
#include <tvm/ffi/extra/c_env_api.h>

#include <cstdlib>
#include <cstring>

#include "check.h"

namespace mlf {

/// While it lives, kernels get no scratch memory, as from a framework that offers none.
class NoScratchAllocator {
 public:
  NoScratchAllocator() : offered_(TVMFFIEnvGetDLPackManagedTensorAllocator()) { Set(nullptr); }
  ~NoScratchAllocator() { Set(offered_); }
  NoScratchAllocator(const NoScratchAllocator&) = delete;
  NoScratchAllocator& operator=(const NoScratchAllocator&) = delete;

 private:
  static void Set(DLPackManagedTensorAllocator allocator) {
    MLF_EXPECT(TVMFFIEnvSetDLPackManagedTensorAllocator(allocator, 1, nullptr) == 0);
  }

  DLPackManagedTensorAllocator offered_;
};

/// While it lives, kernels get scratch memory, full of what is not a number, and it counts.
class ScratchAllocator {
 public:
  ScratchAllocator() {
    allocations() = 0;
    MLF_EXPECT(TVMFFIEnvSetDLPackManagedTensorAllocator(Allocate, 0, &before_) == 0);
  }
  ~ScratchAllocator() { TVMFFIEnvSetDLPackManagedTensorAllocator(before_, 0, nullptr); }
  ScratchAllocator(const ScratchAllocator&) = delete;
  ScratchAllocator& operator=(const ScratchAllocator&) = delete;

  /// Since the last one was made.
  static int& allocations() {
    static int n = 0;
    return n;
  }

 private:
  struct Memory {
    DLManagedTensorVersioned tensor;
    int64_t shape, stride;
  };

  static int Allocate(DLTensor* prototype, DLManagedTensorVersioned** out, void*,
                      void (*)(void*, const char*, const char*)) {
    MLF_EXPECT(prototype->ndim == 1 && prototype->dtype.bits == 32);
    auto* memory = new Memory{};
    memory->shape = prototype->shape[0];
    memory->stride = 1;
    DLTensor& t = memory->tensor.dl_tensor;
    t = *prototype;
    t.shape = &memory->shape;
    t.strides = &memory->stride;
    t.byte_offset = 0;
    t.data = std::malloc(memory->shape * sizeof(float));
    std::memset(t.data, 0xFF, memory->shape * sizeof(float));
    memory->tensor.version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION};
    memory->tensor.manager_ctx = memory;
    memory->tensor.deleter = [](DLManagedTensorVersioned* self) {
      std::free(self->dl_tensor.data);
      delete static_cast<Memory*>(self->manager_ctx);
    };
    *out = &memory->tensor;
    ++allocations();
    return 0;
  }

  DLPackManagedTensorAllocator before_ = nullptr;
};

}  // namespace mlf
