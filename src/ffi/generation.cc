// my_llm_ffi.Sampler and my_llm_ffi.Generation across the border.
#include "ffi/objects.h"

namespace mlf {
namespace {

std::span<const float> CheckedLogits(const TensorView& logits) {
  if (logits.dtype() != kF32) {
    TVM_FFI_THROW(TypeError) << "logits is " << DtypeName(logits.dtype()) << ", expected float32";
  }
  if (logits.device().device_type != kDLCPU)
    TVM_FFI_THROW(ValueError) << "logits must be on the CPU";
  if (logits.ndim() != 1 || logits.size(0) == 0 || !logits.IsContiguous()) {
    TVM_FFI_THROW(ValueError) << "logits must be one contiguous row [n_vocab] with n_vocab > 0";
  }
  return {Data<const float>(logits), static_cast<size_t>(logits.size(0))};
}

ffi::Tuple<ffi::Array<int64_t>, ffi::Array<double>> Probabilities(const SamplerRef& self,
                                                                  TensorView logits) {
  ffi::Array<int64_t> ids;
  ffi::Array<double> probabilities;
  for (const auto& [id, p] : self->sampler->Probabilities(CheckedLogits(logits))) {
    ids.push_back(id);
    probabilities.push_back(p);
  }
  return ffi::Tuple<ffi::Array<int64_t>, ffi::Array<double>>(ids, probabilities);
}

/// Samples row `index` of the context's logits and accepts the token.
int64_t Sample(const SamplerRef& self, const ContextRef& context, int64_t index) {
  const auto held = context->context.Get();
  const ffi::Tensor logits = held->logits();
  const int32_t token =
      self->sampler->Sample(LogitsRow(logits, index).first(held->model().vocab()->size()));
  self->sampler->Accept(token);
  return token;
}

int32_t CheckedToken(int64_t token) {
  if (token < 0 || token > INT32_MAX)
    TVM_FFI_THROW(ValueError) << "token " << token << " is out of range";
  return static_cast<int32_t>(token);
}

void AddLogitBias(const SamplerRef& self, const ffi::Map<int64_t, double>& bias) {
  LogitBiasStage stage;
  for (const auto& [id, value] : bias) stage.bias.emplace_back(id, value);
  self->sampler->Add(std::move(stage));
}

void RegisterSampler() {
  MethodDef<SamplerObj>()
      .def_static(
          "create", [] { return SamplerRef(ffi::make_object<SamplerObj>()); },
          "(): A sampler without stages, which apply in the order in which they are added.")
      .def(
          "add_penalties",
          [](const SamplerRef& self, double repetition, double frequency, double presence,
             int64_t last_n) {
            self->sampler->Add(PenaltiesStage{repetition, frequency, presence, last_n});
          },
          "(repetition = 1.0, frequency = 0.0, presence = 0.0, last_n = 64): Makes tokens that "
          "were accepted before less likely; last_n: of so many, -1 for all.")
      .def("add_logit_bias", AddLogitBias,
           "(bias): Adds to the logits of some tokens; -inf forbids one.")
      .def(
          "add_temperature",
          [](const SamplerRef& self, double t) { self->sampler->Add(TemperatureStage{t}); },
          "(temperature): Divides logits; 0 leaves only the best token.")
      .def(
          "add_top_k", [](const SamplerRef& self, int64_t k) { self->sampler->Add(TopKStage{k}); },
          "(k): Keeps the k best tokens.")
      .def(
          "add_top_p", [](const SamplerRef& self, double p) { self->sampler->Add(TopPStage{p}); },
          "(p): Keeps the smallest set of tokens of probability p.")
      .def(
          "add_min_p", [](const SamplerRef& self, double p) { self->sampler->Add(MinPStage{p}); },
          "(p): Keeps tokens with p times the best one's probability.")
      .def(
          "add_typical_p",
          [](const SamplerRef& self, double p) { self->sampler->Add(TypicalPStage{p}); },
          "(p): Keeps the most typical tokens of probability p.")
      .def(
          "add_draw",
          [](const SamplerRef& self, const ffi::Optional<int64_t>& seed) {
            DrawStage stage;
            if (seed.has_value()) stage.seed = static_cast<uint64_t>(*seed);
            self->sampler->Add(stage);
          },
          "(seed = None): Draws one of what is left; seed: of the draws, None for a fresh one.")
      .def("sample", Sample,
           "(context, index = -1): Samples from a row of the logits of a context, and accepts "
           "the token.")
      .def(
          "sample_logits",
          [](const SamplerRef& self, TensorView logits) {
            return static_cast<int64_t>(self->sampler->Sample(CheckedLogits(logits)));
          },
          "(logits): Samples from one row, float32 [n_vocab] on the CPU, without accepting the "
          "token.")
      .def("probabilities", Probabilities,
           "(logits): What a draw would choose from: ids and probabilities, best first.")
      .def(
          "accept",
          [](const SamplerRef& self, int64_t token) { self->sampler->Accept(CheckedToken(token)); },
          "(token): Adds a token to the history that penalties look at.")
      .def(
          "reset", [](const SamplerRef& self) { self->sampler->Reset(); },
          "(): Forgets the history and starts the seed's numbers again.");
}

GenerationRef NewGeneration(const ContextRef& context, const SamplerRef& sampler,
                            const ffi::Array<int64_t>& prompt, int64_t max_new_tokens,
                            const ffi::Array<ffi::Bytes>& stops) {
  std::vector<std::string> words;
  for (const ffi::Bytes& stop : stops) words.emplace_back(stop.data(), stop.size());
  return GenerationRef(ffi::make_object<GenerationObj>(
      ffi::GetObjectPtr<ContextObj>(context.get()),
      std::make_unique<Generation>(context->context.Get(), sampler->sampler, ToInts(prompt),
                                   max_new_tokens, std::move(words))));
}

ffi::Map<ffi::String, ffi::Any> Timings(const GenerationRef& self) {
  const GenerationTimings t = self->generation->timings();
  return {{"prompt_tokens", t.prompt_tokens},
          {"prompt_seconds", t.prompt_seconds},
          {"generated_tokens", t.generated_tokens},
          {"generated_seconds", t.generated_seconds}};
}

void RegisterGeneration() {
  MethodDef<GenerationObj>()
      .def_static(
          "create", NewGeneration,
          "(context, sampler, prompt, max_new_tokens = 128, stops = ()): Text after a prompt "
          "of tokens, in sequence 0 of a context, to an end token or one of the stops.")
      .def(
          "next",
          [](const GenerationRef& self) -> ffi::Optional<ffi::String> {
            const auto held = self->context->context.Get();
            const auto piece = self->generation->Next();
            if (!piece) return std::nullopt;
            return ffi::String(*piece);
          },
          "(): The next piece of text, None at the end.")
      .def(
          "tokens",
          [](const GenerationRef& self) {
            const std::vector<int32_t> ids = self->generation->tokens();
            return ffi::Shape(ids.begin(), ids.end());
          },
          "(): Ids that were generated so far.")
      .def(
          "finish_reason",
          [](const GenerationRef& self) {
            return static_cast<int64_t>(self->generation->finish_reason());
          },
          "() -> FinishReason: Why it ended.")
      .def("timings", Timings, "() -> Timings: What it took.");
}

TVM_FFI_STATIC_INIT_BLOCK() {
  RegisterSampler();
  RegisterGeneration();
}

}  // namespace
}  // namespace mlf
