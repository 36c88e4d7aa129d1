"""This package and llama.cpp on the same files in one session, alternating; prints the ratios.

    python benchmarks/vs_llama_cpp.py --llama-bench PATH MODEL... [-p 512] [-n 128] [-t 2] [-r 3]

Each round runs `llama-bench` and `my-llm-ffi bench` one after the other, in turns of who comes
first; the table holds medians over the rounds. Load time and peak memory are measured in a process
of their own, the file being in the system's cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

LOAD = """
import sys, time
import my_llm_ffi as llm
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
before = peak()
began = time.perf_counter()
model = llm.Model(sys.argv[1])
loaded = time.perf_counter() - began
context = model.context(n_ctx=1024)
context.decode(list(range(100, 612)))
for token in range(128):
    context.decode([token])
print(loaded, peak() - before)
"""


def run_json(command: list[str]) -> list[dict[str, float]]:
    """The rows that a benchmark prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows: list[dict[str, float]] = json.loads(done.stdout)
    return rows


def speeds(command: list[str]) -> dict[str, float]:
    """Tokens/s by test: "pp512", "tg128"."""
    rows = run_json(command)
    return {
        f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}": row["avg_ts"]
        for row in rows
    }


def load_figures(model: str) -> tuple[float, float]:
    """Seconds to load and MiB of peak resident memory beyond the interpreter's; best of three."""
    command = [sys.executable, "-c", LOAD, model]
    runs = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(3)
    ]
    return min(float(r[0]) for r in runs), min(float(r[1]) for r in runs)


def compare(model: str, args: argparse.Namespace) -> None:
    """Prints the rows of one model."""
    sizes = ["-p", str(args.prompt), "-n", str(args.gen), "-t", str(args.threads), "-r", "1"]
    ours = [sys.executable, "-m", "my_llm_ffi", "bench", model, *sizes, "-o", "json"]
    theirs = [args.llama_bench, "-m", model, *sizes, "-o", "json"]
    samples: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    for turn in range(args.rounds):
        order = [("ours", ours), ("theirs", theirs)]
        for name, command in order if turn % 2 == 0 else reversed(order):
            samples[name].append(speeds(command))
    for test in samples["ours"][0]:
        mine = statistics.median(s[test] for s in samples["ours"])
        peer = statistics.median(s[test] for s in samples["theirs"])
        spread = ", ".join(f"{s[test]:.1f}" for s in samples["ours"])
        print(
            f"| {Path(model).name} | {test} | {mine:.1f} | {peer:.1f} | {mine / peer:.2f} "
            f"| {spread} |",
            flush=True,
        )
    seconds, mib = load_figures(model)
    size = Path(model).stat().st_size / 2**20
    print(
        f"| {Path(model).name} | load s; peak RSS MiB of {size:.0f} in the file "
        f"| {seconds:.2f}; {mib:.0f} | | | |"
    )


def main() -> int:
    """Reads the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--llama-bench", required=True, help="path of llama-bench")
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--gen", type=int, default=128)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-r", "--rounds", type=int, default=3)
    args = parser.parse_args()
    print("| model | test | ours, tokens/s | llama.cpp | ratio | our rounds |")
    print("|---|---|---:|---:|---:|---|")
    for model in args.models:
        compare(model, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
