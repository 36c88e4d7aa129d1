// Token bitmasks over rows of logits: ops and CPU kernels. Counterparts: logit_mask.h,
// logit_mask_simd.cc.
#include "kernels/logit_mask.h"

#include <cmath>
#include <limits>
#include <vector>

#include "base/dtype.h"
#include "kernels/logit_mask_simd.h"
#include "kernels/row_blocks.h"
#include "kernels/row_parameters.h"

namespace mlf {
namespace {

constexpr int64_t kWordBits = 32;
constexpr float kMinusInf = -std::numeric_limits<float>::infinity();
constexpr float kGreedyBelow = 1e-4f;  // temperatures that mean: the best token

template <typename T>
struct Blocks;
template <>
struct Blocks<float> {
  static constexpr auto& kExtremes = logit_extremes_f32;
  static constexpr auto& kMass = masked_mass_f32;
  static constexpr auto& kScale = mask_and_scale_f32;
  static constexpr auto& kFirst = first_allowed_f32;
  static constexpr auto& kApply = apply_bitmask_f32;
  static constexpr float kLargest = std::numeric_limits<float>::max();
};
template <>
struct Blocks<F16> {
  static constexpr auto& kExtremes = logit_extremes_f16;
  static constexpr auto& kMass = masked_mass_f16;
  static constexpr auto& kScale = mask_and_scale_f16;
  static constexpr auto& kFirst = first_allowed_f16;
  static constexpr auto& kApply = apply_bitmask_f16;
  static constexpr float kLargest = 65504.f;
};
template <>
struct Blocks<BF16> {
  static constexpr auto& kExtremes = logit_extremes_bf16;
  static constexpr auto& kMass = masked_mass_bf16;
  static constexpr auto& kScale = mask_and_scale_bf16;
  static constexpr auto& kFirst = first_allowed_bf16;
  static constexpr auto& kApply = apply_bitmask_bf16;
  static constexpr float kLargest = 3.3895314e38f;
};

/// Bits of each row; null where a row has no mask.
class RowMasks {
 public:
  RowMasks(const OptionalTensor& bitmask, const OptionalTensor& mask_rows)
      : rows_(mask_rows.has_value() ? Data<const int32_t>(*mask_rows) : nullptr) {
    if (!bitmask.has_value()) return;
    bits_ = Data<const uint32_t>(*bitmask);
    words_ = (*bitmask).size(1);
  }
  const uint32_t* operator[](int64_t row) const {
    const int64_t at = rows_ == nullptr ? row : rows_[row];
    return bits_ == nullptr || at < 0 ? nullptr : bits_ + at * words_;
  }

 private:
  const uint32_t* bits_ = nullptr;
  int64_t words_ = 0;
  const int32_t* rows_;
};

const uint32_t* From(const uint32_t* mask, int64_t begin) {
  return mask == nullptr ? nullptr : mask + begin / kWordBits;
}

struct RowResult {
  float mass;
  MaskStatus status;
};

/// One row on its way through the passes; partial results by block, put together in their order.
template <typename T>
class MaskedRow {
 public:
  MaskedRow(T* x, int64_t n, const uint32_t* mask, RowBlocks blocks)
      : x_(x), n_(n), mask_(mask), blocks_(blocks), found_(RowBlockCount(n)) {}

  RowResult Run(float temperature, float ln_min_p) {
    if (const MaskStatus status = FindMax(); status != kMaskOk) {
      Fill();
      return {0, status};
    }
    if (temperature < kGreedyBelow) return {KeepBest(), kMaskOk};
    return {Scale(temperature, ln_min_p), kMaskOk};
  }

 private:
  MaskStatus FindMax() {
    blocks_.For(n_, [&](int64_t b, int64_t begin, int64_t count) {
      Blocks<T>::kExtremes(&found_[b], x_ + begin, From(mask_, begin), count);
    });
    bool has_nan = false;
    for (const LogitExtremes& block : found_) {
      has_nan |= block.has_nan;
      max_ = std::max(max_, block.any);
      best_ = std::max(best_, block.allowed);
    }
    if (has_nan || (max_ == kMinusInf && n_ > 0)) return kMaskBadLogits;
    return best_ == kMinusInf ? kMaskEmpty : kMaskOk;
  }

  void Fill() {
    const T lowest = FromFloat<T>(kMinusInf);
    blocks_.For(
        n_, [&](int64_t, int64_t begin, int64_t count) { std::fill_n(x_ + begin, count, lowest); });
  }

  float KeepBest() {
    const float mass = Mass({max_, 1, 0, 1, kMinusInf});
    size_t b = 0;
    while (found_[b].allowed != best_) ++b;
    const int64_t begin = static_cast<int64_t>(b) * kRowBlock;
    const int64_t at = begin + Blocks<T>::kFirst(x_ + begin, From(mask_, begin),
                                                 std::min(kRowBlock, n_ - begin), best_);
    const T kept = x_[at];
    Fill();
    x_[at] = kept;
    return mass;
  }

  float Mass(const MaskScaling& scaling) const {
    if (mask_ == nullptr) return 1;
    std::vector<MaskMass> masses(found_.size());
    blocks_.For(n_, [&](int64_t b, int64_t begin, int64_t count) {
      Blocks<T>::kMass(&masses[b], x_ + begin, From(mask_, begin), count, scaling);
    });
    return Fraction(masses);
  }

  float Scale(float temperature, float ln_min_p) {
    MaskScaling s{max_, 1 / temperature, 0, temperature, kMinusInf};
    // Where the quotient of the best leaves the range of T, that of its distance to the best, which
    // is the same distribution.
    if (std::isfinite(best_) && std::fabs(best_ / temperature) > Blocks<T>::kLargest) {
      s.shift = best_;
    }
    if (ln_min_p > kMinusInf) s.least = (best_ - s.shift) / temperature + ln_min_p;
    std::vector<MaskMass> masses(found_.size());
    blocks_.For(n_, [&](int64_t b, int64_t begin, int64_t count) {
      Blocks<T>::kScale(&masses[b], x_ + begin, From(mask_, begin), count, s);
    });
    return mask_ == nullptr ? 1 : Fraction(masses);
  }

  static float Fraction(const std::vector<MaskMass>& masses) {
    MaskMass sum{0, 0};
    for (const MaskMass& block : masses) {
      sum.any += block.any;
      sum.allowed += block.allowed;
    }
    return static_cast<float>(sum.allowed / sum.any);
  }

  T* x_;
  int64_t n_;
  const uint32_t* mask_;
  RowBlocks blocks_;
  std::vector<LogitExtremes> found_;
  float max_ = kMinusInf, best_ = kMinusInf;  // of all, of the allowed
};

void MaskLogitsCpu(TensorView mass, TensorView status, TensorView logits, OptionalTensor bitmask,
                   OptionalTensor mask_rows, OptionalTensor temperature, OptionalTensor ln_min_p) {
  const int64_t n = logits.size(1);
  const RowMasks masks(bitmask, mask_rows);
  const RowParameter<float> temperatures(temperature, 1), ln_min_ps(ln_min_p, kMinusInf);
  float* out = Data<float>(mass);
  int32_t* statuses = Data<int32_t>(status);
  DispatchFloat(logits.dtype(), [&]<typename T>() {
    T* x = Data<T>(logits);
    ForRowRanges(logits.size(0), n, [&](int64_t begin, int64_t end, RowBlocks blocks) {
      for (int64_t r = begin; r < end; ++r) {
        MaskedRow<T> row(x + r * n, n, masks[r], blocks);
        const RowResult result = row.Run(temperatures[r], ln_min_ps[r]);
        out[r] = result.mass;
        statuses[r] = result.status;
      }
    });
  });
}

void ApplyTokenBitmaskCpu(TensorView logits, TensorView bitmask, OptionalTensor mask_rows) {
  const int64_t n = logits.size(1);
  const RowMasks masks(bitmask, mask_rows);
  DispatchFloat(logits.dtype(), [&]<typename T>() {
    T* x = Data<T>(logits);
    ForRowRanges(logits.size(0), n, [&](int64_t begin, int64_t end, RowBlocks blocks) {
      for (int64_t r = begin; r < end; ++r) {
        const uint32_t* mask = masks[r];
        if (mask == nullptr) continue;
        blocks.For(n, [&](int64_t, int64_t at, int64_t count) {
          Blocks<T>::kApply(x + r * n + at, From(mask, at), count);
        });
      }
    });
  });
}

[[maybe_unused]] const bool kFilled = mask_logits_kernel.SetCpu(MaskLogitsCpu) &&
                                      apply_token_bitmask_kernel.SetCpu(ApplyTokenBitmaskCpu);

// ---- ops ----------------------------------------------------------------------------------------

const Op kMaskLogits{
    "mask_logits",
    "(logits: Mut['rows vocab', 'f32 f16 bf16'], bitmask: T['masks words', 'i32'] | None = "
    "None, mask_rows: T['rows', 'i32'] | None = None, temperature: T['rows', 'f32'] | None = "
    "None, ln_min_p: T['rows', 'f32'] | None = None) -> {'mass': T['rows', 'f32'], 'status': "
    "T['rows', 'i32']}",
    R"(Masks, scales and cuts rows of logits in place, one row per sequence.

In each row, first tokens that the bitmask forbids become -inf. Then the others are divided by the
temperature; one below 1e-4 means greedy: the largest allowed logit stays as it is, of equals that
of the lowest id, and all others become -inf. At last logits below the largest one plus `ln_min_p`
become -inf (min-p: Nguyen et al., arXiv:2407.01082). Where a dtype cannot hold the quotient of the
largest allowed logit, that logit is subtracted before the division, which changes no probability.
Logits of +inf count as equal and share the whole mass. ``sample`` on rows that are scaled here
takes temperature 1.

``mass`` is the part of ``softmax(logits / temperature)`` (``softmax(logits)`` where greedy) on the
tokens that the bitmask allows, before min-p: 1 without a mask. ``status`` is 0 where all is well;
1 where the mask leaves no token whose logit is above -inf; 2 where the logits hold a NaN, allowed
or not, or -inf only; 3, on CUDA alone, where `mask_rows`, `temperature` or `ln_min_p` is not what is
expected, which on the CPU is a ValueError. Rows of a status but 0 are -inf everywhere and have mass
0.

logits: Written in place.
bitmask: Bit ``i % 32``, the lowest first, of word ``i // 32`` is 1 where token i is allowed; words
    for all tokens or more, bits past the last token are ignored. None: all are allowed.
mask_rows: Row of `bitmask` for each row of `logits`, -1 for none. None: row r has row r, and there
    are as many.
temperature: 0 or more and finite; None: 1.
ln_min_p: Logarithm of min-p: 0 or less, -inf for none; None: none.
)"};

const Op kApplyTokenBitmask{
    "apply_token_bitmask",
    "(logits: Mut['rows vocab', 'f32 f16 bf16'], bitmask: T['masks words', 'i32'], mask_rows: "
    "T['rows', 'i32'] | None = None) -> None",
    R"(Sets logits of tokens that a bitmask forbids to -inf, in place.

logits: Written in place.
bitmask: Bit ``i % 32``, the lowest first, of word ``i // 32`` is 1 where token i is allowed; words
    for all tokens or more, bits past the last token are ignored.
mask_rows: Row of `bitmask` for each row of `logits`, -1 for none. None: row r has row r, and there
    are as many. On CUDA, where they are not looked at before, one that is out of range forbids all.
)"};

void CheckMask(const Op& op, const TensorView& logits, const TensorView& bitmask,
               const OptionalTensor& mask_rows) {
  const int64_t n = logits.size(1), rows = bitmask.size(0), words = bitmask.size(1),
                needed = (n + kWordBits - 1) / kWordBits;
  op.That(words >= needed, "bitmask has ", words, " words in a row, expected at least ", needed,
          " for the ", n, " tokens of logits");
  if (!mask_rows.has_value()) {
    op.That(rows == logits.size(0), "bitmask has ", rows, " rows, expected ", logits.size(0),
            " as logits has, or mask_rows");
    return;
  }
  const auto in_range = [&](int32_t row) { return row >= -1 && row < rows; };
  CheckValues<int32_t>(op, "mask_rows", *mask_rows, in_range, "a row of bitmask, or -1 for none");
}

void MaskLogits(TensorView logits, OptionalTensor bitmask, OptionalTensor mask_rows,
                OptionalTensor temperature, OptionalTensor ln_min_p, TensorView mass,
                TensorView status) {
  kMaskLogits.Check(logits, bitmask, mask_rows, temperature, ln_min_p, mass, status)
      .That(bitmask.has_value() || !mask_rows.has_value(), "mask_rows without a bitmask");
  if (bitmask.has_value()) CheckMask(kMaskLogits, logits, *bitmask, mask_rows);
  CheckValues<float>(
      kMaskLogits, "temperature", temperature, [](float t) { return std::isfinite(t) && t >= 0; },
      "a finite number, 0 or more");
  CheckValues<float>(
      kMaskLogits, "ln_min_p", ln_min_p, [](float p) { return p <= 0; }, "0 or less");
  if (logits.size(0) == 0) return;
  mask_logits_kernel(logits.device(), mass, status, logits, bitmask, mask_rows, temperature,
                     ln_min_p);
}

void ApplyTokenBitmask(TensorView logits, TensorView bitmask, OptionalTensor mask_rows) {
  kApplyTokenBitmask.Check(logits, bitmask, mask_rows);
  CheckMask(kApplyTokenBitmask, logits, bitmask, mask_rows);
  if (logits.numel() == 0) return;
  apply_token_bitmask_kernel(logits.device(), logits, bitmask, mask_rows);
}

TVM_FFI_STATIC_INIT_BLOCK() {
  kMaskLogits.Register(MaskLogits);
  kApplyTokenBitmask.Register(ApplyTokenBitmask);
}

}  // namespace
}  // namespace mlf
