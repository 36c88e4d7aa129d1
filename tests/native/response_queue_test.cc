// Tests of src/runtime/response_queue: who gets which response, who waits how long, and that each
// response arrives once, with many threads on both sides.
#include "runtime/response_queue.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "base/rng.h"
#include "check.h"

namespace mlf {
namespace {

using Clock = std::chrono::steady_clock;
using State = ResponseQueue::State;

constexpr auto kAny = Audience::kAny, kOwn = Audience::kOwn, kPump = Audience::kPump;

ResponseNode Node(int64_t id, int32_t token, bool final = false) {
  ResponseNode node(1);
  node.front().request_id = id;
  node.front().tokens = {token};
  node.front().is_sequence_final = node.front().is_request_final = final;
  return node;
}

bool Push(ResponseQueue& queue, int64_t id, int32_t token, bool final = false) {
  ResponseNode node = Node(id, token, final);
  const bool entered = queue.Push(node);
  MLF_EXPECT(node.empty() == entered);
  return entered;
}

double MillisecondsOf(const std::function<void()>& fn) {
  const auto start = Clock::now();
  fn();
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

std::vector<int32_t> TokensOf(const std::vector<Response>& responses) {
  std::vector<int32_t> tokens;
  for (const Response& response : responses) tokens.push_back(response.tokens.front());
  return tokens;
}

// ---- one thread ---------------------------------------------------------------------------------

void TestUnknownIds() {
  ResponseQueue queue(4);
  queue.Open(0, kAny);
  for (const int64_t id : {-1, 1}) {
    MLF_EXPECT_THROWS(queue.Await(0, id, kAny), "ValueError", "was never given");
    MLF_EXPECT(queue.StateOf(id) == State::kNever);
  }
  MLF_EXPECT(queue.StateOf(0) == State::kOpen);
}

void TestOrderAndEnd() {
  ResponseQueue queue(4);
  queue.Open(0, kAny);
  MLF_EXPECT(queue.Await(0, 0, kAny).empty());  // nothing yet
  for (int32_t i = 0; i < 3; ++i) MLF_EXPECT(Push(queue, 0, i));
  MLF_EXPECT(TokensOf(queue.Await(0, std::nullopt, kAny)) == std::vector<int32_t>({0, 1, 2}));
  MLF_EXPECT(Push(queue, 0, 3, /*final=*/true));
  MLF_EXPECT(queue.StateOf(0) == State::kOver && queue.unread() == 1);
  MLF_EXPECT(TokensOf(queue.Await(std::nullopt, 0, kAny)) == std::vector<int32_t>({3}));
  MLF_EXPECT(queue.StateOf(0) == State::kOver && queue.unread() == 0);
  MLF_EXPECT(queue.Await(std::nullopt, 0, kAny).empty());  // at once: it is over
  MLF_EXPECT(Push(queue, 0, 4));                           // nobody reads it
  MLF_EXPECT(queue.Await(0, std::nullopt, kAny).empty());
}

void TestFullBuffer() {
  ResponseQueue queue(2);
  queue.Open(0, kAny);
  queue.Open(1, kAny);
  MLF_EXPECT(Push(queue, 0, 0) && Push(queue, 0, 1));
  MLF_EXPECT(!Push(queue, 0, 2));
  MLF_EXPECT(Push(queue, 1, 0));  // another request has its own
  ResponseNode sequence = Node(0, 3);
  sequence.front().is_sequence_final = true;
  MLF_EXPECT(queue.Push(sequence));
  MLF_EXPECT(Push(queue, 0, 4, /*final=*/true));
  MLF_EXPECT(TokensOf(queue.Await(0, 0, kAny)) == std::vector<int32_t>({0, 1, 3, 4}));
}

void TestAudiences() {
  ResponseQueue queue(4);
  queue.Open(0, kAny);
  queue.Open(1, kOwn);
  queue.Open(2, kPump);
  for (int32_t id = 0; id < 3; ++id) Push(queue, id, id, /*final=*/true);
  MLF_EXPECT(TokensOf(queue.Await(0, std::nullopt, kPump)) == std::vector<int32_t>({2}));
  MLF_EXPECT(TokensOf(queue.Await(0, std::nullopt, kAny)) == std::vector<int32_t>({0}));
  MLF_EXPECT(queue.Await(0, std::nullopt, kAny).empty());
  MLF_EXPECT_THROWS(queue.Await(0, 1, kAny), "ValueError", "request_id 1 go to its stream alone");
  MLF_EXPECT(TokensOf(queue.Await(0, 1, kOwn)) == std::vector<int32_t>({1}));
}

void TestForgets() {
  ResponseQueue queue(4);
  for (int32_t id = 0; id < 2; ++id) queue.Open(id, kOwn);
  Push(queue, 0, 7);
  Push(queue, 1, 7, /*final=*/true);
  MLF_EXPECT(queue.Forget(0) && !queue.Forget(0) && !queue.Forget(1) && !queue.Forget(99));
  MLF_EXPECT(queue.unread() == 0 && queue.StateOf(0) == State::kOver);
  MLF_EXPECT(Push(queue, 0, 8, /*final=*/true) && queue.unread() == 0);  // and drops it
  MLF_EXPECT(queue.Await(std::nullopt, 0, kOwn).empty());
}

void TestHowLongItWaits() {
  ResponseQueue queue(4);
  // Nothing is open: without a time-out there is nothing to wait for, with one there may be.
  MLF_EXPECT(queue.Await(std::nullopt, std::nullopt, kAny).empty());
  MLF_EXPECT(MillisecondsOf([&] { queue.Await(30, std::nullopt, kAny); }) >= 30);
  queue.Open(0, kAny);
  MLF_EXPECT(MillisecondsOf([&] { queue.Await(30, 0, kAny); }) >= 30);
  MLF_EXPECT(queue.Await(-5, 0, kAny).empty());
  MLF_EXPECT_THROWS(queue.Await(std::nan(""), 0, kAny), "ValueError", "timeout_ms is NaN");
  queue.Close();
  MLF_EXPECT(queue.Await(0, std::nullopt, kAny).empty());
  Push(queue, 0, 7, /*final=*/true);
  MLF_EXPECT(queue.Await(1e300, std::nullopt, kAny).size() == 1);
  MLF_EXPECT(queue.Await(1e300, std::nullopt, kAny).empty());  // closed: nothing can come
}

// ---- several threads ----------------------------------------------------------------------------

void Sleep(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

void TestWakes() {
  ResponseQueue queue(4);
  queue.Open(0, kAny);
  queue.Open(1, kOwn);
  std::atomic<int> got{0};
  std::thread any(
      [&] { got += static_cast<int>(queue.Await(std::nullopt, std::nullopt, kAny).size()); });
  std::thread own([&] { got += static_cast<int>(queue.Await(std::nullopt, 1, kOwn).size()); });
  Sleep(10);
  MLF_EXPECT(got.load() == 0);
  Push(queue, 0, 0);
  Push(queue, 1, 0);
  any.join();
  own.join();
  MLF_EXPECT(got.load() == 2);
}

/// Whoever waits without a time-out is let go when another thread takes the last response.
void TestLastResponseLetsGo() {
  ResponseQueue queue(4);
  queue.Open(0, kAny);
  std::vector<std::thread> waiters;
  std::atomic<int> got{0};
  for (int i = 0; i < 4; ++i) {
    waiters.emplace_back([&, i] {
      const auto id = i % 2 == 0 ? std::optional<int64_t>(0) : std::nullopt;
      got += static_cast<int>(queue.Await(std::nullopt, id, kAny).size());
    });
  }
  Sleep(10);
  Push(queue, 0, 0, /*final=*/true);
  for (std::thread& waiter : waiters) waiter.join();
  MLF_EXPECT(got.load() == 1);
}

void TestCloseLetsGo() {
  ResponseQueue queue(4);
  std::thread waiter([&] { MLF_EXPECT(queue.Await(1e9, std::nullopt, kAny).empty()); });
  Sleep(10);
  queue.Close();
  waiter.join();
}

/// Each id's responses arrive once and in order, whoever asks for them.
class Traffic {
 public:
  static constexpr int64_t kIds = 600;
  static constexpr int kProducers = 3, kConsumers = 6;

  void Run() {
    for (int64_t id = 0; id < kIds; ++id) queue_.Open(id, AudienceOf(id));
    std::vector<std::thread> threads;
    for (int i = 0; i < kConsumers; ++i) threads.emplace_back([this, i] { Consume(i); });
    for (int i = 0; i < kProducers; ++i) threads.emplace_back([this, i] { Produce(i); });
    for (std::thread& thread : threads) thread.join();
    for (int64_t id = 0; id < kIds; ++id) MLF_EXPECT(finals_[id].load() == 1);
    MLF_EXPECT(queue_.unread() == 0);
  }

 private:
  static Audience AudienceOf(int64_t id) { return static_cast<Audience>(id % 3); }
  static int32_t LengthOf(int64_t id) { return static_cast<int32_t>(RandomBits(5, id) % 6); }

  void Produce(int self) {
    for (int64_t id = self; id < kIds; id += kProducers) {
      int32_t token = 0;
      while (token < LengthOf(id)) {
        if (Push(queue_, id, token)) {
          ++token;
        } else {
          std::this_thread::yield();  // the buffer holds two
        }
      }
      MLF_EXPECT(Push(queue_, id, token, /*final=*/true));
    }
  }

  void Take(const std::vector<Response>& responses) {
    for (const Response& response : responses) {
      const int64_t id = response.request_id;
      // Two threads may hold responses of one id; each alone sees them rise.
      MLF_EXPECT(response.tokens.front() <= LengthOf(id));
      MLF_EXPECT(
          (seen_[id].fetch_or(1U << response.tokens.front()) >> response.tokens.front()) % 2 == 0);
      if (response.is_request_final) ++finals_[id];
    }
  }

  void Consume(int self) {
    if (self < 2) {  // the requests of nobody else
      for (int64_t id = 3 * self + 1; id < kIds; id += 6) {
        while (queue_.StateOf(id) != State::kOver || finals_[id].load() == 0) {
          Take(queue_.Await(self == 0 ? std::optional<double>(5) : std::nullopt, id, kOwn));
        }
        MLF_EXPECT(seen_[id].load() == (2U << LengthOf(id)) - 1);
      }
      return;
    }
    const Audience audience = self % 2 == 0 ? kAny : kPump;
    for (auto responses = queue_.Await(std::nullopt, std::nullopt, audience); !responses.empty();
         responses = queue_.Await(std::nullopt, std::nullopt, audience)) {
      Take(responses);
    }
  }

  ResponseQueue queue_{2};
  std::array<std::atomic<int>, kIds> finals_{};
  std::array<std::atomic<uint32_t>, kIds> seen_{};
};

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestUnknownIds();
  mlf::TestOrderAndEnd();
  mlf::TestFullBuffer();
  mlf::TestAudiences();
  mlf::TestForgets();
  mlf::TestHowLongItWaits();
  mlf::TestWakes();
  mlf::TestLastResponseLetsGo();
  mlf::TestCloseLetsGo();
  mlf::Traffic().Run();
  return 0;
}
