/* driver CASE OUT [LIBRARY]: runs a parity case through the C client and writes the case with the
 * results. The library is the third argument, or what MY_LLM_FFI_LIBRARY names.
 * Counterparts: case.h, dispatch.h (generated), tests/parity/cpp/driver.cc. */
#include "dispatch.h"

static bool read_file(const char* path, struct parity_case* c) {
  FILE* in = fopen(path, "rb");
  if (in == NULL) return false;
  fseek(in, 0, SEEK_END);
  c->size = (size_t)ftell(in);
  rewind(in);
  c->bytes = malloc(c->size + 1);
  const bool whole = c->bytes != NULL && fread(c->bytes, 1, c->size, in) == c->size;
  fclose(in);
  return whole;
}

static bool write_file(const char* path, struct parity_case* c) {
  for (uint32_t i = 0; i < c->n_tensors; ++i) {
    if (c->present[i]) memcpy(c->bytes + c->data_at[i], c->memory[i], c->data_size[i]);
  }
  FILE* out = fopen(path, "wb");
  if (out == NULL) return false;
  const bool whole = fwrite(c->bytes, 1, c->size, out) == c->size;
  return fclose(out) == 0 && whole;
}

int main(int argc, char** argv) {
  static struct parity_case c;
  const char* library = argc > 3 ? argv[3] : getenv("MY_LLM_FFI_LIBRARY");
  if (argc < 3 || library == NULL) return 2;
  const char* error = mlf_open(library);
  if (error != NULL) {
    fprintf(stderr, "OSError: %s\n", error);
    return 1;
  }
  if (!read_file(argv[1], &c) || !read_case(&c)) {
    fprintf(stderr, "ValueError: no parity case: %s\n", argv[1]);
    return 1;
  }
  if (dispatch(&c) != 0) {
    mlf_print_error(stderr);
    return 1;
  }
  return write_file(argv[2], &c) ? 0 : 1;
}
