"""The faults that run.py plants, each with the tests that must turn red."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NATIVE = "native:"


@dataclass(frozen=True)
class Mutant:
    """A fault in one place of one source file.

    Attributes:
        name: What is wrong.
        file: Path from the root of the tree.
        old: Text that occurs exactly once in the file.
        new: What takes its place.
        tests: pytest ids, or ``native:norm_test`` for an executable of tests/native; at least one
            must turn red.
        cpu: Value of MY_LLM_FFI_CPU for the tests; empty: what the machine has.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    cpu: str = ""

    def applied(self, text: str) -> str:
        """The file's text with the fault in it.

        Raises:
            ValueError: The old text is not there exactly once.
        """
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"{self.file} holds the text of {self.name!r} {count} times, not once")
        return text.replace(self.old, self.new)

    def missing_tests(self, root: Path) -> list[str]:
        """Those of its tests that are not in the tree."""
        return [test for test in self.tests if not _exists(root, test)]


def _exists(root: Path, test: str) -> bool:
    if test.startswith(NATIVE):
        return (root / "tests" / "native" / f"{test[len(NATIVE) :]}.cc").is_file()
    file, _, function = test.partition("::")
    path = root / file
    if not path.is_file():
        return False
    return not function or f"def {function.partition('[')[0]}(" in path.read_text("utf-8")


SIGNATURE, NORM = "src/base/signature.cc", "tests/kernels/test_norm.py"
SAMPLING, MASK = "tests/kernels/test_sampling.py", "tests/kernels/test_logit_mask.py"
ATTENTION, PAGED = "tests/kernels/test_attention.py", "tests/kernels/test_paged_attention.py"

CHECKS = (
    Mutant(
        name="dtype check off",
        file=SIGNATURE,
        old="if (std::find(spec.dtypes.begin(), spec.dtypes.end(), dtype) != spec.dtypes.end()) "
        "return true;",
        new="return true;",
        tests=(f"{NORM}::test_rms_norm_rejects",),
    ),
    Mutant(
        name="sizes not compared between tensors",
        file=SIGNATURE,
        old="if (bound.size != sizes[k]) return false;",
        new="if (sizes[k] < 0) return false;",
        tests=(f"{NORM}::test_rms_norm_rejects",),
    ),
    Mutant(
        name="strides not looked at",
        file=SIGNATURE,
        old="if (!t.IsContiguous()) RefuseStrides(t, i);",
        new="if (t.ndim() < 0) RefuseStrides(t, i);",
        tests=(f"{NORM}::test_rms_norm_rejects",),
    ),
    Mutant(
        name="overlap allowed",
        file=SIGNATURE,
        old="if (!mine.Overlaps(other)) continue;",
        new="if (mine.begin != nullptr) continue;",
        tests=(f"{NORM}::test_rms_norm_rejects_partial_overlap",),
    ),
    Mutant(
        name="device not compared",
        file=SIGNATURE,
        old="if (!SameDevice(*tensors[first], t)) RefuseDevice(tensors, i, first);",
        new="if (first > i) RefuseDevice(tensors, i, first);",
        tests=("native:norm_test",),
    ),
    Mutant(
        name="activations are not compared with those of before",
        file="src/kernels/rounded_rows.h",
        old="std::memcmp(rows_.x.data(), x, bytes) == 0;",
        new="bytes > 0;",
        tests=("tests/kernels/test_linear.py",),
    ),
    Mutant(
        name="activations rounded to 8 bits serve where 16 are wanted",
        file="src/kernels/rounded_rows.h",
        old="rows_.planes == planes &&",
        new="planes > 0 &&",
        tests=("tests/kernels/test_linear.py",),
    ),
    Mutant(
        name="rope keeps the scaling of the call before",
        file="src/kernels/rope.cc",
        old="kept.scaling != scaling || ",
        new="",
        tests=("tests/kernels/test_rope.py",),
    ),
    Mutant(
        name="eps may be NaN",
        file="src/kernels/norm.cc",
        old="eps32 > 0 && std::isfinite(eps32)",
        new="!(eps32 <= 0)",
        tests=(f"{NORM}::test_rms_norm_rejects",),
    ),
    Mutant(
        name="negative token ids look up",
        file="src/kernels/embedding_lookup.cc",
        old="if (id[i] >= 0 && id[i] < rows) continue;",
        new="if (id[i] < rows) continue;",
        tests=("tests/kernels/test_embedding_lookup.py::test_rejects",),
    ),
    Mutant(
        name="page table points anywhere",
        file="src/kernels/paged_attention.cc",
        old="if (table[i] >= -1 && table[i] < pages) continue;",
        new="if (table[i] >= -1) continue;",
        tests=(f"{PAGED}::test_rejects",),
    ),
    Mutant(
        name="an empty mask row is no error",
        file="src/kernels/logit_mask.cc",
        old="return best_ == kMinusInf ? kMaskEmpty : kMaskOk;",
        new="return kMaskOk;",
        tests=(f"{MASK}::test_status_of_rows_without_a_token",),
    ),
)

ROWS = (
    Mutant(
        name="eps dropped from rms_norm",
        file="src/kernels/norm_simd.cc",
        old="squares / static_cast<double>(n) + eps",
        new="squares / static_cast<double>(n) + 0 * eps",
        tests=(f"{NORM}::test_eps_is_added_to_the_mean_square",),
    ),
    Mutant(
        name="eps dropped from layer_norm",
        file="src/kernels/norm_simd.cc",
        old="__builtin_sqrt(variance + eps)",
        new="__builtin_sqrt(variance + 0 * eps)",
        tests=(f"{NORM}::test_layer_norm_adds_eps_to_the_variance",),
    ),
    Mutant(
        name="tail of a row skipped",
        file="src/base/simd_row.h",
        old="if (rest != 0) fn(i, kChains - 1, rest);",
        new="(void)rest;",
        tests=(f"{NORM}::test_rms_norm_matches_reference",),
    ),
    Mutant(
        name="last lane wrong, AVX2 alone",
        file="src/kernels/norm_simd.cc",
        old="const F32 v = LoadCount(x + i, count) * scale * LoadCount(weight + i, count);",
        new="F32 v = LoadCount(x + i, count) * scale * LoadCount(weight + i, count);\n"
        "      if constexpr (kWidth == 8) v.part[kParts - 1][kWidth - 1] *= 1.01f;",
        tests=(f"{NORM}::test_rms_norm_matches_reference",),
        cpu="avx2",
    ),
    Mutant(
        name="last lane wrong, baseline alone",
        file="src/kernels/rope_simd.cc",
        old="StoreCount(low + i, a * c - b * s, count);",
        new="F32 turned = a * c - b * s;\n"
        "    if constexpr (kWidth == 4) turned.part[kParts - 1][kWidth - 1] *= 1.01f;\n"
        "    StoreCount(low + i, turned, count);",
        tests=("tests/kernels/test_rope.py::test_matches_reference",),
        cpu="baseline",
    ),
    Mutant(
        name="rope turns the other way",
        file="src/kernels/rope_simd.cc",
        old="StoreCount(sin + i, s * factor, count);",
        new="StoreCount(sin + i, Zero() - s * factor, count);",
        tests=("tests/kernels/test_rope.py::test_matches_reference",),
    ),
    Mutant(
        name="streamed outputs are others",
        file="src/base/simd_row.h",
        old="_mm512_stream_ps(p, v.part[0]);",
        new="_mm512_stream_ps(p, v.part[0] * 1.01f);",
        tests=("tests/kernels/test_streamed_outputs.py::test_same_bits_as_in_parts",),
        cpu="avx512",
    ),
    Mutant(
        name="scale forgotten under a soft cap",
        file="src/kernels/softmax_simd.cc",
        old="return Tanh(x * Set(scores.scale)) - max;",
        new="return Tanh(x) - max;",
        tests=("tests/kernels/test_softmax.py::test_scale_and_soft_cap",),
    ),
)

ATTENDING = (
    Mutant(
        name="GQA group wrong, pages",
        file="src/kernels/paged_attention.cc",
        old="kv_head = head / (q.size(1) / kv_heads)",
        new="kv_head = head % kv_heads",
        tests=(f"{PAGED}::test_matches_the_reference",),
    ),
    Mutant(
        name="GQA group wrong, plain tensors",
        file="src/kernels/attention.cc",
        old="run.first_key * kv_heads() + item.kv_head",
        new="run.first_key * kv_heads() + (item.kv_head + 1) % kv_heads()",
        tests=(f"{ATTENTION}::test_matches_the_reference",),
    ),
    Mutant(
        name="window off by one",
        file="src/kernels/attention_block.h",
        old="position - window + 1",
        new="position - window",
        tests=(f"{ATTENTION}::test_window_is_not_off_by_one",),
    ),
    Mutant(
        name="a token sees the next one",
        file="src/kernels/attention.cc",
        old="if (causal) return run.position + t;",
        new="if (causal) return std::min(run.keys - 1, run.position + t + 1);",
        tests=(f"{ATTENTION}::test_any_number_of_keys",),
    ),
    Mutant(
        name="the slot behind the last page is written",
        file="src/kernels/kv_append.cc",
        old="if (slot[t] < 0 || slot[t] >= entries) {",
        new="if (slot[t] < 0 || slot[t] > entries) {",
        tests=("tests/kernels/test_kv_append.py::test_rejects_and_writes_nothing",),
    ),
)

TOKENS = (
    Mutant(
        name="mask bit order reversed",
        file="src/kernels/logit_mask_simd.cc",
        old="const uint32_t word = mask == nullptr ? ~0u : mask[i / kWordBits];",
        new="uint32_t word = 0;\n"
        "    for (int b = 0; b < kWordBits; ++b) {\n"
        "      const bool bit = mask == nullptr || (mask[i / kWordBits] >> b & 1) != 0;\n"
        "      if (bit) word |= 1u << (31 - b);\n"
        "    }",
        tests=(f"{MASK}::test_apply_token_bitmask",),
    ),
    Mutant(
        name="tie broken to the higher id, argmax",
        file="src/kernels/sampling_simd.cc",
        old="  for (; i < n; ++i) {\n    if (x[i] == largest) return i;\n  }\n  return 0;",
        new="  int64_t last = 0;\n"
        "  for (; i < n; ++i) {\n    if (x[i] == largest) last = i;\n  }\n  return last;",
        tests=(f"{SAMPLING}::test_argmax",),
    ),
    Mutant(
        name="tie broken to the higher id, top_k",
        file="src/kernels/ranking.cc",
        old="std::sort(ranks->begin(), ranks->end());",
        new="std::sort(ranks->begin(), ranks->end(), [](uint64_t a, uint64_t b) {\n"
        "      return a >> 32 != b >> 32 ? a < b : a > b;\n"
        "    });",
        tests=(f"{SAMPLING}::test_top_k_of_equals",),
    ),
    Mutant(
        name="top_p keeps half of what it should",
        file="src/kernels/ranking.cc",
        old="return Find([=](double sum) { return sum >= mass; });",
        new="return Find([=](double sum) { return sum >= 0.5 * mass; });",
        tests=(f"{SAMPLING}::test_sample_follows_the_order",),
    ),
    Mutant(
        name="repetition penalty makes negative logits likelier",
        file="src/kernels/penalties.h",
        old="logit > 0 ? logit / repetition : logit * repetition",
        new="logit / repetition",
        tests=("tests/kernels/test_penalties.py::test_each_penalty_alone",),
    ),
)

LIMITS = (
    Mutant(
        name="a limit counts operations that nobody did",
        file="src/kernels/limits_simd.cc",
        old="for (int i = 0; i < kFloatSums; ++i) {",
        new="for (int i = 1; i < kFloatSums; ++i) {",
        tests=(f"{NATIVE}limits_test",),
    ),
    Mutant(
        name="16-bit activations cost what 8-bit ones do",
        file="python/my_llm_ffi/work.py",
        old="int8=planes * operations",
        new="int8=operations",
        tests=("tests/test_work.py::test_work_of_a_file",),
    ),
)

BLOCKS = (
    Mutant(
        name="6-bit minima lose their upper bits",
        file="src/quant/super_block.h",
        old="(bytes >> 2 & 0x30) |",
        new="(bytes >> 2 & 0x10) |",
        tests=("tests/kernels/test_linear.py::test_block_formats",),
    ),
    Mutant(
        name="6-bit products overflow 16 bits",
        file="src/kernels/block_dot.h",
        old="kMax <= 31 ? 4 : 2;",
        new="kMax <= 63 ? 4 : 2;",
        tests=("native:linear_test",),
        cpu="avx2",
    ),
    Mutant(
        name="both halves of a block get the sum of one",
        file="src/kernels/linear_simd.cc",
        old="return h == 0 ? x.half_sum : x.sum - x.half_sum;",
        new="return h == 0 ? x.half_sum : x.half_sum;",
        tests=("tests/kernels/test_linear.py::test_block_formats",),
    ),
    Mutant(
        name="the eighth sign of IQ2_XXS is not made of the others",
        file="src/kernels/widen_simd.cc",
        old="return seven.part[p] | (low.part[p] ^ high.part[p]);",
        new="return seven.part[p] | (low.part[p] & high.part[p]);",
        tests=("tests/kernels/test_linear.py::test_block_formats",),
    ),
)

# In the emulator; the op's Python tests have no CUDA device.
CUDA = (
    Mutant(
        name="a block's sum is written while an earlier one is read",
        file="src/kernels/cuda_vector.cuh",
        old="  __syncthreads();  // an earlier sum may still be read\n",
        new="",
        tests=("native:cuda_norm_test",),
    ),
    Mutant(
        name="a block's sum is read before every warp has written",
        file="src/kernels/cuda_vector.cuh",
        old="  if (lane == 0) warp_sum[warp] = v;\n  __syncthreads();\n",
        new="  if (lane == 0) warp_sum[warp] = v;\n",
        tests=("native:cuda_norm_test",),
    ),
    Mutant(
        name="a long row on CUDA begins to be read again too late",
        file="src/kernels/norm.cu",
        old="for (int64_t at = At(kNormHeld); at < n_; at += kThreads)",
        new="for (int64_t at = At(kNormHeld) + kThreads; at < n_; at += kThreads)",
        tests=("native:cuda_norm_test",),
    ),
    Mutant(
        name="vectors on CUDA where a view is not aligned",
        file="src/kernels/norm.cu",
        old="if (hidden % kVectorLanes<T> == 0 && (IsVectorAligned(Data<T>(views)) && ...)) {",
        new="if ((IsVectorAligned(Data<T>(views)) && ...)) {",
        tests=("native:cuda_norm_test",),
    ),
)

MUTANTS = CHECKS + ROWS + ATTENDING + TOKENS + LIMITS + BLOCKS + CUDA
