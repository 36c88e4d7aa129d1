// Prints what a call of an op costs above its kernel: through the registry, through the C++ client,
// and as a step of a plan.
#include <my_llm_ffi/my_llm_ffi.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "check.h"
#include "kernels/norm.h"
#include "plan/plan.h"

namespace mlf {
namespace {

constexpr int kSteps = 1000, kRounds = 200;
constexpr int64_t kWidth = 4;

/// Nanoseconds of one of kSteps, the best round: what other programs took is no cost of ours.
template <typename Fn>
double Measure(const char* name, Fn fn) {
  double best = 1e30;
  for (int round = 0; round < kRounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    fn();
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count() / kSteps);
  }
  std::printf("%-40s %7.1f ns\n", name, best);
  return best;
}

void Run() {
  std::vector<float> x(kWidth, 2), weight(kWidth, 1), out(kWidth), made(kWidth);
  const ArrayView xs(x.data(), kF32, {1, kWidth}), weights(weight.data(), kF32, {kWidth}),
      outs(out.data(), kF32, {1, kWidth});
  const TensorView x_view(xs), weight_view(weights), out_view(outs);
  const auto op = ffi::Function::GetGlobalRequired("my_llm_ffi.rms_norm");

  Program program;
  const std::vector<std::string> row{"1", "4"}, vector{"4"};
  const int32_t in = program.AddInput("x", kF32, row), w = program.AddInput("w", kF32, vector),
                result = program.AddBuffer(kF32, row);
  for (int i = 0; i < kSteps; ++i) {
    program.AddCall("my_llm_ffi.rms_norm",
                    {PlanTensorIndex{in}, PlanTensorIndex{w}, PlanTensorIndex{result}, 1e-6}, {});
  }
  program.AddOutput("out", result);
  Plan plan(std::move(program));
  int64_t row_shape[] = {1, kWidth}, vector_shape[] = {kWidth};
  DLTensor x_tensor{x.data(), {kDLCPU, 0}, 2, kF32, row_shape, nullptr, 0},
      w_tensor{weight.data(), {kDLCPU, 0}, 1, kF32, vector_shape, nullptr, 0},
      out_tensor{made.data(), {kDLCPU, 0}, 2, kF32, row_shape, nullptr, 0};
  const DLTensor *inputs[] = {&x_tensor, &w_tensor}, *outputs[] = {&out_tensor};

  op(x_view, weight_view, out_view, 1e-6);
  plan.Run(inputs, outputs);
  MLF_EXPECT(out == made);
  const double kernel = Measure("kernel", [&] {
    for (int i = 0; i < kSteps; ++i) {
      rms_norm_kernel(out_view.device(), out_view, x_view, weight_view, 1e-6);
    }
  });
  const double call = Measure("registered function", [&] {
    for (int i = 0; i < kSteps; ++i) op(x_view, weight_view, out_view, 1e-6);
  });
  const double client = Measure("C++ client, views made in each call", [&] {
    for (int i = 0; i < kSteps; ++i) {
      my_llm_ffi::ops::rms_norm(my_llm_ffi::CpuView(x, {1, kWidth}),
                                my_llm_ffi::CpuView(weight, {kWidth}),
                                my_llm_ffi::CpuView(out, {1, kWidth}));
    }
  });
  const double typed = Measure("C++ client, views made before", [&] {
    for (int i = 0; i < kSteps; ++i) my_llm_ffi::ops::rms_norm(x_view, weight_view, out_view);
  });
  const double step = Measure("step of a plan", [&] { plan.Run(inputs, outputs); });
  std::printf(
      "above the kernel: function %.1f ns, C++ client %.1f ns, with views %.1f ns, plan "
      "%.1f ns per op\n",
      call - kernel, typed - kernel, client - kernel, step - kernel);
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::Run();
  return 0;
}
