// The logits post-processor of an executor: masks for tokens that are about to be sampled, filled
// by a pool of workers while the forward pass runs. Counterpart: post_processor.cc.
#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/array.h"

namespace mlf {

/// One sequence that is to be masked. Belongs to the callback while it is open, which is during its
/// call: others who hold it take `mutex` and look.
struct MaskEntry {
  std::mutex mutex;
  bool open = false;
  int64_t request_id = 0, client_id = 0, sequence_index = 0;
  std::vector<int32_t> tokens;  // all that are new since the last call for this sequence
  ffi::Tensor bitmask;  // int32 [ceil(n_vocab / 32)], bit set: allowed; all set before a call
  double temperature = 1, ln_min_p = 0;  // as the request has them; the callback may change them
  double mask_fraction = 1;              // softmax mass that the last mask left
  bool is_final = false;                 // the sequence is over: nothing will be sampled
  std::vector<int64_t> forced_tokens;    // from the callback: what follows, without a choice
  std::string error;                     // from the callback: ends the sequence
};
using MaskEntries = std::vector<std::shared_ptr<MaskEntry>>;

/// Called with the entries of a step, or with a worker's part of them, on the worker's thread. What
/// it throws ends the entries' sequences.
using PostProcessor = std::function<void(const MaskEntries&)>;

class PostProcessorPool {
 public:
  PostProcessorPool(PostProcessor callback, int n_workers, double timeout_ms);
  /// Waits for calls that run, up to the time-out, or half a second in a hurry; a worker that does
  /// not come back is left behind.
  ~PostProcessorPool();
  PostProcessorPool(const PostProcessorPool&) = delete;
  PostProcessorPool& operator=(const PostProcessorPool&) = delete;

  /// Begins to fill them: all, or none where it throws. Wait must come before the next Submit.
  void Submit(const MaskEntries& entries);
  /// Of each entry of the last Submit why its call failed, empty where it did not. A call that is
  /// not back after the time-out has failed, and another worker takes its worker's place. Takes no
  /// memory but for texts.
  std::vector<std::string> Wait();
  /// From now on Wait takes half a second at most: what is in flight will be cancelled. Any thread.
  void Hurry();
  bool hurried() const;
  /// Tells the callback of sequences that are over; nobody waits for it.
  void Notify(const MaskEntries& entries);

  /// The id of the pool in whose callback the calling thread is; null elsewhere.
  static const void* IdOfWorker();
  const void* id() const { return shared_.get(); }

 private:
  struct Job;
  struct Shared;
  void Enqueue(const std::vector<std::shared_ptr<Job>>& jobs);
  void StartWorkers();
  void TryStartWorkers();
  std::string ErrorOf(const Job& job, const MaskEntry& entry) const;
  void Abandon();

  std::shared_ptr<Shared> shared_;  // with the workers, who may outlive the pool
  const size_t n_workers_;
  const std::chrono::duration<double, std::milli> timeout_;
  std::vector<std::shared_ptr<Job>> submitted_;
  std::vector<std::string> errors_;  // room for theirs
};

}  // namespace mlf
