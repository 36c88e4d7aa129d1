// Frequencies of a rotary embedding, and grids of its CUDA kernels. Counterparts: rope.cc, rope.cu.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/grid_launch.h"

namespace mlf {

/// How frequencies are scaled (rope.h, RopeFn).
struct RopeScaling {
  double freq_scale = 1;
  double ramp_low = -1, ramp_high = 0;  // every pair has freq_scale

  bool operator==(const RopeScaling&) const = default;

  double OfPair(int64_t i) const {
    const double width = std::max(ramp_high - ramp_low, 0.001);
    const double scaled = std::clamp((static_cast<double>(i) - ramp_low) / width, 0.0, 1.0);
    return (1 - scaled) + scaled * freq_scale;
  }
};

/// Turns of pair i of `pairs` at position 1.
inline double RopeTurn(int64_t i, int64_t pairs, double base, const RopeScaling& scaling) {
  constexpr double kTwoPi = 6.283185307179586;
  const double power = -static_cast<double>(i) / static_cast<double>(pairs);
  return scaling.OfPair(i) * std::pow(base, power) / kTwoPi;
}

inline constexpr int kRopePairs = 256;  // of a launch: their turns are 2 KiB of its parameters
inline constexpr int kRopeThreads = 256;

/// A block to a token.
constexpr unsigned RopeBlocks(int64_t tokens) { return BlocksOf(tokens); }

}  // namespace mlf
