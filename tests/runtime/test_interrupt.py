"""Ctrl-C and the end of Python while native code works."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from reference.gguf_files import TinySpec

ATTEMPTS = 7
LIMIT_S = 0.1
SLACK_S = 0.05  # waking a thread and taking the GIL on a machine whose cores are all busy
WORST_S = 1.0  # of a single attempt, on such a machine


@pytest.mark.parametrize("what", ["load", "load_with_progress", "prefill", "generate", "stream"])
@pytest.mark.usefixtures("llm")
def test_ctrl_c(slow_file: Path, what: str) -> None:
    child = Path(__file__).with_name("interrupt_child.py")
    command = [sys.executable, str(child), str(slow_file), what, str(ATTEMPTS)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["usable"]
    latencies = [latency for latency in report["latencies"] if latency is not None]
    assert len(latencies) >= (2 if what.startswith("load") else 4), report
    assert statistics.median(latencies) < LIMIT_S + SLACK_S, report
    assert max(latencies) < WORST_S, report


DAEMON = """
import sys, threading, time
import my_llm_ffi as llm
model = llm.Model(sys.argv[1])
def work():
    while True:
        for _ in model.stream([1, 2, 3], max_new_tokens=60, n_ctx=64):
            pass
thread = threading.Thread(target=work, daemon=True)
threading.excepthook = lambda args: None
thread.start()
time.sleep(0.2)
"""


def test_exit_while_a_daemon_thread_generates(tiny_file: Callable[[TinySpec], Path]) -> None:
    command = [sys.executable, "-c", DAEMON, str(tiny_file(TinySpec()))]
    for _ in range(5):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


SHORT = """
import sys, threading, time
import my_llm_ffi as llm
vocab = llm.Vocab.from_file(sys.argv[1])
def work():
    while True:
        vocab.tokenize("a b")
        llm.build_info()
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)
"""


def test_exit_while_daemon_threads_make_short_calls(tiny_file: Callable[[TinySpec], Path]) -> None:
    """No abort, and no traceback of a thread that nobody waits for."""
    command = [sys.executable, "-c", SHORT, str(tiny_file(TinySpec()))]
    for _ in range(6):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")


AWAITED = """
import atexit, threading, time
thread = None
def wait():  # runs after begin_exit, because it was registered before it
    thread.join()
    print("joined")
atexit.register(wait)
import my_llm_ffi as llm
def work():
    try:
        while True:
            llm.build_info()
    except RuntimeError as error:
        print(error)
thread = threading.Thread(target=work, daemon=True)
thread.start()
time.sleep(0.1)
"""


@pytest.mark.usefixtures("llm")
def test_a_thread_that_an_exit_handler_waits_for_ends() -> None:
    command = [sys.executable, "-c", AWAITED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "Python is exiting\njoined\n"), done.stderr


SLOW_WAY_BACK = """
import sys, threading, time, my_llm_ffi, tvm_ffi
source = "time.sleep(0.6); print('back', flush=True)"
inside = compile(source, sys.modules[sys.argv[1]].__file__, "exec")
threading.Thread(target=exec, args=(inside, {"time": time}), daemon=True).start()
time.sleep(0.05)
"""


@pytest.mark.usefixtures("llm")
@pytest.mark.parametrize("package", ["my_llm_ffi", "tvm_ffi"])
def test_exit_waits_for_a_thread_that_is_slow_to_come_back(package: str) -> None:
    """On a busy machine; the end of the interpreter would meet it in the middle of tvm-ffi."""
    command = [sys.executable, "-c", SLOW_WAY_BACK, package]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "back\n"), done.stderr
