// Rows of blocks in shared memory, their weights as bfloat16, and floats of any dtype, for the CUDA
// kernels of linear. Counterparts: linear_launch.h (sizes), cuda_blocks.cuh (float32 values).
#pragma once
#include "kernels/cuda_launch.cuh"
// Behind the language that it is written in.
#include "kernels/cuda_blocks.cuh"
#include "kernels/cuda_mma.cuh"
#include "kernels/linear_cuda.h"
#include "kernels/linear_launch.h"

namespace mlf::cuda_linear {

/// Which floats an array holds; kernels branch on it, all threads alike.
enum class FloatType : int { kF32, kF16, kBF16 };

inline FloatType FloatTypeOf(DLDataType dtype) {
  if (dtype == kF32) return FloatType::kF32;
  return dtype == kF16 ? FloatType::kF16 : FloatType::kBF16;
}

/// A row-major array as kernels take it.
struct Floats {
  uint8_t* data;
  FloatType type;
  bool aligned;  // rows begin at multiples of 16 bytes
};

inline Floats FloatsOf(const FloatArray& a, int64_t cols) {
  const bool aligned = IsVectorAligned(a.data) && cols * DtypeBytes(a.dtype) % kWord == 0;
  return {a.data, FloatTypeOf(a.dtype), aligned};
}

__device__ inline float LoadFloat(const Floats& a, int64_t i) {
  if (a.type == FloatType::kF32) return reinterpret_cast<const float*>(a.data)[i];
  if (a.type == FloatType::kF16) {
    return static_cast<float>(reinterpret_cast<const F16*>(a.data)[i]);
  }
  return static_cast<float>(reinterpret_cast<const BF16*>(a.data)[i]);
}

__device__ inline void StoreFloat(const Floats& a, int64_t i, float v) {
  if (a.type == FloatType::kF32) {
    reinterpret_cast<float*>(a.data)[i] = v;
  } else if (a.type == FloatType::kF16) {
    reinterpret_cast<F16*>(a.data)[i] = F16::From(v);
  } else {
    reinterpret_cast<BF16*>(a.data)[i] = BF16::From(v);
  }
}

/// kN floats from i on, a multiple of kN, which is 8, 4 or 1: in accesses of 16 or 8 bytes, for
/// which rows must be aligned, unless it is 1.
template <int kN>
__device__ inline void LoadVectors(const Floats& a, int64_t i, float (&v)[kN]) {
  if constexpr (kN == 1) {
    v[0] = LoadFloat(a, i);
  } else if (a.type == FloatType::kF32) {
    const auto* p = reinterpret_cast<const CudaVector<float, 4>*>(a.data) + i / 4;
#pragma unroll
    for (int part = 0; part < kN / 4; ++part) {
      const auto four = LoadConstVector(p + part);
#pragma unroll
      for (int j = 0; j < 4; ++j) v[4 * part + j] = four.lane[j];
    }
  } else {
    const auto bits =
        LoadConstVector(reinterpret_cast<const CudaVector<uint16_t, kN>*>(a.data) + i / kN);
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      v[j] = a.type == FloatType::kF16 ? static_cast<float>(F16{bits.lane[j]})
                                       : static_cast<float>(BF16{bits.lane[j]});
    }
  }
}

/// Eight floats from i on, a multiple of eight, whether rows are aligned or not.
__device__ inline void LoadEight(const Floats& a, int64_t i, float (&v)[8]) {
  if (a.aligned) return LoadVectors(a, i, v);
  const auto load = [&](const auto* data) {
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = static_cast<float>(data[i + j]);
  };
  if (a.type == FloatType::kF32) return load(reinterpret_cast<const float*>(a.data));
  if (a.type == FloatType::kF16) return load(reinterpret_cast<const F16*>(a.data));
  load(reinterpret_cast<const BF16*>(a.data));
}

// ---- pairs of bfloat16 --------------------------------------------------------------------------

__device__ inline uint32_t PairOf(BF16 low, BF16 high) {
  return low.bits | static_cast<uint32_t>(high.bits) << 16;
}

/// a * b + c of two pairs, rounded once.
__device__ inline uint32_t FmaPair(uint32_t a, uint32_t b, uint32_t c) {
#ifdef __CUDA_ARCH__
  const auto pair = [](const uint32_t& bits) {
    return *reinterpret_cast<const __nv_bfloat162*>(&bits);
  };
  const __nv_bfloat162 d = __hfma2(pair(a), pair(b), pair(c));
  return *reinterpret_cast<const uint32_t*>(&d);
#else
  const auto one = [&](int shift) {
    const auto value = [&](uint32_t pair) {
      return static_cast<float>(BF16{static_cast<uint16_t>(pair >> shift)});
    };
    return BF16::From(fmaf(value(a), value(b), value(c)));
  };
  return PairOf(one(0), one(16));
#endif
}

/// Two of four bytes less kOffset, exactly: 0x4300 + n is 128 + n for n of 7 bits. Where bytes have
/// eight, whose offset is 128, the highest bit is taken apart: n - 128 = 128 + (n % 128) - 256 or
/// - 128.
template <int kOffset>
__device__ inline uint32_t IntegersAsPair(uint32_t four, bool second) {
  constexpr uint32_t kOne = 0x3F803F80, kMinusOne = 0xBF80BF80;
  const uint32_t above = __byte_perm(four, 0x43434343u, second ? 0x4342 : 0x4140);
  if constexpr (kOffset == 128) {
    return FmaPair((~above & 0x00800080u) | 0x43004300u, kMinusOne, above & 0xFF7FFF7Fu);
  } else {
    static_assert(kOffset >= 0 && kOffset < 128);
    constexpr uint32_t kMinus = 0xC300 + kOffset;  // -(128 + kOffset)
    return FmaPair(above, kOne, kMinus << 16 | kMinus);
  }
}

/// x as the sum of two bfloat16, off by 2^-18 of it; the second is 0 where the first is not finite.
__device__ inline void SplitFloat(float x, BF16* upper, BF16* lower) {
  *upper = BF16::From(x);
  const bool finite = (upper->bits & 0x7F80) != 0x7F80;
  *lower = BF16::From(finite ? x - static_cast<float>(*upper) : 0.f);
}

// ---- rows in shared memory ----------------------------------------------------------------------

/// Where a copied row begins in its place in shared memory.
__device__ inline int PlaceInWord(const uint8_t* from) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(from) % kWord);
}

/// Begins to copy the words that `bytes` bytes from `from` on lie in: words lane, lane + kLanes, …
/// to `to`. A word that leaves [begin, end), the whole weight, is copied by bytes.
template <int kBytes, int kLanes>
__device__ inline void CopyRow(uint8_t* to, const uint8_t* from, int bytes, int lane,
                               const uint8_t* begin, const uint8_t* end) {
  const uint8_t* word = from - PlaceInWord(from);
  const uint8_t* behind = from + bytes;
  constexpr int kWords = WordsOf(kBytes);
  if (word >= begin && word + kWords * kWord <= end) {
#pragma unroll
    for (int i = 0; i < kWords; i += kLanes) {
      const int at = (i + lane) * kWord;
      if (word + at < behind) CopyAsync16(to + at, word + at, true);
    }
    return;
  }
#pragma unroll 1
  for (int i = lane; i < kWords; i += kLanes) {
    const uint8_t* at = word + i * kWord;
    uint8_t* place = to + i * kWord;
    if (at >= behind) break;
    if (at >= begin && at + kWord <= end) {
      CopyAsync16(place, at, true);
    } else {
#pragma unroll 1
      for (int b = 0; b < kWord; ++b) {
        if (at + b >= begin && at + b < end) place[b] = at[b];
      }
    }
  }
}

/// Bytes of a copied row at a multiple of kAlign: what F::Four reads words of.
template <int kAlign>
struct AlignedBytes {
  const uint8_t* at;

  MLF_HOST_DEVICE AlignedBytes operator+(int bytes) const { return {at + bytes}; }
  // For formats that take any bytes. NOLINTNEXTLINE(google-explicit-constructor)
  MLF_HOST_DEVICE operator const uint8_t*() const { return at; }
};

template <int kAlign>
MLF_HOST_DEVICE inline uint32_t LoadWord(AlignedBytes<kAlign> p) {
  if constexpr (kAlign == 4) {
    return *reinterpret_cast<const uint32_t*>(p.at);
  } else if constexpr (kAlign == 2) {
    const auto* halves = reinterpret_cast<const uint16_t*>(p.at);
    return halves[0] | uint32_t{halves[1]} << 16;
  } else {
    return quant::LoadWord(p.at);
  }
}

/// The block of a copied chunk that its 32 weights `b` are in, and their number in it.
template <typename F>
__device__ inline const uint8_t* BlockOf(const uint8_t* row, int b) {
  return row + b / kTileBlocks<F> * static_cast<int>(F::kBytes);
}
template <typename F>
__device__ inline int PartOf(int b) {
  return b % kTileBlocks<F>;
}

}  // namespace mlf::cuda_linear
