// A cuBLASLt that multiplies on the CPU what its descriptors say, and keeps what it was called
// with. Built as a library of its own for cuda_linear_cublas_test.cc, which finds it as linear
// does.
#include "fake_cublaslt.h"

#include <cstring>

#include "base/half.h"

namespace {

struct Desc {
  int transpose_a = 0;
  uint32_t epilogue = mlf::cuda_linear::kCublasEpilogueDefault;
  const void* bias = nullptr;
};

struct Layout {
  int type;
  uint64_t rows, cols;
  int64_t leading;
};

struct Preference {
  uint64_t workspace_bytes = 1;
  uint32_t align[4] = {256, 256, 256, 256};
};

mlf::FakeCublasLog fake_log{};

float Load(const void* data, int type, int64_t i) {
  if (type == 0) return static_cast<const float*>(data)[i];
  if (type == 2) return static_cast<float>(static_cast<const mlf::F16*>(data)[i]);
  return static_cast<float>(static_cast<const mlf::BF16*>(data)[i]);
}

void Store(void* data, int type, int64_t i, float v) {
  if (type == 0) {
    static_cast<float*>(data)[i] = v;
  } else if (type == 2) {
    static_cast<mlf::F16*>(data)[i] = mlf::F16::From(v);
  } else {
    static_cast<mlf::BF16*>(data)[i] = mlf::BF16::From(v);
  }
}

constexpr int kInvalid = 7;  // CUBLAS_STATUS_INVALID_VALUE

}  // namespace

#define MLF_FAKE extern "C" __attribute__((visibility("default"))) int

extern "C" __attribute__((visibility("default"))) mlf::FakeCublasLog* FakeCublasLogPointer() {
  return &fake_log;
}

MLF_FAKE cublasLtCreate(void** handle) {
  ++fake_log.handles;
  *handle = &fake_log;
  return 0;
}

MLF_FAKE cublasLtMatmulDescCreate(void** desc, int compute_type, int scale_type) {
  if (compute_type != mlf::cuda_linear::kCublasCompute32F || scale_type != 0) return kInvalid;
  ++fake_log.objects;
  *desc = new Desc;
  return 0;
}
MLF_FAKE cublasLtMatmulDescDestroy(void* desc) {
  --fake_log.objects;
  delete static_cast<Desc*>(desc);
  return 0;
}
MLF_FAKE cublasLtMatmulDescSetAttribute(void* desc, int attribute, const void* value,
                                        size_t bytes) {
  auto* to = static_cast<Desc*>(desc);
  if (attribute == 3 && bytes == 4) {
    std::memcpy(&to->transpose_a, value, bytes);
  } else if (attribute == 7 && bytes == 4) {
    std::memcpy(&to->epilogue, value, bytes);
  } else if (attribute == 8 && bytes == sizeof(void*)) {
    std::memcpy(&to->bias, value, bytes);
  } else {
    return kInvalid;
  }
  return 0;
}

MLF_FAKE cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t cols,
                                    int64_t leading) {
  ++fake_log.objects;
  *layout = new Layout{type, rows, cols, leading};
  return 0;
}
MLF_FAKE cublasLtMatrixLayoutDestroy(void* layout) {
  --fake_log.objects;
  delete static_cast<Layout*>(layout);
  return 0;
}

MLF_FAKE cublasLtMatmulPreferenceCreate(void** preference) {
  ++fake_log.objects;
  *preference = new Preference;
  return 0;
}
MLF_FAKE cublasLtMatmulPreferenceDestroy(void* preference) {
  --fake_log.objects;
  delete static_cast<Preference*>(preference);
  return 0;
}
MLF_FAKE cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value,
                                              size_t bytes) {
  auto* to = static_cast<Preference*>(preference);
  if (attribute == 1 && bytes == 8) {
    std::memcpy(&to->workspace_bytes, value, bytes);
  } else if (attribute >= 5 && attribute <= 8 && bytes == 4) {
    std::memcpy(&to->align[attribute - 5], value, bytes);
  } else {
    return kInvalid;
  }
  return 0;
}

MLF_FAKE cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void* preference,
                                        int wanted, mlf::cuda_linear::CublasHeuristic* results,
                                        int* found) {
  const auto* p = static_cast<const Preference*>(preference);
  ++fake_log.choices;
  fake_log.workspace_bytes = p->workspace_bytes;
  std::memcpy(fake_log.align, p->align, sizeof fake_log.align);
  *found = wanted > 0 && !fake_log.knows_nothing ? 1 : 0;
  if (*found > 0) results[0] = mlf::cuda_linear::CublasHeuristic{{{42}}, 0, 0, 0.f, {}};
  return *found > 0 ? 0 : 15;  // CUBLAS_STATUS_NOT_SUPPORTED
}

MLF_FAKE cublasLtMatmul(void* handle, void* desc, const void* alpha, const void* a, void* a_layout,
                        const void* b, void* b_layout, const void* beta, const void* c,
                        void* c_layout, void* d, void* d_layout,
                        const mlf::cuda_linear::CublasAlgo* algo, void* workspace,
                        size_t workspace_bytes, void* stream) {
  const auto* op = static_cast<const Desc*>(desc);
  const auto *la = static_cast<const Layout*>(a_layout), *lb = static_cast<const Layout*>(b_layout),
             *ld = static_cast<const Layout*>(d_layout);
  ++fake_log.products;
  fake_log.stream = stream;
  if (fake_log.fails || handle != &fake_log || algo->data[0] != 42 || workspace != nullptr ||
      workspace_bytes != 0 || c != d || c_layout != d_layout || op->transpose_a != 1 ||
      la->rows != lb->rows || ld->rows != la->cols || ld->cols != lb->cols ||
      *static_cast<const float*>(beta) != 0.f) {
    return kInvalid;
  }
  const bool bias = op->epilogue == mlf::cuda_linear::kCublasEpilogueBias;
  for (uint64_t m = 0; m < ld->rows; ++m) {
    for (uint64_t n = 0; n < ld->cols; ++n) {
      double sum = 0;
      for (uint64_t k = 0; k < la->rows; ++k) {
        sum += double{Load(a, la->type, k + m * la->leading)} *
               double{Load(b, lb->type, k + n * lb->leading)};
      }
      sum *= *static_cast<const float*>(alpha);
      if (bias) sum += Load(op->bias, ld->type, m);
      Store(d, ld->type, m + n * ld->leading, static_cast<float>(sum));
    }
  }
  return 0;
}
