// Workers that fill token masks. Counterpart: post_processor.h.
#include "runtime/post_processor.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "base/error_text.h"
#include "base/log.h"

namespace mlf {
namespace {

/// Of the pool whose worker this thread is.
thread_local const void* pool_of_worker = nullptr;

/// How long a call is waited for once nobody wants its answer.
constexpr std::chrono::duration<double, std::milli> kGrace{500};

}  // namespace

struct PostProcessorPool::Job {
  explicit Job(MaskEntries entries) : entries(std::move(entries)) {}

  MaskEntries entries;  // all there before it is started
  std::string error;    // written before done
  bool done = false, abandoned = false;
  std::chrono::steady_clock::time_point started{};
};

struct PostProcessorPool::Shared {
  explicit Shared(PostProcessor callback) : callback(std::move(callback)) {}

  PostProcessor callback;  // gone when the pool is, but for workers that were left behind
  std::mutex mutex;        // guards what follows
  std::condition_variable work, done;
  std::deque<std::shared_ptr<Job>> queue;
  std::vector<std::shared_ptr<Job>> running;
  std::shared_ptr<Job> notices;  // of the queue, not started
  size_t n_workers = 0, n_left_behind = 0;
  bool closing = false, hurried = false;

  std::shared_ptr<Job> Next();
  void Run(Job& job) const;
  static void Work(const std::shared_ptr<Shared>& shared);
};

std::shared_ptr<PostProcessorPool::Job> PostProcessorPool::Shared::Next() {
  std::unique_lock<std::mutex> lock(mutex);
  work.wait(lock, [&] { return closing || !queue.empty(); });
  if (queue.empty()) return nullptr;
  const std::shared_ptr<Job> job = queue.front();
  queue.pop_front();
  if (job == notices) notices = nullptr;
  job->started = std::chrono::steady_clock::now();
  running.push_back(job);
  return job;
}

void PostProcessorPool::Shared::Run(Job& job) const {
  const auto open = [&](bool yes) {
    for (const auto& entry : job.entries) {
      const std::lock_guard<std::mutex> lock(entry->mutex);
      entry->open = yes;
    }
  };
  open(true);
  try {
    callback(job.entries);
  } catch (const std::exception& e) {
    job.error = *e.what() == 0 ? TextWhereMemoryAllows("an exception without text") : ErrorText(e);
#ifdef __GLIBCXX__
  } catch (...) {
    // What is no exception of C++ ends the thread, which nobody may stop: Python does that to
    // threads that come back to it while it exits. With libc++ it could not go on from here; built
    // with that, this library has callbacks from beyond a border of C alone, which nothing crosses.
    if (std::current_exception() == nullptr) throw;
    job.error = TextWhereMemoryAllows("it threw something that is no exception");
#endif
  }
  open(false);
}

void PostProcessorPool::Shared::Work(const std::shared_ptr<Shared>& shared) {
  pool_of_worker = shared.get();
  bool abandoned = false;
  while (!abandoned) {
    const std::shared_ptr<Job> job = shared->Next();
    if (job == nullptr) break;
    shared->Run(*job);
    const std::lock_guard<std::mutex> lock(shared->mutex);
    job->done = true;
    std::erase(shared->running, job);
    abandoned = job->abandoned;  // another worker has this one's place already
    if (!abandoned) shared->done.notify_all();
  }
  const std::lock_guard<std::mutex> lock(shared->mutex);
  --(abandoned ? shared->n_left_behind : shared->n_workers);
  shared->done.notify_all();
}

PostProcessorPool::PostProcessorPool(PostProcessor callback, int n_workers, double timeout_ms)
    : shared_(std::make_shared<Shared>(std::move(callback))),
      n_workers_(std::max(n_workers, 1)),
      timeout_(timeout_ms) {
  shared_->running.reserve(n_workers_);
  StartWorkers();
}

/// As many as there should be, or as the system gives. Throws when there is none.
void PostProcessorPool::StartWorkers() {
  std::unique_lock<std::mutex> lock(shared_->mutex);
  while (shared_->n_workers < n_workers_) {
    try {
      std::thread(Shared::Work, shared_).detach();
    } catch (const std::exception&) {
      if (shared_->n_workers == 0) throw;
      return;
    }
    ++shared_->n_workers;
  }
}

PostProcessorPool::~PostProcessorPool() {
  std::unique_lock<std::mutex> lock(shared_->mutex);
  shared_->closing = true;
  shared_->work.notify_all();
  shared_->done.wait_for(lock, shared_->hurried ? std::min(timeout_, kGrace) : timeout_,
                         [&] { return shared_->n_workers == 0; });
  if (shared_->n_workers > 0 || shared_->n_left_behind > 0) return;
  // Here, and not by whichever worker lets go last: it may hold objects of Python, which is waited
  // for only as long as this runs.
  const PostProcessor last = std::move(shared_->callback);
  lock.unlock();
}

void PostProcessorPool::Hurry() {
  const std::lock_guard<std::mutex> lock(shared_->mutex);
  shared_->hurried = true;
  shared_->done.notify_all();
}

bool PostProcessorPool::hurried() const {
  const std::lock_guard<std::mutex> lock(shared_->mutex);
  return shared_->hurried;
}

/// All or none.
void PostProcessorPool::Enqueue(const std::vector<std::shared_ptr<Job>>& jobs) {
  const std::lock_guard<std::mutex> lock(shared_->mutex);
  shared_->queue.insert(shared_->queue.end(), jobs.begin(), jobs.end());
  shared_->work.notify_all();
}

void PostProcessorPool::Submit(const MaskEntries& entries) {
  StartWorkers();  // where one was lost that could not be replaced
  submitted_.clear();
  errors_.assign(entries.size(), {});
  const size_t parts = std::min(n_workers_, entries.size());
  std::vector<std::shared_ptr<Job>> jobs;
  for (size_t part = 0; part < parts; ++part) {
    const auto begin = entries.begin() + static_cast<int64_t>(part * entries.size() / parts);
    const auto end = entries.begin() + static_cast<int64_t>((part + 1) * entries.size() / parts);
    jobs.push_back(std::make_shared<Job>(MaskEntries(begin, end)));
  }
  Enqueue(jobs);
  submitted_ = std::move(jobs);
}

void PostProcessorPool::Notify(const MaskEntries& entries) {
  if (entries.empty()) return;
  const std::lock_guard<std::mutex> lock(shared_->mutex);
  std::shared_ptr<Job>& notices = shared_->notices;
  if (notices != nullptr) {  // one call for all that wait
    notices->entries.insert(notices->entries.end(), entries.begin(), entries.end());
    return;
  }
  auto job = std::make_shared<Job>(entries);
  shared_->queue.push_back(job);
  notices = std::move(job);
  shared_->work.notify_all();
}

std::vector<std::string> PostProcessorPool::Wait() {
  std::unique_lock<std::mutex> lock(shared_->mutex);
  const auto all_done = [&] {
    return std::all_of(submitted_.begin(), submitted_.end(), [](const auto& j) { return j->done; });
  };
  const auto hurried = [&] { return shared_->hurried || all_done(); };
  const bool late = !shared_->done.wait_for(lock, timeout_, hurried) ||
                    !shared_->done.wait_for(lock, std::min(timeout_, kGrace), all_done);
  if (late) Abandon();
  size_t i = 0;
  for (const std::shared_ptr<Job>& job : submitted_) {
    for (const auto& entry : job->entries) errors_[i++] = ErrorOf(*job, *entry);
  }
  submitted_.clear();
  lock.unlock();
  if (late) TryStartWorkers();
  return std::move(errors_);
}

void PostProcessorPool::TryStartWorkers() {
  try {
    StartWorkers();
  } catch (const std::exception& e) {
    LogCaught(LogLevel::kError, "executor: no worker for the logits post-processor", e);
  }
}

std::string PostProcessorPool::ErrorOf(const Job& job, const MaskEntry& entry) const try {
  const std::string what = "logits post-processor: ";
  if (!job.done && shared_->hurried) return what + "no answer before the end of the executor";
  if (!job.done) {
    return what + "no answer after " + std::to_string(static_cast<int64_t>(timeout_.count())) +
           " ms";
  }
  return job.error.empty() ? entry.error : what + job.error;
} catch (const std::exception& e) {
  return ErrorText(e);
}

/// Gives up the calls of the last Submit, and the workers that are in calls which take too long.
void PostProcessorPool::Abandon() {
  for (const std::shared_ptr<Job>& job : submitted_) {
    if (!job->done) std::erase(shared_->queue, job);
  }
  const auto now = std::chrono::steady_clock::now();
  const size_t lost = std::erase_if(shared_->running, [&](const std::shared_ptr<Job>& job) {
    const bool ours = std::find(submitted_.begin(), submitted_.end(), job) != submitted_.end();
    job->abandoned = ours || now - job->started >= timeout_;
    return job->abandoned;
  });
  shared_->n_workers -= lost;
  shared_->n_left_behind += lost;
}

const void* PostProcessorPool::IdOfWorker() { return pool_of_worker; }

}  // namespace mlf
