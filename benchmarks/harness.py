"""What every benchmark shares: cases, the clock, the comparison with torch, rows of the table."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Callable

import torch

from .machine import Machine

DTYPES = (torch.float32, torch.bfloat16)
ROWS = (1, 16, 512)  # a sequence that decodes, sixteen that do, a chunk of a prompt

OF_LIMIT = 0.8  # asked of what memory bounds, beyond the cache
SETTLE_S = 5e-3  # idle workers of either library spin for a while after their last call
SAMPLE_US = 2000.0  # a sample holds as many calls as fill this
ROUNDS = 11

# Relative to the norm: torch rounds between the steps of what is one step here.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}


@dataclass(frozen=True)
class Work:
    """What an op cannot do without, in units of a limit of the machine.

    Attributes:
        limit: ``copy`` (bytes read plus written), ``read`` (bytes) or ``fma`` (operations).
        amount: Units per call.
        footprint: Bytes that a call touches; 0: memory is not what bounds it.
    """

    limit: str
    amount: float
    footprint: int = 0


def moves(*, reads: Sequence[torch.Tensor] = (), writes: Sequence[torch.Tensor] = ()) -> Work:
    """Work of an op that reads and writes tensors once; one that is in both is updated."""
    footprint = sum({t.data_ptr(): t.nbytes for t in (*reads, *writes)}.values())
    amount = sum(t.nbytes for t in (*reads, *writes))
    return Work("copy" if writes else "read", amount, footprint)


@dataclass(frozen=True)
class Case:
    """One row of the table: an op, and torch doing the same to tensors of equal contents.

    ``ours`` and ``theirs`` return what their first calls are compared by; what works in place has
    tensors of its own on either side.

    Attributes:
        op: Name of the op, with what is special in this row.
        shape: The sizes that matter.
        dtype: Name of the dtype.
        ours: A call of this library.
        theirs: The peer's call.
        work: What bounds the op; None: nothing but the call itself.
        ratio: The peer's time over ours that is asked for.
        of_limit: The part of the limit that is asked for where it bounds the op.
        at_most_us: The microseconds that are asked for.
        tolerance: Relative error of ours against the peer; None: by dtype.
        check: Compares the two results instead of ``compare``; raises SystemExit.
    """

    op: str
    shape: str
    dtype: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    work: Work | None = None
    ratio: float | None = None
    of_limit: float | None = None
    at_most_us: float | None = None
    tolerance: float | None = None
    check: Callable[[Any, Any], None] | None = None


@dataclass(frozen=True)
class Result:
    """Medians of a case.

    Attributes:
        case: What was measured.
        ours: Microseconds per call.
        theirs: Likewise.
        limit: Units per second of the case's limit; 0: it does not bound the case, or is unknown.
    """

    case: Case
    ours: float
    theirs: float
    limit: float

    def of_limit(self) -> float | None:
        """The part of the limit that ours reaches."""
        if self.case.work is None or not self.limit:
            return None
        return self.case.work.amount / (self.ours * 1e-6) / self.limit

    def met(self) -> bool | None:
        """Whether all that is asked for is reached; None: nothing is, or it cannot be told."""
        case, part = self.case, self.of_limit()
        reached = []
        if case.ratio is not None:
            reached.append(self.theirs >= case.ratio * self.ours)
        if case.at_most_us is not None:
            reached.append(self.ours <= case.at_most_us)
        if case.of_limit is not None and part is not None:
            reached.append(part >= case.of_limit)
        return all(reached) if reached else None

    def row(self) -> list[str]:
        """The cells of the table."""
        case, part, met = self.case, self.of_limit(), self.met()
        asked = [f"{case.ratio:g}x"] if case.ratio else []
        asked += [f"{case.at_most_us:g} us"] if case.at_most_us else []
        asked += [f"{case.of_limit:.0%}"] if case.of_limit and part is not None else []
        return [
            case.op,
            case.shape,
            case.dtype,
            f"{self.ours:.4g}",
            f"{self.theirs:.4g}",
            f"{self.theirs / self.ours:.2f}",
            "" if part is None else f"{part:.0%}",
            limit_name(case, part),
            ", ".join(asked),
            {None: "", True: "yes", False: "NO"}[met],
        ]


def limit_name(case: Case, part: float | None) -> str:
    """What bounds a case: one of the machine's limits, its caches, or the call itself."""
    if case.work is None:
        return "call"
    return "in cache" if part is None and case.work.footprint else case.work.limit


HEADER = ["op", "shape", "dtype", "ours us", "torch us", "ratio", "of limit", "limit"]
HEADER += ["asked", "met"]


def name(dtype: torch.dtype) -> str:
    """``bfloat16`` of ``torch.bfloat16``."""
    return str(dtype).partition(".")[2]


def row_counts(machine: Machine, row_bytes: int) -> Iterator[tuple[int, dict[str, float | None]]]:
    """Rows of an element-wise op's sizes, the last beyond the cache, and what the last one asks.

    Args:
        machine: Whose cache counts.
        row_bytes: Bytes of all the op's tensors per row.

    Yields:
        The rows, and keyword arguments of Case: nothing, or instead of a ratio the part of the
        copy's bandwidth.
    """
    for rows in ROWS:
        yield rows, {}
    beyond = -(-machine.beyond_cache // row_bytes)
    yield -(-beyond // 64) * 64, {"ratio": None, "of_limit": OF_LIMIT}


def compare(ours: Any, theirs: Any, tolerance: float) -> str | None:
    """What is wrong with ``ours``; None: it agrees with ``theirs``.

    Args:
        ours: A tensor, or a sequence of tensors.
        theirs: Likewise.
        tolerance: Of the norm of the difference, relative to that of ``theirs``; integers and
            infinities must be equal.
    """
    if not isinstance(theirs, torch.Tensor):
        pairs = zip(ours, theirs)
        return next(filter(None, (compare(a, b, tolerance) for a, b in pairs)), None)
    if ours.shape != theirs.shape:
        return f"its shape is {tuple(ours.shape)}, torch's {tuple(theirs.shape)}"
    if not theirs.is_floating_point():
        same = torch.equal(ours.long(), theirs.long())
        return None if same else "it differs from torch's"
    mine, other = ours.double(), theirs.double()
    infinite = torch.isinf(other)
    if not torch.equal(mine[infinite], other[infinite]):
        return "it is not infinite where torch's is"
    mine, other = mine.masked_fill(infinite, 0), other.masked_fill(infinite, 0)
    error = ((mine - other).norm() / other.norm().clamp_min(1e-30)).item()
    return None if error <= tolerance else f"its error is {error:.2g} of the norm"


def check(case: Case) -> None:
    """Refuses to time what is wrong."""
    ours, theirs = case.ours(), case.theirs()
    if case.check is not None:
        return case.check(ours, theirs)
    by_dtype = TOLERANCE.get(getattr(torch, case.dtype, None), 1e-5)
    wrong = compare(ours, theirs, by_dtype if case.tolerance is None else case.tolerance)
    if wrong:
        raise SystemExit(f"{case.op} {case.shape} {case.dtype} is wrong: {wrong}")
    return None


def sample_us(call: Callable[[], Any], calls: int) -> float:
    """Microseconds per call over ``calls`` calls, after one that does not count."""
    time.sleep(SETTLE_S)
    call()
    start = time.perf_counter_ns()
    for _ in range(calls):
        call()
    return (time.perf_counter_ns() - start) / calls / 1e3


def run(case: Case, machine: Machine) -> Result:
    """Checks a case, then times both sides and what bounds it in turns."""
    check(case)
    calls = [max(1, int(SAMPLE_US / sample_us(f, 3))) for f in (case.ours, case.theirs)]
    samples: tuple[list[float], list[float]] = ([], [])
    sides = list(zip((case.ours, case.theirs), calls, samples))
    work, speeds = case.work, []
    bounds = work is not None and (not work.footprint or work.footprint >= machine.beyond_cache)
    for turn in range(ROUNDS):
        for call, count, found in sides if turn % 2 == 0 else reversed(sides):
            found.append(sample_us(call, count))
        if work is not None and bounds:
            time.sleep(SETTLE_S)
            speeds.append(machine.sample(work.limit))
    ours, theirs, limit = (statistics.median(s or [0]) for s in (*samples, speeds))
    return Result(case, ours, theirs, limit)


def reusing(function: Callable[..., Any], *args: Any, **options: Any) -> Callable[[], Any]:
    """A call that writes where its first one did, as an engine's does: for ops with ``out=``.

    Both sides of a case are given it, where torch's has an ``out=`` too.
    """
    out = function(*args, **options)
    return lambda: function(*args, out=out, **options)


def take_turns(*calls: Callable[[], Any]) -> Callable[[], Any]:
    """A call of each in turn: what the first does to its tensors in place, the second undoes."""
    turns = itertools.cycle(calls)
    return lambda: next(turns)()
