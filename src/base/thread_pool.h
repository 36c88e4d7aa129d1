// One process-wide pool of persistent workers. Counterpart: thread_pool.cc.
#pragma once
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

namespace mlf {

/// Non-owning reference to a callable, alive for one call.
template <typename Signature>
class FunctionRef;

template <typename R, typename... A>
class FunctionRef<R(A...)> {
 public:
  template <typename F,
            typename = std::enable_if_t<!std::is_same_v<std::remove_cvref_t<F>, FunctionRef>>>
  FunctionRef(F&& f)  // NOLINT(google-explicit-constructor)
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* object, A... args) -> R {
          return (*static_cast<std::remove_reference_t<F>*>(object))(std::forward<A>(args)...);
        }) {}
  R operator()(A... args) const { return call_(object_, std::forward<A>(args)...); }

 private:
  void* object_;
  R (*call_)(void*, A...);
};

/// Calls fn(begin, end) over [0, n) in chunks of at most `grain`, on the calling thread and the
/// pool's workers, and returns when all are done. Every thread begins with chunks of its own, the
/// same ones for calls of the same size, whose data its cache may still hold, and then helps the
/// others, so that all end together. When another caller holds the pool, or only one chunk exists,
/// the calling thread does all the work. The first exception of any thread is rethrown here, the
/// rest of the chunks are skipped. Between chunks the caller polls for Ctrl-C (base/interrupt.h)
/// and throws. The result must not depend on how [0, n) is cut: kernels rely on it for batch and
/// thread invariance.
void ParallelFor(int64_t n, int64_t grain, FunctionRef<void(int64_t, int64_t)> fn);

/// Threads that ParallelFor uses on this thread: the innermost ThreadLimit's, else all of the
/// affinity mask.
int ThreadCount();

/// CPUs that this process may run on.
int AvailableCpus();

/// Limits the threads of kernels called from this thread while it lives; 0 means no limit.
class ThreadLimit {
 public:
  explicit ThreadLimit(int n_threads);
  ~ThreadLimit();
  ThreadLimit(const ThreadLimit&) = delete;
  ThreadLimit& operator=(const ThreadLimit&) = delete;

 private:
  int previous_;
};

}  // namespace mlf
