// Many requests at once, with a logits post-processor in C++: serve MODEL [REQUESTS].
//
// The post-processor forbids a token: in every step it clears one bit of each sequence's mask.
#include <my_llm_ffi/my_llm_ffi.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

namespace llm = my_llm_ffi;

namespace {

void Forbid(const std::vector<llm::MaskEntry>& entries, int64_t token) {
  for (const llm::MaskEntry& entry : entries) {
    const llm::Tensor mask = entry.bitmask();  // filled with ones: everything is allowed
    auto* words = static_cast<uint32_t*>(mask.data_ptr());
    words[token / 32] &= ~(uint32_t{1} << (token % 32));
  }
}

void Serve(const std::string& path, int count) {
  const llm::Model model = llm::Model::load(path);
  const llm::Vocab vocab = model.vocab();
  const int64_t forbidden = vocab.tokenize("a", /*add_special=*/false).back();

  llm::ExecutorConfig config;
  config.max_batch_size = 8;
  const llm::Executor executor = llm::Executor::create(
      model, config,
      [&](const std::vector<llm::MaskEntry>& entries) { Forbid(entries, forbidden); });

  for (int i = 0; i < count; ++i) {
    llm::Request request;
    request.tokens = vocab.tokenize("Once upon a time");
    request.max_new_tokens = 16;
    request.streaming = true;
    request.client_id = i;
    request.use_logits_post_processor = true;
    request.sampling.emplace();
    request.sampling->seed = i;
    executor.enqueue(request);
  }

  std::map<int64_t, std::string> texts;
  int n_forbidden = 0;
  while (true) {
    const std::vector<llm::Response> responses = executor.await_responses();
    if (responses.empty()) break;  // nothing is in flight any more
    for (const llm::Response& response : responses) {
      texts[response.client_id()] += response.text();
      for (const int64_t token : response.tokens()) n_forbidden += token == forbidden;
      if (response.finish_reason() == llm::FinishReason::kError) {
        throw llm::Error("RuntimeError", response.error(), "");
      }
    }
  }
  executor.shutdown();
  for (const auto& [client, text] : texts) std::printf("%d:%s\n", int(client), text.c_str());
  std::printf("%zu answers, the forbidden token %d times\n", texts.size(), n_forbidden);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s MODEL [REQUESTS]\n", argv[0]);
    return 2;
  }
  try {
    Serve(argv[1], argc > 2 ? std::atoi(argv[2]) : 4);
    return 0;
  } catch (const llm::Error& error) {
    std::fprintf(stderr, "%s: %s\n", error.kind().c_str(), error.message().c_str());
    return 1;
  }
}
