// Many requests over one model: continuous batching on a thread of its own. Counterpart:
// executor.cc.
#pragma once
#include <sys/types.h>

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "model/lora.h"
#include "model/model.h"
#include "runtime/engine.h"
#include "runtime/executor_config.h"
#include "runtime/executor_stats.h"
#include "runtime/post_processor.h"
#include "runtime/response_queue.h"

namespace mlf {

struct LoadedAdapter {
  std::string name, path;
  std::shared_ptr<const LoraAdapter> adapter;
  int64_t instance = -1;  // no two loads have the same one; -1: no adapter
};

/// Every method may be called from any thread, callbacks of this executor included where nothing
/// else is said. In a child of fork() every call throws RuntimeError: the engine's thread stayed
/// with the parent.
class Executor {
 public:
  using StepCallback = std::function<void(const ExecutorStats&)>;

  /// `on_step` is called after each step on the engine's thread; what it throws is logged. The last
  /// owner to go shuts it down without draining; not in a child of fork(), where the memory stays.
  static std::shared_ptr<Executor> Create(std::shared_ptr<const Model> model,
                                          const ExecutorConfig& config,
                                          PostProcessor post_processor = nullptr,
                                          StepCallback on_step = nullptr);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  bool CanEnqueue() const;
  /// Returns the request's id. ValueError (TypeError, KeyError) naming what is wrong with the
  /// request; RuntimeError when the queue is full or the executor is shut down.
  int64_t Enqueue(Request request, Audience audience = Audience::kAny);
  /// See ResponseQueue. RuntimeError from a callback of this executor that would wait: nothing
  /// comes before it returns.
  std::vector<Response> Await(std::optional<double> timeout_ms, std::optional<int64_t> id,
                              Audience audience = Audience::kAny);
  /// False when the request is over. ValueError for an id that was never given. Its last responses
  /// say CANCELLED unless it ended by itself before the next step.
  bool Cancel(int64_t id);
  /// Cancels it and drops its responses, those that wait and those to come. Never waits.
  void Forget(int64_t id);
  ExecutorStats stats() const;

  /// Ends the engine: at once, with CANCELLED for everything in flight, or (drain) once all that
  /// was enqueued is done. Then frees the cache. Responses can still be awaited. Once is enough;
  /// RuntimeError from a callback.
  void Shutdown(bool drain);

  /// ValueError for a name that is in use, and as LoraAdapter::Load throws.
  void LoadLora(const std::string& name, const std::string& path);
  /// Requests that use it go on with it. KeyError for an unknown name.
  void UnloadLora(const std::string& name);
  std::vector<LoadedAdapter> Loras() const;

  /// Whether the engine has ended, or is another process's.
  bool ended() const;
  const Model& model() const { return *model_; }
  const ExecutorConfig& config() const { return config_; }

 private:
  /// What the engine has not seen yet.
  struct Inbox {
    std::vector<std::shared_ptr<Group>> groups;
    std::vector<int64_t> cancelled;
    std::vector<std::string> forgotten_roots;
  };

  Executor(std::shared_ptr<const Model> model, const ExecutorConfig& config,
           PostProcessor post_processor, StepCallback on_step);
  bool OnOwnCallback() const;
  bool OnCallback() const;
  void CheckProcess() const;
  void CheckOpen() const;
  bool HasRoom() const;
  void CheckRoom() const;
  RequestLimits Limits() const;
  LoadedAdapter AdapterOf(const Request& request) const;
  std::shared_ptr<Group> NewGroup(int64_t id, Request request, LoadedAdapter adapter) const;
  void Loop();
  bool Receive();
  void RunStep();
  void GiveUp(const std::exception& error);
  void Publish();
  void TellStep();
  void BeginEnd(bool drain);
  void AwaitEnd();
  void End();

  const std::shared_ptr<const Model> model_;
  const ExecutorConfig config_;
  StepCallback on_step_;  // of the engine's thread, until that has ended
  const pid_t process_;
  std::vector<int32_t> end_ids_;             // of the vocabulary
  std::unique_ptr<PostProcessorPool> pool_;  // until the end
  const void* pool_id_ = nullptr;            // set where there is a post-processor
  ResponseQueue responses_;
  std::unique_ptr<Engine> engine_;  // of the engine's thread

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  Inbox inbox_;
  int64_t next_id_ = 0, next_instance_ = 0;
  std::map<std::string, LoadedAdapter> adapters_;
  bool closing_ = false, draining_ = false, ended_ = false;
  ExecutorStats stats_;

  int failures_ = 0;           // steps in a row; of the engine's thread
  std::mutex shutdown_mutex_;  // one thread joins
  std::thread thread_;
};

}  // namespace mlf
