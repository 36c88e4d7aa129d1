// What can go wrong in a C++ program, and what comes across: checks MODEL prints a line for each
// error, "name|Kind: message", which test_cpp.py compares with Python's. Exits 1 where a value is
// not what it should be.
#include <my_llm_ffi/my_llm_ffi.h>

#include <cstdio>
#include <stdexcept>
#include <thread>

namespace llm = my_llm_ffi;

namespace {

int failures = 0;

void Check(bool holds, const char* what) {
  if (holds) return;
  std::printf("FAILED: %s\n", what);
  ++failures;
}

template <typename Fn>
void Fails(const char* name, Fn fn) {
  try {
    fn();
    std::printf("%s|nothing was thrown\n", name);
  } catch (const llm::Error& error) {
    std::printf("%s|%s: %s\n", name, error.kind().c_str(), error.message().c_str());
  }
}

void Tensors() {
  std::vector<float> x(8), weight(4), out(8);
  std::vector<double> wide(8);
  std::vector<int32_t> ids(2);
  const llm::CpuView input(x, {2, 4}), gain(weight, {4}), output(out, {2, 4});
  Fails("shape", [&] { llm::ops::rms_norm(input, llm::CpuView(weight.data(), {3}), output); });
  Fails("dtype", [&] { llm::ops::rms_norm(llm::CpuView(wide, {2, 4}), gain, output); });
  Fails("overlap", [&] { llm::ops::rms_norm(input, llm::CpuView(x.data(), {4}), input); });
  Fails("eps", [&] {
    llm::ops::RmsNormOptions options;
    options.eps = -1;
    llm::ops::rms_norm(input, gain, output, options);
  });
  int64_t sizes[] = {2, 4}, strides[] = {4, 1};
  const DLTensor elsewhere{x.data(), {kDLMetal, 0}, 2, llm::kFloat32, sizes, strides, 0};
  Fails("devices", [&] { llm::ops::argmax(&elsewhere, llm::CpuView(ids, {2})); });
  Fails("device", [&] { llm::ops::softmax(&elsewhere, &elsewhere); });
  Fails("null", [&] { llm::CpuView(static_cast<float*>(nullptr), {4}); });
  Fails("null pointer",
        [&] { llm::ops::rms_norm(static_cast<const DLTensor*>(nullptr), gain, output); });
  DLTensor odd{x.data(), llm::kCpu, 2, llm::kFloat32, nullptr, nullptr, 0};
  Fails("no sizes", [&] { llm::ops::softmax(&odd, &odd); });
  int64_t negative[] = {-2, 4};
  odd.shape = negative;
  Fails("negative", [&] { llm::ops::softmax(&odd, &odd); });
  Fails("too large", [] { llm::empty({int64_t{1} << 61}, {kDLFloat, 64, 1}, llm::kCpu); });
  std::vector<float> none;
  Fails("wraps", [&] { llm::CpuView(none, {int64_t{1} << 62, 4}); });
  Fails("vector", [&] { llm::CpuView(x, {3}); });
  Fails("parse", [&] { llm::parse<llm::ops::RopeScaling>("cubic"); });
  Check(llm::parse<llm::Format>("Q4_K") == llm::Format::kQ4_K, "parse");
  Check(llm::name(llm::FinishReason::kStopWords) == std::string("STOP_WORDS"), "name");
  Check(llm::name(static_cast<llm::FinishReason>(99)) == std::string("?"), "an unknown number");

  const llm::Tensor made = llm::empty({2, 3}, llm::kFloat32, llm::kCpu);
  Check(made.ndim() == 2 && made.size(1) == 3, "empty");
  // Absent tensors and options.
  llm::ops::layer_norm(input, gain, std::nullopt, output);
  llm::ops::linear(input, llm::CpuView(x, {2, 4}), {}, llm::CpuView(out.data(), {2, 2}));
}

void Callbacks() {
  using llm::Error;
  using tvm::ffi::Any;
  Fails("callback error",
        [] { llm::call_with([](Any) -> Any { throw Error("KeyError", "mine", ""); }, 1); });
  Fails("callback exception",
        [] { llm::call_with([](Any) -> Any { throw std::out_of_range("far out"); }, 1); });
  Fails("no callback", [] { llm::call_with({}, 1); });
  Fails("no callback of threads", [] { llm::call_from_threads({}, 1, 1); });
  Fails("callback int", [] { llm::call_with([](Any) -> Any { throw 3; }, 1); });
  Fails("callback thread", [] {
    llm::call_from_threads(
        [](int64_t thread, int64_t) -> int64_t {
          if (thread == 2) throw std::runtime_error("thread 2");
          return 1;
        },
        4, 3);
  });
  const auto add = [](int64_t thread, int64_t i) { return thread + i; };
  Check(llm::call_from_threads(add, 3, 2) == 9, "call_from_threads");
  Check(llm::call_with([](Any value) -> Any { return value.cast<int64_t>() + 1; }, 41)
                .cast<int64_t>() == 42,
        "call_with");
  std::string said;
  llm::set_log_callback(
      [&](const std::string& level, const std::string& message) { said += level + "/" + message; });
  llm::log("info", "hello from C++, which is long");
  llm::set_log_callback({});
  llm::log("info", "to nobody");
  Check(said == "info/hello from C++, which is long", "log");
}

void Values() {
  Check(llm::join_strings({"a", "ümlaut", ""}, "--") == "a--ümlaut--", "join_strings");
  const auto inverted = llm::invert_dict({{"one", 1}, {"two", 2}});
  Check(inverted.at(2) == "two" && inverted.size() == 2, "invert_dict");
  Check(llm::swap_pair({1, tvm::ffi::String("b")}).second.cast<int64_t>() == 1, "swap_pair");
  Check(llm::format_block("Q4_K") == std::vector<int64_t>{256, 144}, "format_block");
  Check(!llm::version().empty(), "version");
  Check(llm::build_info().count("cpu_level") == 1, "build_info");
  Fails("raise", [] { llm::raise_error("TimeoutError", "of any kind"); });
}

void Objects(const std::string& path) {
  Fails("no file", [] { llm::Model::load("/no/such/model.gguf"); });
  Fails("progress", [&] {
    llm::ModelLoadOptions options;
    options.progress = [](double) -> bool { throw std::runtime_error("enough"); };
    llm::Model::load(path, options);
  });
  const llm::Model model = llm::Model::load(path);
  Check(model.config().n_vocab == model.vocab().size(), "config");
  Check(model.metadata("general.architecture").cast<tvm::ffi::Bytes>() == "llama", "metadata");
  Fails("no key", [&] { model.metadata("no.such.key"); });

  const llm::Vocab vocab = model.vocab();
  const auto ids = vocab.tokenize("Hello", false);
  Check(!ids.empty() && vocab.detokenize(ids).find("Hello") != std::string::npos, "tokenize");
  Fails("token", [&] { vocab.piece(vocab.size()); });

  llm::ModelContextOptions options;
  options.n_ctx = 64;
  llm::Context context = model.context(options);
  const llm::Batch batch = llm::Batch::create();
  batch.add(1, 0, {0}, true);
  context.decode(batch);
  Check(context.logits().size(1) == model.config().n_vocab, "logits");
  Check(context.seq_positions(0) == std::make_pair(int64_t{0}, int64_t{0}), "positions");
  const llm::Context moved = std::move(context);
  Fails("moved from", [&] { context.n_ctx(); });  // NOLINT(bugprone-use-after-move)
  const llm::Context copy = moved;
  moved.close();
  Fails("closed", [&] { copy.n_ctx(); });
  model.close();
  Fails("closed model", [&] { model.context(); });
}

void PostProcessor(const std::string& path) {
  const auto executor = llm::Executor::create(
      llm::Model::load(path), {},
      [](const std::vector<llm::MaskEntry>&) { throw std::runtime_error("no mask today"); });
  llm::Request request;
  request.tokens = {1, 2, 3};
  request.use_logits_post_processor = true;
  executor.enqueue(request);
  for (llm::Response& response : executor.await_responses()) {
    Check(response.finish_reason() == llm::FinishReason::kError, "finish_reason");
    std::printf("post-processor|%s\n", response.error().c_str());
    const llm::Response moved = std::move(response);
    Fails("moved response", [&] { response.error(); });  // NOLINT(bugprone-use-after-move)
  }
  request.max_new_tokens = -1;
  Fails("request", [&] { executor.enqueue(request); });
  executor.shutdown();
  Fails("shut down", [&] { executor.enqueue(llm::Request()); });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  Tensors();
  Callbacks();
  Values();
  Objects(argv[1]);
  PostProcessor(argv[1]);
  return failures == 0 ? 0 : 1;
}
