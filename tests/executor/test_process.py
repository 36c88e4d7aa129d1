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


def test_fault_fork_after_load(child: Child) -> None:
    child("fork")


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads its address space there")
def test_fault_allocation_failure(child: Child) -> None:
    child("run_out_of_memory")


@pytest.mark.parametrize(
    "how",
    ["exit_in_flight", "exit_held", "exit_in_callbacks", "exit_blocked_callback",
     "exit_waiting_threads", "exit_streams", "exit_by_exception"],
)  # fmt: skip
def test_fault_exit_with_requests_in_flight(child: Child, how: str) -> None:
    for _ in range(1 if how == "exit_blocked_callback" else 2):
        child(how)


CALLBACKS = ["on_step", "logits_post_processor"]


@pytest.mark.parametrize("how", ["exit_held_by_stream", "exit_held_by_astream", "exit_in_a_cycle"])
@pytest.mark.parametrize("callbacks", [CALLBACKS[:1], CALLBACKS[1:], CALLBACKS], ids="-".join)
def test_fault_exit_while_callbacks_run(child: Child, how: str, callbacks: list[str]) -> None:
    child(how, *callbacks)


@pytest.mark.parametrize("where", CALLBACKS)
def test_a_stream_ends_in_a_callback(child: Child, where: str) -> None:
    child("collect_stream", where)
    child("close_stream", where)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts the threads of a process")
@pytest.mark.parametrize("where", CALLBACKS)
def test_garbage_collection_of_a_callbacks_owner(child: Child, where: str) -> None:
    child("collect_server", where)


def test_garbage_collection_of_busy_executors(child: Child) -> None:
    child("collect_busy")
