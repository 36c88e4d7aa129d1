// Many requests over one model. Counterpart: executor.h.
#include "runtime/executor.h"

#include <unistd.h>

#include <chrono>
#include <utility>

#include "base/error_text.h"
#include "base/interrupt.h"
#include "base/log.h"

namespace mlf {
namespace {

using Clock = std::chrono::steady_clock;

/// Whose engine this thread runs.
thread_local const Executor* engine_of_thread = nullptr;

/// Steps in a row that fail altogether, after which what is in flight ends.
constexpr int kMostFailures = 3;

std::string RootPrefix(const LoadedAdapter& adapter) {
  return "adapter " + std::to_string(adapter.instance) + ";";
}

/// What entries depend on beside the tokens before them.
std::string RootOf(const Request& request, const ExecutorConfig& config,
                   const LoadedAdapter& adapter) {
  return RootPrefix(adapter) + "window " +
         std::to_string(request.attention_window.value_or(config.attention_window)) + " " +
         std::to_string(request.sink_tokens.value_or(config.sink_tokens)) + ";salt " +
         request.cache_salt;
}

}  // namespace

std::shared_ptr<Executor> Executor::Create(std::shared_ptr<const Model> model,
                                           const ExecutorConfig& config,
                                           PostProcessor post_processor, StepCallback on_step) {
  // Locks and waiters of the parent's threads are for ever as they were when it forked.
  const auto destroy = [](Executor* executor) {
    if (executor->process_ != getpid()) return;
    if (!executor->OnCallback()) {
      delete executor;
    } else {  // the last owner went in a callback, which cannot wait for its own end
      std::thread([executor] { delete executor; }).detach();
    }
  };
  return {new Executor(std::move(model), config, std::move(post_processor), std::move(on_step)),
          destroy};
}

Executor::Executor(std::shared_ptr<const Model> model, const ExecutorConfig& config,
                   PostProcessor post_processor, StepCallback on_step)
    : model_(std::move(model)),
      config_(Completed(config, model_->config())),
      on_step_(std::move(on_step)),
      process_(getpid()),
      responses_(config_.max_pending_responses) {
  model_->CheckOpen();
  const Vocab& vocab = *model_->vocab();
  for (int32_t id = 0; id < vocab.size(); ++id) {
    if (vocab.IsEog(id)) end_ids_.push_back(id);
  }
  if (post_processor != nullptr) {
    pool_ = std::make_unique<PostProcessorPool>(std::move(post_processor),
                                                static_cast<int>(config_.n_post_processor_threads),
                                                config_.post_processor_timeout_ms);
    pool_id_ = pool_->id();
  }
  engine_ = std::make_unique<Engine>(model_, config_, pool_.get(), responses_);
  stats_ = engine_->stats();
  thread_ = std::thread([this] { Loop(); });
}

Executor::~Executor() {
  BeginEnd(/*drain=*/false);
  End();  // without a look for Ctrl-C or the interpreter's end, which would throw
}

bool Executor::ended() const {
  if (process_ != getpid()) return true;
  const std::lock_guard<std::mutex> lock(mutex_);
  return ended_;
}

bool Executor::OnOwnCallback() const {
  const void* const pool = PostProcessorPool::IdOfWorker();
  return engine_of_thread == this || (pool != nullptr && pool == pool_id_);
}

/// Of this executor, or of another one that may wait for this one.
bool Executor::OnCallback() const {
  return PostProcessorPool::IdOfWorker() != nullptr || engine_of_thread == this;
}

// ---- requests -----------------------------------------------------------------------------------

void Executor::CheckProcess() const {
  if (process_ == getpid()) return;
  TVM_FFI_THROW(RuntimeError) << "this Executor belongs to process " << process_
                              << ", which has forked; make a new one here";
}

void Executor::CheckOpen() const {
  if (closing_) TVM_FFI_THROW(RuntimeError) << "this Executor is shut down";
}

bool Executor::HasRoom() const {
  const auto unread = static_cast<int64_t>(responses_.unread());
  const int64_t waiting = stats_.waiting + static_cast<int64_t>(inbox_.groups.size());
  return waiting < config_.max_queue_size && unread < config_.max_queue_size;
}

void Executor::CheckRoom() const {
  CheckOpen();
  if (HasRoom()) return;
  TVM_FFI_THROW(RuntimeError) << "the queue is full: max_queue_size=" << config_.max_queue_size
                              << " requests wait or have responses that nobody read";
}

bool Executor::CanEnqueue() const {
  CheckProcess();
  const std::lock_guard<std::mutex> lock(mutex_);
  return !closing_ && HasRoom();
}

RequestLimits Executor::Limits() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  CheckOpen();
  const bool whole = !config_.enable_chunked_prefill && config_.max_num_tokens;
  return {.n_vocab = model_->vocab()->size(),
          .n_embd = model_->config().n_embd,
          .n_ctx = config_.max_sequence_length,
          .max_sequences = config_.max_batch_size,
          .max_tokens = config_.max_num_tokens.value_or(0),
          .max_chunk = whole ? *config_.max_num_tokens : 0,
          .has_post_processor = pool_id_ != nullptr};
}

LoadedAdapter Executor::AdapterOf(const Request& request) const {
  if (request.lora.empty()) return {};
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = adapters_.find(request.lora);
  if (found == adapters_.end()) {
    TVM_FFI_THROW(KeyError) << "request: lora \"" << request.lora << "\" is not loaded";
  }
  return found->second;
}

std::shared_ptr<Group> Executor::NewGroup(int64_t id, Request request,
                                          LoadedAdapter adapter) const {
  auto group = std::make_shared<Group>(id, std::move(request), model_->vocab());
  if (config_.enable_prefix_cache) group->cache_root = RootOf(group->request, config_, adapter);
  group->lora = std::move(adapter.adapter);
  std::vector<int32_t> end_ids = group->request.stop_token_ids;
  if (!group->request.ignore_eos) end_ids.insert(end_ids.end(), end_ids_.begin(), end_ids_.end());
  if (group->request.beam_width > 1) {
    group->beams =
        std::make_unique<BeamSearch>(BeamOptions{.width = group->request.beam_width,
                                                 .max_tokens = group->request.max_new_tokens,
                                                 .length_penalty = group->request.length_penalty,
                                                 .early_stopping = group->request.early_stopping,
                                                 .end_ids = end_ids});
    group->beam_sequences = {&group->sequences.front()};
  }
  if (group->request.min_tokens > 0) group->banned_ids = std::move(end_ids);
  return group;
}

int64_t Executor::Enqueue(Request request, Audience audience) {
  CheckProcess();
  Check(request, Limits());
  LoadedAdapter adapter = AdapterOf(request);
  const auto take_id = [&] {
    const std::lock_guard<std::mutex> lock(mutex_);
    CheckRoom();
    return next_id_++;
  };
  const int64_t id = take_id();
  auto group = NewGroup(id, std::move(request), std::move(adapter));
  const std::lock_guard<std::mutex> lock(mutex_);
  CheckRoom();  // others may have come meanwhile
  if (!engine_->Fits(*group)) {
    TVM_FFI_THROW(ValueError) << "request: " << group->n_prompt()
                              << " tokens and max_new_tokens=" << group->request.max_new_tokens
                              << " in " << group->sequences.size()
                              << " sequences can never fit kv_cache_tokens="
                              << *config_.kv_cache_tokens;
  }
  inbox_.groups.reserve(inbox_.groups.size() + 1);
  responses_.Open(id, audience);
  inbox_.groups.push_back(std::move(group));
  changed_.notify_all();
  return id;
}

std::vector<Response> Executor::Await(std::optional<double> timeout_ms, std::optional<int64_t> id,
                                      Audience audience) {
  CheckProcess();
  if (OnOwnCallback() && !(timeout_ms && *timeout_ms <= 0)) {
    TVM_FFI_THROW(RuntimeError) << "await_responses: called from a callback of the executor, which "
                                   "gives nothing before it returns; only timeout_ms=0 goes";
  }
  return responses_.Await(timeout_ms, id, audience);
}

bool Executor::Cancel(int64_t id) {
  CheckProcess();
  const ResponseQueue::State state = responses_.StateOf(id);
  if (state == ResponseQueue::State::kNever) {
    TVM_FFI_THROW(ValueError) << "cancel_request: request_id " << id << " was never given";
  }
  if (state == ResponseQueue::State::kOver) return false;
  const std::lock_guard<std::mutex> lock(mutex_);
  inbox_.cancelled.push_back(id);
  changed_.notify_all();
  return true;
}

void Executor::Forget(int64_t id) {
  if (process_ != getpid() || !responses_.Forget(id)) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  inbox_.cancelled.push_back(id);
  changed_.notify_all();
}

ExecutorStats Executor::stats() const {
  CheckProcess();
  const std::lock_guard<std::mutex> lock(mutex_);
  ExecutorStats stats = stats_;
  stats.waiting += static_cast<int64_t>(inbox_.groups.size());
  stats.unread = static_cast<int64_t>(responses_.unread());
  return stats;
}

// ---- adapters -----------------------------------------------------------------------------------

void Executor::LoadLora(const std::string& name, const std::string& path) {
  CheckProcess();
  if (name.empty()) TVM_FFI_THROW(ValueError) << "load_lora: name is empty";
  if (name.size() > kMaxNameBytes) {
    TVM_FFI_THROW(ValueError) << "load_lora: name has " << name.size()
                              << " bytes, expected at most " << kMaxNameBytes;
  }
  const auto check_new = [&] {
    CheckOpen();
    if (adapters_.contains(name)) {
      TVM_FFI_THROW(ValueError) << "load_lora: \"" << name
                                << "\" is loaded already; unload it first";
    }
  };
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    check_new();
  }
  auto adapter = LoraAdapter::Load(path, *model_);
  const std::lock_guard<std::mutex> lock(mutex_);
  check_new();
  adapters_[name] = {name, path, std::move(adapter), next_instance_++};
}

void Executor::UnloadLora(const std::string& name) {
  CheckProcess();
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = adapters_.find(name);
  if (found == adapters_.end()) {
    TVM_FFI_THROW(KeyError) << "unload_lora: \"" << name << "\" is not loaded";
  }
  inbox_.forgotten_roots.push_back(RootPrefix(found->second));
  adapters_.erase(found);
  changed_.notify_all();
}

std::vector<LoadedAdapter> Executor::Loras() const {
  CheckProcess();
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<LoadedAdapter> adapters;
  for (const auto& [name, adapter] : adapters_) adapters.push_back(adapter);
  return adapters;
}

// ---- the engine's thread ------------------------------------------------------------------------

void Executor::Loop() {
  engine_of_thread = this;
  while (true) {
    try {
      if (!Receive()) break;
      RunStep();
      failures_ = 0;
    } catch (const std::exception& e) {
      LogCaught(LogLevel::kError, "executor: no step could be made", e);
      if (++failures_ >= kMostFailures) GiveUp(e);
    }
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  ended_ = true;
  changed_.notify_all();
}

/// Ends what is in flight, so that what comes next may go better.
void Executor::GiveUp(const std::exception& error) {
  try {
    engine_->FinishAll(FinishReason::kError, ErrorText(error));
    failures_ = 0;
  } catch (const std::exception& e) {
    LogCaught(LogLevel::kError, "executor", e);
  }
}

void Executor::RunStep() {
  const bool idle = engine_->idle(), stepped = !idle && engine_->RunStep();
  Publish();
  if (stepped) return TellStep();
  if (!idle) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

/// Waits for something to do and takes what came; false at the end.
bool Executor::Receive() {
  Inbox inbox;
  bool abort = false;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto something = [&] {
      return closing_ || !engine_->idle() || !inbox_.groups.empty() || !inbox_.cancelled.empty() ||
             !inbox_.forgotten_roots.empty();
    };
    changed_.wait(lock, something);
    engine_->Reserve(inbox_.groups.size());
    std::swap(inbox, inbox_);
    for (auto& group : inbox.groups) engine_->Add(std::move(group));
    stats_.waiting = engine_->stats().waiting;
    abort = closing_ && !draining_;
    if (closing_ && engine_->idle()) return false;
  }
  for (const std::string& root : inbox.forgotten_roots) engine_->ForgetRoots(root);
  for (const int64_t id : inbox.cancelled) engine_->Finish(id, FinishReason::kCancelled, "");
  if (abort) {
    engine_->FinishAll(FinishReason::kCancelled, "the executor was shut down");
    return false;
  }
  engine_->ExpireDeadlines(Clock::now());
  return true;
}

void Executor::Publish() {
  const ExecutorStats stats = engine_->stats();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stats_ = stats;
  }
}

void Executor::TellStep() {
  if (on_step_ == nullptr) return;
  try {
    on_step_(stats());
  } catch (const std::exception& e) {
    LogCaught(LogLevel::kWarning, "executor: on_step", e);
  }
}

void Executor::Shutdown(bool drain) {
  CheckProcess();
  if (OnCallback()) {
    TVM_FFI_THROW(RuntimeError) << "shutdown: called from a callback of an executor, which would "
                                   "wait for itself";
  }
  BeginEnd(drain);
  AwaitEnd();
  End();
}

void Executor::BeginEnd(bool drain) {
  const std::lock_guard<std::mutex> lock(mutex_);
  // The first call decides, but a drain may still be cut short.
  draining_ = drain && (!closing_ || draining_);
  closing_ = true;
  if (!draining_ && !ended_ && pool_ != nullptr) pool_->Hurry();
  changed_.notify_all();
}

void Executor::End() {
  const std::lock_guard<std::mutex> lock(shutdown_mutex_);
  if (thread_.joinable()) thread_.join();
  responses_.Close();
  pool_.reset();
  on_step_ = nullptr;
  const std::lock_guard<std::mutex> state_lock(mutex_);
  if (engine_ != nullptr) stats_ = engine_->stats();
  engine_.reset();
  adapters_.clear();
}

/// Returns once the engine's loop has ended; throws for Ctrl-C, and then it goes on ending.
void Executor::AwaitEnd() {
  const LongCall call;
  constexpr auto kSlice = std::chrono::milliseconds(25);
  std::unique_lock<std::mutex> lock(mutex_);
  while (!changed_.wait_for(lock, kSlice, [&] { return ended_; })) {
    lock.unlock();
    PollInterrupt();
    lock.lock();
  }
}

}  // namespace mlf
