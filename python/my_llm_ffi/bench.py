"""Speed of a model, in the manner of llama-bench; counterpart: cli.py, which parses and prints.

A prompt row decodes N random tokens into an empty context, a generation row N tokens one by one.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Callable, TypedDict

BATCH = 512  # tokens of one call of decode


class Row(TypedDict):
    """One measurement; ``n_gen`` is 0 in a prompt row, ``n_prompt`` in a generation row."""

    model: str
    n_prompt: int
    n_gen: int
    n_threads: int
    avg_ts: float  # tokens/s
    stddev_ts: float
    samples_ts: list[float]


def bench_model(
    path: str | os.PathLike[str],
    *,
    n_prompt: int = 512,
    n_gen: int = 128,
    n_threads: int | None = None,
    repetitions: int = 3,
    progress: Callable[[float], object] | None = None,
) -> list[Row]:
    """Measures prefill and decode of one model, after one run of each that is not counted.

    Args:
        path: GGUF file.
        n_prompt: Tokens of the prompt row; 0 leaves it out.
        n_gen: Tokens of the generation row; 0 leaves it out.
        n_threads: Threads; ``None``: one per CPU that this process may use.
        repetitions: Samples of each row.
        progress: Called with the fraction done.

    Returns:
        A row for the prompt, a row for the generation.

    """
    import my_llm_ffi as llm

    n_threads = len(os.sched_getaffinity(0)) if n_threads is None else n_threads
    rows: list[Row] = []
    with llm.Model(path, n_threads=n_threads) as model:
        tokens = _random_tokens(model.config.n_vocab, max(n_prompt, n_gen))
        context = model.context(n_ctx=max(n_prompt, n_gen), n_batch=BATCH)
        runs: list[tuple[Callable[..., float], int]] = [(prefill, n_prompt), (decode, n_gen)]
        runs = [(run, count) for run, count in runs if count > 0]
        total = len(runs) * (repetitions + 1)
        for i, (run, count) in enumerate(runs):
            samples = []
            for repetition in range(repetitions + 1):
                samples.append(count / run(context, tokens[:count]))
                if progress is not None:
                    progress((i * (repetitions + 1) + repetition + 1) / total)
            row = _row(Path(path).name, n_threads, samples[1:])  # the first one warmed up
            row["n_prompt" if run is prefill else "n_gen"] = count
            rows.append(row)
    return rows


def prefill(context: Any, tokens: Sequence[int]) -> float:
    """Seconds to decode all tokens in batches, into an empty context."""
    context.clear()
    began = time.perf_counter()
    for first in range(0, len(tokens), BATCH):
        context.decode(tokens[first : first + BATCH])
    return time.perf_counter() - began


def decode(context: Any, tokens: Sequence[int]) -> float:
    """Seconds to decode the tokens one by one, into an empty context."""
    context.clear()
    began = time.perf_counter()
    for token in tokens:
        context.decode([token])
    return time.perf_counter() - began


def markdown(rows: Iterable[Row]) -> str:
    """The rows as a table."""
    lines = ["| model | threads | test | tokens/s |", "|---|---:|---:|---:|"]
    for row in rows:
        test = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
        speed = f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}"
        lines.append(f"| {row['model']} | {row['n_threads']} | {test} | {speed} |")
    return "\n".join(lines)


def _random_tokens(n_vocab: int, count: int) -> list[int]:
    source = random.Random(0)
    return [source.randrange(n_vocab) for _ in range(count)]


def _row(name: str, n_threads: int, samples: list[float]) -> Row:
    return {
        "model": name,
        "n_prompt": 0,
        "n_gen": 0,
        "n_threads": n_threads,
        "avg_ts": statistics.fmean(samples),
        "stddev_ts": statistics.stdev(samples) if len(samples) > 1 else 0.0,
        "samples_ts": samples,
    }
