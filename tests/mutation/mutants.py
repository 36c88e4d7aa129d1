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


MUTANTS = (
    Mutant(
        name="dtype check off",
        file="src/base/signature.cc",
        old="if (std::find(spec.dtypes.begin(), spec.dtypes.end(), dtype) != spec.dtypes.end()) "
        "return;",
        new="return;",
        tests=("tests/kernels/test_norm.py::test_rms_norm_rejects",),
    ),
    Mutant(
        name="sizes not compared between tensors",
        file="src/base/signature.cc",
        old="match = bound.size == size;",
        new="match = size >= 0;",
        tests=("tests/kernels/test_norm.py::test_rms_norm_rejects",),
    ),
    Mutant(
        name="strides not looked at",
        file="src/base/signature.cc",
        old="if (!t.IsContiguous()) {",
        new="if (t.ndim() < 0) {",
        tests=("tests/kernels/test_norm.py::test_rms_norm_rejects",),
    ),
    Mutant(
        name="overlap allowed",
        file="src/base/signature.cc",
        old="if (!mine.Overlaps(other)) continue;",
        new="if (mine.begin != nullptr) continue;",
        tests=("tests/kernels/test_norm.py::test_rms_norm_rejects_partial_overlap",),
    ),
    Mutant(
        name="device not compared",
        file="src/base/signature.cc",
        old="if (SameDevice(**first, *tensors[i])) return;",
        new="if (first != tensors + i + 1) return;",
        tests=("native:norm_test",),
    ),
    Mutant(
        name="eps may be NaN",
        file="src/kernels/norm.cc",
        old="eps32 > 0 && std::isfinite(eps32)",
        new="!(eps32 <= 0)",
        tests=("tests/kernels/test_norm.py::test_rms_norm_rejects",),
    ),
    Mutant(
        name="eps dropped from rms_norm",
        file="src/kernels/norm_simd.cc",
        old="squares / static_cast<double>(n) + eps",
        new="squares / static_cast<double>(n) + 0 * eps",
        tests=("tests/kernels/test_norm.py::test_eps_is_added_to_the_mean_square",),
    ),
    Mutant(
        name="tail of a row skipped",
        file="src/kernels/norm_simd.cc",
        old="if (i < n) fn(i, kChains - 1, static_cast<int>(n - i));",
        new="",
        tests=("tests/kernels/test_norm.py::test_rms_norm_matches_reference",),
    ),
    Mutant(
        name="last lane wrong, AVX2 alone",
        file="src/kernels/norm_simd.cc",
        old="StoreCount(out + i, LoadCount(x + i, count) * scale * LoadCount(weight + i, count), "
        "count);",
        new="F32 y = LoadCount(x + i, count) * scale * LoadCount(weight + i, count);\n"
        "    if constexpr (kWidth == 8) y.part[kParts - 1][kWidth - 1] *= 2;\n"
        "    StoreCount(out + i, y, count);",
        tests=("tests/kernels/test_norm.py::test_rms_norm_matches_reference",),
        cpu="avx2",
    ),
)
