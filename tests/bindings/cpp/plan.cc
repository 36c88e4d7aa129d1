// Builds a plan, saves it into a file and runs it: plan FILE prints results, and what is refused as
// "name|Kind: message", which test_cpp.py compares with Python's.
#include <my_llm_ffi/my_llm_ffi.h>

#include <cstdio>
#include <utility>

namespace llm = my_llm_ffi;

namespace {

template <typename Fn>
void Fails(const char* name, Fn fn) {
  try {
    fn();
    std::printf("%s|nothing was thrown\n", name);
  } catch (const llm::Error& error) {
    std::printf("%s|%s: %s\n", name, error.kind().c_str(), error.message().c_str());
  }
}

/// y = rms_norm(x, weight), with rows of four.
llm::Plan Build() {
  const llm::PlanBuilder builder = llm::PlanBuilder::create();
  const llm::Tensor gain = llm::empty({4}, llm::kFloat32, llm::kCpu);
  for (int i = 0; i < 4; ++i) static_cast<float*>(gain.data_ptr())[i] = static_cast<float>(i);
  const llm::PlanValue x = builder.input("x", llm::kFloat32, {"n", 4});
  const llm::PlanValue weight = builder.constant("weight", gain);
  const llm::PlanValue y = builder.buffer(llm::kFloat32, {"n", 4});
  builder.call("my_llm_ffi.rms_norm", {x, weight, y, 1e-6});
  builder.output("y", y);
  Fails("function", [&] { builder.call("my_llm_ffi.no_such_op", {x, nullptr, "text", true, 1}); });
  Fails("size", [&] { builder.input("z", llm::kFloat32, {"n +"}); });
  return builder.build();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  Build().save(argv[1]);
  llm::Plan plan = llm::Plan::load(argv[1]);
  std::vector<float> x{1, 2, 3, 4, 1, 1, 1, 1}, y(8);
  const llm::CpuView given(x, {2, 4}), made(y, {2, 4});
  if (plan.output_shapes({given}) != std::vector<std::vector<int64_t>>{{2, 4}}) return 3;
  if (plan.inputs().at(0).shape() != std::vector<std::string>{"n", "4"}) return 4;
  if (plan.outputs().at(0).name() != "y" || plan.n_calls() != 1) return 5;
  plan.run({given, made});
  std::printf("y|");
  for (int i = 0; i < 8; ++i) std::printf("%s%.6f", i > 0 ? " " : "", y[i]);
  std::printf("\n");
  Fails("few", [&] { plan.run({given}); });
  Fails("shape", [&] { plan.output_shapes({llm::CpuView(x.data(), {2, 3})}); });
  Fails("no file", [] { llm::Plan::load("/no/such/plan"); });
  const llm::Plan moved = std::move(plan);
  Fails("moved", [&] { plan.n_calls(); });  // NOLINT(bugprone-use-after-move)
  return 0;
}
