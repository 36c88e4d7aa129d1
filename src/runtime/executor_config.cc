// How an executor works. Counterpart: executor_config.h.
#include "runtime/executor_config.h"

#include <tvm/ffi/tvm_ffi.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "kernels/attention.h"

namespace mlf {
namespace {

constexpr int64_t kMany = int64_t{1} << 30;

template <typename T>
void That(bool ok, const char* field, const T& value, const std::string& expected) {
  if (ok) return;
  TVM_FFI_THROW(ValueError) << "executor: " << field << " is " << value << ", expected "
                            << expected;
}

void Between(const char* field, int64_t value, int64_t low, int64_t high) {
  That(value >= low && value <= high, field, value,
       std::to_string(low) + " to " + std::to_string(high));
}

void CheckTime(const char* field, double value, bool zero) {
  That(std::isfinite(value) && (zero ? value >= 0 : value > 0), field, value,
       zero ? "a time >= 0" : "a time > 0");
}

int64_t FreeBytes() {
  return static_cast<int64_t>(sysconf(_SC_AVPHYS_PAGES)) * sysconf(_SC_PAGESIZE);
}

int64_t CacheTokens(const ExecutorConfig& c, const ModelConfig& model) {
  if (c.kv_cache_tokens) return *c.kv_cache_tokens;
  constexpr double kPart = 0.5;
  const int64_t entry = 2 * model.n_layers * model.kv_dim() * DtypeBytes(c.kv_dtype);
  const double bytes =
      c.kv_cache_memory_fraction.value_or(kPart) * static_cast<double>(FreeBytes());
  const auto fit = static_cast<int64_t>(bytes / static_cast<double>(entry));
  return std::clamp(fit, kPageSize, c.max_batch_size * c.max_sequence_length);
}

}  // namespace

ExecutorConfig Completed(ExecutorConfig c, const ModelConfig& model) {
  Between("max_batch_size", c.max_batch_size, 1, 65536);
  if (c.max_num_tokens) Between("max_num_tokens", *c.max_num_tokens, 1, int64_t{1} << 20);
  Between("max_queue_size", c.max_queue_size, 1, kMany);
  if (c.max_sequence_length == 0) c.max_sequence_length = model.n_ctx_train;
  Between("max_sequence_length", c.max_sequence_length, 1, kMany);
  if (c.kv_cache_tokens) Between("kv_cache_tokens", *c.kv_cache_tokens, 1, kMany);
  if (c.kv_cache_memory_fraction) {
    const double part = *c.kv_cache_memory_fraction;
    That(part > 0 && part <= 1, "kv_cache_memory_fraction", part, "0 < fraction <= 1");
    That(!c.kv_cache_tokens, "kv_cache_memory_fraction", part, "None beside kv_cache_tokens");
  }
  Between("attention_window", c.attention_window, 0, kMany);
  Between("sink_tokens", c.sink_tokens, 0, kMany);
  Between("max_pending_responses", c.max_pending_responses, 1, kMany);
  Between("n_post_processor_threads", c.n_post_processor_threads, 1, 1024);
  if (c.queue_deadline_ms) CheckTime("queue_deadline_ms", *c.queue_deadline_ms, true);
  CheckTime("priority_aging_ms", c.priority_aging_ms, false);
  CheckTime("post_processor_timeout_ms", c.post_processor_timeout_ms, false);
  c.kv_cache_tokens = CacheTokens(c, model);
  c.max_sequence_length =
      std::min(c.max_sequence_length, (*c.kv_cache_tokens + kPageSize - 1) / kPageSize * kPageSize);
  return c;
}

}  // namespace mlf
