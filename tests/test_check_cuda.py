"""scripts/check_cuda without a GPU: what is missing, what hangs, what fails, and its table."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "check_cuda"


def load_script():
    loader = importlib.machinery.SourceFileLoader("check_cuda", str(SCRIPT))
    spec = importlib.util.spec_from_loader("check_cuda", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


tool = load_script()


@pytest.fixture
def check(tmp_path):
    """A check of the CPU, nothing of it run."""
    arguments = tool.argparse.Namespace(seconds=60.0, folder=tmp_path, device="cpu", skip=[])
    return tool.Check(arguments)


def test_the_table_says_what_is_missing(tmp_path):
    env = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": "", "CUDACXX": "no-such-compiler"}
    command = [sys.executable, "-S", str(SCRIPT), "--folder", str(tmp_path / "build")]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 1, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("| device |"))
    for name in ("torch", "pytest", "nvcc"):
        assert f"no {name}" in row
    assert (tmp_path / "build" / "check_cuda.md").read_text("utf-8") in done.stdout


def test_what_hangs_is_stopped_with_what_it_started(check, tmp_path):
    began = time.monotonic()
    status, text = check.run("hangs", 1.0, "sh", "-c", "echo a; sleep 600 & echo $!; wait")
    assert (status, time.monotonic() - began < 30) == (124, True)
    child = int(text.split()[1])
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)


def alive(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_program_that_is_not_there(check):
    status, text = check.run("none", 1.0, "no-such-program")
    assert status == 127
    assert "no-such-program" in text


def test_a_part_that_raises_is_a_row(check):
    def broken(limit):
        raise OSError("disk full")

    assert not check.part("build", broken)
    assert check.failed
    assert check.rows == [("build", "FAILED: OSError: disk full", "0")]


def test_a_part_without_time_is_a_failure(check):
    check.end = time.monotonic()
    assert not check.part("tests", lambda limit: (True, "well"))
    assert check.rows[0][1] == "NOT RUN: no time left"


def test_the_test_that_hangs_is_named():
    text = "tests/cuda/a.py::test_one[cpu] PASSED [ 1%]\ntests/cuda/a.py::test_two[cpu-f32] "
    assert tool.last_test(text) == " in test_two[cpu-f32]"
    assert tool.last_test("") == tool.last_test("tests/a.py::test PASSED [1%]\n") == ""


def test_the_tests_are_counted(check, monkeypatch):
    said = "tests/a.py::x[1] PASSED\ntests/a.py::x[2] FAILED\ntests/a.py::x[3] PASSED\n"
    monkeypatch.setattr(check, "run", lambda *words, **env: (1, said))
    assert check.tests(1) == (False, "2 passed, 1 failed, status 1")
    monkeypatch.setattr(check, "run", lambda *words, **env: (124, f"{said}tests/a.py::y "))
    assert check.tests(9) == (False, "2 passed, 1 failed; STOPPED after 9 s in y, status 124")


@pytest.mark.parametrize(
    ("said", "log", "good"),
    [
        ((True, "3 passed, status 0"), "ERROR SUMMARY: 0 errors", True),
        ((False, "2 passed; STOPPED after 60 s in y, status 124"), "", True),
        ((False, "no test ran; STOPPED after 60 s, status 124"), "", False),
        ((True, "no test ran, status 0"), "", False),
        ((False, "2 passed, 1 error; STOPPED after 60 s, status 124"), "", False),
        ((False, "2 passed, 1 failed, status 1"), "", False),
        ((False, "3 passed, status 9"), "ERROR SUMMARY: 2 errors", False),
        ((False, "3 passed; STOPPED after 60 s, status 124"), "= Invalid __global__ read", False),
    ],
)
def test_a_sanitizer_that_saw_nothing_is_a_failure(check, monkeypatch, said, log, good):
    check.is_cuda = True
    (check.folder / "memcheck.log").write_text(log, "utf-8")
    monkeypatch.setattr(tool.shutil, "which", lambda program: program)
    monkeypatch.setattr(check, "pytest", lambda *words, **env: said)
    assert check.sanitizer("memcheck")(60.0)[0] is good
