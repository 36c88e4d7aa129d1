// The steps of an executor: from a plan to rows of logits. Counterparts: engine.h,
// engine_tokens.cc (what becomes of the rows).
#include "runtime/engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>
#include <utility>

#include "base/error_text.h"
#include "base/log.h"
#include "base/thread_pool.h"

namespace mlf {
namespace {

using Clock = std::chrono::steady_clock;

/// Rows of logits of one step beside those of the sequences: for log-probabilities of prompts.
constexpr int64_t kPromptRows = 32;
/// Where max_num_tokens is not given: first guess, bounds, and how long a step may take.
constexpr int64_t kFirstBudget = 128, kLeastBudget = 32, kMostBudget = 2048;
constexpr double kStepSeconds = 0.1;

double SecondsSince(SteadyTime start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

CacheShape ShapeOf(const ExecutorConfig& config) {
  return {.n_ctx = config.max_sequence_length,
          .n_seq_max = config.max_batch_size,
          .n_pages = (*config.kv_cache_tokens + kPageSize - 1) / kPageSize};
}

std::unique_ptr<PrefixCache> NewPrefixCache(const ExecutorConfig& config, KvCache& cache) {
  if (!config.enable_prefix_cache) return nullptr;
  std::random_device device;
  return std::make_unique<PrefixCache>(cache, static_cast<uint64_t>(device()) << 32 | device());
}

/// Multiplications of a token's matrices over those of its attention per entry, of which a CPU does
/// about a third as many in a second.
int64_t DeepEntries(const ModelConfig& c) {
  const int64_t matrices = c.n_embd * (2 * c.q_dim() + 2 * c.kv_dim() + 3 * c.n_ff);
  return std::max<int64_t>(1, matrices / (3 * 2 * c.q_dim()));
}

SchedulerOptions OptionsOf(const ExecutorConfig& config, const ModelConfig& model) {
  return {.policy = config.scheduler_policy,
          .chunked_prefill = config.enable_chunked_prefill,
          .aging_ms = config.priority_aging_ms,
          .max_rows = config.max_batch_size + kPromptRows,
          .deep = DeepEntries(model)};
}

int64_t MostTokens(const ExecutorConfig& config) {
  const int64_t tokens = config.max_num_tokens.value_or(kMostBudget);
  // Without chunks a prompt that is computed again may be longer than a step.
  return config.enable_chunked_prefill ? tokens : std::max(tokens, config.max_sequence_length);
}

}  // namespace

Engine::Engine(std::shared_ptr<const Model> model, const ExecutorConfig& config,
               PostProcessorPool* pool, ResponseQueue& responses)
    : model_(std::move(model)),
      config_(config),
      n_vocab_(model_->vocab()->size()),
      row_width_(model_->config().n_vocab),
      rope_{model_->config().rope_base, model_->config().rope_freq_scale},
      cache_(model_->config(), ShapeOf(config), config.kv_dtype),
      prefixes_(NewPrefixCache(config, cache_)),
      scheduler_(OptionsOf(config, model_->config()), cache_, prefixes_.get()),
      delivery_(responses),
      pool_(pool),
      workspace_(model_->config(), MostTokens(config)),
      logits_(Buffer::For("logits of a step", (config.max_batch_size + kPromptRows) * row_width_ *
                                                  static_cast<int64_t>(sizeof(float)))),
      embeddings_(Buffer::For("embeddings of a step", MostTokens(config) * model_->config().n_embd *
                                                          static_cast<int64_t>(sizeof(float)))),
      budget_(config.max_num_tokens.value_or(kFirstBudget)) {}

bool Engine::RunStep() {
  const ThreadLimit limit(model_->n_threads());
  const auto start = Clock::now();
  const Works works = scheduler_.Plan(budget_, start);
  if (works.empty()) return false;
  try {
    Compute(works);
  } catch (const std::exception& e) {
    LogCaught(LogLevel::kWarning, "executor: a step failed, each request of it is run alone", e);
    ComputeEach(works);
  }
  const double seconds = SecondsSince(start);
  ++stats_.steps;
  stats_.step_seconds += seconds;
  AdaptBudget(seconds);
  return true;
}

void Engine::ComputeEach(const Works& works) {
  for (size_t begin = 0, end = 0; begin < works.size(); begin = end) {
    Group* const group = works[begin].group;
    while (end < works.size() && works[end].group == group) ++end;
    const int64_t id = group->id;
    try {
      Compute(
          {works.begin() + static_cast<int64_t>(begin), works.begin() + static_cast<int64_t>(end)});
    } catch (const std::exception& e) {
      Finish(id, FinishReason::kError, ErrorText(e));
    }
  }
}

void Engine::Compute(const Works& works) {
  try {
    BuildStep(works);
    SubmitMasks(works);
    Forward();
    CollectMasks();
    Sample(works);
  } catch (...) {
    for (const Work& work : works) {
      const int64_t slot = work.sequence->slot;
      cache_.Truncate(slot, cache_.count(slot) - work.sequence->n_computed);
    }
    CollectMasks();  // nobody else may hold them when they are asked for again
    throw;
  }
  Advance(works);
}

void Engine::BuildStep(const Works& works) {
  step_.Clear();
  embedding_ends_.clear();
  for (const Work& work : works) {
    AddTokens(work);
    embedding_ends_.push_back(step_.n_embeddings());
  }
}

void Engine::AddTokens(const Work& work) {
  const Request& request = work.group->request;
  const Sequence& s = *work.sequence;
  const int64_t window = request.attention_window.value_or(config_.attention_window);
  const int64_t sinks = request.sink_tokens.value_or(config_.sink_tokens);
  const int64_t rows = work.n_rows(), n_embd = model_->config().n_embd;
  for (int64_t i = 0; i < work.n; ++i) {
    const int64_t position = s.n_computed + i;
    const int32_t token = s.tokens[position];
    const bool soft = token >= n_vocab_;
    step_.Add(cache_, s.slot, soft ? 0 : token, static_cast<int32_t>(position), i >= work.n - rows);
    if (soft) {
      const float* table = request.prompt_table.data();
      step_.SetEmbedding({table + (token - n_vocab_) * n_embd, static_cast<size_t>(n_embd)});
    }
    if (window > 0) step_.SetView(static_cast<int32_t>(window), static_cast<int32_t>(sinks));
    if (work.group->lora != nullptr) step_.Adapt(*work.group->lora, 1.0F);
    const bool last = position + 1 == work.group->n_prompt();
    if (request.pooling == Pooling::kMean || (request.pooling == Pooling::kLast && last) ||
        (request.pooling == Pooling::kCls && position == 0)) {
      step_.WantEmbedding();
    }
  }
}

void Engine::Forward() {
  const auto start = Clock::now();
  ForwardBatch batch = step_.Views(cache_);
  if (step_.n_embeddings() > 0) {
    batch.embeddings = {embeddings_.data(), kF32, {step_.n_embeddings(), model_->config().n_embd}};
  }
  const auto network = model_->network();
  network->Forward(batch, cache_.layers(), workspace_, rope_,
                   ArrayView(logits_.data(), kF32, {batch.n_outputs(), row_width_}));
  const double seconds = SecondsSince(start);
  stats_.forward_seconds += seconds;
  stats_.computed_tokens += step_.size();
  const bool prefill = step_.size() > 2 * std::max<int64_t>(step_.n_outputs(), 1);
  (prefill ? stats_.prefill_seconds : stats_.decode_seconds) += seconds;
  (prefill ? stats_.prefill_tokens : stats_.decode_tokens) += step_.size();
}

void Engine::SubmitMasks(const Works& works) {
  masked_.clear();
  entries_.clear();
  if (pool_ == nullptr) return;
  const auto words = (n_vocab_ + 31) / 32;
  for (const Work& work : works) {
    Sequence& s = *work.sequence;
    const Request& request = work.group->request;
    if (!request.use_logits_post_processor || !work.completes() || s.masked) continue;
    if (s.mask == nullptr) s.mask = NewMaskEntry(*work.group, s);
    std::fill_n(static_cast<int32_t*>(s.mask->bitmask.data_ptr()), words, -1);
    s.mask->temperature = request.sampling.temperature;
    s.mask->ln_min_p = std::log(request.sampling.min_p.value_or(0));
    s.mask->mask_fraction = s.mask_fraction;
    s.mask->forced_tokens.clear();
    masked_.push_back(&s);
    entries_.push_back(s.mask);
  }
  if (entries_.empty()) return;
  pool_->Submit(entries_);
  masks_wanted_ = true;
}

std::string Engine::ForcedError(const MaskEntry& entry) const try {
  for (const int64_t token : entry.forced_tokens) {
    if (token >= 0 && token < n_vocab_) continue;
    return "logits post-processor: forced token " + std::to_string(token) + " is out of range";
  }
  return "";
} catch (const std::exception& e) {
  return ErrorText(e);
}

void Engine::CollectMasks() {
  if (!std::exchange(masks_wanted_, false)) return;
  std::vector<std::string> errors = pool_->Wait();
  for (size_t i = 0; i < masked_.size(); ++i) {
    Sequence& s = *masked_[i];
    s.masked = true;
    s.mask_error = std::move(errors[i]);
    // A call that has not come back may still use its entry: it is left alone from here on.
    if (s.mask_error.empty()) s.mask_error = ForcedError(*s.mask);
    if (s.mask_error.empty()) s.mask->tokens.clear();
  }
}

void Engine::AdaptBudget(double seconds) {
  if (config_.max_num_tokens || step_.size() < kLeastBudget) return;
  const double rate = static_cast<double>(step_.size()) / seconds;
  const auto aim = static_cast<int64_t>(rate * kStepSeconds) / kLeastBudget * kLeastBudget;
  // Half of the way, so that one slow step does not decide.
  budget_ = std::clamp((budget_ + aim) / 2, kLeastBudget, kMostBudget);
}

bool Engine::Finish(int64_t id, FinishReason reason, const std::string& error) {
  for (const auto* groups : {&scheduler_.running(), &scheduler_.waiting()}) {
    for (const std::shared_ptr<Group>& held : *groups) {
      if (held->id != id) continue;
      const std::shared_ptr<Group> group = held;  // outlives its place in the list
      FinishAllOf(*group, reason, error);
      scheduler_.RemoveFinished();
      return true;
    }
  }
  return false;
}

void Engine::FinishAll(FinishReason reason, const std::string& error) {
  while (!idle()) {
    const auto& groups = scheduler_.running().empty() ? scheduler_.waiting() : scheduler_.running();
    Finish(groups.front()->id, reason, error);
  }
}

void Engine::ExpireDeadlines(SteadyTime now) {
  const auto is_over = [&](const Group& group, const std::optional<double>& ms) {
    return ms && std::chrono::duration<double, std::milli>(now - group.arrived).count() >= *ms;
  };
  std::vector<std::pair<int64_t, const char*>> over;
  for (const auto* groups : {&scheduler_.running(), &scheduler_.waiting()}) {
    for (const auto& group : *groups) {
      const Request& request = group->request;
      const auto& queue =
          request.queue_deadline_ms ? request.queue_deadline_ms : config_.queue_deadline_ms;
      if (is_over(*group, request.deadline_ms)) {
        over.emplace_back(group->id, "deadline_ms");
      } else if (!group->started && is_over(*group, queue)) {
        over.emplace_back(group->id, "queue_deadline_ms");
      }
    }
  }
  for (const auto& [id, what] : over) {
    Finish(id, FinishReason::kTimedOut, std::string(what) + " is over");
  }
}

void Engine::ForgetRoots(const std::string& prefix) {
  if (prefixes_ != nullptr) prefixes_->DropRoots(prefix);
}

ExecutorStats Engine::stats() const {
  ExecutorStats stats = stats_;
  stats.waiting = static_cast<int64_t>(scheduler_.waiting().size());
  stats.running = static_cast<int64_t>(scheduler_.running().size());
  stats.preemptions = scheduler_.n_preemptions();
  stats.blocks_total = cache_.n_pages();
  stats.blocks_cached = prefixes_ == nullptr ? 0 : prefixes_->evictable();
  stats.blocks_free = cache_.free_pages();
  stats.blocks_used = stats.blocks_total - stats.blocks_free - stats.blocks_cached;
  stats.max_num_tokens = budget_;
  if (prefixes_ == nullptr) return stats;
  stats.prefix_tokens_looked_up = prefixes_->stats().tokens_looked_up;
  stats.prefix_tokens_hit = prefixes_->stats().tokens_hit;
  return stats;
}

}  // namespace mlf
