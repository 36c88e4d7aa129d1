// Calls an op of somebody else's library from C++, by its registered name; no Python is near.
// by_name LIBRARY: prints the ops that it declares, and what one of them makes of three numbers.
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>

#include <cstdio>
#include <exception>

namespace ffi = tvm::ffi;

namespace {

void Call(const char* library) {
  const auto load = ffi::Function::GetGlobalRequired("my_llm_ffi.load_ops");
  for (const ffi::String& name : load(library).cast<ffi::Array<ffi::String>>()) {
    std::printf("declared %s\n", name.c_str());
  }
  const auto again = load(library).cast<ffi::Array<ffi::String>>();
  std::printf("declared again: %d\n", static_cast<int>(again.size()));
  float x[] = {-100.0F, 0.0F, 100.0F};
  int64_t shape[] = {3}, strides[] = {1};
  DLTensor view{x, {kDLCPU, 0}, 1, {kDLFloat, 32, 1}, shape, strides, 0};
  const auto softcap = ffi::Function::GetGlobalRequired("my_llm_ffi.softcap");
  softcap(&view, &view, 5.0);
  std::printf("%.3f %.3f %.3f\n", x[0], x[1], x[2]);
  try {
    softcap(&view, &view, -1.0);
  } catch (const ffi::Error& error) {
    std::printf("%s: %s\n", error.kind().c_str(), error.message().c_str());
  }
  view.dtype = {kDLInt, 32, 1};
  try {
    softcap(&view, &view, 1.0);
  } catch (const ffi::Error& error) {
    std::printf("%s: %s\n", error.kind().c_str(), error.message().c_str());
  }
}

}  // namespace

int main(int, char** argv) {
  try {
    Call(argv[1]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
