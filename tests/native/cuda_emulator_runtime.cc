// The emulator's CUDA runtime, tensor allocator, tensor cores and byte arithmetic. Counterparts:
// cuda_emulator.h, cuda_emulator.cc.
#include <tvm/ffi/extra/c_env_api.h>

#include <map>
#include <memory>
#include <numeric>
#include <vector>

#include "cuda_emulator.h"

namespace mlf::emulated {
namespace {

constexpr int kDevices = 2, kMaxThreads = 1024, kMaxSharedBytes = 163 * 1024;  // of sm_80
constexpr size_t kSharedBytes = 48 * 1024;
int current_device = 0;
std::string last_error;
std::map<const void*, size_t> shared_limits;

cudaError_t Fail(cudaError_t error, std::string why) {
  last_error = std::move(why);
  return error;
}

// ---- FromEnvAlloc -------------------------------------------------------------------------------

struct Allocation {
  DLManagedTensorVersioned tensor{};
  std::vector<int64_t> shape;
  std::unique_ptr<unsigned char[]> data;
};

/// Host memory that says it is of a CUDA device, without a byte to spare and never zero by chance.
int Allocate(DLTensor* like, DLManagedTensorVersioned** out, void*,
             void (*)(void*, const char*, const char*)) {
  auto a = std::make_unique<Allocation>();
  a->shape.assign(like->shape, like->shape + like->ndim);
  const int64_t bytes =
      std::accumulate(a->shape.begin(), a->shape.end(),
                      int64_t{like->dtype.bits / 8} * like->dtype.lanes, std::multiplies<>());
  a->data.reset(new unsigned char[bytes]);
  std::memset(a->data.get(), 0xFF, bytes);
  a->tensor.version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION};
  a->tensor.manager_ctx = a.get();
  a->tensor.deleter = [](DLManagedTensorVersioned* t) {
    delete static_cast<Allocation*>(t->manager_ctx);
  };
  a->tensor.dl_tensor = *like;
  a->tensor.dl_tensor.data = a->data.get();
  a->tensor.dl_tensor.shape = a->shape.data();
  a->tensor.dl_tensor.strides = nullptr;
  a->tensor.dl_tensor.byte_offset = 0;
  *out = &a.release()->tensor;
  return 0;
}

[[maybe_unused]] const int kAllocatorIsSet =
    TVMFFIEnvSetDLPackManagedTensorAllocator(Allocate, 1, nullptr);

// ---- tensor cores -------------------------------------------------------------------------------

struct MmaLane {
  float* c;
  const uint32_t *a, *b;
};

/// Half `half` of a word.
template <typename T>
double Element(uint32_t word, int half) {
  return static_cast<float>(T{static_cast<uint16_t>(word >> 16 * half)});
}

template <typename T>
void MmaOfWarp(void* const (&lanes)[32]) {
  const auto lane = [&](int group, int t) -> const MmaLane& {
    return *static_cast<const MmaLane*>(lanes[group * 4 + t]);
  };
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      float& c = lane(i % 8, j / 2).c[i / 8 * 2 + j % 2];
      double sum = c;
      for (int k = 0; k < 16; ++k) {
        const int t = k % 8 / 2;
        sum += Element<T>(lane(i % 8, t).a[k / 8 * 2 + i / 8], k % 2) *
               Element<T>(lane(j, t).b[k / 8], k % 2);
      }
      c = static_cast<float>(sum);
    }
  }
}

struct MatrixLane {
  uint32_t* r;
  const uint16_t* row;
};

template <bool kTransposed>
void LoadMatrixOfWarp(void* const (&lanes)[32]) {
  const auto lane = [&](int i) -> const MatrixLane& {
    return *static_cast<const MatrixLane*>(lanes[i]);
  };
  for (int i = 0; i < 32; ++i) {
    for (int j = 0; j < 4; ++j) {
      uint32_t word = 0;
      for (int half = 0; half < 2; ++half) {
        const int row = i / 4, column = i % 4 * 2 + half;
        const uint32_t element =
            kTransposed ? lane(8 * j + column).row[row] : lane(8 * j + row).row[column];
        word |= element << 16 * half;
      }
      lane(i).r[j] = word;
    }
  }
}

}  // namespace

template <typename T>
void Mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  MmaLane own{c, a, b};
  MeetWarp(~0u, &own, MmaOfWarp<T>, "mma");
}
template void Mma<BF16>(float (&)[4], const uint32_t (&)[4], const uint32_t (&)[2]);
template void Mma<F16>(float (&)[4], const uint32_t (&)[4], const uint32_t (&)[2]);

void LoadMatrix4(uint32_t (&r)[4], const void* shared, bool transposed) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0)
    Fault("a row of a matrix load is not aligned to 16 bytes");
  MatrixLane own{r, static_cast<const uint16_t*>(shared)};
  MeetWarp(~0u, &own, transposed ? LoadMatrixOfWarp<true> : LoadMatrixOfWarp<false>, "ldmatrix");
}

cudaError_t Run(const cudaLaunchConfig_t& config, const void* kernel,
                const std::function<void()>& thread) {
  const dim3 &grid = config.gridDim, &block = config.blockDim;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (grid.x - 1 >= 0x7FFFFFFF || grid.y - 1 >= 65535 || grid.z - 1 >= 65535 ||
      threads - 1 >= kMaxThreads || block.z > 64) {
    return Fail(cudaErrorInvalidConfiguration, "invalid configuration argument");
  }
  const auto limit = shared_limits.find(kernel);
  if (config.dynamicSmemBytes > (limit == shared_limits.end() ? kSharedBytes : limit->second))
    return Fail(cudaErrorInvalidValue, "more shared memory than the kernel has asked for");
  std::string fault = RunGrid(config, thread);
  return fault.empty() ? cudaSuccess : Fail(cudaErrorLaunchFailure, std::move(fault));
}

}  // namespace mlf::emulated

using namespace mlf::emulated;  // NOLINT(google-build-using-namespace): CUDA's are global

cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= kDevices)
    return Fail(cudaErrorInvalidDevice, "invalid device ordinal");
  current_device = device;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  constexpr int kValues[] = {4, 8, 0};
  *value = kValues[attribute];
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  if (value > kMaxSharedBytes) return Fail(cudaErrorInvalidValue, "invalid argument");
  shared_limits[kernel] = value;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

const char* cudaGetErrorString(cudaError_t) { return last_error.c_str(); }

int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 32; i += 8) c += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
  return c;
}

unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 32; i += 8) c += (a >> i & 0xFF) * (b >> i & 0xFF);
  return c;
}

unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t bytes = uint64_t{high} << 32 | low;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned choice = selector >> 4 * i, byte = bytes >> 8 * (choice & 7) & 0xFF;
    const unsigned sign = byte >> 7 ? 0xFF : 0;
    result |= (choice & 8 ? sign : byte) << 8 * i;
  }
  return result;
}
