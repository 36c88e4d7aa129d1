// Responses between the engine and those who await them. Counterpart: response_queue.h.
#include "runtime/response_queue.h"

#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/interrupt.h"

namespace mlf {
namespace {

using Clock = std::chrono::steady_clock;

/// How long a wait sleeps before it looks for Ctrl-C.
constexpr auto kSlice = std::chrono::milliseconds(25);

}  // namespace

void ResponseQueue::Open(int64_t id, Audience audience) {
  const std::lock_guard<std::mutex> lock(mutex_);
  streams_[id].audience = audience;
  next_id_ = std::max(next_id_, id + 1);
}

bool ResponseQueue::Push(ResponseNode& node) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Response& response = node.front();
  const auto found = streams_.find(response.request_id);
  if (found == streams_.end()) return node.clear(), true;  // nobody reads it any more
  Stream& stream = found->second;
  // Who pumps hands on at once, and bounds what waits behind that.
  const bool bounded = stream.audience != Audience::kPump && !response.is_sequence_final;
  if (bounded && stream.pending.size() >= max_pending_) return false;
  if (response.is_request_final) {
    stream.over = true;
    ++n_over_;
  }
  stream.pending.splice(stream.pending.end(), node);
  stream.changed->notify_all();
  any_changed_[static_cast<int>(stream.audience)].notify_one();
  return true;
}

bool ResponseQueue::Forget(int64_t id) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = streams_.find(id);
  if (found == streams_.end()) return false;
  const bool open = !found->second.over;
  const Audience audience = found->second.audience;
  if (!open) --n_over_;
  found->second.changed->notify_all();
  streams_.erase(found);
  if (!Expects(audience)) any_changed_[static_cast<int>(audience)].notify_all();
  return open;
}

void ResponseQueue::TakeFrom(Streams::iterator stream, std::vector<Response>& out) {
  ResponseNode& pending = stream->second.pending;
  out.reserve(out.size() + pending.size());
  for (Response& response : pending) out.push_back(std::move(response));
  pending.clear();
  if (!stream->second.over) return;
  stream->second.changed->notify_all();
  streams_.erase(stream);
  --n_over_;
}

std::vector<Response> ResponseQueue::TakeAny(Audience audience) {
  size_t n = 0;
  for (const auto& [id, stream] : streams_)
    n += stream.audience == audience ? stream.pending.size() : 0;
  std::vector<Response> out;
  out.reserve(n);  // before any is taken, so that none is lost where there is no memory
  for (auto it = streams_.begin(); it != streams_.end();) {
    const auto stream = it++;
    if (stream->second.audience == audience && !stream->second.pending.empty()) {
      TakeFrom(stream, out);
    }
  }
  // The last one of an audience lets go those who wait for more.
  if (!out.empty() && !Expects(audience)) any_changed_[static_cast<int>(audience)].notify_all();
  return out;
}

bool ResponseQueue::Expects(Audience audience) const {
  return std::any_of(streams_.begin(), streams_.end(),
                     [&](const auto& s) { return s.second.audience == audience; });
}

std::vector<Response> ResponseQueue::Await(std::optional<double> timeout_ms,
                                           std::optional<int64_t> id, Audience audience) {
  const LongCall call;
  if (timeout_ms && std::isnan(*timeout_ms)) {
    TVM_FFI_THROW(ValueError) << "await_responses: timeout_ms is NaN";
  }
  constexpr double kLongestMs = 1e12;  // beyond it the clock overflows
  const auto deadline =
      Clock::now() + std::chrono::microseconds(static_cast<int64_t>(
                         1000 * std::clamp(timeout_ms.value_or(kLongestMs), 0.0, kLongestMs)));
  std::unique_lock<std::mutex> lock(mutex_);
  if (id && (*id < 0 || *id >= next_id_)) {
    TVM_FFI_THROW(ValueError) << "await_responses: request_id " << *id << " was never given";
  }
  while (true) {
    std::vector<Response> out;
    const auto stream = id ? streams_.find(*id) : streams_.end();
    if (id && stream != streams_.end() && stream->second.audience != audience) {
      TVM_FFI_THROW(ValueError) << "await_responses: the responses of request_id " << *id
                                << " go to its stream alone";
    }
    const bool over = id ? stream == streams_.end() : !Expects(audience);
    if (over && (id || closed_ || !timeout_ms)) return out;
    if (!id) {
      out = TakeAny(audience);
    } else if (!stream->second.pending.empty()) {
      TakeFrom(stream, out);
    }
    const auto now = Clock::now();
    if (!out.empty() || now >= deadline) return out;
    const auto until = std::min<Clock::time_point>(deadline, now + kSlice);
    if (id) {
      const auto changed = stream->second.changed;  // outlives the stream
      changed->wait_until(lock, until);
    } else {
      any_changed_[static_cast<int>(audience)].wait_until(lock, until);
    }
    lock.unlock();
    PollInterrupt();
    lock.lock();
  }
}

ResponseQueue::State ResponseQueue::StateOf(int64_t id) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (id < 0 || id >= next_id_) return State::kNever;
  const auto stream = streams_.find(id);
  return stream == streams_.end() || stream->second.over ? State::kOver : State::kOpen;
}

size_t ResponseQueue::unread() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return n_over_;
}

void ResponseQueue::Close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  for (auto& changed : any_changed_) changed.notify_all();
  for (auto& [id, stream] : streams_) stream.changed->notify_all();
}

}  // namespace mlf
