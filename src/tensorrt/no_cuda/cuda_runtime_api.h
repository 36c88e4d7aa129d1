// All that TensorRT's headers want of CUDA's, where no CUDA toolkit is. Counterpart: device.cc,
// which finds the driver at run time.
#pragma once

typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;
