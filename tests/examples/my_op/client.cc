// Calls softcap through the client that `python -m my_llm_ffi.bindings cpp` made of its
// declaration. client LIBRARY
#include <my_llm_ffi/declare.h>  // beside the client: the two have no name in common
#include <my_llm_ffi/my_llm_ffi.h>

#include <cstdio>
#include <vector>

#include "my_op_client.h"

int main(int, char** argv) {
  for (const std::string& name : my_llm_ffi::load_ops(argv[1])) std::printf("%s\n", name.c_str());
  std::vector<float> x = {-100.0F, 0.0F, 100.0F}, out(3);
  const my_llm_ffi::CpuView from(x, {3}), to(out, {3});
  my_llm_ffi::ops::SoftcapOptions options;
  options.cap = 5.0;
  my_llm_ffi::ops::softcap(from, to, options);
  std::printf("%.3f %.3f %.3f\n", out[0], out[1], out[2]);
  try {
    options.cap = 0;
    my_llm_ffi::ops::softcap(from, to, options);
  } catch (const my_llm_ffi::Error& error) {
    std::printf("%s: %s\n", error.kind().c_str(), error.message().c_str());
  }
}
