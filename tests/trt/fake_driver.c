// What src/tensorrt/device.cc takes of NVIDIA's driver, on host memory: one device, copies that are
// made at once and counted. Counterpart: fake_device.py, which loads it as libcuda.so.1.
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static int64_t copied_bytes;
static void* copy_stream;

int cuCtxGetDevice(int* ordinal) {
  *ordinal = 3;
  return 0;
}

int cuMemcpyDtoDAsync_v2(uint64_t target, uint64_t source, size_t bytes, void* stream) {
  if (stream == (void*)13) return 700;  // as a driver that refuses
  memcpy((void*)(uintptr_t)target, (const void*)(uintptr_t)source, bytes);
  copied_bytes += (int64_t)bytes;
  copy_stream = stream;
  return 0;
}

int64_t fake_copied_bytes(void) { return copied_bytes; }
void* fake_copy_stream(void) { return copy_stream; }
