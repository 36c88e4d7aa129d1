// Attention over plain tensors: checks, CPU, registration. Counterparts: attention.h,
// attention_block.h, attention_simd.cc.
#include "kernels/attention.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "base/op.h"
#include "kernels/attention_block.h"
#include "kernels/attention_options.h"

namespace mlf {
namespace {

// Queries that share one copy of 32 keys and values; their state stays in L2. With the least or
// fewer, reading keys is the work.
constexpr int64_t kBlockRows = 128, kLeastRows = 16;
// Keys gathered in one chain before they are added to the result: bounds the error of long sums,
// and lets threads share one head's keys. The cut depends on nothing but the key's index.
constexpr int64_t kSegment = 1024;
static_assert(kSegment % kPageSize == 0);
constexpr int64_t kItemsPerThread = 4;

template <typename T>
constexpr auto& kAttendRows = attend_rows_f32;
template <>
constexpr auto& kAttendRows<F16> = attend_rows_f16;
template <>
constexpr auto& kAttendRows<BF16> = attend_rows_bf16;

/// Tokens [first, first + tokens) of a sequence with keys [first_key, first_key + keys); the first
/// token stands at `position`. They see keys of segments [begin, end).
struct TokenRun {
  int64_t first, tokens, position, first_key, keys;
  int64_t begin = 0, end = 0;
};

/// Key/value heads [kv_head, kv_head + kv_heads) of a run.
struct Item {
  TokenRun run;
  int64_t kv_head, kv_heads;
};

/// The arguments of one call.
struct AttentionCall {
  TensorView out, q, k, v;
  float scale, soft_cap;
  bool causal;
  int64_t window;

  int64_t kv_heads() const { return k.size(1); }
  int64_t group() const { return q.size(1) / k.size(1); }
  int64_t head_dim() const { return q.size(2); }

  int64_t FirstSeen(const TokenRun& run, int64_t t) const {
    return WindowStart(run.position + t, window);
  }
  int64_t LastSeen(const TokenRun& run, int64_t t) const {
    if (causal) return run.position + t;
    const int64_t last = run.keys - 1;
    return window == 0 ? last : std::min(last, run.position + t + window - 1);
  }
  QueryBlock Queries(const Item& item) const {
    return {item.run.first, item.run.tokens, item.kv_head * group(), group(), item.kv_heads};
  }

  /// Gathers what an item sees of one segment.
  template <typename T>
  void Attend(const Item& item, int64_t segment, const AttentionState& state) const {
    const TokenRun& run = item.run;
    const QueryBlock query = Queries(item);
    BlockMemory memory(query, head_dim(), soft_cap, state);
    for (int64_t t = 0; t < run.tokens; ++t) {
      memory.See(t, static_cast<int32_t>(FirstSeen(run, t)),
                 static_cast<int32_t>(LastSeen(run, t)));
    }
    LoadQueries<T>(memory.block(), query, q, scale);
    const int64_t key0 = (run.first_key * kv_heads() + item.kv_head) * head_dim(),
                  begin = FirstSeen(run, 0) / kPageSize * kPageSize,
                  end = LastSeen(run, run.tokens - 1) + 1;
    kAttendRows<T>(memory.block(), {.k = Data<const T>(k) + key0,
                                    .v = Data<const T>(v) + key0,
                                    .heads = item.kv_heads,
                                    .stride = kv_heads() * head_dim(),
                                    .begin = std::max(begin, segment * kSegment),
                                    .end = std::min(end, (segment + 1) * kSegment)});
  }
};

/// Cuts each sequence's tokens into runs of at most `most`.
std::vector<TokenRun> CutIntoRuns(const AttentionCall& call, const TensorView& cu_q,
                                  const TensorView& cu_k, int64_t most) {
  const auto* q_start = Data<const int32_t>(cu_q);
  const auto* k_start = Data<const int32_t>(cu_k);
  const int64_t sequences = q_start == nullptr ? 1 : cu_q.size(0) - 1;
  std::vector<TokenRun> runs;
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t first = q_start == nullptr ? 0 : q_start[s],
                  tokens = (q_start == nullptr ? call.q.size(0) : q_start[s + 1]) - first,
                  first_key = k_start == nullptr ? 0 : k_start[s],
                  keys = (k_start == nullptr ? call.k.size(0) : k_start[s + 1]) - first_key;
    for (int64_t t = 0; t < tokens; t += most) {
      TokenRun run{first + t, std::min(most, tokens - t), keys - tokens + t, first_key, keys};
      run.begin = call.FirstSeen(run, 0) / kSegment;
      // One segment at least, which leaves zeros where nothing is seen.
      run.end = std::max(call.LastSeen(run, run.tokens - 1) / kSegment, run.begin) + 1;
      runs.push_back(run);
    }
  }
  return runs;
}

/// Tokens per run: enough for the keys' copy to be shared, few enough for all threads to have work.
int64_t MostTokens(const AttentionCall& call) {
  const int64_t group = call.group(), enough = kItemsPerThread * ThreadCount();
  int64_t most = std::max<int64_t>(1, kBlockRows / group);
  while (most > 1 && most * group > kLeastRows &&
         call.q.size(0) * call.kv_heads() < enough * most) {
    most /= 2;
  }
  return most;
}

int64_t CountSegments(const std::vector<TokenRun>& runs) {
  int64_t segments = 0;
  for (const TokenRun& run : runs) segments += run.end - run.begin;
  return segments;
}

/// Whether reading keys is most of a run's work. All heads of a key are then read together, because
/// they are neighbours in memory.
bool IsReading(const AttentionCall& call, const TokenRun& run) {
  return run.tokens * call.group() <= kLeastRows;
}

/// Key/value heads per item of such runs: as many as leave work for all threads.
int64_t HeadsPerItem(const AttentionCall& call, const std::vector<TokenRun>& runs) {
  const int64_t segments = CountSegments(runs), enough = 2 * ThreadCount();
  int64_t heads = call.kv_heads();
  while (heads > 1 && segments * (call.kv_heads() / heads) < enough) heads = (heads + 1) / 2;
  return heads;
}

/// All runs of one head, then those of the next, so that its keys stay in cache; late tokens, which
/// see most, first, so that threads end together. Last, the runs whose work is reading.
std::vector<Item> ListItems(const AttentionCall& call, const std::vector<TokenRun>& runs) {
  const int64_t kv_heads = call.kv_heads(), together = HeadsPerItem(call, runs);
  std::vector<Item> items;
  for (int64_t head = 0; head < kv_heads; ++head) {
    for (auto run = runs.rbegin(); run != runs.rend(); ++run) {
      if (!IsReading(call, *run)) items.push_back({*run, head, 1});
    }
  }
  for (const TokenRun& run : runs) {
    if (!IsReading(call, run)) continue;
    for (int64_t head = 0; head < kv_heads; head += together) {
      items.push_back({run, head, std::min(together, kv_heads - head)});
    }
  }
  return items;
}

/// Each item on one thread.
template <typename T>
void RunWhole(const AttentionCall& call, const std::vector<Item>& items, int64_t grain) {
  const int64_t head_dim = call.head_dim();
  ParallelFor(static_cast<int64_t>(items.size()), grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Item& item = items[i];
      const QueryBlock query = call.Queries(item);
      const StateMemory total(query.rows(), head_dim);
      call.Attend<T>(item, item.run.begin, total.state());
      for (int64_t s = item.run.begin + 1; s < item.run.end; ++s) {
        const StateMemory part(query.rows(), head_dim);
        call.Attend<T>(item, s, part.state());
        merge_attention(total.state(), part.state(), query.rows(), head_dim, call.soft_cap);
      }
      StoreOutputs<T>(total.state(), query, call.out);
    }
  });
}

/// Each segment on its own, then the sums in the same order: the same bits, for fewer items than
/// threads can share.
template <typename T>
void RunSegments(const AttentionCall& call, const std::vector<Item>& items) {
  struct Piece {
    const Item* item;
    int64_t segment;
  };
  std::vector<Piece> pieces;
  std::vector<StateMemory> states;
  const int64_t head_dim = call.head_dim();
  for (const Item& item : items) {
    for (int64_t s = item.run.begin; s < item.run.end; ++s) {
      pieces.push_back({&item, s});
      states.emplace_back(call.Queries(item).rows(), head_dim);
    }
  }
  ParallelFor(static_cast<int64_t>(pieces.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      call.Attend<T>(*pieces[i].item, pieces[i].segment, states[i].state());
    }
  });
  for (size_t i = 0; i < pieces.size();) {
    const Item& item = *pieces[i].item;
    const QueryBlock query = call.Queries(item);
    const AttentionState total = states[i].state();
    for (++i; i < pieces.size() && pieces[i].item == &item; ++i) {
      merge_attention(total, states[i].state(), query.rows(), head_dim, call.soft_cap);
    }
    StoreOutputs<T>(total, query, call.out);
  }
}

void AttentionCpu(TensorView out, TensorView q, TensorView k, TensorView v, TensorView cu_q,
                  TensorView cu_k, double scale, bool causal, int64_t window, double soft_cap) {
  if (out.numel() == 0) return;
  const AttentionCall call{
      out, q, k, v, static_cast<float>(scale), static_cast<float>(soft_cap), causal, window};
  const std::vector<TokenRun> runs = CutIntoRuns(call, cu_q, cu_k, MostTokens(call));
  const std::vector<Item> items = ListItems(call, runs);
  const auto n_items = static_cast<int64_t>(items.size());
  int64_t multiplies = 0;
  for (const TokenRun& run : runs) {
    const int64_t seen = call.LastSeen(run, run.tokens - 1) + 1 - call.FirstSeen(run, 0);
    multiplies += 2 * run.tokens * std::max<int64_t>(0, seen) * q.size(1) * q.size(2);
  }
  const bool parallel = WorthThreads(multiplies) && ThreadCount() > 1;
  const bool split = parallel && n_items < kItemsPerThread * ThreadCount() &&
                     CountSegments(runs) > static_cast<int64_t>(runs.size());
  DispatchFloat(q.dtype(), [&]<typename T>() {
    if (split) {
      RunSegments<T>(call, items);
    } else {
      RunWhole<T>(call, items, parallel ? 1 : n_items);
    }
  });
}

[[maybe_unused]] const bool kFilled = attention_kernel.SetCpu(AttentionCpu);

// ---- the op -------------------------------------------------------------------------------------

const Op kAttention{
    "attention",
    "(q: T['queries heads head_dim', 'f32 f16 bf16'], k: T['keys kv_heads head_dim'], "
    "v: T['keys kv_heads head_dim'], cu_q: T['bounds', 'i32'] | None = None, "
    "cu_k: T['bounds', 'i32'] | None = None, *, scale: float | None = None, causal: bool = True, "
    "window: int | None = None, soft_cap: float | None = None) "
    "-> T['queries heads head_dim', 'may be q']",
    R"(Softmax attention of queries to keys, of one sequence or of many packed ones.

``softmax(scale * q @ k.T) @ v`` over the keys that a query sees, accumulated in float32; query head
``i`` reads key head ``i // (heads // kv_heads)``. In a sequence of n queries and m keys, query i
stands at position ``p = m - n + i``, so that the last query stands at the last key; causal, it sees
the keys ``j <= p``. A query that sees no key gets zeros. A row's result depends on its own sequence
alone, not on the other rows or the number of threads (running maximum and sum as in Milakov and
Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867).

On CUDA the weights of 16-bit inputs are rounded to their dtype, and the values of cu_q and cu_k are
not checked: a bound outside the rows is moved into them. Every GPU takes a head_dim of up to 2000;
one that its shared memory has no room for is refused (NotImplementedError).

q: Queries; heads is a multiple of kv_heads.
k: Keys.
v: Values.
cu_q: Packed sequences: sequence s has the queries ``cu_q[s]`` to ``cu_q[s + 1] - 1``. Goes with
    cu_k; None means one sequence.
cu_k: The same for keys and values.
scale: Factor of the scores; None means 1 / sqrt(head_dim).
causal: Whether a query sees no key after its position.
window: A query sees key j only where ``abs(p - j) < window``: with causal, at most that many keys,
    its own among them. None means all.
soft_cap: c of ``c * tanh(score / c)``, which bounds the scaled scores; None means no bound.
)"};

/// Refuses what is not 0 <= … <= rows, from 0 to all rows.
void CheckCumulative(const char* name, const TensorView& cu, const char* of, int64_t rows) {
  const auto* c = Data<const int32_t>(cu);
  const int64_t n = cu.size(0);
  kAttention.That(n > 0, name, " has shape [0], expected at least one element")
      .That(c[0] == 0, name, "[0] is ", c[0], ", expected 0");
  for (int64_t i = 1; i < n; ++i) {
    kAttention.That(c[i] >= c[i - 1], name, "[", i, "] is ", c[i], ", expected at least ", name,
                    "[", i - 1, "] = ", c[i - 1]);
  }
  kAttention.That(c[n - 1] == rows, name, "[", n - 1, "] is ", c[n - 1], ", expected ", rows,
                  ", the rows of ", of);
}

void Attention(TensorView q, TensorView k, TensorView v, ffi::Optional<TensorView> cu_q,
               ffi::Optional<TensorView> cu_k, TensorView out, ffi::Optional<double> scale,
               bool causal, ffi::Optional<int64_t> window, ffi::Optional<double> soft_cap) {
  kAttention.Check(q, k, v, cu_q, cu_k, out);
  CheckHeads(kAttention, q, "k", k.size(1));
  const AttentionOptions options = CheckOptions(kAttention, q.size(2), scale, window, soft_cap);
  constexpr int64_t kMostRows = std::numeric_limits<int32_t>::max();
  kAttention
      .That(q.size(0) <= kMostRows && k.size(0) <= kMostRows, "q has ", q.size(0), " rows and k ",
            k.size(0), ", expected at most ", kMostRows)
      .That(cu_q.has_value() == cu_k.has_value(), cu_q.has_value() ? "cu_q" : "cu_k",
            " is given without ", cu_q.has_value() ? "cu_k" : "cu_q");
  // Lengths on another device are that device's kernel to check: this call reads no memory there.
  if (cu_q.has_value() && q.device().device_type == kDLCPU) {
    CheckCumulative("cu_q", *cu_q, "q", q.size(0));
    CheckCumulative("cu_k", *cu_k, "k", k.size(0));
  }
  if (out.numel() == 0) return;
  const ArrayView none;
  attention_kernel(q.device(), out, q, k, v, cu_q.has_value() ? *cu_q : TensorView(none),
                   cu_k.has_value() ? *cu_k : TensorView(none), options.scale, causal,
                   options.window, options.soft_cap);
}

TVM_FFI_STATIC_INIT_BLOCK() { kAttention.Register(Attention); }

}  // namespace
}  // namespace mlf
