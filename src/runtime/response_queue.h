// Responses between the engine and those who await them. Counterpart: response_queue.cc.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "runtime/request.h"

namespace mlf {

/// Who gets the responses of a request.
enum class Audience : int {
  kAny = 0,   // whoever awaits any, or this request
  kOwn = 1,   // only who awaits this request
  kPump = 2,  // the one who awaits all requests of this kind and hands them on
};

/// A response that exists before there is anything to respond: to give it away takes no memory.
using ResponseNode = std::list<Response>;

class ResponseQueue {
 public:
  /// At most `max_pending` responses of a request wait, its last one not counted; any number of
  /// those for kPump.
  explicit ResponseQueue(size_t max_pending) : max_pending_(max_pending) {}

  void Open(int64_t id, Audience audience);
  /// False when the request's buffer is full, which the response then does not enter. Never false
  /// for a final one. `node` holds one response, and none afterwards.
  bool Push(ResponseNode& node);

  /// Drops the request's responses, those that wait and those to come. False where its last one
  /// was there already.
  bool Forget(int64_t id);

  /// What waits for `id`, else for anybody of the audience; waits for it up to `timeout_ms`. Empty
  /// at once where nothing can come any more: the request's last response was taken, or no request
  /// of the audience is open and the queue is closed, or there is no time-out that would end the
  /// wait. ValueError for an id that was never given, or whose responses another audience gets.
  /// Throws for Ctrl-C.
  std::vector<Response> Await(std::optional<double> timeout_ms, std::optional<int64_t> id,
                              Audience audience);

  enum class State { kNever, kOpen, kOver };
  State StateOf(int64_t id) const;
  size_t unread() const;  // requests that are over, but for who reads them
  void Close();           // no request will be opened any more

 private:
  struct Stream {
    Audience audience = Audience::kAny;
    ResponseNode pending;
    bool over = false;
    std::shared_ptr<std::condition_variable> changed = std::make_shared<std::condition_variable>();
  };
  using Streams = std::map<int64_t, Stream>;

  void TakeFrom(Streams::iterator stream, std::vector<Response>& out);
  std::vector<Response> TakeAny(Audience audience);
  bool Expects(Audience audience) const;

  const size_t max_pending_;
  mutable std::mutex mutex_;
  Streams streams_;
  int64_t next_id_ = 0;
  size_t n_over_ = 0;  // streams whose last response is there
  bool closed_ = false;
  std::condition_variable any_changed_[3];  // by audience
};

}  // namespace mlf
