// What measures a CPU's limits, at the level in use. Counterparts: limits_simd.cc, limits.cc.
#pragma once
#include <cstdint>

#include "base/simd_fn.h"

namespace mlf {

/// Multiply-adds in registers, as many chains at once as keep the units full. Returns how many
/// operations that was, a multiply and an add being two. All factors are 1, so *sum, over all
/// chains and lanes, is half of that (exactly, below 2^24).
MLF_SIMD_FN(multiply_add_floats, MultiplyAddFloats, int64_t(int64_t rounds, float* sum))

/// The same of bytes with 32-bit sums, by the instructions that the matmul has for 4-bit weights
/// (kernels/block_dot.h): no format takes fewer.
MLF_SIMD_FN(multiply_add_bytes, MultiplyAddBytes, int64_t(int64_t rounds, int32_t* sum))

/// Reads whole lines (bytes is a multiple of 64); returns the exclusive or of their 32-bit words.
MLF_SIMD_FN(read_lines, ReadLines, uint32_t(const uint8_t* from, int64_t bytes))

/// Copies whole lines, both sides aligned to them, with stores that pass by the caches where the
/// level has such: the target's lines are not read first.
MLF_SIMD_FN(stream_lines, StreamLines, void(uint8_t* to, const uint8_t* from, int64_t bytes))

}  // namespace mlf
