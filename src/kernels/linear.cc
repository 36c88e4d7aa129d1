// Op my_llm_ffi.linear: matrix multiplication on the CPU, cutting work for threads. Counterparts:
// linear.h, linear_simd.cc (arithmetic), pack_weight.cc (tiles), quantize.cc (activations).
#include "kernels/linear.h"

#include <algorithm>

#include "base/op.h"
#include "base/scratch.h"
#include "base/thread_pool.h"
#include "kernels/dequantize_simd.h"
#include "kernels/linear_simd.h"
#include "kernels/pack_weight.h"
#include "kernels/rounded_rows.h"
#include "kernels/weight_argument.h"
#include "kernels/widen_simd.h"

namespace mlf {
namespace {

// A thread takes at once: activations that stay in the second-level cache beside two pairs of
// groups, and weights enough that a start costs little, yet few, so that threads end together.
constexpr int64_t kChunkBytes = 512 << 10;
constexpr int64_t kChunkTokens = 16;  // a chunk holds at least, and a multiple of, this many
constexpr int64_t kGrainBytes = 32 << 10;
constexpr int64_t kStreamBytes = 256 << 10;  // a token of a float format: streams worth a start
constexpr int64_t kGrainTokens = 16;         // from here on time goes with tokens, below with bytes
constexpr int64_t kUntiledTokens = 1024;
constexpr int64_t kValuesAtOnce = 16 << 10;  // for work on rows of activations and outputs
constexpr int64_t kScratchBytes = 8 << 20;   // for activations and outputs of other types

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Memory of this thread for tiles made on the fly; grows, and lives as long as the thread.
uint8_t* ScratchTiles(int64_t bytes) {
  thread_local Buffer scratch;
  if (scratch.bytes() < bytes) scratch = Buffer(bytes);
  return scratch.data();
}

/// Bytes of a group in wide tiles (widen_simd.h); 0 where the micro-kernels read the format's own.
int64_t WideGroupBytes(const LinearTask& task) {
  return DispatchFormat(task.format, [&]<typename F>() -> int64_t {
    using Tile = typename ReadTiles<F>::Format;
    return kIsWidened<F> ? task.cols / Tile::kWeights * kTileBytes<Tile> : 0;
  });
}

/// The chunk of tokens that a thread takes at once. Tiles made on the fly serve as many as can be.
int64_t TokensAtOnce(const LinearTask& task, int64_t tokens) {
  if (!task.tiled || WideGroupBytes(task) > 0) return std::min(tokens, kUntiledTokens);
  const int64_t row_bytes = std::max<int64_t>(1, task.x_row_bytes);
  const int64_t fit = kChunkBytes / row_bytes / kChunkTokens * kChunkTokens;
  return std::min(tokens, std::max(kChunkTokens, fit));
}

/// Pairs of groups that a thread takes at once, of `pairs`.
int64_t PairsAtOnce(const LinearTask& task, int64_t pairs, int64_t tokens) {
  const bool streams = tokens == 1 && ActivationPlanes(task.format) == 0;
  const int64_t pair_bytes = std::max<int64_t>(1, kGroupsPerTile * task.group_bytes),
                at_once = (streams ? kStreamBytes : kGrainBytes) / pair_bytes /
                          std::max<int64_t>(1, tokens / kGrainTokens);
  return std::min(at_once, CeilDiv(pairs, ThreadCount()));
}

/// Groups [begin, end) whose tiles are made on the fly: of rows in the file's layout, or wide ones.
void ComputeMade(const LinearTask& task, int64_t begin, int64_t end, int64_t t0, int64_t t1) {
  const int64_t wide_bytes = WideGroupBytes(task);
  const int64_t tiles_per_group = task.cols / InfoOf(task.format).block;
  LinearTask made = task;
  made.tiled = false;
  if (wide_bytes > 0) made.group_bytes = wide_bytes;
  uint8_t* wide = ScratchTiles(kGroupsPerTile * (wide_bytes + task.group_bytes));
  uint8_t* packed = wide + kGroupsPerTile * wide_bytes;
  for (int64_t g = begin; g < end; g += kGroupsPerTile) {
    const int64_t last = std::min(end, g + kGroupsPerTile);
    const uint8_t* tiles = task.tiled ? task.weight + g * task.group_bytes : packed;
    if (!task.tiled) PackGroups(packed, task.weight, task.format, task.rows, task.cols, g, last);
    if (wide_bytes > 0) {
      widen_tiles(wide, tiles, tiles_per_group * (last - g), task.format);
      tiles = wide;
    }
    linear_groups(made, tiles, g, last - g, t0, t1);
  }
}

/// Groups [begin, end) of a weight in the file's layout: turned in registers for a few tokens of a
/// float format, tiled on the fly else.
void ComputeUntiled(const LinearTask& task, int64_t begin, int64_t end, int64_t t0, int64_t t1) {
  const bool few = ActivationPlanes(task.format) == 0 && t1 - t0 <= kFewTokens;
  const int64_t whole = few ? std::min(end, task.rows / kTileRows) : begin;
  for (; begin < whole; ++begin) {
    linear_rows(task, task.weight + begin * task.group_bytes, begin, t0, t1);
  }
  if (begin < end) ComputeMade(task, begin, end, t0, t1);
}

/// Groups [begin, end) and tokens [t0, t1) of the product.
void ComputeGroups(const LinearTask& task, int64_t begin, int64_t end, int64_t t0, int64_t t1) {
  if (!task.tiled) return ComputeUntiled(task, begin, end, t0, t1);
  if (WideGroupBytes(task) > 0) return ComputeMade(task, begin, end, t0, t1);
  linear_groups(task, task.weight + begin * task.group_bytes, begin, end - begin, t0, t1);
}

void Multiply(const LinearTask& task, int64_t tokens) {
  const int64_t groups = TileGroups(task.rows), pairs = CeilDiv(groups, kGroupsPerTile);
  // Token chunks outermost: a chunk stays in cache while all weights pass by it.
  const int64_t chunk = TokensAtOnce(task, tokens);
  const int64_t items = CeilDiv(tokens, chunk) * pairs;
  ParallelFor(items, PairsAtOnce(task, items, chunk), [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t c = begin / pairs, pair = begin % pairs;
      const int64_t n = std::min(pairs - pair, end - begin);
      ComputeGroups(task, pair * kGroupsPerTile, std::min(groups, (pair + n) * kGroupsPerTile),
                    c * chunk, std::min(tokens, (c + 1) * chunk));
      begin += n;
    }
  });
}

// ---- other types --------------------------------------------------------------------------------

void Widen(float* out, const TensorView& x, int64_t first, int64_t n) {
  dequantize_row_f32(out, Data<const uint8_t>(x) + first * DtypeBytes(x.dtype()), n,
                     FormatOfDtype(x.dtype()));
}

/// Values [first, first + n) of a 16-bit output.
void Narrow(const TensorView& out, int64_t first, const float* from, int64_t n) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(from);
  ParallelFor(n, kValuesAtOnce, [&](int64_t begin, int64_t end) {
    const uint8_t* source = bytes + begin * static_cast<int64_t>(sizeof(float));
    if (out.dtype() == kF16) {
      dequantize_row_f16(Data<F16>(out) + first + begin, source, end - begin, Format::kF32);
    } else {
      dequantize_row_bf16(Data<BF16>(out) + first + begin, source, end - begin, Format::kF32);
    }
  });
}

/// Activations of any float type, and outputs of any, through memory of this thread: a chunk of
/// tokens at a time, as the micro-kernels take them.
class Converted {
 public:
  Converted(LinearTask task, const TensorView& out, const TensorView& x, const TensorView& bias)
      : task_(task),
        out_(out),
        x_(x),
        bias_(bias),
        planes_(ActivationPlanes(task.format)),
        wide_bytes_(x.dtype() == kF32 ? 0 : QuantizedRowBytes(task.cols, 0)),
        rounded_bytes_(planes_ == 0 ? 0 : task.x_row_bytes),
        out_bytes_(out.dtype() == kF32 ? 0 : task.rows * kFloatBytes) {}

  void Run(int64_t tokens) {
    const int64_t token_bytes = std::max<int64_t>(1, wide_bytes_ + rounded_bytes_ + out_bytes_);
    const int64_t fit = kScratchBytes / token_bytes / kChunkTokens * kChunkTokens;
    const int64_t chunk = std::min(tokens, std::max(kChunkTokens, fit));
    const bool wide_bias = task_.bias != nullptr && out_.dtype() != kF32;
    const int64_t bias_bytes = wide_bias ? task_.rows * kFloatBytes : 0;
    Scratch scratch(Scratch::Padded(bias_bytes) + Scratch::Padded(chunk * wide_bytes_) +
                    Scratch::Padded(chunk * rounded_bytes_) + Scratch::Padded(chunk * out_bytes_));
    if (wide_bias) {
      auto* bias = reinterpret_cast<float*>(scratch.Take(bias_bytes));
      Widen(bias, bias_, 0, task_.rows);
      task_.bias = bias;
    }
    wide_ = reinterpret_cast<float*>(scratch.Take(chunk * wide_bytes_));
    rounded_ = scratch.Take(chunk * rounded_bytes_);
    narrow_ = reinterpret_cast<float*>(scratch.Take(chunk * out_bytes_));
    for (int64_t t = 0; t < tokens; t += chunk) RunChunk(t, std::min(chunk, tokens - t));
  }

 private:
  static constexpr int64_t kFloatBytes = sizeof(float);

  void RunChunk(int64_t first, int64_t tokens) {
    const int64_t grain = kValuesAtOnce / std::max<int64_t>(1, task_.cols);
    ParallelFor(tokens, grain, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) Prepare(t, first + t);
    });
    if (planes_ > 0) {
      task_.x = rounded_;
    } else if (wide_bytes_ > 0) {
      task_.x = reinterpret_cast<const uint8_t*>(wide_);
    } else {
      task_.x = Data<const uint8_t>(x_) + first * task_.x_row_bytes;
    }
    const int64_t values = first * task_.rows;
    task_.out = out_bytes_ > 0 ? narrow_ : Data<float>(out_) + values;
    Multiply(task_, tokens);
    if (out_bytes_ > 0) Narrow(out_, values, narrow_, tokens * task_.rows);
  }

  /// Row `t` of the chunk from row `source` of x.
  void Prepare(int64_t t, int64_t source) const {
    const int64_t cols = task_.cols;
    const float* row = Data<const float>(x_) + source * cols;  // where x is float32
    if (wide_bytes_ > 0) {
      Widen(wide_ + t * cols, x_, source * cols, cols);
      row = wide_ + t * cols;
    }
    if (planes_ > 0) quantize_row(rounded_ + t * rounded_bytes_, row, cols, planes_);
  }

  LinearTask task_;
  const TensorView &out_, &x_, &bias_;
  int planes_;
  int64_t wide_bytes_, rounded_bytes_, out_bytes_;  // of a token; 0 where it needs no such memory
  float *wide_ = nullptr, *narrow_ = nullptr;
  uint8_t* rounded_ = nullptr;
};

void LinearCpu(TensorView out, TensorView x, TensorView weight, TensorView bias,
               int64_t format_number, int64_t cols) {
  const Format format = static_cast<Format>(format_number);
  const int64_t tokens = out.size(0), rows = out.size(1);
  LinearTask task{.format = format,
                  .out = Data<float>(out),
                  .x = Data<const uint8_t>(x),
                  .weight = Data<const uint8_t>(weight),
                  .tiled = weight.ndim() == 1,
                  .bias = bias.data_ptr() == nullptr ? nullptr : Data<const float>(bias),
                  .rows = rows,
                  .cols = cols,
                  .x_row_bytes = QuantizedRowBytes(cols, ActivationPlanes(format)),
                  .group_bytes = GroupBytes(format, cols)};
  if (tokens == 0 || rows == 0) return;
  const bool as_they_are = x.dtype() == kU8 || (x.dtype() == kF32 && ActivationPlanes(format) == 0);
  if (as_they_are && out.dtype() == kF32) return Multiply(task, tokens);
  const int64_t values = tokens * cols;
  if (x.dtype() == kF32 && out.dtype() == kF32 && values > 0 && values <= RoundedRows::kMaxValues) {
    RoundedRows rounded;
    task.x = rounded.Of(Data<const float>(x), tokens, cols, ActivationPlanes(format));
    return Multiply(task, tokens);
  }
  Converted(task, out, x, bias).Run(tokens);
}

[[maybe_unused]] const bool kFilled = linear_kernel.SetCpu(LinearCpu);

// ---- op -----------------------------------------------------------------------------------------

const Op kLinear{
    "linear",
    "(x: T['*batch cols', 'f32 f16 bf16'], weight: T['n row_bytes', 'f32 f16 bf16 u8'], "
    "bias: T['width'] | None = None, *, format: " MLF_FORMAT_LITERAL
    " | None = None, packed: bool = False, rows: int | None = None) -> T['*batch (rows or n)']",
    R"(Product with a weight: ``out[..., i] = sum_k x[..., k] * weight[i, k] + bias[i]``.

The weight is a matrix of floats of any of the dtypes, whatever that of ``x``; or, as uint8, rows of
blocks of ``format`` as in a GGUF file; or such blocks in the tiled layout of ``pack_weight``, which
is the fastest. Sums are float32, in one order that depends neither on the number of rows of ``x``
nor on the layout nor on the number of threads. For block formats each 32 elements of ``x`` are
rounded to 8 bits under a common scale (16 bits for Q4_1 and Q5_1), as ggml does for Q8_0.

On CUDA nothing is rounded to 8 bits, and ``packed`` is not supported (NotImplementedError). Up to
32 rows of ``x`` times blocks err as float32 sums do (2e-5 of ``sum_k |x[k] * weight[i, k]|`` at
most); of more, ``x`` and the weights are rounded to bfloat16, which errs by at most 2^-8 of that sum
of magnitudes. More than 8 rows times a weight of floats of the dtype of ``x`` take cuBLASLt:
torch's, pip's or the system's, or the library that the environment variable ``MY_LLM_FFI_CUBLASLT``
names (NotImplementedError where there is none); its first call on a device must not be inside the
capture of a graph. There the order of sums, and so the last bits, may depend on the number of rows;
elsewhere on which of these kernels is taken alone.

x: Activations; may have no rows.
weight: Rows of floats or, as uint8, of whole blocks.
bias: Added to every row of the product.
format: Name of the blocks' format, for a uint8 weight.
packed: Whether ``weight`` is what ``pack_weight`` gave.
rows: Rows of a packed weight without its padding.
)"};

void Linear(TensorView x, TensorView weight, ffi::Optional<TensorView> bias, TensorView out,
            ffi::Optional<ffi::String> format, bool packed, ffi::Optional<int64_t> rows) {
  kLinear.Check(x, weight, bias, out);
  const WeightArgument w = ReadWeight(
      kLinear,
      {.name = "weight", .tensor = weight, .format = format, .packed = packed, .rows = rows});
  const int64_t cols = x.size(x.ndim() - 1), width = out.size(out.ndim() - 1);
  const int64_t bias_rows = bias.has_value() ? (*bias).size(0) : w.rows;
  kLinear
      .That(cols == w.cols, "x has shape [..., ", cols, "], expected [..., ", w.cols,
            "] (from weight, ", InfoOf(w.format).name, ")")
      .That(bias_rows == w.rows, "bias has shape [", bias_rows, "], expected [", w.rows,
            "] (rows of weight)")
      .That(width == w.rows, "out has shape [..., ", width, "], expected [..., ", w.rows,
            "] (rows of weight)");
  if (out.numel() == 0) return;
  const int64_t tokens = out.numel() / width;
  linear_kernel(x.device(), ArrayView(Data<void>(out), out.dtype(), {tokens, width}, out.device()),
                ArrayView(Data<void>(x), x.dtype(), {tokens, cols}, x.device()), w.bytes,
                bias.has_value() ? *bias : ArrayView(nullptr, x.dtype(), {0}, x.device()),
                static_cast<int64_t>(w.format), cols);
}

TVM_FFI_STATIC_INIT_BLOCK() { kLinear.Register(Linear); }

}  // namespace
}  // namespace mlf
