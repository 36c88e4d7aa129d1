// Where blocks of each format keep their scales, for tests and benchmarks that fill them.
#pragma once
#include <cstdint>
#include <cstring>
#include <iterator>
#include <vector>

#include "quant/formats.h"

namespace mlf {

#define MLF_FORMAT_OF(name) Format::k##name,
inline constexpr Format kAllFormats[] = {MLF_FORMATS(MLF_FORMAT_OF)};
#undef MLF_FORMAT_OF

/// The float16 numbers of a block: its scale and, where there are two, its minimum.
inline std::vector<int64_t> HalfOffsets(Format format) {
  switch (format) {
    case Format::kQ2_K:
      return {80, 82};
    case Format::kQ3_K:
      return {108};
    case Format::kQ6_K:
      return {208};
    case Format::kQ4_1:
    case Format::kQ5_1:
    case Format::kQ4_K:
    case Format::kQ5_K:
      return {0, 2};
    case Format::kMXFP4:  // an exponent in byte 0
      return {};
    default:
      return {0};
  }
}

/// Weights of random bytes under a scale of 1: the middle of their magnitudes.
inline float TypicalWeight(Format format) {
  switch (format) {
    case Format::kQ8_0:
      return 74;
    case Format::kQ5_0:
    case Format::kQ5_1:
      return 9;
    case Format::kQ2_K:
      return 11;
    case Format::kQ3_K:
      return 43;
    case Format::kQ4_K:
      return 270;
    case Format::kQ5_K:
      return 560;
    case Format::kQ6_K:
      return 1370;
    case Format::kIQ4_NL:
      return 65;
    case Format::kIQ2_XXS:
      return 80;
    default:
      return 5;
  }
}

/// Smallest row of whole blocks of 32 and of the format.
inline int64_t RowUnit(Format format) {
  return InfoOf(format).block > kQuantBlock ? InfoOf(format).block : kQuantBlock;
}

}  // namespace mlf
