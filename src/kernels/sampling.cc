// Choosing tokens from rows of logits: ops and CPU kernels. Counterparts: sampling.h, ranking.cc,
// sampling_simd.cc.
#include "kernels/sampling.h"

#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <type_traits>

#include "base/dtype.h"
#include "kernels/ranking.h"
#include "kernels/row_parameters.h"
#include "kernels/sampling_simd.h"

namespace mlf {
namespace {

constexpr int64_t kArgmaxGrain = 131072;  // logits per chunk: 4 us with AVX-512
constexpr int64_t kRowGrain = 16384;      // for top_k, which does more to a logit
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr int64_t kUsualPlaces = 256;  // that a draw without top_k looks at: most end within

/// Rows as float32, in memory of its own where they are something else.
template <typename T>
class FloatRows {
 public:
  FloatRows(const T* x, int64_t n) : x_(x), n_(n) {
    if constexpr (!std::is_same_v<T, float>) wide_.reset(new float[n]);
  }
  const float* operator[](int64_t row) {
    if constexpr (std::is_same_v<T, float>) return x_ + row * n_;
    if constexpr (std::is_same_v<T, F16>) widen_f16(wide_.get(), x_ + row * n_, n_);
    if constexpr (std::is_same_v<T, BF16>) widen_bf16(wide_.get(), x_ + row * n_, n_);
    return wide_.get();
  }

 private:
  const T* x_;
  int64_t n_;
  std::unique_ptr<float[]> wide_;
};

// ---- argmax -------------------------------------------------------------------------------------

int64_t Argmax(const float* x, int64_t n) { return argmax_row(x, n); }

/// Widened a piece at a time, which stays in the first cache.
template <typename T>
int64_t Argmax(const T* x, int64_t n) {
  constexpr int64_t kPiece = 4096;
  float piece[kPiece], best = -kInf;
  int64_t id = -1;
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    const int64_t count = std::min(kPiece, n - begin);
    if constexpr (std::is_same_v<T, F16>) widen_f16(piece, x + begin, count);
    if constexpr (std::is_same_v<T, BF16>) widen_bf16(piece, x + begin, count);
    const int64_t at = argmax_row(piece, count);
    if (piece[at] > best || (id < 0 && !std::isnan(piece[at]))) {
      best = piece[at];
      id = begin + at;
    }
  }
  return std::max<int64_t>(0, id);
}

int64_t LastSize(const TensorView& t) { return t.size(t.ndim() - 1); }

void ArgmaxCpu(TensorView ids, TensorView logits) {
  const int64_t n = LastSize(logits), rows = ids.numel();
  int32_t* out = Data<int32_t>(ids);
  DispatchFloat(logits.dtype(), [&]<typename T>() {
    const T* x = Data<const T>(logits);
    ParallelFor(rows, std::max<int64_t>(1, kArgmaxGrain / std::max<int64_t>(1, n)),
                [&](int64_t begin, int64_t end) {
                  for (int64_t r = begin; r < end; ++r) {
                    out[r] = static_cast<int32_t>(Argmax(x + r * n, n));
                  }
                });
  });
}

// ---- top_k --------------------------------------------------------------------------------------

void TopKCpu(TensorView values, TensorView ids, TensorView x, int64_t k) {
  const int64_t n = LastSize(x), rows = x.numel() / n;
  int32_t* best = Data<int32_t>(ids);
  DispatchFloat(x.dtype(), [&]<typename T>() {
    const T* all = Data<const T>(x);
    T* out = Data<T>(values);
    // Rows only: within one a second thread would gain less than its wake-up.
    ParallelFor(rows, std::max<int64_t>(1, kRowGrain / n), [&](int64_t begin, int64_t end) {
      FloatRows<T> wide(all, n);
      std::vector<uint64_t> ranks;
      for (int64_t r = begin; r < end; ++r) {
        TopRanks(wide[r], n, k, &ranks);
        for (int64_t i = 0; i < k; ++i) {
          best[r * k + i] = IdOf(ranks[i]);
          out[r * k + i] = all[r * n + best[r * k + i]];
        }
      }
    });
  });
}

// ---- sample -------------------------------------------------------------------------------------

struct SampleOptions {
  float uniform, temperature, top_p, min_p;
  int32_t top_k;
};

struct Drawn {
  int32_t id;
  float logprob;
};

/// The smallest float that is not below max + temperature * ln(min_p).
float LeastOf(float max, const SampleOptions& o) {
  const double least = max + double{o.temperature} * std::log(double{o.min_p});
  const auto rounded = static_cast<float>(least);
  return rounded < least ? std::nextafter(rounded, kInf) : rounded;
}

/// Every filter keeps the best tokens, so that what is left is a mass from the best one down.
int32_t Draw(Ranking& ranking, float max, int64_t n, double all, const SampleOptions& o) {
  Ranking::Place end{all, -kInf, 0};
  if (o.top_k > 0 && o.top_k < n) end = ranking.At(o.top_k);
  if (o.top_p < 1) end = ranking.Reach(o.top_p * end.mass);
  if (o.min_p > 0) {
    const float least = LeastOf(max, o);
    if (least > end.logit) end.mass = ranking.Mass(least);
  }
  return ranking.Exceed(o.uniform * end.mass).id;
}

/// Where nothing ranks the tokens they stay in the order of their ids, and nothing is sorted: sums
/// of blocks, then of parts of the one block, then single weights.
class DrawById {
 public:
  DrawById(const float* x, int64_t n, float max, const SampleOptions& o)
      : x_(x), n_(n), max_(max), temperature_(o.temperature), least_(-kInf) {
    if (o.min_p > 0) least_ = LeastOf(max, o);
  }

  int32_t operator()(float uniform, RowBlocks blocks) const {
    std::vector<double> masses(RowBlockCount(n_));
    blocks.For(n_,
               [&](int64_t b, int64_t begin, int64_t count) { masses[b] = Mass(begin, count); });
    double left = uniform * std::accumulate(masses.begin(), masses.end(), 0.0);
    const int64_t block = Step(&left, masses.size(), [&](int64_t b) { return masses[b]; });
    const int64_t begin = block * kRowBlock, count = std::min(kRowBlock, n_ - begin);
    const int64_t part = Step(&left, (count + kPart - 1) / kPart, [&](int64_t i) {
      return Mass(begin + i * kPart, std::min(kPart, count - i * kPart));
    });
    const int64_t first = begin + part * kPart;
    return static_cast<int32_t>(first + Step(&left, std::min(kPart, n_ - first),
                                             [&](int64_t i) { return Mass(first + i, 1); }));
  }

 private:
  static constexpr int64_t kPart = 512;

  double Mass(int64_t begin, int64_t count) const {
    return MassOf(x_ + begin, count, max_, temperature_, least_, RowBlocks{false});
  }

  /// The first of `count` pieces whose mass exceeds what is left, which falls by those before it;
  /// the last piece with any mass where rounding leaves none.
  template <typename MassOfPiece>
  static int64_t Step(double* left, int64_t count, MassOfPiece mass_of) {
    int64_t last = 0;
    double before = 0, at_last = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double mass = mass_of(i);
      if (mass <= 0) continue;
      last = i;
      at_last = before;
      if (before + mass > *left) break;
      before += mass;
    }
    *left -= at_last;
    return last;
  }

  const float* x_;
  int64_t n_;
  float max_, temperature_, least_;
};

Drawn SampleRow(const float* x, int64_t n, const SampleOptions& o, RowBlocks blocks) {
  const GroupPeaks peaks(x, n);
  const float max = peaks.max();
  if (!(max > -kInf)) return {-1, -kInf};
  const bool cut = o.top_k > 0 && o.top_k < n;
  const double mass = MassOf(x, n, max, 1, -kInf, blocks);
  int32_t id;
  if (o.temperature == 0) {
    id = peaks.Best();
  } else if (!cut && o.top_p == 1) {
    id = DrawById(x, n, max, o)(o.uniform, blocks);
  } else {
    Ranking ranking(x, n, peaks, o.temperature, cut ? o.top_k : kUsualPlaces, blocks);
    const double scaled = cut || o.temperature == 1 ? mass : ranking.Mass(-kInf);
    id = Draw(ranking, max, n, scaled, o);
  }
  const double below = x[id] == max ? 0 : double{x[id]} - max;
  return {id, static_cast<float>(below - std::log(mass))};
}

void SampleCpu(TensorView ids, TensorView logprobs, TensorView logits, TensorView uniform,
               OptionalTensor temperature, OptionalTensor top_k, OptionalTensor top_p,
               OptionalTensor min_p) {
  const int64_t rows = logits.size(0), n = logits.size(1);
  const RowParameter<float> temperatures(temperature, 1), top_ps(top_p, 1), min_ps(min_p, 0);
  const RowParameter<int32_t> top_ks(top_k, 0);
  const float* uniforms = Data<const float>(uniform);
  int32_t* out = Data<int32_t>(ids);
  float* out_logprobs = Data<float>(logprobs);
  DispatchFloat(logits.dtype(), [&]<typename T>() {
    ForRowRanges(rows, n, [&](int64_t begin, int64_t end, RowBlocks blocks) {
      FloatRows<T> wide(Data<const T>(logits), n);
      for (int64_t r = begin; r < end; ++r) {
        const SampleOptions o{uniforms[r], temperatures[r], top_ps[r], min_ps[r], top_ks[r]};
        const Drawn drawn = SampleRow(wide[r], n, o, blocks);
        out[r] = drawn.id;
        out_logprobs[r] = drawn.logprob;
      }
    });
  });
}

[[maybe_unused]] const bool kFilled = argmax_kernel.SetCpu(ArgmaxCpu) &&
                                      top_k_kernel.SetCpu(TopKCpu) &&
                                      sample_kernel.SetCpu(SampleCpu);

// ---- ops ----------------------------------------------------------------------------------------

const Op kArgmax{"argmax", "(x: T['*batch n', 'f32 f16 bf16']) -> T['*batch', 'i32']",
                 R"(Index of the largest element of each row.

The lowest index wins a tie. NaN never wins, unlike in torch and NumPy; a row of NaN alone gives 0.

x: At least one element a row.
)"};

const Op kTopK{"top_k",
               "(x: T['*batch n', 'f32 f16 bf16'], *, k: int) -> {'values': T['*batch k'], 'ids': "
               "T['*batch k', 'i32']}",
               R"(The k largest elements of each row, the largest first, and their indices.

Of equals, 0 and -0 too, the lowest index comes first. NaN comes last, after -inf.

x: At least k elements a row.
k: How many; 0 or more.
)"};

const Op kSample{
    "sample",
    "(logits: T['rows vocab', 'f32 f16 bf16'], uniform: T['rows', 'f32'], temperature: "
    "T['rows', 'f32'] | None = None, top_k: T['rows', 'i32'] | None = None, top_p: T['rows', "
    "'f32'] | None = None, min_p: T['rows', 'f32'] | None = None) -> {'ids': T['rows', 'i32'], "
    "'logprobs': T['rows', 'f32']}",
    R"(Draws one token for each row, by uniform numbers that the caller draws.

In each row the logits are divided by the temperature; then `top_k` keeps the k best tokens, `top_p`
the fewest best ones whose share of what top_k left reaches it (Holtzman et al., arXiv:1904.09751),
and `min_p` those at least min_p times as probable as the best one (Nguyen et al.,
arXiv:2407.01082). Of what is left the token is drawn at which the sum of the probabilities exceeds
`uniform`, in falling order of probability where top_k or top_p ranks the row (equals by id, the
lowest first), in the order of ids where not. One number always gives the same token, whatever
stands in other rows and on any number of threads.

NaN counts as -inf; logits of +inf share all the probability. A row without a logit above -inf gives
id -1 and log-probability -inf. On CUDA, where the numbers of other arguments are not looked at
before, a row with a bad one gives id -1 and log-probability NaN. ``logprobs`` are those of ``log_softmax(logits)`` as given, before
the temperature and the filters, as vLLM and OpenAI's API report them.

logits: At least one token; penalties, bias and masks are already applied.
uniform: From 0 to below 1.
temperature: 0 or more and finite; 0 takes the best token; None: 1.
top_k: Below 1 for all, also where None.
top_p: Above 0 and up to 1, 1 for all, also where None.
min_p: From 0 to 1, 0 for all, also where None.
)"};

void CheckIds(const Op& op, const char* name, const TensorView& rows) {
  op.That(LastSize(rows) <= INT32_MAX, name, " has rows of ", LastSize(rows),
          " elements, expected at most ", INT32_MAX, " (ids are int32)");
}

void ArgmaxOp(TensorView x, TensorView out) {
  kArgmax.Check(x, out).That(out.numel() == 0 || LastSize(x) > 0, "x has rows of no elements");
  CheckIds(kArgmax, "x", x);
  if (out.numel() != 0) argmax_kernel(x.device(), out, x);
}

void TopK(TensorView x, TensorView values, TensorView ids, int64_t k) {
  kTopK.Check(x, values, ids);
  CheckIds(kTopK, "x", x);
  const int64_t n = LastSize(x);
  kTopK.That(k >= 0 && k <= n, "k is ", k, ", expected 0 to the ", n, " elements of a row of x")
      .That(LastSize(values) == k, "values has ", LastSize(values), " in a row, expected k=", k)
      .That(LastSize(ids) == k, "ids has ", LastSize(ids), " in a row, expected k=", k);
  if (ids.numel() != 0) top_k_kernel(x.device(), values, ids, x, k);
}

void Sample(TensorView logits, TensorView uniform, OptionalTensor temperature, OptionalTensor top_k,
            OptionalTensor top_p, OptionalTensor min_p, TensorView ids, TensorView logprobs) {
  kSample.Check(logits, uniform, temperature, top_k, top_p, min_p, ids, logprobs)
      .That(logits.size(0) == 0 || logits.size(1) > 0, "logits has rows of no tokens");
  CheckIds(kSample, "logits", logits);
  CheckValues<float>(
      kSample, "uniform", uniform, [](float u) { return u >= 0 && u < 1; },
      "a number from 0 to below 1");
  CheckValues<float>(
      kSample, "temperature", temperature, [](float t) { return t >= 0 && std::isfinite(t); },
      "a finite number, 0 or more");
  CheckValues<float>(
      kSample, "top_p", top_p, [](float p) { return p > 0 && p <= 1; }, "0 < top_p <= 1");
  CheckValues<float>(
      kSample, "min_p", min_p, [](float p) { return p >= 0 && p <= 1; }, "0 <= min_p <= 1");
  if (logits.numel() == 0) return;
  sample_kernel(logits.device(), ids, logprobs, logits, uniform, temperature, top_k, top_p, min_p);
}

TVM_FFI_STATIC_INIT_BLOCK() {
  kArgmax.Register(ArgmaxOp);
  kTopK.Register(TopK);
  kSample.Register(Sample);
}

}  // namespace
}  // namespace mlf
