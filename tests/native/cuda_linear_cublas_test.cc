// Float weights times many tokens on CUDA: what cuBLASLt is called with, by a library of ours in
// its place. Counterparts: src/kernels/linear_cublas.cu, fake_cublaslt.cc.
#include <dlfcn.h>
#include <tvm/ffi/extra/c_env_api.h>

#include <cstdlib>

#include "cuda_linear_problem.h"
#include "fake_cublaslt.h"

namespace mlf {
namespace {

constexpr double kError = 1e-6;  // the fake sums in float64
constexpr const char* kVariable = "MY_LLM_FFI_CUBLASLT";

template <typename X, typename Out>
void TestProduct(Format format, FakeCublasLog& log) {
  for (int64_t cols : {1, 24, 100}) {
    for (int64_t tokens : {9, 40}) {
      const CudaProduct<X, Out> p(format, 21, cols, tokens);
      const int before = log.products;
      p.ExpectNear(p.Run(true), true, kError);
      p.ExpectNear(p.Run(false), false, kError);
      MLF_EXPECT(log.products == before + 2 && log.objects == 0 && log.workspace_bytes == 0);
    }
  }
}

void TestAbsent() {
  const CudaProduct<float> p(Format::kF32, 5, 16, 9);
  setenv(kVariable, "/nowhere/libcublasLt.so", 1);
  MLF_EXPECT_THROWS(p.Run(false), "NotImplementedError",
                    "x has 9 rows, and more than 8 rows times a weight of floats take cuBLASLt, "
                    "which was not found: looked for /nowhere/libcublasLt.so.");
  unsetenv(kVariable);
  MLF_EXPECT_THROWS(p.Run(false), "NotImplementedError",
                    "/../../nvidia/cu13/lib/libcublasLt.so.13");
  setenv(kVariable, "libdl.so.2", 1);  // some other library
  MLF_EXPECT_THROWS(p.Run(false), "NotImplementedError", "which lacks a function");
  const CudaProduct<float> few(Format::kF32, 5, 16, 8);
  few.ExpectNear(few.Run(true), true, kError);  // needs none
}

/// A choice is made once for each kind of product, and depends on where its operands lie.
void TestChoices(FakeCublasLog& log) {
  const CudaProduct<F16> p(Format::kF16, 24, 40, 12);
  const int before = log.choices;
  for (int i = 0; i < 3; ++i) p.Run(true);
  MLF_EXPECT(log.choices >= before + 1 && log.choices <= before + 3);  // outputs may lie elsewhere
  const CudaProduct<F16> shifted(Format::kF16, 24, 40, 12, 2);
  shifted.ExpectNear(shifted.Run(false), false, kError);
  MLF_EXPECT(log.align[0] == 2);
  for (uint32_t align : log.align) MLF_EXPECT(align >= 2 && align <= 256);
  MLF_EXPECT(log.handles == 1);
}

void TestStream(FakeCublasLog& log) {
  const CudaProduct<F16> p(Format::kF16, 8, 16, 16);
  int place = 0;
  void* before = nullptr;
  MLF_EXPECT(TVMFFIEnvSetStream(kDLCUDA, 0, &place, &before) == 0);
  p.Run(false);
  MLF_EXPECT(log.stream == &place);
  TVMFFIEnvSetStream(kDLCUDA, 0, before, nullptr);
}

void TestFailures(FakeCublasLog& log) {
  const CudaProduct<BF16> p(Format::kBF16, 7, 33, 11);
  log.knows_nothing = true;  // our own kernel then
  const int before = log.products;
  p.ExpectNear(p.Run(true), true, kError);
  MLF_EXPECT(log.products == before);
  log.knows_nothing = false;
  log.fails = true;
  MLF_EXPECT_THROWS(p.Run(true), "RuntimeError", "returned status 7: x [11, 33] bfloat16");
  log.fails = false;
  MLF_EXPECT(log.objects == 0);
}

}  // namespace
}  // namespace mlf

int main() {
  using namespace mlf;  // NOLINT(google-build-using-namespace)
  TestAbsent();
  setenv(kVariable, MLF_FAKE_CUBLASLT, 1);
  void* library = dlopen(MLF_FAKE_CUBLASLT, RTLD_NOW);
  MLF_EXPECT(library != nullptr);
  const auto log_of =
      reinterpret_cast<decltype(&FakeCublasLogPointer)>(dlsym(library, "FakeCublasLogPointer"));
  FakeCublasLog& log = *log_of();
  TestProduct<float, float>(Format::kF32, log);
  TestProduct<F16, F16>(Format::kF16, log);
  TestProduct<BF16, BF16>(Format::kBF16, log);
  TestProduct<BF16, float>(Format::kBF16, log);
  TestChoices(log);
  TestStream(log);
  TestFailures(log);
  return 0;
}
