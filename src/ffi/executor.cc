// my_llm_ffi.Executor across the border. Counterparts: executor_objects.h, request.cc.
#include <new>
#include <thread>

#include "base/interrupt.h"
#include "ffi/executor_objects.h"

namespace mlf {

/// The end of an engine that runs is left to another thread: whoever drops the last reference may
/// hold Python's lock, for which the engine's callbacks wait.
ExecutorObj::~ExecutorObj() {
  if (executor->ended()) return;
  // Kept for good where there is no thread for it, or where the interpreter is ending already.
  auto* last = new (std::nothrow) std::shared_ptr<Executor>(std::move(executor));
  if (last == nullptr) return;
  try {
    auto call = std::make_shared<LongCall>();  // the interpreter's end waits for it
    std::thread([last, call = std::move(call)] { delete last; }).detach();
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch)
  }
}

namespace {

using Values = ffi::Map<ffi::String, ffi::Any>;
using OptionalFunction = ffi::Optional<ffi::Function>;

PostProcessor ToPostProcessor(const OptionalFunction& function) {
  if (!function.has_value()) return nullptr;
  return [function = *function](const MaskEntries& entries) {
    ffi::Array<MaskEntryRef> objects;
    for (const auto& entry : entries) {
      objects.push_back(MaskEntryRef(ffi::make_object<MaskEntryObj>(entry)));
    }
    const LongCall call;  // the interpreter's end waits for it, and none begins afterwards
    function(objects);
  };
}

Executor::StepCallback ToStepCallback(const OptionalFunction& function) {
  if (!function.has_value()) return nullptr;
  return [function = *function](const ExecutorStats& stats) {
    const LongCall call;  // as above
    function(FromStats(stats));
  };
}

ExecutorRef NewExecutor(const ModelRef& model, const Values& config,
                        const OptionalFunction& post_processor, const OptionalFunction& on_step) {
  return ExecutorRef(ffi::make_object<ExecutorObj>(
      Executor::Create(model->model, ToExecutorConfig(config), ToPostProcessor(post_processor),
                       ToStepCallback(on_step))));
}

Audience ToAudience(int64_t audience) {
  if (audience < 0 || audience > 2)
    TVM_FFI_THROW(ValueError) << "audience is " << audience << ", expected 0 to 2";
  return static_cast<Audience>(audience);
}

ffi::Array<ResponseRef> Await(const ExecutorRef& self, const ffi::Optional<double>& timeout_ms,
                              const ffi::Optional<int64_t>& request_id, int64_t audience) {
  ffi::Array<ResponseRef> responses;
  for (Response& response :
       self->executor->Await(ToStd(timeout_ms), ToStd(request_id), ToAudience(audience))) {
    responses.push_back(ResponseRef(ffi::make_object<ResponseObj>(std::move(response))));
  }
  return responses;
}

ffi::Array<ffi::Any> Loras(const ExecutorRef& self) {
  ffi::Array<ffi::Any> all;
  for (const LoadedAdapter& lora : self->executor->Loras()) {
    all.push_back(Values{{"name", ffi::String(lora.name)},
                         {"path", ffi::Bytes(lora.path)},
                         {"alpha", lora.adapter->alpha()},
                         {"n_pairs", lora.adapter->n_pairs()},
                         {"bytes", lora.adapter->bytes()}});
  }
  return all;
}

void RegisterExecutor() {
  MethodDef<ExecutorObj>()
      .def_static(
          "create", NewExecutor,
          "(model, config: ExecutorConfig = None, logits_post_processor: "
          "Callable[[list[MaskEntry]], None] = None, on_step: Callable[[dict], None] = None): "
          "Runs many requests at once over a model. logits_post_processor: called once per "
          "step, for the requests that ask for it; what it throws ends them with ERROR. "
          "on_step: called with stats after each step.")
      .def(
          "can_enqueue", [](const ExecutorRef& self) { return self->executor->CanEnqueue(); },
          "(): Whether the queue has room.")
      .def(
          "enqueue",
          [](const ExecutorRef& self, const Values& request, int64_t audience) {
            return self->executor->Enqueue(ToRequest(request), ToAudience(audience));
          },
          "(request: Request, audience = 0): Enqueues a request and returns its id. audience: "
          "who awaits its responses; 0: whoever asks for any, 1: whoever asks for this "
          "request.")
      .def("await_responses", Await,
           "(timeout_ms = None, request_id = None, audience = 0): Waits for responses, of one "
           "request or of any, and returns those that are there. timeout_ms: an empty list "
           "after so long; None: as long as something is in flight.")
      .def(
          "cancel", [](const ExecutorRef& self, int64_t id) { return self->executor->Cancel(id); },
          "(request_id): Ends a request with CANCELLED before the next step; false when it is "
          "over already.")
      .def(
          "forget", [](const ExecutorRef& self, int64_t id) { self->executor->Forget(id); },
          "(request_id): Cancels a request of which nobody reads responses any more.")
      .def(
          "stats", [](const ExecutorRef& self) { return FromStats(self->executor->stats()); },
          "(): Counters and times, by name.")
      .def(
          "shutdown", [](const ExecutorRef& self, bool drain) { self->executor->Shutdown(drain); },
          "(drain = False): Ends the engine and frees its memory; what it has answered can "
          "still be awaited. drain: first finishes what was enqueued.")
      .def(
          "load_lora",
          [](const ExecutorRef& self, const ffi::String& name, const PathArgument& path) {
            self->executor->LoadLora({name.data(), name.size()}, ToPath(path));
          },
          "(name, path): Loads an adapter, which requests then name.")
      .def(
          "unload_lora",
          [](const ExecutorRef& self, const ffi::String& name) {
            self->executor->UnloadLora({name.data(), name.size()});
          },
          "(name): Forgets an adapter; requests that use it go on.")
      .def("loras", Loras, "(): Name, path, alpha, n_pairs and bytes of each adapter.");
}

void RegisterResponse() {
  ffi::reflection::ObjectDef<ResponseObj>()
      .def_ro("request_id", &ResponseObj::request_id)
      .def_ro("client_id", &ResponseObj::client_id)
      .def_ro("sequence_index", &ResponseObj::sequence_index)
      .def_ro("finish_reason", &ResponseObj::finish_reason)
      .def_ro("cached_tokens", &ResponseObj::cached_tokens)
      .def_ro("tokens", &ResponseObj::tokens)
      .def_ro("text", &ResponseObj::text)
      .def_ro("error", &ResponseObj::error)
      .def_ro("cumulative_logprob", &ResponseObj::cumulative_logprob)
      .def_ro("mask_fraction", &ResponseObj::mask_fraction)
      .def_ro("is_sequence_final", &ResponseObj::is_sequence_final)
      .def_ro("is_request_final", &ResponseObj::is_request_final)
      .def_ro("logprobs", &ResponseObj::logprobs)
      .def_ro("prompt_logprobs", &ResponseObj::prompt_logprobs)
      .def_ro("embedding", &ResponseObj::embedding);
}

/// fn(entry, arguments ...) while the entry's call runs; RuntimeError afterwards.
template <typename Fn>
auto DuringCall(Fn fn) {
  return
      [fn](const MaskEntryRef& self, auto&&... args) {
        const std::lock_guard<std::mutex> lock(self->entry->mutex);
        if (!self->entry->open) {
          TVM_FFI_THROW(RuntimeError)
              << "this entry is valid during its call of the post-processor only";
        }
        return fn(*self->entry, std::forward<decltype(args)>(args)...);
      };
}

int64_t RequestId(const MaskEntryRef& self) {
  return DuringCall([](MaskEntry& e) { return e.request_id; })(self);
}
int64_t ClientId(const MaskEntryRef& self) {
  return DuringCall([](MaskEntry& e) { return e.client_id; })(self);
}
int64_t SequenceIndex(const MaskEntryRef& self) {
  return DuringCall([](MaskEntry& e) { return e.sequence_index; })(self);
}
ffi::Shape Tokens(const MaskEntryRef& self) {
  return DuringCall([](MaskEntry& e) { return ffi::Shape(e.tokens.begin(), e.tokens.end()); })(
      self);
}
ffi::Tensor Bitmask(const MaskEntryRef& self) {
  return DuringCall([](MaskEntry& e) { return e.bitmask; })(self);
}
double MaskFraction(const MaskEntryRef& self) {
  return DuringCall([](MaskEntry& e) { return e.mask_fraction; })(self);
}
bool IsFinal(const MaskEntryRef& self) {
  return DuringCall([](MaskEntry& e) { return e.is_final; })(self);
}
double Temperature(const MaskEntryRef& self) {
  return DuringCall([](MaskEntry& e) { return e.temperature; })(self);
}
double LnMinP(const MaskEntryRef& self) {
  return DuringCall([](MaskEntry& e) { return e.ln_min_p; })(self);
}
void SetTemperature(const MaskEntryRef& self, double value) {
  DuringCall([](MaskEntry& e, double v) { e.temperature = v; })(self, value);
}
void SetLnMinP(const MaskEntryRef& self, double value) {
  DuringCall([](MaskEntry& e, double v) { e.ln_min_p = v; })(self, value);
}
ffi::Shape ForcedTokens(const MaskEntryRef& self) {
  return DuringCall([](MaskEntry& e) {
    return ffi::Shape(e.forced_tokens.begin(), e.forced_tokens.end());
  })(self);
}
void Force(const MaskEntryRef& self, const ffi::Array<int64_t>& tokens) {
  DuringCall([](MaskEntry& e, const ffi::Array<int64_t>& ids) {
    e.forced_tokens.assign(ids.begin(), ids.end());
  })(self, tokens);
}
void Fail(const MaskEntryRef& self, const ffi::String& error) {
  DuringCall([](MaskEntry& e, const ffi::String& text) {
    e.error = text.empty() ? "failed without a reason" : std::string(text.data(), text.size());
  })(self, error);
}

void RegisterMaskEntry() {
  MethodDef<MaskEntryObj>()
      .def("request_id", RequestId, "(): Of the request.")
      .def("client_id", ClientId, "(): As the request has it.")
      .def("sequence_index", SequenceIndex, "(): Which of the request's answers.")
      .def("tokens", Tokens,
           "(): Ids of the answer that are new since the last call for this sequence.")
      .def("bitmask", Bitmask,
           "(): int32 [ceil(n_vocab / 32)], all bits set: bit i % 32 of word i / 32 allows "
           "token i. To be filled in place.")
      .def("mask_fraction", MaskFraction, "(): Probability that the last mask left.")
      .def("is_final", IsFinal, "(): The sequence is over; nothing will be sampled.")
      .def("temperature", Temperature, "(): Of the next draw.")
      .def("ln_min_p", LnMinP, "(): Logarithm of min_p; -inf: none.")
      .def("set_temperature", SetTemperature, "(value): Of the next draw.")
      .def("set_ln_min_p", SetLnMinP, "(value): Logarithm of min_p; -inf: none.")
      .def("forced_tokens", ForcedTokens, "(): What follows without a choice.")
      .def("force", Force, "(tokens): The tokens that follow, whatever the logits say.")
      .def("fail", Fail, "(error): Ends this sequence with an error of this text; others go on.");
}

TVM_FFI_STATIC_INIT_BLOCK() {
  RegisterExecutor();
  RegisterResponse();
  RegisterMaskEntry();
}

}  // namespace
}  // namespace mlf
