"""Ctrl-C, fork and the end of the process while an executor works, each in a process of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from reference.gguf_files import TinySpec

LIMIT_S = 0.1
SLACK_S = 0.05  # waking a thread and taking the GIL on a machine whose cores are all busy
WORST_S = 1.0  # of a single attempt, on such a machine
TIMEOUT_S = 60.0  # of what takes a second

Child = Callable[..., str]


@pytest.fixture
def child(llm: ModuleType, tiny_file: Callable[[TinySpec], Path]) -> Child:
    """Runs a function of executor_child.py; it must end by itself, and well."""
    script = str(Path(__file__).with_name("executor_child.py"))
    model = str(tiny_file(TinySpec()))

    def run(*what: str) -> str:
        command = [sys.executable, "-X", "faulthandler", script, model, *what]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("how", ["any", "timeout", "id", "stream", "astream", "drain"])
def test_ctrl_c(child: Child, how: str) -> None:
    report = json.loads(child("interrupt", how))
    assert report["usable"]
    assert statistics.median(report["latencies"]) < LIMIT_S + SLACK_S, report
    assert max(report["latencies"]) < WORST_S, report


def test_fork(child: Child) -> None:
    child("fork")


@pytest.mark.parametrize(
    "how",
    ["exit_in_flight", "exit_held", "exit_in_callbacks", "exit_blocked_callback",
     "exit_waiting_threads", "exit_streams", "exit_by_exception"],
)  # fmt: skip
def test_exit(child: Child, how: str) -> None:
    for _ in range(1 if how == "exit_blocked_callback" else 2):
        child(how)


def test_garbage_collection_of_busy_executors(child: Child) -> None:
    child("collect_busy")
