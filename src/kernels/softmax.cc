// Softmax and its logarithm: ops, CPU kernels, registration. Counterparts: softmax.h,
// softmax_simd.cc.
//
// A row is cut into blocks of fixed length. Each gives its maximum and its sum of exponentials
// ("online softmax", Milakov and Gimelshein, arXiv:1805.02867), and these are joined in order, so
// that the result of a long row is the same whether one thread made all parts or many made some.
#include "kernels/softmax.h"

#include <cfloat>
#include <cmath>
#include <vector>

#include "base/dtype.h"
#include "base/op.h"
#include "base/thread_pool.h"
#include "kernels/softmax_simd.h"

namespace mlf {
namespace {

constexpr int64_t kBlock = 4096;           // elements; the second look at them finds them in L1
constexpr int64_t kRowGrain = 16384;       // elements per chunk of whole rows: 8 us with AVX-512
constexpr int64_t kSplitRow = 4 * kBlock;  // elements of a row that is worth several threads

template <typename T>
struct Rows;
template <>
struct Rows<float> {
  static constexpr auto& kPart = softmax_part_f32;
  static constexpr auto& kScale = softmax_scale_f32;
  static constexpr auto& kWrite = softmax_write_f32;
};
template <>
struct Rows<F16> {
  static constexpr auto& kPart = softmax_part_f16;
  static constexpr auto& kScale = softmax_scale_f16;
  static constexpr auto& kWrite = softmax_write_f16;
};
template <>
struct Rows<BF16> {
  static constexpr auto& kPart = softmax_part_bf16;
  static constexpr auto& kScale = softmax_scale_bf16;
  static constexpr auto& kWrite = softmax_write_bf16;
};

/// Joins the parts of a row in the order they come.
class RowSum {
 public:
  explicit RowSum(Scores scores) : spread_(scores.cap == 0 ? std::abs(scores.scale) : scores.cap) {}

  void Add(SoftmaxPart part) {
    if (part.max > max_) {
      sum_ = sum_ == 0 ? part.sum : sum_ * Exp(max_, part.max) + part.sum;
      max_ = part.max;
    } else {
      sum_ += part.max == max_ ? part.sum : part.sum * Exp(part.max, max_);
    }
  }
  float max() const { return max_; }
  float Norm(SoftmaxForm form) const {
    return static_cast<float>(form == SoftmaxForm::kProbability ? 1 / sum_ : std::log(sum_));
  }
  /// What makes probabilities of a part's exponentials.
  float Factor(SoftmaxPart part) const {
    return static_cast<float>((part.max == max_ ? 1 : Exp(part.max, max_)) / sum_);
  }

 private:
  double Exp(float a, float b) const { return std::exp((static_cast<double>(a) - b) * spread_); }

  double spread_;         // of what parts have as max
  float max_ = -FLT_MAX;  // of no elements, as SoftmaxPart has it
  double sum_ = 0;
};

/// Probabilities of float32 have room for their exponentials where the output goes, and are scaled
/// there; a short row of shorter floats, or one that is streamed, has it on the stack; others are
/// computed twice.
template <typename T>
class RowSoftmax {
 public:
  RowSoftmax(RowOut<T> out, const T* x, int64_t n, Scores scores, SoftmaxForm form)
      : out_(out.data),
        x_(x),
        n_(n),
        blocks_((n + kBlock - 1) / kBlock),
        stream_(out.stream),
        scores_(scores),
        form_(form) {}

  int64_t blocks() const { return blocks_; }

  /// `parts` has room for all blocks of a row.
  void Whole(int64_t row, SoftmaxPart* parts) const {
    if (blocks_ == 1 && form_ == SoftmaxForm::kProbability && (stream_ || !kInPlace)) {
      return OnStack(row);
    }
    MakeParts(row, 0, blocks_, parts);
    Finish(row, 0, blocks_, parts, Sum(parts));
  }

  /// The same by several threads.
  void Split(int64_t row, SoftmaxPart* parts) const {
    const int64_t threads = ThreadCount(), grain = (blocks_ + threads - 1) / threads;
    ParallelFor(blocks_, grain,
                [&](int64_t begin, int64_t end) { MakeParts(row, begin, end, parts); });
    const RowSum sum = Sum(parts);
    ParallelFor(blocks_, grain,
                [&](int64_t begin, int64_t end) { Finish(row, begin, end, parts, sum); });
  }

 private:
  static constexpr bool kInPlace = std::is_same_v<T, float>;

  float* Room(T* out) const {
    if constexpr (kInPlace) return form_ == SoftmaxForm::kProbability ? out : nullptr;
    return nullptr;
  }

  void OnStack(int64_t row) const {
    float e[kBlock];
    const SoftmaxPart part = Rows<T>::kPart(e, x_ + row * n_, n_, scores_);
    Rows<T>::kScale({out_ + row * n_, stream_}, e, n_, static_cast<float>(1.0 / part.sum));
  }

  void MakeParts(int64_t row, int64_t begin, int64_t end, SoftmaxPart* parts) const {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t at = row * n_ + b * kBlock, n = std::min(kBlock, n_ - b * kBlock);
      parts[b] = Rows<T>::kPart(Room(out_ + at), x_ + at, n, scores_);
    }
  }

  RowSum Sum(const SoftmaxPart* parts) const {
    RowSum sum(scores_);
    for (int64_t b = 0; b < blocks_; ++b) sum.Add(parts[b]);
    return sum;
  }

  void Finish(int64_t row, int64_t begin, int64_t end, const SoftmaxPart* parts,
              const RowSum& sum) const {
    const float norm = sum.Norm(form_);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t at = row * n_ + b * kBlock, n = std::min(kBlock, n_ - b * kBlock);
      if (const float* e = Room(out_ + at); e != nullptr) {
        Rows<T>::kScale(out_ + at, e, n, sum.Factor(parts[b]));
      } else {
        Rows<T>::kWrite({out_ + at, stream_}, x_ + at, n, scores_, sum.max(), norm, form_);
      }
    }
  }

  T* out_;
  const T* x_;
  int64_t n_, blocks_;
  bool stream_;
  Scores scores_;
  SoftmaxForm form_;
};

template <SoftmaxForm kForm>
void SoftmaxCpu(TensorView out, TensorView x, double scale, double soft_cap) {
  const int64_t n = x.size(x.ndim() - 1), rows = n == 0 ? 0 : x.numel() / n;
  const double factor = soft_cap == 0 ? scale : scale / soft_cap;
  const Scores scores{static_cast<float>(factor), static_cast<float>(soft_cap)};
  DispatchFloat(x.dtype(), [&]<typename T>() {
    constexpr int64_t kValue = sizeof(T);
    const bool stream =
        WorthStreaming(Data<void>(out), Data<void>(x), x.numel() * kValue, n * kValue);
    const RowSoftmax<T> softmax({Data<T>(out), stream}, Data<const T>(x), n, scores, kForm);
    if (ThreadCount() > 1 && rows < 2 * ThreadCount() && n >= kSplitRow) {
      std::vector<SoftmaxPart> parts(softmax.blocks());
      for (int64_t row = 0; row < rows; ++row) softmax.Split(row, parts.data());
      return;
    }
    ParallelFor(rows, std::max<int64_t>(1, kRowGrain / std::max<int64_t>(1, n)),
                [&](int64_t begin, int64_t end) {
                  std::vector<SoftmaxPart> parts(softmax.blocks());
                  for (int64_t row = begin; row < end; ++row) softmax.Whole(row, parts.data());
                });
  });
}

[[maybe_unused]] const bool kFilled =
    softmax_kernel.SetCpu(SoftmaxCpu<SoftmaxForm::kProbability>) &&
    log_softmax_kernel.SetCpu(SoftmaxCpu<SoftmaxForm::kLogarithm>);

const Op kSoftmax{
    "softmax",
    "(x: T['*batch n', 'f32 f16 bf16'], *, scale: float = 1.0, soft_cap: float | None = None) -> "
    "T['*batch n', 'may be x']",
    R"(Softmax of the last dimension.

``out = exp(y) / sum(exp(y))`` with ``y = scale * x``, or with ``y = soft_cap * tanh(scale * x /
soft_cap)`` where a cap is given (as Gemma 2 has it, arXiv:2408.00118); the largest ``y`` of the row
is subtracted first and all is computed in float32. Without a cap ``-inf`` gives 0, and a row of
nothing but ``-inf`` or with ``+inf`` in it gives NaN; with one an infinity counts as ``soft_cap`` of
its sign, so that masks belong behind it. NaN gives NaN.

x: Scores; may have no rows.
scale: Multiplies every score; finite as float32.
soft_cap: Bound that the scores approach; positive, as float32 too.
)"};

const Op kLogSoftmax{
    "log_softmax",
    "(x: T['*batch n', 'f32 f16 bf16'], *, scale: float = 1.0, soft_cap: float | None = None) -> "
    "T['*batch n', 'may be x']",
    R"(Logarithm of the softmax of the last dimension.

``out = y - log(sum(exp(y)))`` with ``y = scale * x``, or with ``y = soft_cap * tanh(scale * x /
soft_cap)`` where a cap is given (as Gemma 2 has it, arXiv:2408.00118); the largest ``y`` of the row
is subtracted first and all is computed in float32. Without a cap ``-inf`` stays ``-inf``, and a row
of nothing but ``-inf`` or with ``+inf`` in it gives NaN; with one an infinity counts as ``soft_cap``
of its sign, so that masks belong behind it. NaN gives NaN.

x: Scores; may have no rows.
scale: Multiplies every score; finite as float32.
soft_cap: Bound that the scores approach; positive, as float32 too.
)"};

/// Checks; the cap as kernels take it.
double CheckScores(const Op& op, const TensorView& x, const TensorView& out, double scale,
                   ffi::Optional<double> soft_cap) {
  op.Check(x, out).That(std::isfinite(static_cast<float>(scale)),
                        "scale must be a finite float32, got ", scale);
  if (!soft_cap.has_value()) return 0;
  const double cap = *soft_cap;
  const float cap32 = static_cast<float>(cap);
  op.That(cap32 > 0 && std::isfinite(cap32), "soft_cap must be a positive float32, got ", cap)
      .That(std::isfinite(static_cast<float>(scale / cap)),
            "scale / soft_cap must be a finite float32, got ", scale, " / ", cap);
  return cap;
}

void Softmax(TensorView x, TensorView out, double scale, ffi::Optional<double> soft_cap) {
  const double cap = CheckScores(kSoftmax, x, out, scale, soft_cap);
  if (x.numel() != 0) softmax_kernel(x.device(), out, x, scale, cap);
}

void LogSoftmax(TensorView x, TensorView out, double scale, ffi::Optional<double> soft_cap) {
  const double cap = CheckScores(kLogSoftmax, x, out, scale, soft_cap);
  if (x.numel() != 0) log_softmax_kernel(x.device(), out, x, scale, cap);
}

TVM_FFI_STATIC_INIT_BLOCK() {
  kSoftmax.Register(Softmax);
  kLogSoftmax.Register(LogSoftmax);
}

}  // namespace
}  // namespace mlf
