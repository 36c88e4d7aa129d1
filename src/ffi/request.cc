// Requests, configurations, responses and statistics across the border. Counterpart:
// executor_objects.h.
#include "ffi/executor_objects.h"
#include "ffi/fields.h"
#include "runtime/row_tensor.h"

namespace mlf {
namespace {

void ReadSampling(Fields& fields, SamplingParams& sampling) {
  fields.Read("temperature", sampling.temperature);
  fields.Read("top_k", sampling.top_k);
  fields.Read("top_p", sampling.top_p);
  fields.Read("min_p", sampling.min_p);
  fields.Read("typical_p", sampling.typical_p);
  std::optional<int64_t> seed;
  fields.Read("seed", seed);
  if (seed) sampling.seed = static_cast<uint64_t>(*seed);
  fields.Read("repetition_penalty", sampling.repetition_penalty);
  fields.Read("frequency_penalty", sampling.frequency_penalty);
  fields.Read("presence_penalty", sampling.presence_penalty);
  fields.Read("penalty_last_n", sampling.penalty_last_n);
  ffi::Map<int64_t, double> bias;
  fields.Read("logit_bias", bias);
  for (const auto& [token, value] : bias) sampling.logit_bias.emplace_back(token, value);
}

/// 0 stands for "not given" in the structures, which is said by None here.
int64_t Given(const char* structure, const char* name, int64_t value) {
  if (value != 0) return value;
  TVM_FFI_THROW(ValueError) << structure << ": " << name << " is 0, expected a count or None";
}

ffi::Array<ffi::Any> FromLogprobs(const std::vector<TokenLogprobs>& logprobs) {
  ffi::Array<ffi::Any> out;
  for (const TokenLogprobs& token : logprobs) {
    std::vector<int64_t> ids;
    ffi::Array<double> values;
    for (const TokenLogprob& best : token.best) {
      ids.push_back(best.token);
      values.push_back(best.logprob);
    }
    out.push_back(ffi::Array<ffi::Any>{static_cast<double>(token.logprob),
                                       ffi::Shape(ids.begin(), ids.end()), values});
  }
  return out;
}

void CopyTable(const ffi::Tensor& table, Request& r) {
  if (table.dtype() != kF32) {
    TVM_FFI_THROW(TypeError) << "request: prompt_table is " << DtypeName(table.dtype())
                             << ", expected float32";
  }
  if (table.device().device_type != kDLCPU) {
    TVM_FFI_THROW(ValueError) << "request: prompt_table must be on the CPU";
  }
  if (table.ndim() != 2 || table.numel() == 0 || !table.IsContiguous()) {
    TVM_FFI_THROW(ValueError) << "request: prompt_table has shape " << ShapeString(table)
                              << ", expected contiguous [rows, n_embd] with rows";
  }
  const auto* values = Data<const float>(table);
  r.prompt_table.assign(values, values + table.numel());
  r.prompt_table_cols = table.size(1);
}

ffi::Array<int64_t> Counts(const DurationHistogram& histogram) {
  return {histogram.counts().begin(), histogram.counts().end()};
}

}  // namespace

Request ToRequest(const ffi::Map<ffi::String, ffi::Any>& values) {
  Fields fields("request", values);
  Request r;
  fields.Read("tokens", r.tokens);
  fields.Read("max_new_tokens", r.max_new_tokens);
  ReadSampling(fields, r.sampling);
  fields.Read("streaming", r.streaming);
  fields.Read("num_return_sequences", r.num_return_sequences);
  std::optional<int64_t> best_of;
  fields.Read("best_of", best_of);
  r.best_of = best_of ? Given("request", "best_of", *best_of) : 0;
  fields.Read("beam_width", r.beam_width);
  fields.Read("length_penalty", r.length_penalty);
  fields.ReadEnum("early_stopping", r.early_stopping, 3);
  fields.Read("stop_token_ids", r.stop_token_ids);
  fields.Read("stop_words", r.stop_words);
  fields.Read("ignore_eos", r.ignore_eos);
  fields.Read("min_tokens", r.min_tokens);
  fields.Read("logprobs", r.logprobs);
  fields.Read("prompt_logprobs", r.prompt_logprobs);
  fields.Read("priority", r.priority);
  fields.Read("queue_deadline_ms", r.queue_deadline_ms);
  fields.Read("deadline_ms", r.deadline_ms);
  fields.Read("client_id", r.client_id);
  std::optional<std::string> lora;
  fields.Read("lora", lora);
  if (lora && lora->empty()) {
    TVM_FFI_THROW(KeyError) << "request: lora is an empty name, expected a loaded adapter or None";
  }
  r.lora = lora.value_or("");
  std::optional<ffi::Tensor> table;
  fields.Read("prompt_table", table);
  if (table) CopyTable(*table, r);
  fields.Read("attention_window", r.attention_window);
  fields.Read("sink_tokens", r.sink_tokens);
  fields.Read("cache_salt", r.cache_salt);
  fields.Read("use_logits_post_processor", r.use_logits_post_processor);
  std::optional<std::string> pooling;
  fields.Read("pooling", pooling);
  if (pooling) r.pooling = PoolingOf(*pooling);
  fields.Read("normalize", r.normalize);
  fields.Finish();
  return r;
}

ExecutorConfig ToExecutorConfig(const ffi::Map<ffi::String, ffi::Any>& values) {
  Fields fields("executor", values);
  ExecutorConfig c;
  fields.Read("max_batch_size", c.max_batch_size);
  fields.Read("max_num_tokens", c.max_num_tokens);
  fields.Read("max_queue_size", c.max_queue_size);
  fields.ReadEnum("scheduler_policy", c.scheduler_policy, 2);
  fields.Read("enable_chunked_prefill", c.enable_chunked_prefill);
  fields.Read("enable_prefix_cache", c.enable_prefix_cache);
  fields.Read("kv_cache_tokens", c.kv_cache_tokens);
  fields.Read("kv_cache_memory_fraction", c.kv_cache_memory_fraction);
  std::optional<int64_t> length;
  fields.Read("max_sequence_length", length);
  if (length) c.max_sequence_length = Given("executor", "max_sequence_length", *length);
  std::string kv_dtype = "f16";
  fields.Read("kv_dtype", kv_dtype);
  c.kv_dtype = KvDtype(kv_dtype);
  fields.Read("attention_window", c.attention_window);
  fields.Read("sink_tokens", c.sink_tokens);
  fields.Read("queue_deadline_ms", c.queue_deadline_ms);
  fields.Read("priority_aging_ms", c.priority_aging_ms);
  fields.Read("max_pending_responses", c.max_pending_responses);
  fields.Read("n_post_processor_threads", c.n_post_processor_threads);
  fields.Read("post_processor_timeout_ms", c.post_processor_timeout_ms);
  fields.Finish();
  return c;
}

ResponseObj::ResponseObj(Response&& r)
    : request_id(r.request_id),
      client_id(r.client_id),
      sequence_index(r.sequence_index),
      finish_reason(static_cast<int64_t>(r.finish_reason)),
      cached_tokens(r.cached_tokens),
      tokens(r.tokens.begin(), r.tokens.end()),
      text(r.text),
      error(r.error),
      cumulative_logprob(r.cumulative_logprob),
      mask_fraction(r.mask_fraction),
      is_sequence_final(r.is_sequence_final),
      is_request_final(r.is_request_final),
      logprobs(FromLogprobs(r.logprobs)),
      prompt_logprobs(FromLogprobs(r.prompt_logprobs)) {
  if (r.embedding.empty()) return;
  ffi::Tensor row = NewRows("embeddings", 1, static_cast<int64_t>(r.embedding.size()));
  std::copy(r.embedding.begin(), r.embedding.end(), static_cast<float*>(row.data_ptr()));
  embedding = row;
}

ffi::Map<ffi::String, ffi::Any> FromStats(const ExecutorStats& s) {
  return {{"waiting", s.waiting},
          {"running", s.running},
          {"unread", s.unread},
          {"blocks_total", s.blocks_total},
          {"blocks_used", s.blocks_used},
          {"blocks_free", s.blocks_free},
          {"blocks_cached", s.blocks_cached},
          {"max_num_tokens", s.max_num_tokens},
          {"steps", s.steps},
          {"requests", s.requests},
          {"requests_finished", s.requests_finished},
          {"preemptions", s.preemptions},
          {"prompt_tokens", s.prompt_tokens},
          {"cached_prompt_tokens", s.cached_prompt_tokens},
          {"generated_tokens", s.generated_tokens},
          {"computed_tokens", s.computed_tokens},
          {"prefix_tokens_looked_up", s.prefix_tokens_looked_up},
          {"prefix_tokens_hit", s.prefix_tokens_hit},
          {"forward_seconds", s.forward_seconds},
          {"step_seconds", s.step_seconds},
          {"prefill_seconds", s.prefill_seconds},
          {"decode_seconds", s.decode_seconds},
          {"prefill_tokens", s.prefill_tokens},
          {"decode_tokens", s.decode_tokens},
          {"time_to_first_token_counts", Counts(s.time_to_first_token)},
          {"time_to_first_token_seconds", s.time_to_first_token.sum()},
          {"time_between_tokens_counts", Counts(s.time_between_tokens)},
          {"time_between_tokens_seconds", s.time_between_tokens.sum()}};
}

}  // namespace mlf
