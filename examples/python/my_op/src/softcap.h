// The kernels of softcap, one per device. Counterparts: softcap.cc, softcap.cu.
#pragma once
#include <my_llm_ffi/declare.h>

/// [*batch, n] float32 or bfloat16, contiguous; out may be x. As the signature in softcap.cc says.
void SoftcapCpu(tvm::ffi::TensorView x, tvm::ffi::TensorView out, double cap);
void SoftcapCuda(tvm::ffi::TensorView x, tvm::ffi::TensorView out, double cap);
