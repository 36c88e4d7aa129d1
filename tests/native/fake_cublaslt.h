// What the cuBLASLt of fake_cublaslt.cc was called with, and how it shall fail.
#pragma once
#include "kernels/linear_cublas.h"

namespace mlf {

struct FakeCublasLog {
  int handles, choices, products;
  int objects;  // that were made and not yet destroyed
  uint64_t workspace_bytes;
  uint32_t align[4];
  void* stream;
  bool knows_nothing, fails;  // set by a test
};

}  // namespace mlf

/// Also by dlsym.
extern "C" mlf::FakeCublasLog* FakeCublasLogPointer();
