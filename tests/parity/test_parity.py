"""Every registered op through every language, on the same random inputs: the same bits.

The list of ops and their inputs come from the declarations (reference/op_samples.py), so that a new
op is covered without a line here. Fresh inputs: MY_LLM_FFI_TEST_SEED; drivers are built into the
folder MY_LLM_FFI_PARITY_CACHE, or a temporary one.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from parity.case import Case, read_case, write_case
from parity.languages import LANGUAGES, Refused, call_python
from reference import op_samples

from my_llm_ffi import declaration

NAMES = declaration.op_names()
SEED = int(os.environ.get("MY_LLM_FFI_TEST_SEED") or 0)


@pytest.fixture(scope="session", params=LANGUAGES)
def call(request, tmp_path_factory):
    """A language's caller."""
    given = os.environ.get("MY_LLM_FFI_PARITY_CACHE")
    folder = Path(given) if given else tmp_path_factory.mktemp("parity")
    folder.mkdir(parents=True, exist_ok=True)
    return LANGUAGES[request.param](folder)


def compare(op, call, seed=SEED):
    """Calls with every sample of an op; asserts that results are those of Python, bit for bit."""
    names = [o.name for o in op.outputs] + [t.name for t in op.inputs if t.use == "mutable"]
    for floats in ("float32", "float16"):
        for number, (tensors, options) in enumerate(op_samples.samples(op, seed, floats)):
            expected = call_python(op, tensors, options)
            got = call(op, tensors, options)
            assert len(got) == len(expected) == len(names)
            for name, mine, theirs in zip(names, got, expected):
                where = f"{op.name}: {name} of sample {number}, {floats}"
                assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), where
                same = mine.tobytes() == theirs.tobytes()
                assert same, f"{where}: {np.sum(mine != theirs)} of {mine.size} differ"


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits(name, call):
    compare(declaration.load(name), call)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_refusal(name, call):
    """Of a first tensor whose dtype no op takes."""
    op = declaration.load(name)
    tensors, options = next(op_samples.samples(op))
    tensors[0] = np.zeros(tensors[0].shape, np.int32)
    with pytest.raises(Refused) as expected:
        call_python(op, tensors, options)
    with pytest.raises(Refused) as got:
        call(op, tensors, options)
    kind, _, message = str(expected.value).partition(": ")
    assert kind == "TypeError" and op.inputs[0].name in message
    assert message in str(got.value)


def test_a_value_that_only_the_op_sees(call):
    op = declaration.load("embedding_lookup")
    tensors = [np.zeros((3, 8), np.float32), np.array([0, 7], np.int32)]
    with pytest.raises(Refused, match=r"ids\[1\] is 7, expected 0 or greater and less than 3"):
        call(op, tensors, {})


# ---- the comparison itself ----------------------------------------------------------------------


def flip(results):
    results[-1] = results[-1].copy()
    results[-1].view(np.uint8).reshape(-1)[-1] ^= 1
    return results


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (flip, "1 of"),
        (lambda results: [*results[:-1], results[-1][None]], "of sample 0"),
        (lambda results: [*results[:-1], results[-1].astype(np.float64)], "of sample 0"),
        (lambda results: results[:-1], "assert"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_a_planted_fault_is_noticed(name, fault, said):
    def wrong(op, tensors, options):
        return fault(call_python(op, tensors, options))

    with pytest.raises(AssertionError, match=said):
        compare(declaration.load(name), wrong)


def test_a_new_op_is_covered(llm):
    """Without a recipe: from its declaration alone."""
    from reference.custom_ops import forget

    signature = (
        "(x: T['*b d', 'f32 f16'], state: Mut['d'], ids: T['n', 'i32'], scale: T['d', 'f32'] | "
        "None = None, *, gain: float, mode: Literal['a', 'b']) -> T['*b d']"
    )
    llm.declare_op("test_parity_new", signature, doc="New.")

    @llm.register_kernel("test_parity_new", "cpu", arrays=np.from_dlpack)
    def kernel(x, state, ids, scale, out, gain, mode):
        out[...] = x * gain + state
        state += 1

    try:
        compare(declaration.load("test_parity_new"), call_python)
    finally:
        forget("test_parity_new")


def test_a_case_is_read_as_it_was_written(tmp_path):
    tensors = [np.arange(6, dtype=d).reshape(2, 3) for d in ("f4", "f2", "i4", "i8", "u1")]
    case = Case("sum", [*tensors, None, np.zeros((0, 2), "f4")], [None, 3, 0.5, True, "q", ""])
    write_case(tmp_path / "case", case)
    read = read_case(tmp_path / "case")
    assert (read.op, repr(read.options)) == (case.op, repr(case.options))
    assert len(read.tensors) == len(case.tensors)
    for mine, theirs in zip(read.tensors, case.tensors):
        assert mine is theirs or (mine.dtype, mine.tolist()) == (theirs.dtype, theirs.tolist())
    whole = (tmp_path / "case").read_bytes()
    for cut in (0, 7, 20, len(whole) - 1):
        (tmp_path / "case").write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"no case|cut off"):
            read_case(tmp_path / "case")
