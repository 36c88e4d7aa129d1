// An op on your own memory: no model, no Python, nothing copied.
//
// Build it with one line: see docs/guide_cpp.md.
#include <my_llm_ffi/my_llm_ffi.h>

#include <cstdio>
#include <vector>

namespace llm = my_llm_ffi;

int main() {
  const int64_t rows = 2, hidden = 4;
  std::vector<float> x = {1, 2, 3, 4, -1, 0, 1, 0}, weight(hidden, 1.0f), out(x.size());

  llm::ops::RmsNormOptions options;
  options.eps = 1e-5;
  llm::ops::rms_norm(llm::CpuView(x, {rows, hidden}), llm::CpuView(weight, {hidden}),
                     llm::CpuView(out, {rows, hidden}), options);
  for (size_t i = 0; i < out.size(); ++i) std::printf(i % 4 == 3 ? "%.4f\n" : "%.4f ", out[i]);

  // What is wrong is said with the argument's name.
  try {
    llm::ops::rms_norm(llm::CpuView(x, {rows, hidden}), llm::CpuView(weight.data(), {hidden - 1}),
                       llm::CpuView(out, {rows, hidden}));
  } catch (const llm::Error& error) {
    std::printf("%s: %s\n", error.kind().c_str(), error.message().c_str());
  }
  return 0;
}
