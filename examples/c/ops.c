/* An op in C: the library is loaded by its path, and nothing is linked but dlopen.
 *
 *     cc -std=c11 ops.c $(python -m my_llm_ffi.config --cflags) -ldl -o ops
 *     ./ops "$(python -m my_llm_ffi.config --libdir)/libmy_llm_ffi.so"
 */
#include <my_llm_ffi/c.h>

static DLTensor matrix(float* data, int64_t* shape, int64_t* strides) {
  const DLTensor tensor = {data, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, shape, strides, 0};
  return tensor;
}

int main(int argc, char** argv) {
  const char* problem = argc == 2 ? mlf_open(argv[1]) : "usage: ops LIBRARY";
  if (problem != NULL) {
    fprintf(stderr, "%s\n", problem);
    return 2;
  }

  TVMFFIAny version;
  if (mlf_version(&version) != 0) {
    mlf_print_error(stderr);
    return 1;
  }
  const TVMFFIByteArray text = mlf_characters(&version);
  printf("my_llm_ffi %.*s\n", (int)text.size, text.data);
  mlf_release(&version);

  float x[2][4] = {{1, 2, 3, 4}, {-1, 0, 1, 0}}, out[2][4], weight[4] = {1, 1, 1, 1};
  int64_t shape[] = {2, 4}, strides[] = {4, 1}, wrong[] = {3}, one = 1;
  const DLTensor input = matrix(&x[0][0], shape, strides);
  const DLTensor output = matrix(&out[0][0], shape, strides);
  DLTensor gain = {weight, {kDLCPU, 0}, 1, {kDLFloat, 32, 1}, &shape[1], &one, 0};
  if (mlf_rms_norm(&input, &gain, &output, 1e-5) != 0) {
    mlf_print_error(stderr);
    return 1;
  }
  for (int row = 0; row < 2; ++row) {
    printf("%.4f %.4f %.4f %.4f\n", out[row][0], out[row][1], out[row][2], out[row][3]);
  }

  gain.shape = wrong; /* errors say what is wrong, as in every language */
  if (mlf_rms_norm(&input, &gain, &output, 1e-5) != 0) mlf_print_error(stdout);
  return 0;
}
