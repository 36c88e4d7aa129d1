// Speed of the matmul in every format, beside the machine's peaks. Checks the answer first.
//   bench_linear [FORMAT ...]     (all formats where none is named; MY_LLM_FFI_CPU picks the level)
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/cpu.h"
#include "base/thread_pool.h"
#include "kernels/limits.h"
#include "kernels/linear.h"
#include "random_weight.h"

namespace mlf::bench {
namespace {

constexpr DLDevice kCpu{kDLCPU, 0};
constexpr int64_t kMaxTokens = 512;
constexpr int64_t kWeightBytes = 192 << 20;  // copies of a weight to run through: beyond any cache

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Seconds {
  double median, best;
};

/// Seconds of one of `times` calls, after one that does not count.
template <typename Fn>
Seconds Measure(int times, Fn fn) {
  std::vector<double> seconds;
  fn();
  for (int i = 0; i < times; ++i) {
    const double start = Now();
    fn();
    seconds.push_back(Now() - start);
  }
  std::sort(seconds.begin(), seconds.end());
  return {seconds[times / 2], seconds[0]};
}

/// The best of what `measure` gives in several calls.
template <typename Fn>
double Best(Fn measure) {
  double best = 0;
  for (int i = 0; i < 15; ++i) best = std::max(best, measure());
  return best;
}

struct Peaks {
  MachineLimits limits{0, 256 << 20, /*huge_pages=*/true};
  double read = Best([&] { return limits.ReadBytesPerSecond(); }),
         flops = Best([&] { return limits.FloatOpsPerSecond(); }),
         byte_ops = Best([&] { return limits.ByteOpsPerSecond(); });
};

std::vector<uint8_t> MakeWeight(const FormatInfo& info, int64_t rows, int64_t cols) {
  std::mt19937 rng(1);
  std::vector<uint8_t> weight(rows * RowBytes(info.format, cols));
  for (uint8_t& b : weight) b = rng();
  for (size_t i = 0; i < weight.size(); i += info.block_bytes) {
    const float value = (static_cast<float>(rng() % 2001) - 1000) * 1e-5f;
    const float scale = info.block > 1 ? 5 * value / TypicalWeight(info.format) : value;
    const uint16_t half = F16::From(scale).bits, bf = BF16::From(value).bits;
    if (info.format == Format::kF32) {
      std::memcpy(&weight[i], &value, 4);
    } else if (info.format == Format::kBF16) {
      std::memcpy(&weight[i], &bf, 2);
    } else {
      for (int64_t at : HalfOffsets(info.format)) std::memcpy(&weight[i + at], &half, 2);
      if (info.format == Format::kMXFP4) weight[i] = 120;
    }
  }
  return weight;
}

class Bench {
 public:
  Bench(const FormatInfo& info, int64_t rows, int64_t cols)
      : info_(info),
        rows_(rows),
        cols_(cols),
        weight_(MakeWeight(info, rows, cols)),
        bytes_(PackedBytes(info.format, rows, cols)),
        copies_(kWeightBytes / bytes_ + 1),
        packed_(copies_ * bytes_),
        x_(kMaxTokens * cols),
        q_(kMaxTokens * QuantizedRowBytes(cols, ActivationPlanes(info.format))),
        out_(kMaxTokens * rows) {
    for (int64_t i = 0; i < copies_; ++i) {
      ArrayView file(weight_.data(), kU8, {rows, RowBytes(info.format, cols)});
      pack_weight_kernel(kCpu, Tiled(i), file, Number(), cols);
    }
    std::mt19937 rng(2);
    std::normal_distribution<float> normal;
    for (float& v : x_) v = normal(rng);
    Quantize(kMaxTokens);
  }

  /// Largest error in parts of the output's norm, against float64 and float32 activations.
  double Error() {
    Run(5, 0);
    std::vector<float> w(cols_);
    double error = 0, norm = 0;
    for (int64_t t = 0; t < 5; ++t) {
      for (int64_t r = t; r < rows_; r += 31) {
        info_.dequantize_row(&weight_[r * RowBytes(info_.format, cols_)], w.data(), cols_);
        double y = 0;
        for (int64_t k = 0; k < cols_; ++k) y += static_cast<double>(w[k]) * x_[t * cols_ + k];
        error += (y - out_[t * rows_ + r]) * (y - out_[t * rows_ + r]);
        norm += y * y;
      }
    }
    return std::sqrt(error / norm);
  }

  void Report(int64_t tokens, const Peaks& peaks) {
    const int64_t runs = tokens < 64 ? copies_ : 4;
    const Seconds seconds = Measure(9, [&] {
      for (int64_t i = 0; i < runs; ++i) Run(tokens, i % copies_);
    });
    const double read = static_cast<double>(runs * bytes_);
    const double ops =
        2.0 * static_cast<double>(runs * rows_ * cols_ * tokens * std::max(1, planes()));
    const double peak = (planes() > 0) ? peaks.byte_ops : peaks.flops;
    std::printf("%-5s %5ldx%-5ld %4ld tokens %9.1f us  %6.1f GB/s %7.1f GOP/s", info_.name,
                static_cast<long>(rows_), static_cast<long>(cols_), static_cast<long>(tokens),
                seconds.median / static_cast<double>(runs) * 1e6, read / seconds.median * 1e-9,
                ops / seconds.median * 1e-9);
    std::printf("   best: %3.0f%% of read, %3.0f%% of multiply-adds\n",
                100 * read / seconds.best / peaks.read, 100 * ops / seconds.best / peak);
  }

  void ReportOthers() {
    const double quantize = Measure(9, [&] { Quantize(kMaxTokens); }).median;
    ArrayView file(weight_.data(), kU8, {rows_, RowBytes(info_.format, cols_)});
    const double pack =
        Measure(5, [&] { pack_weight_kernel(kCpu, Tiled(0), file, Number(), cols_); }).median;
    const double unpacked = Measure(5, [&] { RunOn(file, 1); }).median;
    std::printf(
        "%-5s %5ldx%-5ld quantize %.2f G/s, pack %.1f GB/s, 1 token in the file's layout %.1f "
        "GB/s\n",
        info_.name, static_cast<long>(rows_), static_cast<long>(cols_),
        static_cast<double>(x_.size()) / quantize * 1e-9,
        static_cast<double>(weight_.size()) / pack * 1e-9,
        static_cast<double>(weight_.size()) / unpacked * 1e-9);
  }

 private:
  int64_t Number() const { return static_cast<int64_t>(info_.format); }
  ArrayView Tiled(int64_t copy) const {
    return ArrayView(packed_.data() + copy * bytes_, kU8, {bytes_});
  }
  void Quantize(int64_t tokens) {
    if (planes() == 0) return;
    quantize_activations_kernel(kCpu, ArrayView(q_.data(), kU8, {tokens, row_bytes()}),
                                ArrayView(x_.data(), kF32, {tokens, cols_}), planes());
  }
  int planes() const { return ActivationPlanes(info_.format); }
  int64_t row_bytes() const { return QuantizedRowBytes(cols_, planes()); }
  void Run(int64_t tokens, int64_t copy) { RunOn(Tiled(copy), tokens); }
  void RunOn(TensorView weight, int64_t tokens) {
    const ArrayView x = (planes() > 0) ? ArrayView(q_.data(), kU8, {tokens, row_bytes()})
                                       : ArrayView(x_.data(), kF32, {tokens, cols_});
    linear_kernel(kCpu, ArrayView(out_.data(), kF32, {tokens, rows_}), x, weight,
                  ArrayView(nullptr, kF32, {rows_}), Number(), cols_);
  }

  const FormatInfo& info_;
  int64_t rows_, cols_;
  std::vector<uint8_t> weight_;
  int64_t bytes_, copies_;
  Buffer packed_;
  std::vector<float> x_;
  std::vector<uint8_t> q_;
  std::vector<float> out_;
};

bool BenchFormat(const FormatInfo& info, int64_t rows, int64_t cols, const Peaks& peaks) {
  Bench bench(info, rows, cols);
  const double error = bench.Error(), allowed = ActivationPlanes(info.format) > 0 ? 1e-2 : 1e-5;
  if (!(error < allowed)) {
    std::fprintf(stderr, "%s: relative error %g, expected less than %g\n", info.name, error,
                 allowed);
    return false;
  }
  for (int64_t tokens : {1, 4, 16, 32, 512}) bench.Report(tokens, peaks);
  bench.ReportOthers();
  return true;
}

int Main(int argc, char** argv) {
  const Peaks peaks;
  std::printf("%s, %d threads: read %.1f GB/s, float %.0f GOP/s, bytes %.0f GOP/s\n",
              CpuLevelName(CpuLevelInUse()), ThreadCount(), peaks.read * 1e-9, peaks.flops * 1e-9,
              peaks.byte_ops * 1e-9);
  std::vector<std::string> names(argv + 1, argv + argc);
  if (names.empty()) {
    for (Format format : kAllFormats) names.emplace_back(InfoOf(format).name);
  }
  for (const std::string& name : names) {
    const FormatInfo* info = FindFormat(name);
    if (info == nullptr) {
      std::fprintf(stderr, "unknown format %s, expected %s\n", name.c_str(), FormatNames().c_str());
      return 2;
    }
    if (!BenchFormat(*info, 4864, info->block > 32 ? 1024 : 896, peaks) ||
        !BenchFormat(*info, 896, 4864, peaks))
      return 1;
  }
  return 0;
}

}  // namespace
}  // namespace mlf::bench

int main(int argc, char** argv) { return mlf::bench::Main(argc, argv); }
