// The scores of 32 keys, transposed or in plain rows, and the memory to be asked for meanwhile; for
// *_simd.cc files. Counterpart: attention_simd.cc.
#pragma once
#include "base/simd.h"
#include "kernels/transpose.h"

namespace mlf::MLF_LEVEL {

constexpr int kEntries = 32;  // kPageSize of attention.h, which is no light header

/// Rows of memory to be asked for before they are needed, some lines at a time: in one go, requests
/// would fill the core's queues and the work between would wait.
struct Ahead {
  const char* line;
  const char* row_end;
  int64_t row_bytes, stride_bytes, lines_left;

  template <typename T>
  Ahead(const T* rows, int64_t stride, int64_t n, int64_t size)
      : line(reinterpret_cast<const char*>(rows)),
        row_end(reinterpret_cast<const char*>(rows + size)),
        row_bytes(size * static_cast<int64_t>(sizeof(T))),
        stride_bytes(stride * static_cast<int64_t>(sizeof(T))),
        lines_left(n * ((row_bytes + 63) / 64)) {}

  void Ask(int lines) {
    if (lines_left <= 0) return;
    lines_left -= lines;
#pragma GCC unroll 4
    for (int i = 0; i < lines; ++i) {
      __builtin_prefetch(line);
      line += 64;
      if (line < row_end) continue;
      row_end += stride_bytes;
      line = row_end - row_bytes;
    }
  }
};
struct NothingAhead {
  void Ask(int) {}
};

/// 32 keys transposed, [head_dim, kEntries].
template <typename T>
struct Columns {
  const T* k;

  /// scores[r, e] = q[r, :] · k[:, e], one chain over head_dim.
  template <int kR, typename A>
  void Scores(float* scores, const float* q, int64_t head_dim, A& ahead) const {
    F32 low[kR], high[kR];
#pragma GCC unroll 4
    for (int r = 0; r < kR; ++r) low[r] = high[r] = Zero();
    for (int64_t d = 0; d < head_dim; ++d) {
      const F32 k_low = Load(k + d * kEntries), k_high = Load(k + d * kEntries + kLanes);
      ahead.Ask(kEntries * sizeof(T) / 64);
#pragma GCC unroll 4
      for (int r = 0; r < kR; ++r) {
        const F32 x = Set(q[r * head_dim + d]);
        low[r] = Fma(x, k_low, low[r]);
        high[r] = Fma(x, k_high, high[r]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kR; ++r) {
      Store(scores + r * kEntries, low[r]);
      Store(scores + r * kEntries + kLanes, high[r]);
    }
  }
};

/// 32 keys as they come, `stride` apart, transposed in registers: for one pass of rows. Only where
/// a register holds 16 floats, and head_dim is a multiple of that.
template <typename T>
struct PlainRows {
  const T* k;
  int64_t stride;

  /// The same chains as those of Columns.
  template <int kR, typename A>
  void Scores(float* scores, const float* q, int64_t head_dim, A& ahead) const {
    F32 score[2][kR];
#pragma GCC unroll 4
    for (int r = 0; r < kR; ++r) score[0][r] = score[1][r] = Zero();
    for (int64_t d = 0; d < head_dim; d += kLanes) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        NativeF32 column[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          column[i] = Load(k + (half * kLanes + i) * stride + d).part[0];
        }
        Transpose(column);
        ahead.Ask(kLanes * kLanes * sizeof(T) / 64);
#pragma GCC unroll 16
        for (int j = 0; j < kLanes; ++j) {
#pragma GCC unroll 4
          for (int r = 0; r < kR; ++r) {
            score[half][r] = Fma(Set(q[r * head_dim + d + j]), F32{{column[j]}}, score[half][r]);
          }
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kR; ++r) {
      Store(scores + r * kEntries, score[0][r]);
      Store(scores + r * kEntries + kLanes, score[1][r]);
    }
  }
};

}  // namespace mlf::MLF_LEVEL
