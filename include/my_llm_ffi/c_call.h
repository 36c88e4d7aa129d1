/* How the C client calls: the library loaded by dlopen, arguments, results, errors. Written by
 * hand; c_ops.h and c_objects.h, which are generated, stand on it. Needs tvm-ffi's C header, no
 * library to link with.
 *
 * Calls return 0, or -1 after an error, which mlf_take_error() then gives. */
#ifndef MY_LLM_FFI_C_CALL_H_
#define MY_LLM_FFI_C_CALL_H_
#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

/* The functions of tvm-ffi that it takes, all of them, found in what libmy_llm_ffi.so needs. */
typedef struct {
  int (*get_global)(const TVMFFIByteArray* name, TVMFFIObjectHandle* out);
  int (*call)(TVMFFIObjectHandle function, TVMFFIAny* args, int32_t count, TVMFFIAny* result);
  int (*type_index)(const TVMFFIByteArray* key, int32_t* out);
  const TVMFFITypeInfo* (*type_info)(int32_t index);
  int (*create)(void* self, TVMFFISafeCallType call, void (*deleter)(void*),
                TVMFFIObjectHandle* out);
  int (*drop)(TVMFFIObjectHandle object);
  void (*move_error)(TVMFFIObjectHandle* out);
  void (*set_error)(const char* kind, const char* message);
} mlf_api_t;

/* One for the program, however many files include this. */
__attribute__((weak)) mlf_api_t mlf_api;

/* Loads libmy_llm_ffi.so for good. NULL, or what is wrong. Call it once, before everything else,
 * which fails until then. */
static inline const char* mlf_open(const char* path) {
  mlf_api_t api;
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) return dlerror();
  const struct {
    const char* name;
    void* place;
  } wanted[] = {
      {"TVMFFIFunctionGetGlobal", &api.get_global},
      {"TVMFFIFunctionCall", &api.call},
      {"TVMFFITypeKeyToIndex", &api.type_index},
      {"TVMFFIGetTypeInfo", &api.type_info},
      {"TVMFFIFunctionCreate", &api.create},
      {"TVMFFIObjectDecRef", &api.drop},
      {"TVMFFIErrorMoveFromRaised", &api.move_error},
      {"TVMFFIErrorSetRaisedFromCStr", &api.set_error},
  };
  for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; ++i) {
    void* symbol = dlsym(library, wanted[i].name);
    if (symbol == NULL) return dlerror();
    memcpy(wanted[i].place, &symbol, sizeof symbol);
  }
  mlf_api = api;
  return NULL;
}

/* ---- arguments and results ------------------------------------------------------------------ */

static inline TVMFFIAny mlf_value(int32_t type) {
  TVMFFIAny any;
  memset(&any, 0, sizeof any);
  any.type_index = type;
  return any;
}
static inline TVMFFIAny mlf_none(void) { return mlf_value(kTVMFFINone); }
static inline TVMFFIAny mlf_int(int64_t value) {
  TVMFFIAny any = mlf_value(kTVMFFIInt);
  any.v_int64 = value;
  return any;
}
static inline TVMFFIAny mlf_float(double value) {
  TVMFFIAny any = mlf_value(kTVMFFIFloat);
  any.v_float64 = value;
  return any;
}
static inline TVMFFIAny mlf_bool(bool value) {
  TVMFFIAny any = mlf_value(kTVMFFIBool);
  any.v_int64 = value;
  return any;
}
/* NULL is None, here and below. */
static inline TVMFFIAny mlf_text(const char* value) {
  TVMFFIAny any = mlf_value(value == NULL ? kTVMFFINone : kTVMFFIRawStr);
  any.v_c_str = value;
  return any;
}
static inline TVMFFIAny mlf_bytes(const TVMFFIByteArray* value) {
  TVMFFIAny any = mlf_value(value == NULL ? kTVMFFINone : kTVMFFIByteArrayPtr);
  any.v_ptr = (void*)(uintptr_t)value;
  return any;
}
static inline TVMFFIAny mlf_tensor(const DLTensor* value) {
  TVMFFIAny any = mlf_value(value == NULL ? kTVMFFINone : kTVMFFIDLTensorPtr);
  any.v_ptr = (void*)(uintptr_t)value;
  return any;
}
static inline TVMFFIAny mlf_optional_int(const int64_t* value) {
  return value == NULL ? mlf_none() : mlf_int(*value);
}
static inline TVMFFIAny mlf_optional_float(const double* value) {
  return value == NULL ? mlf_none() : mlf_float(*value);
}

/* Gives back what a call returned; numbers need it not, and do not mind. */
static inline void mlf_release(TVMFFIAny* any) {
  if (any->type_index >= kTVMFFIStaticObjectBegin) mlf_api.drop(any->v_obj);
  *any = mlf_none();
}

/* The characters of a text or of bytes that a call returned; they live as long as `any`. */
static inline TVMFFIByteArray mlf_characters(const TVMFFIAny* any) {
  TVMFFIByteArray bytes = {"", 0};
  if (any->type_index == kTVMFFISmallStr || any->type_index == kTVMFFISmallBytes) {
    bytes.data = any->v_bytes;
    bytes.size = any->small_str_len;
  } else if (any->type_index == kTVMFFIStr || any->type_index == kTVMFFIBytes) {
    memcpy(&bytes, (const char*)any->v_obj + sizeof(TVMFFIObject), sizeof bytes);
  }
  return bytes;
}

/* ---- errors --------------------------------------------------------------------------------- */

/* Kind and message of the last error of this thread; to be released with mlf_drop_error. */
typedef struct {
  TVMFFIObjectHandle object;
  TVMFFIByteArray kind, message;
} mlf_error;

static inline mlf_error mlf_take_error(void) {
  static const char kind[] = "RuntimeError";
  static const char message[] = "the library is not open: call mlf_open() first";
  mlf_error error = {NULL, {"", 0}, {"", 0}};
  if (mlf_api.move_error == NULL) {
    const TVMFFIByteArray kind_bytes = {kind, sizeof kind - 1};
    const TVMFFIByteArray message_bytes = {message, sizeof message - 1};
    error.kind = kind_bytes;
    error.message = message_bytes;
    return error;
  }
  mlf_api.move_error(&error.object);
  if (error.object != NULL) {
    TVMFFIErrorCell cell;
    memcpy(&cell, (const char*)error.object + sizeof(TVMFFIObject), sizeof cell);
    error.kind = cell.kind;
    error.message = cell.message;
  }
  return error;
}
static inline void mlf_drop_error(mlf_error* error) {
  if (error->object != NULL) mlf_api.drop(error->object);
  error->object = NULL;
}
/* "ValueError: rms_norm: …" */
static inline void mlf_print_error(FILE* out) {
  mlf_error error = mlf_take_error();
  fprintf(out, "%.*s: %.*s\n", (int)error.kind.size, error.kind.data, (int)error.message.size,
          error.message.data);
  mlf_drop_error(&error);
}
/* Fails with an error: `return mlf_fail("ValueError", "…");` in a callback. */
static inline int mlf_fail(const char* kind, const char* message) {
  mlf_api.set_error(kind, message);
  return -1;
}

/* ---- calls ---------------------------------------------------------------------------------- */

static inline int mlf_missing(const char* type, const char* name) {
  char message[256];
  snprintf(message, sizeof message, "there is no %s%s%s: a library of an older release may lack it",
           type, *type ? "." : "", name);
  return mlf_fail("RuntimeError", message);
}

/* A registered function, or NULL after an error. */
static inline TVMFFIObjectHandle mlf_find(const char* name) {
  const TVMFFIByteArray key = {name, strlen(name)};
  TVMFFIObjectHandle function = NULL;
  if (mlf_api.get_global == NULL || mlf_api.get_global(&key, &function) != 0) return NULL;
  if (function == NULL) mlf_missing("", name);
  return function;
}

/* A method, or NULL after an error. */
static inline TVMFFIObjectHandle mlf_find_method(const char* type, const char* name) {
  const TVMFFIByteArray key = {type, strlen(type)};
  int32_t index = 0;
  if (mlf_api.type_index == NULL || mlf_api.type_index(&key, &index) != 0) return NULL;
  const TVMFFITypeInfo* info = mlf_api.type_info(index);
  for (int32_t i = 0; i < info->num_methods; ++i) {
    const TVMFFIByteArray found = info->methods[i].name;
    if (found.size == strlen(name) && memcmp(found.data, name, found.size) == 0) {
      return info->methods[i].method.v_obj;
    }
  }
  mlf_missing(type, name);
  return NULL;
}

/* Calls a function that was found. `result` may be NULL, or is to be released; None after an
 * error. */
static inline int mlf_run(TVMFFIObjectHandle function, TVMFFIAny* args, int32_t count,
                          TVMFFIAny* result) {
  TVMFFIAny returned = mlf_none();
  const int status = function == NULL ? -1 : mlf_api.call(function, args, count, &returned);
  if (result != NULL) {
    *result = returned;
  } else {
    mlf_release(&returned);
  }
  return status;
}

/* Calls a registered function; `*cache` keeps it. */
static inline int mlf_call(TVMFFIObjectHandle* cache, const char* name, TVMFFIAny* args,
                           int32_t count, TVMFFIAny* result) {
  TVMFFIObjectHandle function = __atomic_load_n(cache, __ATOMIC_ACQUIRE);
  if (function == NULL) {
    function = mlf_find(name);
    __atomic_store_n(cache, function, __ATOMIC_RELEASE);
  }
  return mlf_run(function, args, count, result);
}

/* Calls a method; of those that are not static the object is the first argument. */
static inline int mlf_call_method(TVMFFIObjectHandle* cache, const char* type, const char* name,
                                  TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  TVMFFIObjectHandle function = __atomic_load_n(cache, __ATOMIC_ACQUIRE);
  if (function == NULL) {
    function = mlf_find_method(type, name);
    __atomic_store_n(cache, function, __ATOMIC_RELEASE);
  }
  return mlf_run(function, args, count, result);
}

/* Calls a method of an object with any number of tensors. */
static inline int mlf_call_spread(TVMFFIObjectHandle* cache, const char* type, const char* name,
                                  TVMFFIAny self, const DLTensor* const* tensors, int32_t count,
                                  TVMFFIAny* result) {
  TVMFFIAny few[32];
  TVMFFIAny* args = few;
  if (count >= 32) args = (TVMFFIAny*)malloc(((size_t)count + 1) * sizeof *args);
  if (args == NULL) return mlf_fail("MemoryError", "no memory for the arguments of a call");
  args[0] = self;
  for (int32_t i = 0; i < count; ++i) args[i + 1] = mlf_tensor(tensors[i]);
  const int status = mlf_call_method(cache, type, name, args, count + 1, result);
  if (args != few) free(args);
  return status;
}

/* ---- lists, maps, callbacks ----------------------------------------------------------------- */

/* A list: token ids, texts, objects. What is in it is shared, not taken. */
static inline int mlf_list(TVMFFIAny* items, int32_t count, TVMFFIAny* out) {
  static TVMFFIObjectHandle mlf_function;
  return mlf_call(&mlf_function, "ffi.Array", items, count, out);
}

/* A map of n pairs, {key, value, key, value, …}: the fields of a request or of a configuration. */
static inline int mlf_map(TVMFFIAny* pairs, int32_t n, TVMFFIAny* out) {
  static TVMFFIObjectHandle mlf_function;
  return mlf_call(&mlf_function, "ffi.Map", pairs, 2 * n, out);
}

/* A callback: the library calls call(self, args, count, result), from any thread, and
 * deleter(self), which may be NULL, when it needs it no more. `args` are lent; `*result`, None
 * before, is the library's; 0 says that it went well, mlf_fail that it did not. */
static inline int mlf_callback(void* self, TVMFFISafeCallType call, void (*deleter)(void*),
                               TVMFFIAny* out) {
  TVMFFIObjectHandle function = NULL;
  *out = mlf_none();
  if (mlf_api.create == NULL || mlf_api.create(self, call, deleter, &function) != 0) return -1;
  out->type_index = kTVMFFIFunction;
  out->v_obj = (TVMFFIObject*)function;
  return 0;
}

/* Reads a field of an object. */
static inline int mlf_get_field(TVMFFIAny self, const char* type, const char* name,
                                TVMFFIAny* out) {
  char message[256];
  const TVMFFITypeInfo* info = NULL;
  *out = mlf_none();
  if (mlf_api.type_info == NULL) return -1;
  if (self.type_index >= kTVMFFIStaticObjectBegin) info = mlf_api.type_info(self.type_index);
  if (info == NULL || strcmp(info->type_key.data, type) != 0) {
    snprintf(message, sizeof message, "%s: expected %s, got %s", name, type,
             info == NULL ? "no object" : info->type_key.data);
    return mlf_fail("TypeError", message);
  }
  for (int32_t i = 0; i < info->num_fields; ++i) {
    const TVMFFIFieldInfo* field = &info->fields[i];
    if (field->name.size == strlen(name) && memcmp(field->name.data, name, field->name.size) == 0) {
      return field->getter((char*)self.v_obj + field->offset, out);
    }
  }
  return mlf_missing(type, name);
}

#endif /* MY_LLM_FFI_C_CALL_H_ */
