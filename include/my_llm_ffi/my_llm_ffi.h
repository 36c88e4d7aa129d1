// The C++ client of my_llm_ffi, all of it: #include <my_llm_ffi/my_llm_ffi.h>. docs/guide_cpp.md.
#pragma once
#include "my_llm_ffi/objects.h"
#include "my_llm_ffi/ops.h"
