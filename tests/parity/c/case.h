/* A parity case: one call of an op, in the file format of tests/parity. Counterpart: driver.c. */
#ifndef PARITY_CASE_H_
#define PARITY_CASE_H_
#include <my_llm_ffi/c.h>
#include <stdlib.h>

enum { kMostTensors = 16, kMostOptions = 16, kMostDims = 8 };

struct parity_option {
  uint8_t kind; /* 0 None, 1 int, 2 float, 3 bool, 4 text */
  int64_t integer;
  double number;
  char* text;
};

/* The file as it stands, in which outputs are written where they lie; and what it says. */
struct parity_case {
  char* bytes;
  size_t size, at;
  char op[64];
  uint32_t n_tensors, n_options;
  bool present[kMostTensors];
  DLTensor tensors[kMostTensors];
  int64_t shapes[kMostTensors][kMostDims], strides[kMostTensors][kMostDims];
  char* memory[kMostTensors]; /* aligned copies of the data */
  size_t data_at[kMostTensors], data_size[kMostTensors];
  struct parity_option options[kMostOptions];
};

static inline bool take(struct parity_case* c, void* out, size_t size) {
  if (size > c->size - c->at) return false;
  memcpy(out, c->bytes + c->at, size);
  c->at += size;
  return true;
}

static inline bool take_text(struct parity_case* c, char** out) {
  uint32_t size = 0;
  if (!take(c, &size, sizeof size) || size > c->size - c->at) return false;
  *out = calloc(size + 1, 1);
  return *out != NULL && take(c, *out, size);
}

static inline bool take_tensor(struct parity_case* c, uint32_t i) {
  uint8_t present = 0, code = 0, bits = 0;
  uint32_t ndim = 0;
  uint64_t size = 0;
  if (!take(c, &present, 1)) return false;
  c->present[i] = present != 0;
  if (!present) return true;
  if (!take(c, &code, 1) || !take(c, &bits, 1) || !take(c, &ndim, sizeof ndim)) return false;
  if (ndim > kMostDims || !take(c, c->shapes[i], ndim * sizeof(int64_t))) return false;
  if (!take(c, &size, sizeof size) || size > c->size - c->at) return false;
  c->data_at[i] = c->at;
  c->data_size[i] = size;
  c->memory[i] = aligned_alloc(64, (size + 64) / 64 * 64);
  if (c->memory[i] == NULL || !take(c, c->memory[i], size)) return false;
  int64_t stride = 1;
  for (uint32_t d = ndim; d-- > 0; stride *= c->shapes[i][d]) c->strides[i][d] = stride;
  const DLTensor tensor = {
      c->memory[i], {kDLCPU, 0}, (int32_t)ndim, {code, bits, 1}, c->shapes[i], c->strides[i], 0};
  c->tensors[i] = tensor;
  return true;
}

static inline bool take_option(struct parity_case* c, struct parity_option* option) {
  uint8_t flag = 0;
  if (!take(c, &option->kind, 1)) return false;
  if (option->kind == 1) return take(c, &option->integer, sizeof option->integer);
  if (option->kind == 2) return take(c, &option->number, sizeof option->number);
  if (option->kind == 4) return take_text(c, &option->text);
  if (option->kind == 3 && !take(c, &flag, 1)) return false;
  option->integer = flag;
  return true;
}

/* Reads the bytes of a file, which the case then owns. False: they are no case. */
static inline bool read_case(struct parity_case* c) {
  char magic[8];
  char* op = NULL;
  if (!take(c, magic, sizeof magic) || memcmp(magic, "MLFCASE1", 8) != 0) return false;
  if (!take_text(c, &op) || strlen(op) >= sizeof c->op) return false;
  strcpy(c->op, op);
  free(op);
  if (!take(c, &c->n_tensors, sizeof c->n_tensors) || c->n_tensors > kMostTensors) return false;
  for (uint32_t i = 0; i < c->n_tensors; ++i) {
    if (!take_tensor(c, i)) return false;
  }
  if (!take(c, &c->n_options, sizeof c->n_options) || c->n_options > kMostOptions) return false;
  for (uint32_t i = 0; i < c->n_options; ++i) {
    if (!take_option(c, &c->options[i])) return false;
  }
  return c->at == c->size;
}

/* ---- what the dispatch asks for -------------------------------------------------------------- */

static inline const DLTensor* tensor_at(const struct parity_case* c, uint32_t i) {
  return i < c->n_tensors && c->present[i] ? &c->tensors[i] : NULL;
}
static inline int64_t int_at(const struct parity_case* c, uint32_t i) {
  return c->options[i].integer;
}
static inline bool bool_at(const struct parity_case* c, uint32_t i) {
  return c->options[i].integer != 0;
}
static inline double float_at(const struct parity_case* c, uint32_t i) {
  return c->options[i].kind == 1 ? (double)c->options[i].integer : c->options[i].number;
}
static inline const char* text_at(const struct parity_case* c, uint32_t i) {
  return c->options[i].text;
}
static inline const int64_t* optional_int_at(const struct parity_case* c, uint32_t i) {
  return c->options[i].kind == 0 ? NULL : &c->options[i].integer;
}
static inline const double* optional_float_at(const struct parity_case* c, uint32_t i) {
  if (c->options[i].kind == 0) return NULL;
  double* number = (double*)(uintptr_t)&c->options[i].number;
  *number = float_at(c, i);
  return number;
}

#endif /* PARITY_CASE_H_ */
