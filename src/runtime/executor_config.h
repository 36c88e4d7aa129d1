// How an executor works. Counterpart: executor_config.cc.
#pragma once
#include <cstdint>
#include <optional>

#include "base/dtype.h"
#include "model/config.h"
#include "runtime/scheduler.h"

namespace mlf {

struct ExecutorConfig {
  int64_t max_batch_size = 128;           // sequences in a step
  std::optional<int64_t> max_num_tokens;  // of a step; none: as many as take about 100 ms
  int64_t max_queue_size = 1024;          // requests that wait, and that nobody has read
  SchedulerPolicy scheduler_policy = SchedulerPolicy::kMaxUtilization;
  bool enable_chunked_prefill = true, enable_prefix_cache = true;
  std::optional<int64_t> kv_cache_tokens;          // over all sequences
  std::optional<double> kv_cache_memory_fraction;  // of what is free, instead
  int64_t max_sequence_length = 0;                 // prompt and answer; 0: the training length
  DLDataType kv_dtype = kF16;
  int64_t attention_window = 0, sink_tokens = 0;  // where a request says nothing
  std::optional<double> queue_deadline_ms;        // likewise
  double priority_aging_ms = 10000;
  int64_t max_pending_responses = 1024;  // of a streaming request that nobody reads
  int64_t n_post_processor_threads = 1;
  double post_processor_timeout_ms = 10000;
};

/// Checked, and completed by what the model and the machine say. ValueError naming the field.
ExecutorConfig Completed(ExecutorConfig config, const ModelConfig& model);

}  // namespace mlf
