// All output rows of a step, from logits to tokens. Counterparts: batch_sampler.h, row_sampler.h.
#include "runtime/batch_sampler.h"

#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>
#include <exception>

#include "runtime/row_sampler.h"

namespace mlf {
namespace {

/// As fresh, but with the memory of its lists.
void Clear(RowOutput* out) {
  out->token = -1;
  out->logprob = 0;
  out->best.clear();
  out->candidates.clear();
  out->mask_status = kMaskOk;
  out->mask_fraction = 1;
  out->error.clear();
}

/// A row's fault stays with the row.
void SampleRow(float* x, int64_t n, RowBlocks blocks, const RowInput& in, RowOutput* out) {
  Clear(out);
  try {
    if (n <= 0) TVM_FFI_THROW(ValueError) << "the vocabulary is empty";
    RowSampler(x, n, blocks).Run(in, out);
  } catch (const ffi::Error& e) {
    out->error = e.message();
  } catch (const std::exception& e) {
    out->error = e.what();
  }
  if (!out->error.empty()) out->token = -1;
}

}  // namespace

void SampleRows(float* logits, int64_t stride, int64_t n_vocab, std::span<const RowInput> inputs,
                std::span<RowOutput> outputs) {
  const auto rows = static_cast<int64_t>(inputs.size());
  const auto range = [&](int64_t begin, int64_t end, RowBlocks blocks) {
    for (int64_t r = begin; r < end; ++r) {
      SampleRow(logits + r * stride, n_vocab, blocks, inputs[r], &outputs[r]);
    }
  };
  if (rows == 1) return range(0, 1, RowBlocks{true});
  const int64_t grain = std::max<int64_t>(1, kRowBlock / std::max<int64_t>(1, n_vocab));
  ParallelFor(rows, grain,
              [&](int64_t begin, int64_t end) { range(begin, end, RowBlocks{false}); });
}

}  // namespace mlf
