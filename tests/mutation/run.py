"""Plants the faults of mutants.py one by one in a copy of the tree; a test must notice each.

    python tests/mutation/run.py [--jobs N] [--work FOLDER] [--list] [PART OF A NAME ...]

Needs what the tests and a build need (CMake, Ninja, a compiler, apache-tvm-ffi, pytest). Ends with
status 1 when a fault goes unnoticed, no longer applies, or its tests fail without it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mutants import MUTANTS, NATIVE, Mutant

ROOT = Path(__file__).parents[2]
COPIED = ("CMakeLists.txt", "pyproject.toml", "python", "src", "tests")
LIBRARY = "libmy_llm_ffi.so"
BUILD_S, TESTS_S = 3600, 600  # at most; a busy machine builds slowly
CPU_FLAGS = {"avx2": "avx2", "avx512": "avx512_vnni", "baseline": "sse4_2"}


class Unusable(Exception):
    """The run says nothing about the tests: the tree does not build, or they do not run."""


def files_below(root: Path) -> Iterator[Path]:
    """What a build and the tests need, relative to ``root``; nothing that was built."""
    for name in COPIED:
        path = root / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            made = "__pycache__" in file.parts or file.suffix == ".so"
            if file.is_file() and not made:
                yield file.relative_to(root)


def run_quietly(
    command: Sequence[str | Path], cwd: Path, seconds: int, **env: str
) -> tuple[int, str]:
    """Exit status and output; a command that does not end is Unusable."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise Unusable(f"no end after {seconds} s: {command[0]}") from None
    return done.returncode, done.stdout


class Workshop:
    """A copy of the tree with a build of its own.

    Args:
        folder: Where; what an earlier run left there is brought up to date.
        jobs: Compilers at a time.
    """

    def __init__(self, folder: Path, jobs: int) -> None:
        self.tree, self.build, self.jobs = folder / "tree", folder / "build", jobs
        self._copy()

    def _copy(self) -> None:
        wanted = set(files_below(ROOT))
        for stale in set(files_below(self.tree)) - wanted:
            (self.tree / stale).unlink()
        for file in wanted:
            text, target = (ROOT / file).read_bytes(), self.tree / file
            if not target.is_file() or target.read_bytes() != text:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(text)

    def configure(self) -> None:
        """Optimised a little: the kernels must run fast enough, and the compiler too."""
        command = ["cmake", "-S", str(self.tree), "-B", str(self.build), "-G", "Ninja"]
        options = ["MLF_CUDA=OFF", "MLF_NATIVE_TESTS=ON", "CMAKE_CXX_FLAGS_RELEASE=-O1"]
        status, output = run_quietly([*command, *(f"-D{o}" for o in options)], self.tree, BUILD_S)
        if status != 0:
            raise Unusable(f"cmake: {output[-2000:]}")
        library = self.tree / "python" / "my_llm_ffi" / "lib" / LIBRARY
        library.parent.mkdir(exist_ok=True)
        library.unlink(missing_ok=True)
        library.symlink_to(self.build / LIBRARY)

    def compile(self, tests: Iterable[str]) -> None:
        """The library and the executables among ``tests``."""
        native = sorted({t[len(NATIVE) :] for t in tests if t.startswith(NATIVE)})
        command = ["cmake", "--build", str(self.build), "-j", str(self.jobs), "--target"]
        status, output = run_quietly([*command, "my_llm_ffi", *native], self.tree, BUILD_S)
        if status != 0:
            errors = [
                line
                for line in output.splitlines()
                if " error: " in line or line.startswith("FAILED")
            ]
            raise Unusable(f"it does not build: {(errors or [output[-500:]])[0]}")

    def first_failure(self, tests: Iterable[str], cpu: str) -> str | None:
        """Name and reason of the first test that is red; None: all are green."""
        env = {"PYTHONPATH": str(self.tree / "python"), "PYTHONDONTWRITEBYTECODE": "1"}
        if cpu:
            env["MY_LLM_FFI_CPU"] = cpu
        tests = sorted(set(tests))
        for test in (t[len(NATIVE) :] for t in tests if t.startswith(NATIVE)):
            status, output = run_quietly([self.build / test], self.tree, TESTS_S, **env)
            if status != 0:
                return f"{test}: {(output.strip().splitlines() or [f'status {status}'])[-1]}"
        in_python = [t for t in tests if not t.startswith(NATIVE)]
        return self._pytest(in_python, env) if in_python else None

    def _pytest(self, tests: list[str], env: dict[str, str]) -> str | None:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        status, output = run_quietly(command, self.tree, TESTS_S, **env)
        if status == 0:
            return None
        failed = [line for line in output.splitlines() if line.startswith("FAILED ")]
        if status < 0:
            return f"the interpreter died of signal {-status}"
        if status != 1 or not failed:
            raise Unusable(f"pytest ended with status {status}: {output[-500:]}")
        return failed[0][len("FAILED ") :]

    def plant(self, mutant: Mutant) -> str | None:
        """What the tests say of a tree with the fault in it; the tree is mended afterwards."""
        path = self.tree / mutant.file
        sound = path.read_text("utf-8")
        try:
            path.write_text(mutant.applied(sound), "utf-8")
            self.compile(mutant.tests)
            return self.first_failure(mutant.tests, mutant.cpu)
        finally:
            path.write_text(sound, "utf-8")


def cpu_can(level: str) -> bool:
    """Whether this machine has the instructions of a level."""
    if not level:
        return True
    flags = Path("/proc/cpuinfo").read_text("utf-8").split()
    return CPU_FLAGS.get(level, level) in flags


def check_sound(workshop: Workshop, mutants: Sequence[Mutant]) -> None:
    """A test that is red anyway proves nothing."""
    workshop.compile(test for mutant in mutants for test in mutant.tests)
    for cpu in sorted({m.cpu for m in mutants}):
        red = workshop.first_failure((t for m in mutants if m.cpu == cpu for t in m.tests), cpu)
        if red:
            raise Unusable(f"red without any fault: {red}")


def verdict(workshop: Workshop, mutant: Mutant) -> tuple[bool, str]:
    """Whether the fault was noticed, and by what or why not."""
    try:
        red = workshop.plant(mutant)
    except (Unusable, ValueError) as reason:
        return False, str(reason)
    return (True, red) if red else (False, "SURVIVED: its tests stay green")


def run(workshop: Workshop, mutants: Sequence[Mutant]) -> int:
    """Prints the table; returns the exit status."""
    began = time.monotonic()
    workshop.configure()
    check_sound(workshop, mutants)
    print(f"built and green without faults, {time.monotonic() - began:.0f} s\n")
    print("| fault | file | noticed by | s |\n|---|---|---|---:|", flush=True)
    noticed = 0
    for mutant in mutants:
        start = time.monotonic()
        good, what = verdict(workshop, mutant)
        noticed += good
        line = what.replace("|", "/").replace("\n", " ")[:160]
        seconds = time.monotonic() - start
        print(f"| {mutant.name} | {mutant.file} | {line} | {seconds:.0f} |", flush=True)
    print(f"\n{noticed} of {len(mutants)} faults noticed in {time.monotonic() - began:.0f} s")
    return 0 if noticed == len(mutants) else 1


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="PART OF A NAME", help="only these faults")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--work", type=Path, help="keep the copy and its build here, for next time")
    parser.add_argument("--list", action="store_true", help="print the faults and end")
    arguments = parser.parse_args()
    chosen = [
        m for m in MUTANTS if not arguments.names or any(n in m.name for n in arguments.names)
    ]
    if arguments.list or not chosen:
        print("\n".join(f"{m.name}: {m.file}" for m in chosen) or "no fault has such a name")
        return 0 if chosen else 2
    able = [m for m in chosen if cpu_can(m.cpu)]
    for mutant in (m for m in chosen if m not in able):
        print(f"!!! NOT TRIED, this CPU has no {mutant.cpu}: {mutant.name}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            return run(Workshop(arguments.work or Path(folder), arguments.jobs), able)
    except Unusable as reason:
        print(f"the run proves nothing: {reason}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
