// my_llm_ffi.Executor, what it answers, and what its callbacks get. Counterparts: executor.cc,
// request.cc.
#pragma once
#include "ffi/objects.h"
#include "runtime/executor.h"

namespace mlf {

class ExecutorObj : public ffi::Object {
 public:
  explicit ExecutorObj(std::shared_ptr<Executor> executor) : executor(std::move(executor)) {}
  ~ExecutorObj();
  std::shared_ptr<Executor> executor;
  static constexpr bool _type_mutable = true;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("my_llm_ffi.Executor", ExecutorObj, ffi::Object);
};

/// Owns what it says: valid for as long as somebody holds it.
class ResponseObj : public ffi::Object {
 public:
  explicit ResponseObj(Response&& response);

  int64_t request_id, client_id, sequence_index, finish_reason, cached_tokens;
  ffi::Shape tokens;
  ffi::String text, error;
  double cumulative_logprob, mask_fraction;
  bool is_sequence_final, is_request_final;
  /// Per token: (logprob, ids of the best, their logprobs).
  ffi::Array<ffi::Any> logprobs, prompt_logprobs;
  ffi::Optional<ffi::Tensor> embedding;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("my_llm_ffi.Response", ResponseObj, ffi::Object);
};

class MaskEntryObj : public ffi::Object {
 public:
  explicit MaskEntryObj(std::shared_ptr<MaskEntry> entry) : entry(std::move(entry)) {}
  const std::shared_ptr<MaskEntry> entry;
  static constexpr bool _type_mutable = true;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("my_llm_ffi.MaskEntry", MaskEntryObj, ffi::Object);
};

MLF_OBJECT_REF(ExecutorRef, ExecutorObj);
MLF_OBJECT_REF(ResponseRef, ResponseObj);
MLF_OBJECT_REF(MaskEntryRef, MaskEntryObj);

/// ValueError and TypeError naming the field.
Request ToRequest(const ffi::Map<ffi::String, ffi::Any>& values);
ExecutorConfig ToExecutorConfig(const ffi::Map<ffi::String, ffi::Any>& values);
ffi::Map<ffi::String, ffi::Any> FromStats(const ExecutorStats& stats);

}  // namespace mlf
