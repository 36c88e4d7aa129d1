// my_llm_ffi.MachineLimits across the border.
#include "kernels/limits.h"

#include "ffi/objects.h"

namespace mlf {
namespace {

class MachineLimitsObj : public ffi::Object {
 public:
  MachineLimitsObj(int n_threads, int64_t bytes, bool huge_pages)
      : limits(n_threads, bytes, huge_pages) {}
  MachineLimits limits;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("my_llm_ffi.MachineLimits", MachineLimitsObj, ffi::Object);
};

MLF_OBJECT_REF(MachineLimitsRef, MachineLimitsObj);

MachineLimitsRef Create(int64_t n_threads, int64_t bytes, bool huge_pages) {
  if (n_threads < 0 || n_threads > 65535) {
    TVM_FFI_THROW(ValueError) << "n_threads is " << n_threads << ", expected a count, or 0 for all";
  }
  return MachineLimitsRef(
      ffi::make_object<MachineLimitsObj>(static_cast<int>(n_threads), bytes, huge_pages));
}

TVM_FFI_STATIC_INIT_BLOCK() {
  MethodDef<MachineLimitsObj>()
      .def_static(
          "create", Create,
          "(n_threads, bytes, huge_pages = True): What this machine can do, on n_threads (0: "
          "all), reading and copying a working set of so many bytes.")
      .def(
          "read", [](const MachineLimitsRef& self) { return self->limits.ReadBytesPerSecond(); },
          "(): One measurement: bytes per second of reading memory.")
      .def(
          "copy", [](const MachineLimitsRef& self) { return self->limits.CopyBytesPerSecond(); },
          "(): Bytes per second, read plus written, of copying memory.")
      .def(
          "float_ops",
          [](const MachineLimitsRef& self) { return self->limits.FloatOpsPerSecond(); },
          "(): float32 operations per second, a multiply and an add being two.")
      .def(
          "byte_ops", [](const MachineLimitsRef& self) { return self->limits.ByteOpsPerSecond(); },
          "(): Operations per second on 8-bit integers with 32-bit sums, likewise.");
}

}  // namespace
}  // namespace mlf
