// Chooses kernel, tiles and splits for one call of attention on CUDA. Counterparts: attention.cu,
// paged_attention.cu.
#pragma once
#include <tvm/ffi/extra/c_env_api.h>

#include <string>

#include "kernels/attention_mma.cuh"
#include "kernels/attention_plain.cuh"
#include "kernels/cuda_launch.cuh"

namespace mlf {

/// Launches one kernel with one cut of the tokens into tiles.
template <typename Q, typename Source>
class AttentionLauncher {
 public:
  using Arguments = AttentionArguments<Q, Source>;

  /// `sequences` is how many the tokens belong to, at most; `parts` how many segments a row has.
  AttentionLauncher(const CudaCall& call, const Arguments& arguments, int64_t sequences, int parts)
      : call_(call), a_(arguments), sequences_(sequences) {
    a_.splits = 1;
    a_.parts.parts = parts;
    a_.parts.stride = (a_.head_dim + 3) / 4 * 4;
  }

  void Launch() {
    if constexpr (std::is_same_v<Q, typename Source::Element> && sizeof(Q) == 2) {
      if (a_.head_dim <= 64) return LaunchMma<64, 4>();
      if (a_.head_dim <= 128) return LaunchMma<128, 4>();
      if (a_.head_dim <= 256 && SharedOf<256, 4>() <= MostShared()) return LaunchMma<256, 4>();
      if (a_.head_dim <= 256 && SharedOf<256, 2>() <= MostShared()) return LaunchMma<256, 2>();
    }
    LaunchPlain();
  }

 private:
  using T = typename Source::Element;
  static constexpr int kMmaWarps = 8;  // of a multiprocessor, whose threads have 256 registers each
  static constexpr int kMostTallDim = 64;  // 32 rows of 128 would not be held by these

  /// Beside what the kernels declare.
  static constexpr int kDeclared = 32;
  int MostShared() const {
    static_assert(sizeof(TileState) <= kDeclared);
    return SharedBytesOfBlock(call_.compute_capability()) - kDeclared;
  }
  int64_t group() const { return a_.heads / a_.source.kv_heads; }
  int64_t rows() const { return a_.tokens * a_.heads; }

  template <int kDim, int kWarps, int kParts = 1>
  static constexpr int SharedOf() {
    return static_cast<int>(sizeof(MmaShared<T, kDim, kWarps, kParts, Source::kTransposed>));
  }

  /// For long prompts, whose blocks occupy all multiprocessors: a warp has 32 rows, which share the
  /// fragments of keys and values. With 16 of them, and queries from shared memory, that gives 5
  /// fragments of 4 clocks for 8 mma of one clock; with 32 about 4.5 for 16.
  template <int kDim>
  bool LaunchTall() {
    constexpr int kWarps = 4, kParts = 2, kShared = SharedOf<kDim, kWarps, kParts>();
    if (kShared > MostShared()) return false;
    Cut(kWarps * kMmaRows, kWarps * kParts * kMmaRows);
    if (a_.tiles.rows <= kWarps * kMmaRows ||
        a_.tiles.blocks() * a_.source.kv_heads < call_.multiprocessors()) {
      return false;
    }
    Run(MmaAttentionKernel<Q, Source, kDim, kWarps, kParts>, kWarps, kMmaWarps / kWarps, kShared);
    return true;
  }

  template <int kDim, int kMostWarps>
  void LaunchMma() {
    if constexpr (kDim <= kMostTallDim) {
      if (LaunchTall<kDim>()) return;
    }
    constexpr int kLeastWarps = kHalves<kDim>;
    Cut(kMmaRows, kMmaRows * kMostWarps / kLeastWarps);
    if (a_.tiles.rows == kMmaRows) {
      Run(MmaAttentionKernel<Q, Source, kDim, kLeastWarps, 1>, kLeastWarps, kMmaWarps / kLeastWarps,
          SharedOf<kDim, kLeastWarps>());
    } else {
      Run(MmaAttentionKernel<Q, Source, kDim, kMostWarps, 1>, kMostWarps, kMmaWarps / kMostWarps,
          SharedOf<kDim, kMostWarps>());
    }
  }

  void LaunchPlain() {
    constexpr int kFew = kPlainWarps, kMany = 4 * kPlainWarps;
    constexpr int kDocumented = 2000;  // of every GPU
    static_assert(MostPlainHeadDim(SharedBytesOfBlock(0) - kDeclared, sizeof(PlainShared<T>),
                                   kFew) >= kDocumented);
    const auto most_dim = [&](int rows) {
      return MostPlainHeadDim(MostShared(), sizeof(PlainShared<T>), rows);
    };
    if (a_.head_dim > most_dim(kFew)) {
      call_.Refuse("head_dim is " + std::to_string(a_.head_dim) + ", expected at most " +
                   std::to_string(most_dim(kFew)) + " on this GPU");
    }
    Cut(kFew, a_.head_dim > most_dim(kMany) ? kFew : kMany);
    const size_t shared = PlainShared<T>::Bytes(a_.tiles.rows, a_.head_dim);
    if (a_.tiles.rows == kFew) {
      Run(PlainAttentionKernel<Q, Source, 1>, kPlainWarps, kPlainBlocks, shared);
    } else {
      Run(PlainAttentionKernel<Q, Source, 4>, kPlainWarps, kPlainBlocks, shared);
    }
  }

  void Cut(int few_rows, int many_rows) {
    a_.tiles = CutTokens(a_.tokens, sequences_, group(), few_rows, many_rows);
  }

  void Split(int most_blocks, int shared_bytes) {
    const int64_t blocks = a_.tiles.tiles * a_.tiles.head_pieces * a_.source.kv_heads,
                  at_once = int64_t{call_.multiprocessors()} *
                            BlocksAtOnce(shared_bytes, most_blocks, call_.compute_capability());
    a_.splits = ChooseSplits(blocks, at_once, a_.parts.parts, rows(), a_.head_dim);
    if (a_.splits > 1) AllocateParts();
  }

  /// From the caller's framework, in the order of its stream. Without it one block does all of a
  /// row, with the same bits.
  void AllocateParts() {
    const int64_t parts = rows() * a_.parts.parts;
    try {
      memory_ = ffi::Tensor::FromEnvAlloc(
          TVMFFIEnvTensorAlloc, ffi::Shape({parts * (a_.parts.stride + 2)}), kF32, call_.device());
    } catch (const ffi::Error&) {
      a_.splits = 1;
      return;
    }
    a_.parts.acc = static_cast<float*>(memory_.value().data_ptr());
    a_.parts.sum = reinterpret_cast<RowWeight*>(a_.parts.acc + parts * a_.parts.stride);
  }

  /// Registers let `most_blocks` run at once on a multiprocessor.
  void Run(void (*kernel)(Arguments), int warps, int most_blocks, size_t shared_bytes) {
    Split(most_blocks, static_cast<int>(shared_bytes));
    const dim3 grid(static_cast<unsigned>(a_.tiles.blocks()),
                    static_cast<unsigned>(a_.source.kv_heads), static_cast<unsigned>(a_.splits));
    call_.Launch(kernel, grid, dim3(warps * kWarp), shared_bytes, a_);
    if (a_.splits == 1) return;
    call_.Launch(FoldPartsKernel<Q>, FoldBlocks(rows()), dim3(kFoldThreads), 0, a_.out, a_.parts,
                 rows(), a_.head_dim, a_.scale);
  }

  const CudaCall& call_;
  Arguments a_;
  int64_t sequences_;
  ffi::Optional<ffi::Tensor> memory_;
};

/// Whether rows of `columns` elements may be copied 16 bytes at a time.
template <typename T>
bool CopiesVectors(const T* data, int64_t columns) {
  return IsVectorAligned(data) && columns % kVectorLanes<T> == 0;
}

}  // namespace mlf
