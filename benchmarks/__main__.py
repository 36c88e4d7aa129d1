"""Prints the table of the ops: ours, torch's, the machine's limits, and what is asked for.

    python -m benchmarks [STEM ...] [--threads 2] [--markdown]

A stem is a file bench_<stem>.py beside this one; all of them where none is named. Answers are
compared with torch's before the clock starts; a wrong one ends the run.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Iterator
from pathlib import Path

from . import machine as machines

PROGRAMS = ("bench_cuda", "bench_jax", "bench_tensorrt")


def stems() -> list[str]:
    """What can be named; files for other devices and peers are programs of their own."""
    files = sorted(Path(__file__).parent.glob("bench_*.py"))
    return [f.stem[len("bench_") :] for f in files if f.stem not in PROGRAMS]


def print_header(header: list[str], *, markdown: bool) -> None:
    """The first line, or two, of the table."""
    print_row(header, markdown=markdown)
    if markdown:
        print("|" + "|".join(["---"] * 3 + ["---:"] * 4 + ["---"] * 3) + "|")


def print_row(cells: list[str], *, markdown: bool) -> None:
    """One line of the table, at once: a run takes minutes."""
    if markdown:
        print("| " + " | ".join(cells) + " |", flush=True)
        return
    widths = (26, 22, 9, 9, 9, 6, 8, 8, 9, 3)
    texts = [
        c.rjust(w) if 3 <= i <= 6 else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths))
    ]
    print(" ".join(texts).rstrip(), flush=True)


def measure(chosen: list[str], threads: int, *, markdown: bool) -> None:
    """Runs the cases and prints the table."""
    import torch

    import my_llm_ffi as llm

    from . import harness

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    info = llm.build_info()
    machine = machines.Machine(threads)
    load = os.getloadavg()[0]
    print(
        f"{machines.cpu_name()}, {threads} threads, {info['cpu_level']}; {machine.describe()}\n"
        f"commit {machines.commit()}, my_llm_ffi {llm.__version__}, torch {torch.__version__}\n"
    )
    if load > 0.5:
        print(f"!!! load {load:.1f} before the start: others take the CPUs, distrust the figures\n")
    print_header(harness.HEADER, markdown=markdown)

    def cases() -> Iterator[harness.Case]:
        for stem in chosen:
            torch.manual_seed(0)
            yield from importlib.import_module(f"{__package__}.bench_{stem}").cases(machine)

    asked, missed = 0, []
    for case in cases():
        result = harness.run(case, machine)
        print_row(result.row(), markdown=markdown)
        met = result.met()
        asked += met is not None
        if met is False:
            missed.append(f"{case.op} {case.shape} {case.dtype}")
    print(f"\n{asked - len(missed)} of {asked} rows reach what is asked for.")
    for row in missed:
        print(f"missed: {row}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stems", nargs="*", metavar="STEM", help=", ".join(stems()))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.stems) - set(stems()))
    if unknown:
        parser.error(f"no {', '.join(unknown)}; choose from {', '.join(stems())}")
    machines.pin(arguments.threads)
    machines.keep_freed_memory()
    measure(arguments.stems or stems(), arguments.threads, markdown=arguments.markdown)


if __name__ == "__main__":
    main()
