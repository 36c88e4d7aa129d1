"""Speed of a model, in the manner of llama-bench and llama-batched-bench; printed by the CLI.

A prompt row decodes N random tokens into an empty context, a generation row N tokens one by one; at
a depth, the context holds so many tokens before. Sequences in parallel first decode a prompt each,
then one token of each per step.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, TypedDict

from .limits import Limits, available_threads
from .work import Bound, Work

if TYPE_CHECKING:
    from .model import Model

BATCH = 512  # tokens of one forward pass


class _Speed(TypedDict):
    model: str
    n_prompt: int
    n_gen: int
    n_threads: int
    avg_ts: float  # tokens/s, of all sequences together
    stddev_ts: float
    samples_ts: list[float]


class Row(_Speed, total=False):
    """One measurement; ``n_gen`` is 0 in a prompt row, ``n_prompt`` in a generation row.

    ``n_depth`` and ``n_seqs`` are there where asked for, the rest where limits are given.
    """

    n_depth: int  # tokens in each sequence before
    n_seqs: int  # sequences in parallel; n_prompt and n_gen are of each
    limit_ts: float  # tokens/s that the limits allow
    limit: str  # what sets them: read, compute, in cache
    of_limit: float | None  # avg_ts / limit_ts; None in cache, where memory is no limit
    limits: dict[str, float]  # of the machine


@dataclass(frozen=True)
class Test:
    """What a row measures; ``parallel`` ones name their sequences."""

    n_prompt: int
    n_gen: int
    n_depth: int = 0
    n_seqs: int = 1
    parallel: bool = False

    __test__ = False  # not one of pytest's

    @property
    def tokens(self) -> int:
        """Of all sequences together."""
        return (self.n_prompt + self.n_gen) * self.n_seqs

    def bound(self, work: Work, limits: Limits) -> Bound:
        """The shortest time that the machine's limits allow."""
        parts = []
        if self.n_prompt:
            tokens = self.n_prompt * self.n_seqs
            passes = -(-tokens // BATCH)
            rows = self.n_seqs if self.parallel else passes
            parts.append(work.prefill(tokens, passes, rows, limits))
        if self.n_gen:
            depth = self.n_depth + self.n_prompt
            parts.append(work.decode(self.n_gen, self.n_seqs, depth, limits))
        longest = max(parts, key=lambda part: part.seconds)
        return Bound(sum(part.seconds for part in parts), longest.limit)


# What is timed: the tests of a run, and how to run it once for the seconds of each.
_Run = tuple[Sequence[Test], Callable[[], Sequence[float]]]


def bench_model(
    path: str | bytes | os.PathLike[Any],
    *,
    n_prompt: int = 512,
    n_gen: int = 128,
    n_depth: int = 0,
    parallel: Sequence[int] = (),
    parallel_prompt: int = 128,
    parallel_gen: int = 64,
    n_threads: int | None = None,
    repetitions: int = 3,
    limits: Limits | None = None,
    progress: Callable[[float], object] | None = None,
) -> list[Row]:
    """Measures prefill and decode of one model, after one run of each that is not counted.

    Args:
        path: GGUF file.
        n_prompt: Tokens of the prompt row; 0 leaves it out.
        n_gen: Tokens of the generation row; 0 leaves it out.
        n_depth: Tokens in the context before either of them.
        parallel: Numbers of sequences that decode together, each two rows: the steps alone, and
            prompts and steps together.
        parallel_prompt: Tokens of the prompt of each of them.
        parallel_gen: Steps of each of them.
        n_threads: Threads; ``None``: one per CPU that this process may use.
        repetitions: Samples of each row.
        limits: Of the machine (`limits.measure`): rows then say which part of them they reach.
        progress: Called with the fraction done.

    Returns:
        A row for the prompt, a row for the generation, two for each of ``parallel``.

    """
    import my_llm_ffi as llm

    from .work import work_of

    n_threads = available_threads() if n_threads is None else n_threads
    rows: list[Row] = []
    with llm.Model(path, n_threads=n_threads) as model:
        runs = _alone(model, [Test(n_prompt, 0, n_depth), Test(0, n_gen, n_depth)])
        runs += [_together(model, n, parallel_prompt, parallel_gen) for n in parallel]
        work = None if limits is None else work_of(path, model.config)
        done, total = 0, len(runs) * (repetitions + 1)
        for tests, once in runs:
            samples = []
            for _ in range(repetitions + 1):
                samples.append(once())
                done += 1
                if progress is not None:
                    progress(done / total)
            for test, seconds in zip(tests, zip(*samples[1:])):  # the first one warmed up
                row = _row(
                    Path(os.fsdecode(path)).name,
                    n_threads,
                    test,
                    [test.tokens / s for s in seconds],
                )
                if limits is not None and work is not None:
                    _add_limits(row, test.tokens, test.bound(work, limits), limits)
                rows.append(row)
    return rows


def _alone(model: Model, tests: Iterable[Test]) -> list[_Run]:
    """Runs of one sequence, in a context that they share."""
    tests = [test for test in tests if test.tokens > 0]
    if not tests:
        return []
    depth, most = tests[0].n_depth, max(test.tokens for test in tests)
    tokens = _random_tokens(model.config.n_vocab, depth + most)
    context = model.context(n_ctx=depth + most, n_batch=BATCH)

    def run_of(test: Test) -> _Run:
        timed, past, rest = prefill if test.n_prompt else decode, tokens[:depth], tokens[depth:]
        return [test], lambda: [timed(context, rest[: test.tokens], past)]

    return [run_of(test) for test in tests]


def _together(model: Model, n_seqs: int, n_prompt: int, n_gen: int) -> _Run:
    """A run of several sequences."""
    tests = [
        Test(0, n_gen, n_prompt, n_seqs, parallel=True),
        Test(n_prompt, n_gen, 0, n_seqs, parallel=True),
    ]
    tokens = _random_tokens(model.config.n_vocab, tests[1].tokens)
    context = model.context(n_ctx=tests[1].tokens, n_seq_max=n_seqs, n_batch=BATCH)

    def once() -> Sequence[float]:
        prompts, steps = decode_together(context, tokens, n_seqs, n_prompt, n_gen)
        return [steps, prompts + steps]

    return tests, once


def prefill(context: Any, tokens: Sequence[int], past: Sequence[int] = ()) -> float:
    """Seconds to decode all tokens in batches, into a context that holds ``past``."""
    _hold(context, past)
    began = time.perf_counter()
    _append(context, tokens)
    return time.perf_counter() - began


def decode(context: Any, tokens: Sequence[int], past: Sequence[int] = ()) -> float:
    """Seconds to decode the tokens one by one, into a context that holds ``past``."""
    _hold(context, past)
    began = time.perf_counter()
    for token in tokens:
        context.decode([token])
    return time.perf_counter() - began


def decode_together(
    context: Any, tokens: Sequence[int], n_seqs: int, n_prompt: int, n_gen: int
) -> tuple[float, float]:
    """Prompts of several sequences in one batch, then steps of one token of each.

    Args:
        context: Has room for all; is emptied first.
        tokens: All that are decoded, ``n_seqs * (n_prompt + n_gen)``.
        n_seqs: Sequences.
        n_prompt: Tokens of each one's prompt.
        n_gen: Steps.

    Returns:
        Seconds of the prompts, seconds of the steps. Logits are computed after each prompt and of
        every step.

    """
    from .context import Batch

    batch, source = Batch(), iter(tokens)
    context.clear()
    began = time.perf_counter()
    for seq in range(n_seqs):
        for position in range(n_prompt):
            batch.add(next(source), position, (seq,), logits=position == n_prompt - 1)
    context.decode(batch)
    prompted = time.perf_counter()
    for position in range(n_prompt, n_prompt + n_gen):
        batch.clear()
        for seq in range(n_seqs):
            batch.add(next(source), position, (seq,), logits=True)
        context.decode(batch)
    return prompted - began, time.perf_counter() - prompted


def _append(context: Any, tokens: Sequence[int]) -> None:
    for first in range(0, len(tokens), BATCH):
        context.decode(tokens[first : first + BATCH])


def _hold(context: Any, past: Sequence[int]) -> None:
    """Leaves ``past`` in the context and nothing else; it is decoded once only."""
    held = context.seq_positions(0) if past else None
    if held is not None and held[1] >= len(past) - 1:
        context.seq_remove(0, len(past))
        return
    context.clear()
    _append(context, past)


def markdown(rows: Iterable[Row]) -> str:
    """The rows as a table."""
    rows = list(rows)
    limited = any("limit_ts" in row for row in rows)
    lines = ["| model | threads | test | tokens/s |", "|---|---:|---:|---:|"]
    if limited:
        lines = [lines[0] + " of limit |", lines[1] + "---:|"]
    for row in rows:
        speed = f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}"
        line = f"| {row['model']} | {row['n_threads']} | {name_of(row)} | {speed} |"
        lines.append(line + f" {_of_limit(row)} |" if limited else line)
    return "\n".join(lines)


def name_of(row: Row) -> str:
    """``pp512``, ``tg32 @ d4096``, ``16 × pp128+tg64``."""
    parts = [f"pp{row['n_prompt']}"] if row["n_prompt"] else []
    parts += [f"tg{row['n_gen']}"] if row["n_gen"] else []
    depth = row.get("n_depth", 0)
    name = "+".join(parts) + (f" @ d{depth}" if depth else "")
    return f"{row['n_seqs']} × {name}" if "n_seqs" in row else name


def _of_limit(row: Row) -> str:
    part = row.get("of_limit")
    return row.get("limit", "") if part is None else f"{part:.0%} of {row['limit']}"


def _random_tokens(n_vocab: int, count: int) -> list[int]:
    source = random.Random(0)
    return [source.randrange(n_vocab) for _ in range(count)]


def _row(name: str, n_threads: int, test: Test, samples: list[float]) -> Row:
    row: Row = {
        "model": name,
        "n_prompt": test.n_prompt,
        "n_gen": test.n_gen,
        "n_threads": n_threads,
        "avg_ts": statistics.fmean(samples),
        "stddev_ts": statistics.stdev(samples) if len(samples) > 1 else 0.0,
        "samples_ts": samples,
    }
    if test.n_depth:
        row["n_depth"] = test.n_depth
    if test.parallel:
        row["n_seqs"] = test.n_seqs
    return row


def _add_limits(row: Row, tokens: int, bound: Bound, limits: Limits) -> None:
    row["limit_ts"] = tokens / bound.seconds
    row["limit"] = bound.limit
    row["of_limit"] = None if bound.limit == "in cache" else row["avg_ts"] / row["limit_ts"]
    row["limits"] = limits.as_dict()
