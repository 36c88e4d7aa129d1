// Counter-based random numbers: the n-th number of a seed does not depend on what was drawn before
// it or beside it.
#pragma once
#include <cstdint>

namespace mlf {

/// SplitMix64's finalizer over seed and counter (Steele, Lea, Flood, "Fast splittable pseudorandom
/// number generators", OOPSLA 2014).
inline uint64_t RandomBits(uint64_t seed, uint64_t counter) {
  uint64_t z = seed + (counter + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

/// Uniform in [0, 1), 53 bits.
inline double RandomUniform(uint64_t seed, uint64_t counter) {
  return static_cast<double>(RandomBits(seed, counter) >> 11) * 0x1p-53;
}

}  // namespace mlf
