// The little of cuBLASLt that linear calls, so that a build needs none of its headers, and where
// the library is found at run time. Counterpart: linear_cublas.cu.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace mlf::cuda_linear {

// As cublasLt.h of CUDA 11.4 to 13 has them: names and numbers have been kept since.
using CublasStatus = int;  // 0: success
using CublasObject = void*;

inline constexpr int kCublasCompute32F = 68;  // CUBLAS_COMPUTE_32F: no TF32
inline constexpr int kCublasTranspose = 1;    // CUBLAS_OP_T

enum CublasDescAttribute { kCublasDescTransA = 3, kCublasDescEpilogue = 7, kCublasDescBias = 8 };
enum CublasEpilogue : uint32_t { kCublasEpilogueDefault = 1, kCublasEpilogueBias = 4 };
enum CublasPreferenceAttribute {
  kCublasPreferWorkspace = 1,
  kCublasPreferAlignA = 5,
  kCublasPreferAlignB = 6,
  kCublasPreferAlignC = 7,
  kCublasPreferAlignD = 8,
};

struct CublasAlgo {
  uint64_t data[8];
};
struct CublasHeuristic {
  CublasAlgo algo;
  size_t workspace_bytes;
  CublasStatus state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(CublasHeuristic) == 96);

/// Functions of the library, by their names less "cublasLt".
#define MLF_CUBLAS_FUNCTIONS(X)                                                                  \
  X(Create, (CublasObject * handle))                                                             \
  X(MatmulDescCreate, (CublasObject * desc, int compute_type, int scale_type))                   \
  X(MatmulDescDestroy, (CublasObject desc))                                                      \
  X(MatmulDescSetAttribute, (CublasObject desc, int attribute, const void* value, size_t bytes)) \
  X(MatrixLayoutCreate,                                                                          \
    (CublasObject * layout, int type, uint64_t rows, uint64_t cols, int64_t leading))            \
  X(MatrixLayoutDestroy, (CublasObject layout))                                                  \
  X(MatmulPreferenceCreate, (CublasObject * preference))                                         \
  X(MatmulPreferenceDestroy, (CublasObject preference))                                          \
  X(MatmulPreferenceSetAttribute,                                                                \
    (CublasObject preference, int attribute, const void* value, size_t bytes))                   \
  X(MatmulAlgoGetHeuristic,                                                                      \
    (CublasObject handle, CublasObject desc, CublasObject a, CublasObject b, CublasObject c,     \
     CublasObject d, CublasObject preference, int wanted, CublasHeuristic* results, int* found)) \
  X(Matmul, (CublasObject handle, CublasObject desc, const void* alpha, const void* a,           \
             CublasObject a_layout, const void* b, CublasObject b_layout, const void* beta,      \
             const void* c, CublasObject c_layout, void* d, CublasObject d_layout,               \
             const CublasAlgo* algo, void* workspace, size_t workspace_bytes, void* stream))

struct Cublas {
  std::string path;
#define MLF_CUBLAS_MEMBER(name, parameters) CublasStatus(*name) parameters = nullptr;
  MLF_CUBLAS_FUNCTIONS(MLF_CUBLAS_MEMBER)
#undef MLF_CUBLAS_MEMBER
};

/// The library: that of the environment variable MY_LLM_FFI_CUBLASLT where it is set; else one that
/// the process has loaded, as torch does; else that of pip's packages beside ours; else the
/// system's. nullptr where there is none, and what was looked for in *looked_for. Looked for again
/// at the next call: torch may have brought it by then.
const Cublas* FindCublas(std::string* looked_for);

}  // namespace mlf::cuda_linear
