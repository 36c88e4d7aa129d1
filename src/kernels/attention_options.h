// What `attention` and `paged_attention` check alike. Counterparts: attention.cc,
// paged_attention.cc.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/op.h"

namespace mlf {

/// As kernels take them.
struct AttentionOptions {
  double scale;
  int64_t window;   // 0: none
  double soft_cap;  // 0: none
};

inline AttentionOptions CheckOptions(const Op& op, int64_t head_dim,
                                     const ffi::Optional<double>& scale,
                                     const ffi::Optional<int64_t>& window,
                                     const ffi::Optional<double>& soft_cap) {
  const auto finite = [](double x) { return std::isfinite(static_cast<float>(x)); };
  if (scale.has_value()) op.That(finite(*scale), "scale must be a finite float32, got ", *scale);
  if (window.has_value()) op.That(*window > 0, "window must be positive or None, got ", *window);
  if (soft_cap.has_value()) {
    // Its inverse is a factor: below 1e-30 there would be no room for one.
    op.That(finite(*soft_cap) && *soft_cap >= 1e-30,
            "soft_cap must be a positive float32 or None, got ", *soft_cap);
  }
  const double by_dim = head_dim == 0 ? 1 : 1 / std::sqrt(static_cast<double>(head_dim));
  constexpr int64_t kWidest = std::numeric_limits<int32_t>::max();  // positions are int32
  return {scale.has_value() ? *scale : by_dim, window.has_value() ? std::min(*window, kWidest) : 0,
          soft_cap.has_value() ? *soft_cap : 0};
}

inline void CheckHeads(const Op& op, const TensorView& q, const char* keys, int64_t kv_heads) {
  const int64_t heads = q.size(1);
  op.That(kv_heads == 0 ? heads == 0 : heads % kv_heads == 0, "q has ", heads,
          " heads, expected a multiple of the ", kv_heads, " of ", keys);
}

}  // namespace mlf
