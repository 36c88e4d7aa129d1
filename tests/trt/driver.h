// What program.cc takes of driver.cc; Python takes the same by name (driver.py).
#pragma once
#include <cstdint>

// Tensors: a type each, a number of dimensions each, and all sizes in a row.
struct Tensors {
  int32_t count;
  const int32_t* types;
  const int32_t* ndims;
  const int64_t* sizes;
};

extern "C" {

void* mlf_drive_create(void* registry, const char* name, const char* version,
                       const char* name_space, int32_t runtime, int32_t count,
                       const char* const* names, const int32_t* types, const int32_t* lengths,
                       const void* const* data);
void* mlf_drive_clone(void* plugin);
void* mlf_drive_attach(void* plugin);
void mlf_drive_destroy(void* plugin);
int32_t mlf_drive_shape_change(void* plugin, const Tensors* inputs, const Tensors* outputs);
int32_t mlf_drive_enqueue(void* plugin, const Tensors* inputs, const Tensors* outputs,
                          const void* const* in_data, void* const* out_data, void* workspace,
                          void* stream, int32_t times);

}  // extern "C"
