"""Ops on a GPU beside the device's own limits and beside peers, as a Markdown table.

    python benchmarks/bench_cuda.py [OP ...] [--seconds 200]

Results are compared with torch's before anything is timed. What is several times the L2 is timed
in several sets of tensors by turns; all calls are replayed from a graph. Peers that are importable
are in the same table: torch eager and compiled, FlashInfer, kernels in the manner of Triton's
tutorials. Without a GPU, and after `--seconds`, rows say "not run". Status 1 where a result is
wrong or a call fails; falling short of a target is no failure.

`--device cpu --shrink 4096` tries the program out on tiny tensors; such figures mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # run as a file, the package benchmarks is not on the path

import torch  # noqa: E402

from benchmarks import cuda_cases, cuda_work  # noqa: E402
from benchmarks.cuda_clock import Clock  # noqa: E402
from benchmarks.machine import commit  # noqa: E402

PEERS = ("torch", "compiled", "FlashInfer", "Triton")
HEADER = ["op", "sizes", "us", "of limit", "target", "reached", *(f"{p} us" for p in PEERS)]
CACHE_BYTES = 512 << 20  # rotate over more than any L2 holds
MOST_SETS = 16
NOT_RUN = "not run"


@dataclasses.dataclass
class Row:
    """What the table says of a case.

    Attributes:
        case: The case.
        us: Of our call; None: not run.
        part: Of the limit that the target names, or of the one that is nearer.
        peers: Microseconds of others.
        fault: What went wrong.
    """

    case: cuda_work.Case
    us: float | None = None
    part: tuple[str, float] | None = None
    peers: dict[str, float] = dataclasses.field(default_factory=dict)
    fault: str = ""

    def reached(self) -> bool | None:
        """Whether the target is; None: there is none, or it was not run."""
        if self.us is None or self.case.target is None:
            return None
        kind, value = self.case.target
        if kind == "us":
            return self.us <= value
        return self.part is not None and self.part[1] >= value

    def cells(self) -> list[str]:
        """The row."""
        target = self.case.target
        asked = "" if target is None else f"{target[1]:g} us"
        if target is not None and target[0] != "us":
            asked = f"{target[1]:.0%} of {target[0]}"
        verdict = {None: "", True: "yes", False: "NO"}[self.reached()]
        missing = self.fault or NOT_RUN
        return [
            self.case.op,
            self.case.label(),
            missing if self.us is None else f"{self.us:.4g}",
            "" if self.part is None else f"{self.part[1]:.0%} of {self.part[0]}",
            asked,
            verdict,
            *(f"{self.peers[p]:.4g}" if p in self.peers else "" for p in PEERS),
        ]


def line(cells: Sequence[str]) -> str:
    """A row in Markdown."""
    return "| " + " | ".join(cells) + " |"


def difference(ours: Any, theirs: Any, tolerance: float) -> str:
    """What is wrong with ours; empty: nothing."""
    if not isinstance(theirs, torch.Tensor):
        found = (difference(a, b, tolerance) for a, b in zip(ours, theirs))
        return next(filter(None, found), "")
    mine, other = ours.double(), theirs.double()
    if mine.shape != other.shape:
        return f"shape {tuple(mine.shape)}, torch's is {tuple(other.shape)}"
    infinite = ~other.isfinite()
    if not torch.equal(mine[infinite], other[infinite]):
        return "not infinite where torch's is"
    mine, other = mine.masked_fill(infinite, 0), other.masked_fill(infinite, 0)
    error = float((mine - other).norm() / other.norm().clamp_min(1e-30))
    return "" if error <= tolerance else f"error {error:.2g} of the norm"


def fault_of(work: cuda_work.Work) -> str:
    """What is wrong with our result; empty: nothing."""
    ours = work.ours()
    if work.check is not None:
        return work.check(ours)
    return difference(ours, work.peers["torch"](), work.tolerance)


def shrunk(sizes: dict[str, int], by: int) -> dict[str, int]:
    """Sizes whose product is about that much smaller; what others depend on stays."""
    fixed = ("heads", "kv_heads", "dim", "k", "seen")
    small = {}
    for name, size in sizes.items():
        small[name] = size if name in fixed or size < 1024 else max(256, size // by)
    return small


def sets_of(work: cuda_work.Work, device: torch.device) -> int:
    """How many sets of tensors it takes to miss the caches."""
    if device.type != "cuda":
        return 1
    return max(1, min(MOST_SETS, -(-CACHE_BYTES // max(1, work.bytes))))


def measure(case: cuda_work.Case, clock: Clock, shrink: int, *, compile: bool) -> Row:
    """Checks and times a case."""
    row, sizes = Row(case), shrunk(case.sizes, shrink) if shrink > 1 else case.sizes

    def make() -> cuda_work.Work:
        return case.make(clock.device, **sizes, **case.options)

    works = [make()]
    first = works[0]
    row.fault = fault_of(first)
    if row.fault:
        return row
    works += [make() for _ in range(sets_of(first, clock.device) - 1)]
    row.us = clock.median_us([w.ours for w in works], captured=True)
    row.part = limit_part(case, first, row.us, clock)
    for peer in first.peers:
        timed(row, peer, clock, [w.peers[peer] for w in works])
    if compile and first.compiled is not None:
        torch._dynamo.reset()  # or the sizes of an earlier case would make these dynamic
        calls = [_bind(w.compiled) for w in works if w.compiled is not None]
        timed(row, "compiled", clock, calls)
    return row


def _bind(compiled: tuple[Callable[..., Any], tuple[Any, ...]]) -> Callable[[], Any]:
    function, arguments = torch.compile(compiled[0]), compiled[1]
    return lambda: function(*arguments)


def timed(row: Row, peer: str, clock: Clock, calls: Sequence[Callable[[], Any]]) -> None:
    """Adds a peer's time; one that fails has none, which is no fault of ours."""
    try:
        row.peers[peer] = clock.median_us(calls)
    except Exception as error:
        print(f"{row.case.op}: {peer}: {type(error).__name__}: {error}", file=sys.stderr)


def limit_part(
    case: cuda_work.Case, work: cuda_work.Work, us: float, clock: Clock
) -> tuple[str, float]:
    """The part of a limit that a call reaches."""
    parts = {
        "copy": work.bytes / (us * 1e-6) / clock.copy_rate,
        "matrix": work.flops / (us * 1e-6) / clock.matrix_rate,
    }
    kind = case.target[0] if case.target else ""
    name = kind if kind in parts else max(parts, key=lambda key: parts[key])
    return name, parts[name]


def run(
    case: cuda_work.Case, clock: Clock | None, end: float, arguments: Any, *, done: float
) -> Row:
    """A row, whatever happens.

    Peers are compiled where the part of the rows that is `done` is not behind that of the time, so
    that the rows come first.
    """
    if clock is None or time.monotonic() > end:
        return Row(case)
    compile = clock.is_cuda and time.monotonic() < end - arguments.seconds * (1 - done)
    try:
        row = measure(case, clock, arguments.shrink, compile=compile)
    except Exception as error:
        row = Row(case, fault=f"{type(error).__name__}: {str(error).splitlines()[0][:120]}")
    if clock.is_cuda:
        torch.cuda.empty_cache()
    return row


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ops", nargs="*", metavar="OP", help="rows whose op begins so")
    parser.add_argument("--seconds", type=float, default=200.0, help="after which no row begins")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shrink", type=int, default=1)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    arguments = parse(argv)
    end, clock = time.monotonic() + arguments.seconds, None
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    if arguments.device == "cpu" or torch.cuda.is_available():
        if arguments.device == "cpu":
            torch.set_num_threads(1)
        clock = Clock(torch.device(arguments.device), arguments.shrink)
        print(f"Commit {commit()}. {clock.describe()}.\n")
        if arguments.shrink > 1:
            print(f"Sizes of 1024 and more are divided by {arguments.shrink}, but for 256.\n")
    else:
        print("No CUDA device: nothing was run.\n")
    print(line(HEADER))
    print("|" + "|".join(["---"] * 2 + ["---:"] * 2 + ["---"] * 2 + ["---:"] * len(PEERS)) + "|")
    rows: list[Row] = []
    cases = [
        case for case in cuda_cases.cases() if case.op.startswith(tuple(arguments.ops or [""]))
    ]
    for case in cases:
        rows.append(run(case, clock, end, arguments, done=len(rows) / len(cases)))
        print(line(rows[-1].cells()), flush=True)
    asked = [row for row in rows if row.case.target is not None]
    met = sum(row.reached() is True for row in asked)
    missed = sum(row.reached() is False for row in asked)
    print(f"\n{met} of {len(asked)} rows with a target reach it, {missed} fall short, "
          f"{len(asked) - met - missed} were not run.")  # fmt: skip
    return 1 if any(row.fault for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
