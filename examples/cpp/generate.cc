// A GGUF file to text, piece by piece: generate MODEL [PROMPT] [MAX-NEW-TOKENS].
#include <my_llm_ffi/my_llm_ffi.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace llm = my_llm_ffi;

namespace {

void Generate(const std::string& path, const std::string& prompt, int64_t max_new_tokens) {
  const llm::Model model = llm::Model::load(path);
  const llm::Vocab vocab = model.vocab();

  llm::ModelContextOptions options;
  options.n_ctx = 512;
  const llm::Context context = model.context(options);

  const llm::Sampler sampler = llm::Sampler::create();
  sampler.add_temperature(0);  // always the best token

  const llm::Generation generation =
      llm::Generation::create(context, sampler, vocab.tokenize(prompt), max_new_tokens);
  while (const auto piece = generation.next()) {
    std::fputs(piece->c_str(), stdout);
    std::fflush(stdout);
  }
  const llm::Timings timings = generation.timings();
  std::fprintf(stderr, "\n%s after %zu tokens, %.1f tokens/s\n",
               llm::name(generation.finish_reason()), generation.tokens().size(),
               timings.generated_tokens / (timings.generated_seconds + 1e-9));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s MODEL [PROMPT] [MAX-NEW-TOKENS]\n", argv[0]);
    return 2;
  }
  try {
    Generate(argv[1], argc > 2 ? argv[2] : "Once upon a time", argc > 3 ? std::atoi(argv[3]) : 32);
    return 0;
  } catch (const llm::Error& error) {
    std::fprintf(stderr, "%s: %s\n", error.kind().c_str(), error.message().c_str());
    return 1;
  }
}
