// A program that is not linked with the library: what it says before and after load_library.
#include <my_llm_ffi/my_llm_ffi.h>

#include <cstdio>

int main(int argc, char** argv) {
  try {
    my_llm_ffi::version();
  } catch (const my_llm_ffi::Error& error) {
    std::printf("%s: %s\n", error.kind().c_str(), error.message().c_str());
  }
  try {
    my_llm_ffi::load_library("/no/such/library.so");
  } catch (const my_llm_ffi::Error& error) {
    std::printf("%s\n", error.kind().c_str());
  }
  if (argc > 1) my_llm_ffi::load_library(argv[1]);
  std::printf("%s\n", my_llm_ffi::version().c_str());
  return 0;
}
