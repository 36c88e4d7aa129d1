"""Token bitmasks over logits against NumPy in float64, and against torch where installed."""

from __future__ import annotations

import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import my_llm_ffi as llm

NAN, INF = float("nan"), float("inf")
OK, EMPTY, BAD_LOGITS = 0, 1, 2
# Odd, aligned +- 1, a block of a row +- 1, a real vocabulary.
VOCABS = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1000, 16383, 16384, 16385, 128256]
F32 = {"rtol": 2e-7, "atol": 1e-30}  # one division
# A sum of float32 weights, each to 2 ulp and with the rounding of its exponent.
MASS = {"rtol": 2e-6, "atol": 1e-7}


def pack(allowed):
    """Words of int32, bit i % 32 of word i // 32 for token i."""
    rows, vocab = allowed.shape
    padded = np.zeros((rows, (vocab + 31) // 32 * 32), np.uint8)
    padded[:, :vocab] = allowed
    return np.packbits(padded, axis=1, bitorder="little").view("<i4")


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def reference_row(logits, allowed, temperature, ln_min_p):
    """Logits, mass and status of one row, in float64."""
    logits = logits.astype(np.float64)
    out = np.full(len(logits), -INF)
    if np.isnan(logits).any() or (logits == -INF).all():
        return out, 0.0, BAD_LOGITS
    kept = np.flatnonzero(allowed & (logits > -INF))
    if kept.size == 0:
        return out, 0.0, EMPTY
    greedy = temperature < 1e-4
    mass = softmax(logits / (1 if greedy else temperature))[allowed].sum()
    if greedy:
        best = kept[logits[kept].argmax()]
        out[best] = logits[best]
        return out, mass, OK
    out[kept] = logits[kept] / temperature
    out[out < out.max() + ln_min_p] = -INF
    return out, mass, OK


def inputs(rows, vocab, share=0.5, dtype="float32"):
    rng = np.random.default_rng(rows * 100003 + vocab)
    logits = (rng.normal(size=(rows, vocab)) * 3).astype(dtype)
    allowed = rng.random((rows, vocab)) < share
    allowed[np.arange(rows), rng.integers(0, vocab, rows)] = True
    temperature = rng.uniform(0.3, 2, rows).astype(np.float32)
    ln_min_p = np.log(rng.uniform(0.001, 0.2, rows)).astype(np.float32)
    return logits, allowed, temperature, ln_min_p


def far_from_the_cut(logits, allowed, temperature, ln_min_p):
    """Tokens whose place above or below min-p no rounding decides."""
    scaled = np.where(allowed, logits.astype(np.float64) / temperature[:, None], -INF)
    cut = scaled.max(1) + ln_min_p
    return np.abs(scaled - cut[:, None]) > 1e-4


@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("rows", [0, 1, 3])
def test_mask_logits_matches_reference(rows, vocab):
    logits, allowed, temperature, ln_min_p = inputs(rows, vocab)
    out = logits.copy()
    mass, status = llm.ops.mask_logits(out, pack(allowed), None, temperature, ln_min_p)
    sure = far_from_the_cut(logits, allowed, temperature, ln_min_p)
    for r in range(rows):
        want, want_mass, want_status = reference_row(
            logits[r], allowed[r], temperature[r], ln_min_p[r]
        )
        np.testing.assert_allclose(out[r][sure[r]], want[sure[r]], **F32)
        np.testing.assert_allclose(mass[r], want_mass, **MASS)
        assert status[r] == want_status


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("vocab", [33, 1000, 20000])
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_dtypes(name, rows, vocab):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16: needs torch")
    logits, allowed, temperature, _ = inputs(rows, vocab)
    x = torch.from_numpy(logits).to(getattr(torch, name))
    given = x.double().numpy()
    mass, status = llm.ops.mask_logits(
        x, torch.from_numpy(pack(allowed)), None, torch.from_numpy(temperature)
    )
    assert status.tolist() == [OK] * rows
    rtol = 5e-4 if name == "float16" else 4e-3  # one rounding
    for r in range(rows):
        want, want_mass, _ = reference_row(given[r], allowed[r], temperature[r], -INF)
        np.testing.assert_allclose(x[r].double().numpy(), want, rtol=rtol, atol=1e-7)
        np.testing.assert_allclose(mass[r], want_mass, **MASS)


@pytest.mark.parametrize("vocab", [5, 32, 70, 40000])
def test_greedy_keeps_the_first_of_the_best_allowed(vocab):
    rng = np.random.default_rng(vocab)
    logits = np.round(rng.normal(size=(6, vocab))).astype(np.float32)  # ties
    allowed = rng.random((6, vocab)) < 0.4
    allowed[:, vocab // 2] = True
    temperature = np.array([0, 1e-5, 9.9e-5, 0, 0, 0], np.float32)
    out = logits.copy()
    mass, status = llm.ops.mask_logits(out, pack(allowed), None, temperature)
    for r in range(6):
        want, want_mass, _ = reference_row(logits[r], allowed[r], temperature[r], -INF)
        np.testing.assert_array_equal(out[r], want)
        np.testing.assert_allclose(mass[r], want_mass, **MASS)
    assert not status.any()


@pytest.mark.parametrize("vocab", [1, 3, 70, 20000])
def test_status_of_rows_without_a_token(vocab):
    logits = np.zeros((7, vocab), np.float32)
    allowed = np.ones((7, vocab), bool)
    allowed[0] = False
    logits[1, vocab - 1] = NAN
    logits[2] = -INF
    logits[3, 0], allowed[3, 0] = NAN, False  # forbidden, and yet the row is not to be trusted
    logits[4] = 1.0
    logits[5, 0] = -INF  # allowed, but impossible
    allowed[5, 1:] = False
    temperature = np.array([1, 1, 1, 1, 0.5, 1, 0], np.float32)
    mass, status = llm.ops.mask_logits(logits, pack(allowed), None, temperature)
    only_impossible = BAD_LOGITS if vocab == 1 else EMPTY
    assert status.tolist() == [EMPTY, BAD_LOGITS, BAD_LOGITS, BAD_LOGITS, OK, only_impossible, OK]
    np.testing.assert_array_equal(logits[[0, 1, 2, 3, 5]], -INF)
    np.testing.assert_array_equal(mass[[0, 1, 2, 3, 5]], 0)
    np.testing.assert_array_equal(logits[4], 2)
    assert (logits[6] == 0).sum() == 1


def test_rows_of_no_tokens_are_empty():
    mass, status = llm.ops.mask_logits(np.zeros((2, 0), np.float32))
    assert status.tolist() == [EMPTY, EMPTY]
    assert mass.tolist() == [0, 0]


def test_infinite_logits_share_the_mass():
    logits = np.zeros((3, 40), np.float32)
    logits[:, [1, 7, 33]] = INF
    allowed = np.ones((3, 40), bool)
    allowed[0, 7] = False
    allowed[1, [1, 7, 33]] = False
    temperature = np.array([0.5, 2, 0], np.float32)
    ln_min_p = np.full(3, np.log(0.1), np.float32)
    mass, status = llm.ops.mask_logits(logits, pack(allowed), None, temperature, ln_min_p)
    assert not status.any()
    np.testing.assert_allclose(mass, [2 / 3, 0, 1], rtol=1e-6)
    assert np.flatnonzero(logits[0] > -INF).tolist() == [1, 33]
    assert (logits[1] == 0).sum() == 37
    assert np.flatnonzero(logits[2] > -INF).tolist() == [1]


@pytest.mark.parametrize("name", ["float16", "float32"])
def test_quotients_beyond_the_dtype_keep_their_distances(name):
    """20 / 0.0002 is beyond float16: the two best must stay apart, and nothing become infinite."""
    top = 20.0 if name == "float16" else 3e38
    for sign in (1, -1):
        step = 0.125 if name == "float16" else 1e33
        best = sign * top
        logits = np.array([[best - step, best, best - 2 * step]]).astype(name)
        llm.ops.mask_logits(logits, temperature=np.array([2e-4], np.float32))
        assert logits.argmax() == 1
        assert np.isfinite(logits[0, 1])
        assert logits[0, 1] - logits[0, 0] > 100


def test_all_options_are_optional():
    logits, *_ = inputs(3, 100)
    out = logits.copy()
    mass, status = llm.ops.mask_logits(out)
    np.testing.assert_array_equal(out, logits)
    assert mass.tolist() == [1, 1, 1]
    assert status.tolist() == [OK] * 3


def test_mask_rows_choose_a_row_or_none():
    logits, allowed, *_ = inputs(5, 70)
    rows = np.array([4, -1, 0, 0, 2], np.int32)
    mass, _ = llm.ops.mask_logits(logits.copy(), pack(allowed), rows)
    out = logits.copy()
    llm.ops.apply_token_bitmask(out, pack(allowed), rows)
    for r, row in enumerate(rows):
        keep = allowed[row] if row >= 0 else np.ones(70, bool)
        np.testing.assert_array_equal(out[r], np.where(keep, logits[r], -INF))
        np.testing.assert_allclose(
            mass[r], softmax(logits[r].astype(np.float64))[keep].sum(), **MASS
        )


@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_apply_token_bitmask(vocab, dtype):
    logits, allowed, *_ = inputs(2, vocab, dtype=dtype)
    out = logits.copy()
    assert llm.ops.apply_token_bitmask(out, pack(allowed)) is None
    np.testing.assert_array_equal(out, np.where(allowed, logits, -INF))


def test_bits_past_the_vocabulary_are_ignored():
    logits = np.zeros((1, 33), np.float32)
    words = np.array([[0, -2, -1]], np.int32)  # token 32 is forbidden, all bits behind it are set
    mass, status = llm.ops.mask_logits(logits, words)
    assert status[0] == EMPTY
    assert mass[0] == 0


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_agrees_with_masked_fill(name):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16: needs torch")
    logits, allowed, *_ = inputs(4, 3001)
    x = torch.from_numpy(logits).to(getattr(torch, name))
    bits, keep = torch.from_numpy(pack(allowed)), torch.from_numpy(allowed)
    for temperature in (1.0, 0.5, 2.0):
        expected = x.masked_fill(~keep, -INF) / temperature
        scaled = x.clone()
        mass, _ = llm.ops.mask_logits(scaled, bits, None, torch.full((4,), temperature))
        torch.testing.assert_close(scaled, expected, rtol=0, atol=0)
        want = torch.softmax(x.double() / temperature, -1).masked_fill(~keep, 0).sum(-1)
        torch.testing.assert_close(mass.double(), want, rtol=2e-6, atol=1e-7)
    masked = x.clone()
    llm.ops.apply_token_bitmask(masked, bits)
    torch.testing.assert_close(masked, x.masked_fill(~keep, -INF), rtol=0, atol=0)


@hypothesis.given(st.data())
def test_random_rows(data):
    vocab = data.draw(st.integers(1, 100))
    value = st.one_of(st.floats(-50, 50, width=32), st.sampled_from([-INF, NAN, 1.0]))
    logits = np.array([data.draw(st.lists(value, min_size=vocab, max_size=vocab))], np.float32)
    allowed = np.array([data.draw(st.lists(st.booleans(), min_size=vocab, max_size=vocab))])
    temperature = data.draw(st.sampled_from([0.0, 0.5, 1.0, 4.0]))
    want, want_mass, want_status = reference_row(logits[0], allowed[0], temperature, -INF)
    mass, status = llm.ops.mask_logits(
        logits, pack(allowed), None, np.array([temperature], np.float32)
    )
    assert status[0] == want_status
    np.testing.assert_allclose(logits[0], want, rtol=1e-6)
    np.testing.assert_allclose(mass[0], want_mass, **MASS)


def test_a_row_does_not_depend_on_its_batch():
    logits, allowed, temperature, ln_min_p = inputs(9, 40000)
    bits, batch = pack(allowed), logits.copy()
    mass, _ = llm.ops.mask_logits(batch, bits, None, temperature, ln_min_p)
    for r in range(9):
        row, one = logits[r : r + 1].copy(), slice(r, r + 1)
        row_mass, _ = llm.ops.mask_logits(row, bits[one], None, temperature[one], ln_min_p[one])
        np.testing.assert_array_equal(row[0], batch[r])
        assert row_mass[0] == mass[r]


PINNED = """
import hashlib, os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))} if sys.argv[1] == "1" else
                     os.sched_getaffinity(0))
import numpy as np
import my_llm_ffi as llm
rng = np.random.default_rng(5)
digest = hashlib.sha256()
for rows in (1, 3):
    logits = rng.normal(size=(rows, 70001)).astype(np.float32) * 3
    bits = rng.integers(-2**31, 2**31, size=(rows, 2188), dtype=np.int64).astype(np.int32)
    mass, status = llm.ops.mask_logits(logits, bits, None, np.full(rows, 0.7, np.float32))
    for a in (logits, mass, status):
        digest.update(a.tobytes())
print(digest.hexdigest())
"""


def test_bits_do_not_depend_on_threads():
    digests = {
        subprocess.run(
            [sys.executable, "-c", PINNED, threads], capture_output=True, text=True, check=True
        ).stdout
        for threads in ("1", "all")
    }
    assert len(digests) == 1


# ---- what is refused -----------------------------------------------------------------------------


def good():
    logits, allowed, temperature, ln_min_p = inputs(2, 40)
    return {
        "logits": logits,
        "bitmask": pack(allowed),
        "mask_rows": np.array([0, -1], np.int32),
        "temperature": temperature,
        "ln_min_p": ln_min_p,
    }


def two(value):
    return np.array([0, value], np.float32)


MASK_REJECTED = {
    "dtype of logits": ("logits", np.zeros((2, 40)), TypeError, "logits is float64, expected one"),
    "rank of logits": ("logits", np.zeros(40, np.float32), ValueError, r"logits has shape \[40\]"),
    "strides": ("logits", np.zeros((2, 80), np.float32)[:, ::2], ValueError, "contiguous"),
    "read-only": ("logits", np.broadcast_to(np.float32(0), (2, 40)), BufferError, "read-only"),
    "dtype of bitmask": ("bitmask", np.zeros((2, 2), np.int64), TypeError, "bitmask is int64"),
    "rank of bitmask": ("bitmask", np.zeros(2, np.int32), ValueError, r"bitmask has shape \[2\]"),
    "words": (
        "bitmask",
        np.zeros((2, 1), np.int32),
        ValueError,
        "bitmask has 1 words in a row, expected at least 2 for the 40 tokens of logits",
    ),
    "mask row beyond": (
        "mask_rows",
        np.array([0, 2], np.int32),
        ValueError,
        r"mask_rows\[1\] is 2, expected a row of bitmask, or -1 for none",
    ),
    "mask row below": ("mask_rows", np.array([-2, 0], np.int32), ValueError, r"mask_rows\[0\]"),
    "number of mask rows": (
        "mask_rows",
        np.zeros(3, np.int32),
        ValueError,
        r"rows=2 \(from logits\)",
    ),
    "dtype of mask rows": ("mask_rows", np.zeros(2, np.int64), TypeError, "mask_rows is int64"),
    "rows of bitmask": ("mask_rows", None, ValueError, "bitmask has 3 rows, expected 2"),
}
SCALE_REJECTED = {
    "no bitmask": ("bitmask", None, ValueError, "mask_rows without a bitmask"),
    "negative temperature": ("temperature", two(-1), ValueError, r"temperature\[1\] is -1"),
    "temperature of NaN": ("temperature", two(NAN), ValueError, "temperature.* is nan, expected"),
    "temperature of inf": ("temperature", two(INF), ValueError, "temperature"),
    "rows of temperature": ("temperature", np.ones(3, np.float32), ValueError, "rows=2"),
    "dtype of temperature": ("temperature", np.ones(2), TypeError, "temperature is float64"),
    "positive ln_min_p": ("ln_min_p", two(0.1), ValueError, r"ln_min_p\[1\] is 0.1, expected 0 or"),
    "ln_min_p of NaN": ("ln_min_p", two(NAN), ValueError, "ln_min_p"),
    "rows of ln_min_p": ("ln_min_p", np.zeros(1, np.float32), ValueError, "rows=2"),
}


@pytest.mark.parametrize("case", {**MASK_REJECTED, **SCALE_REJECTED})
def test_mask_logits_rejects(case):
    name, value, error, message = {**MASK_REJECTED, **SCALE_REJECTED}[case]
    arguments = {**good(), name: value}
    if case == "rows of bitmask":
        arguments["bitmask"] = np.zeros((3, 2), np.int32)
    with pytest.raises(error, match=message):
        llm.ops.mask_logits(**arguments)


@pytest.mark.parametrize("case", MASK_REJECTED)
def test_apply_token_bitmask_rejects(case):
    name, value, error, message = MASK_REJECTED[case]
    arguments = {k: v for k, v in good().items() if k in ("logits", "bitmask", "mask_rows")}
    arguments[name] = value
    if case == "rows of bitmask":
        arguments["bitmask"] = np.zeros((3, 2), np.int32)
    with pytest.raises(error, match=message):
        llm.ops.apply_token_bitmask(**arguments)


def test_rejects_overlap():
    buffer = np.zeros(100, np.int32)
    logits, bitmask = buffer[:80].view(np.float32).reshape(2, 40), buffer[79:83].reshape(2, 2)
    with pytest.raises(ValueError, match="overlaps"):
        llm.ops.mask_logits(logits, bitmask)
    with pytest.raises(ValueError, match="overlaps"):
        llm.ops.apply_token_bitmask(logits, bitmask)


def test_rejects_outputs():
    logits = np.zeros((2, 40), np.float32)
    mass, status = np.zeros(2, np.float32), np.zeros(2, np.int32)
    for out, error, message in [
        ((np.zeros(3, np.float32), status), ValueError, "mass has shape"),
        ((mass, np.zeros(2, np.float32)), TypeError, "status is float32, expected int32"),
        ((logits[0, :2], status), ValueError, "overlaps"),
    ]:
        with pytest.raises(error, match=message):
            llm.ops.mask_logits(logits, out=out)
    got = llm.ops.mask_logits(logits, out=(mass, status))
    assert got[0] is mass
    assert got[1] is status
