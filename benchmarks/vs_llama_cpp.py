"""This package and llama.cpp on the same files in one session, alternating; prints the ratios.

    python benchmarks/vs_llama_cpp.py --llama-bench PATH MODEL... [-p 512] [-n 128] [-t 2] [-r 3]
        [--depth 4096] [--llama-batched-bench PATH --parallel 16,32]

Each round runs `my-llm-ffi bench --limits` and the peer's programs one after the other, in turns of
who comes first; the table holds medians over the rounds, and which part of the machine's limits,
measured in every round, ours reaches. Both sides keep keys and values in float16, which is what
either does by default. Load time and peak memory are measured in a process of their own, the file
being in the system's cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOADED_PROMPT, LOADED_STEPS = 512, 128
LOAD = f"""
import sys, time
import my_llm_ffi as llm
from my_llm_ffi.work import kv_bytes
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
before = peak()
began = time.perf_counter()
model = llm.Model(sys.argv[1])
loaded = time.perf_counter() - began
context = model.context(n_ctx={LOADED_PROMPT + LOADED_STEPS})
context.decode([i % model.config.n_vocab for i in range({LOADED_PROMPT})])
for token in range({LOADED_STEPS}):
    context.decode([token])
print(loaded, peak() - before, kv_bytes(model.config) * {LOADED_PROMPT + LOADED_STEPS})
"""
DEPTH_STEPS = 32  # of decode behind a long context
PEER_CONTEXT, PEER_BATCH, MICRO_BATCH = 8192, 2048, 512  # of llama-batched-bench
HEADER = (
    "| model | test | ours, tokens/s | llama.cpp | ratio | of limit | our rounds |\n"
    "|---|---|---:|---:|---:|---:|---|"
)


def output_of(command: Sequence[str]) -> str:
    """What a program prints; a failed one ends the run with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise SystemExit("\n".join([f"failed: {' '.join(command)}", *said]))
    return done.stdout


def test_of(row: dict[str, Any]) -> str:
    """The name of a row of either llama-bench or `my-llm-ffi bench`."""
    from my_llm_ffi.bench import name_of

    return name_of({"n_depth": 0, **row})  # type: ignore[typeddict-item]


def peer_speeds(command: Sequence[str]) -> dict[str, float]:
    """Tokens/s by test, of llama-bench."""
    return {test_of(row): row["avg_ts"] for row in json.loads(output_of(command))}


def peer_parallel_speeds(command: Sequence[str]) -> dict[str, float]:
    """Tokens/s by test, of llama-batched-bench."""
    speeds: dict[str, float] = {}
    for line in output_of(command).splitlines():
        if not line.startswith("{"):
            continue
        row = json.loads(line)
        n, pp, tg = row["pl"], row["pp"], row["tg"]
        speeds[f"{n} × tg{tg} @ d{pp}"] = row["speed_tg"]
        speeds[f"{n} × pp{pp}+tg{tg}"] = row["speed"]
    return speeds


@dataclass
class Commands:
    """The programs of one comparison, either side's giving the same tests."""

    ours: list[str]
    theirs: list[str]
    speeds: Any = peer_speeds


@dataclass
class Samples:
    """What the rounds of one model gave."""

    ours: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    theirs: list[dict[str, float]] = field(default_factory=list)

    def add(self, commands: Commands, *, ours_first: bool) -> None:
        """Runs both sides once."""
        for mine in (ours_first, not ours_first):
            if mine:
                rows = json.loads(output_of(commands.ours))
                self.ours.append({test_of(row): row for row in rows})
            else:
                self.theirs.append(commands.speeds(commands.theirs))

    def lines(self, model: str) -> list[str]:
        """A line of the table for each test."""
        return [self._line(model, test) for test in self.ours[0]]

    def _line(self, model: str, test: str) -> str:
        rows = [sample[test] for sample in self.ours]
        ours = statistics.median(row["avg_ts"] for row in rows)
        theirs = statistics.median(sample[test] for sample in self.theirs)
        parts = [row["of_limit"] for row in rows]
        limit = rows[0]["limit"]
        reached = limit if None in parts else f"{statistics.median(parts):.0%} of {limit}"
        spread = ", ".join(f"{row['avg_ts']:.1f}" for row in rows)
        return (
            f"| {model} | {test} | {ours:.1f} | {theirs:.1f} | {ours / theirs:.2f} | {reached} "
            f"| {spread} |"
        )

    def limits(self) -> list[dict[str, float]]:
        """Of the machine, in each round."""
        return [next(iter(sample.values()))["limits"] for sample in self.ours]


def commands_of(model: str, args: argparse.Namespace) -> list[Commands]:
    """All that is run for a model in a round."""
    threads = ["-t", str(args.threads)]
    bench = [sys.executable, "-m", "my_llm_ffi", "bench", model, *threads, "-r", "1"]
    bench += ["-o", "json", "--limits"]
    peer = [args.llama_bench, "-m", model, *threads, "-r", "1", "-o", "json"]
    sizes = ["-p", str(args.prompt), "-n", str(args.gen)]
    commands = [Commands([*bench, *sizes], [*peer, *sizes])]
    if args.depth:
        sizes = ["-p", "0", "-n", str(DEPTH_STEPS), "-d", str(args.depth)]
        commands.append(Commands([*bench, *sizes], [*peer, *sizes]))
    if args.parallel:
        ours = ["-p", "0", "-n", "0", "--parallel", args.parallel]
        ours += ["--npp", str(args.npp), "--ntg", str(args.ntg)]
        theirs = [args.llama_batched_bench, "-m", model, *threads, "-c", str(PEER_CONTEXT)]
        theirs += ["-b", str(PEER_BATCH), "-ub", str(MICRO_BATCH), "-npp", str(args.npp)]
        theirs += ["-ntg", str(args.ntg), "-npl", args.parallel, "--output-format", "jsonl"]
        commands.append(Commands([*bench, *ours], theirs, peer_parallel_speeds))
    return commands


def load_line(model: str) -> str:
    """Seconds to load, and peak resident memory beyond the interpreter's; best of three."""
    command = [sys.executable, "-c", LOAD, model]
    runs = [[float(word) for word in output_of(command).split()] for _ in range(3)]
    seconds, peak, cache = (min(column) for column in zip(*runs))
    size = Path(model).stat().st_size
    return (
        f"| {Path(model).name} | load s; peak RSS of (file + KV) | {seconds:.2f}; "
        f"{peak / (size + cache):.2f} × {(size + cache) / 2**20:.0f} MiB | | | | |"
    )


def compare(model: str, args: argparse.Namespace) -> list[dict[str, float]]:
    """Prints the rows of one model; returns the machine's limits as its rounds found them."""
    limits = []
    for commands in commands_of(model, args):
        samples = Samples()
        for turn in range(args.rounds):
            samples.add(commands, ours_first=turn % 2 == 0)
        print("\n".join(samples.lines(Path(model).name)), flush=True)
        limits += samples.limits()
    print(load_line(model), flush=True)
    return limits


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--llama-bench", required=True, help="path of llama-bench")
    parser.add_argument("--llama-batched-bench", help="path of llama-batched-bench")
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--gen", type=int, default=128)
    parser.add_argument("-t", "--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("--depth", type=int, default=0, help="also decode behind so many tokens")
    parser.add_argument("--parallel", default="", help="also so many sequences together: 16,32")
    parser.add_argument("--npp", type=int, default=128, help="tokens of the prompt of each")
    parser.add_argument("--ntg", type=int, default=64, help="steps of each")
    args = parser.parse_args()
    if args.parallel and not args.llama_batched_bench:
        parser.error("--parallel needs --llama-batched-bench")
    most = max((int(n) for n in args.parallel.split(",") if n), default=0)
    if most * (args.npp + args.ntg) > PEER_CONTEXT:
        parser.error(f"--parallel {most}: more than the peer's context of {PEER_CONTEXT} tokens")
    return args


def main() -> int:
    """Reads the command line and prints the table."""
    args = arguments()
    print(HEADER)
    found = [limits for model in args.models for limits in compare(model, args)]
    texts = []
    for name, unit in (("read_bytes", "GB"), ("fma_ops", "GFLOP"), ("int8_ops", "GOP")):
        values = [limits[f"{name}_per_s"] / 1e9 for limits in found]
        least, most = min(values), max(values)
        texts.append(
            f"{name.partition('_')[0]} {statistics.median(values):.1f} {unit}/s "
            f"({least:.1f} to {most:.1f})"
        )
    print(f"\nLimits of {args.threads} threads, median of the rounds: {', '.join(texts)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
