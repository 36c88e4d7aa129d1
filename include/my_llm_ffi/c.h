/* The C client of my_llm_ffi, all of it: #include <my_llm_ffi/c.h>. docs/guide_cpp.md. */
#ifndef MY_LLM_FFI_C_H_
#define MY_LLM_FFI_C_H_
#include "my_llm_ffi/c_objects.h"
#include "my_llm_ffi/c_ops.h"
#endif /* MY_LLM_FFI_C_H_ */
