"""The packaging guide's walk-through: each way of crossing the border, and what it refuses."""

from __future__ import annotations

import gc
import importlib.util
import subprocess
import sys
import threading
import traceback
import weakref
from pathlib import Path

import numpy as np
import pytest
import tvm_ffi
from reference.gguf_files import TinySpec

import my_llm_ffi as llm
from my_llm_ffi import base

ROOT = Path(__file__).parents[1]
LIBRARY = base.library_path()


def floats(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.float32)


# ---- tensors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 7, 64, 1000])
def test_add_one(n):
    x, y = floats(n), np.full(n, np.nan, np.float32)
    llm.add_one(x, y)
    np.testing.assert_array_equal(y, floats(n) + 1)
    np.testing.assert_array_equal(x, floats(n))


def test_add_one_in_place():
    x = floats(5)
    llm.add_one(x, x)
    np.testing.assert_array_equal(x, floats(5) + 1)


def test_add_one_of_neighbours_in_one_buffer():
    buffer = floats(8)
    llm.add_one(buffer[:4], buffer[4:])
    np.testing.assert_array_equal(buffer, [0, 1, 2, 3, 1, 2, 3, 4])


def test_add_one_through_the_bare_module():
    module = tvm_ffi.load_module(str(LIBRARY))
    y = np.empty(3, np.float32)
    module.add_one(floats(3), y)
    np.testing.assert_array_equal(y, [1, 2, 3])
    assert "y = x + 1" in module.get_function_doc("add_one")
    assert "Tensor" in module.get_function_metadata("add_one")["type_schema"]


def test_add_one_through_ctypes_and_the_registry():
    """The library serves a process that never imports the package, and registers by itself."""
    code = (
        "import ctypes, sys, tvm_ffi, numpy as np\n"
        f"ctypes.CDLL({str(LIBRARY)!r})\n"
        "y = np.empty(2, np.float32)\n"
        "tvm_ffi.get_global_func('my_llm_ffi.add_one')(np.ones(2, np.float32), y)\n"
        "print(y.tolist(), 'my_llm_ffi' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert result.stdout == "[2.0, 2.0] False\n", result.stderr


def test_the_library_loads_before_tvm_ffi():
    """RPATH leads to libtvm_ffi.so of the package that is installed beside ours."""
    code = f"import ctypes; ctypes.CDLL({str(LIBRARY)!r}); print('loaded')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert result.stdout == "loaded\n", result.stderr


def read_only() -> np.ndarray:
    x = floats(4)
    x.flags.writeable = False
    return x


REJECTED = {
    "dtype of x": (np.zeros(4), floats(4), TypeError, "add_one: x is float64, expected float32"),
    "dtype of y": (floats(4), np.zeros(4, "i4"), TypeError, "y is int32, expected float32"),
    "complex": (np.zeros(4, "c8"), floats(4), TypeError, "x is complex64"),
    "structured": (np.zeros(4, "f4,f4"), floats(4), (TypeError, BufferError), "."),
    "big-endian": (np.zeros(4, ">f4"), floats(4), (TypeError, BufferError), "."),
    "length": (floats(4), floats(3), ValueError, r"y has shape \[3\], expected \[n=4 \(from x\)\]"),
    "rank": (
        np.zeros((2, 2), "f4"),
        floats(4),
        ValueError,
        r"x has shape \[2, 2\], expected",
    ),
    "scalar": (np.zeros((), "f4"), floats(1), ValueError, r"x has shape \[\]"),
    "stride of x": (floats(8)[::2], floats(4), ValueError, "x must be contiguous"),
    "stride of y": (floats(4), floats(8)[::-2], ValueError, "y must be contiguous"),
    "read-only x": (read_only(), floats(4), BufferError, "readonly"),
    "read-only y": (floats(4), read_only(), BufferError, "readonly"),
    "None": (None, floats(4), TypeError, "x is .*expected an array"),
    "a list": ([1.0], floats(1), TypeError, "x is .*expected an array"),
    "a number": (1.0, floats(1), TypeError, "x is .*expected an array"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_add_one_rejects(case):
    x, y, error, message = REJECTED[case]
    with pytest.raises(error, match=message):
        llm.add_one(x, y)


def test_add_one_rejects_partial_overlap():
    buffer = floats(8)
    for x, y in [(buffer[:5], buffer[3:]), (buffer[3:], buffer[:5])]:
        with pytest.raises(ValueError, match="add_one: y overlaps x in memory"):
            llm.add_one(x, y)


def test_add_one_rejects_the_wrong_number_of_arguments():
    with pytest.raises(TypeError):
        tvm_ffi.load_module(str(LIBRARY)).add_one(floats(1))


def test_refused_arrays_are_not_leaked():
    x = np.zeros(4)
    alive = weakref.ref(x)
    with pytest.raises(TypeError):
        llm.add_one(x, x)
    del x
    gc.collect()
    assert alive() is None


def test_add_one_of_torch_tensors():
    torch = pytest.importorskip("torch")
    y = torch.empty(3)
    llm.add_one(torch.ones(3), y)
    assert y.tolist() == [2, 2, 2]
    with pytest.raises(TypeError, match="x is bfloat16"):
        llm.add_one(torch.ones(3, dtype=torch.bfloat16), y)
    with pytest.raises(ValueError, match="contiguous"):
        llm.add_one(torch.ones(6)[::2], y)


def test_add_one_rejects_a_torch_fake_tensor():
    torch = pytest.importorskip("torch")
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.ones(3)
    with pytest.raises(TypeError, match="add_one: x is a FakeTensor, which has no memory"):
        llm.add_one(fake, torch.ones(3))
    with pytest.raises(ValueError, match="x has no memory"):  # without the Python check
        tvm_ffi.get_global_func("my_llm_ffi.add_one")(fake, torch.ones(3))


def test_add_one_rejects_a_torch_meta_tensor():
    torch = pytest.importorskip("torch")
    with pytest.raises((RuntimeError, BufferError), match="meta"):
        llm.add_one(torch.ones(3, device="meta"), torch.ones(3))


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_add_one_rejects_an_eager_jax_array():
    import jax.numpy as jnp

    fixed = jnp.ones(3)
    with pytest.raises(TypeError, match="add_one: y is an eager JAX array, which is immutable"):
        llm.add_one(floats(3), fixed)
    assert fixed.tolist() == [1, 1, 1]


# ---- errors -------------------------------------------------------------------------------------


def test_the_traceback_of_raise_error_goes_on_into_cpp():
    with pytest.raises(RuntimeError, match=r"^boom$") as caught:
        llm.raise_error("boom")
    frames = traceback.extract_tb(caught.value.__traceback__)
    native = [frame for frame in frames if frame.filename == "src/extension.cc"]
    assert native, [frame.filename for frame in frames]
    assert "RaiseError" in native[-1].name
    source = (ROOT / "src" / "extension.cc").read_text("utf-8").splitlines()
    assert "TVMFFIBacktrace" in source[native[-1].lineno - 1]


def test_raise_error_of_another_kind():
    with pytest.raises(FileNotFoundError, match="no such model"):
        llm.raise_error("no such model", kind="FileNotFoundError")


# ---- strings, tuples, dicts ---------------------------------------------------------------------


@pytest.mark.parametrize("parts", [[], [""], ["a"], ["a", "", "ö\0€🙂"], ["x" * 100_000] * 3])
@pytest.mark.parametrize("separator", ["", ", "])
def test_join_strings(parts, separator):
    assert llm.join_strings(parts, separator) == separator.join(parts)
    assert llm.join_strings(tuple(parts), separator) == separator.join(parts)


@pytest.mark.parametrize("wrong", [[1], ["a", None], 3, None])
def test_join_strings_rejects(wrong):
    with pytest.raises(TypeError):
        llm.join_strings(wrong)


@pytest.mark.parametrize("pair", [(1, "a"), (None, 2.5), (True, False), ("x", (1, 2))])
def test_swap_pair(pair):
    first, second = pair
    swapped = llm.swap_pair(pair)
    assert isinstance(swapped, tuple)
    assert swapped[0] == second
    assert swapped[1] == first


@pytest.mark.parametrize("wrong", [(), (1,), (1, 2, 3), 5, None])
def test_swap_pair_rejects(wrong):
    with pytest.raises(TypeError):
        llm.swap_pair(wrong)


def test_invert_dict():
    assert llm.invert_dict({}) == {}
    inverted = llm.invert_dict({"one": 1, "": -(2**63), "zwölf": 2**63 - 1})
    assert inverted == {1: "one", -(2**63): "", 2**63 - 1: "zwölf"}
    assert type(inverted) is dict


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"a": 1, "b": 1}, ValueError), ({"a": "b"}, TypeError), ({1: 1}, TypeError)],
)
def test_invert_dict_rejects(wrong, error):
    with pytest.raises(error):
        llm.invert_dict(wrong)


# ---- an object ----------------------------------------------------------------------------------


def test_int_pair_fields_and_methods():
    pair = llm.IntPair(1, 2)
    assert (pair.first, pair.second) == (1, 2)
    assert pair.get_first() == 1
    assert llm.IntPair.static_get_second(pair) == 2
    assert "first=1" in repr(pair)


def test_int_pair_takes_keywords_and_is_shared_by_reference():
    pair = llm.IntPair(second=2, first=1)
    same = llm.call_with(lambda p: p, pair)
    same.second = 40
    assert pair.second == 40
    assert same.same_as(pair)
    assert isinstance(same, llm.IntPair)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1,), {}), ((1, 2, 3), {}), ((1, "2"), {}), ((1, None), {}), ((1,), {"third": 3})],
)
def test_int_pair_rejects(args, kwargs):
    with pytest.raises(TypeError):
        llm.IntPair(*args, **kwargs)


def test_int_pair_fields_keep_their_type():
    pair = llm.IntPair(1, 2)
    with pytest.raises(TypeError):
        pair.first = "one"
    with pytest.raises(TypeError):
        llm.IntPair.static_get_second(None)
    assert pair.first == 1


# ---- callbacks ----------------------------------------------------------------------------------


class CustomError(Exception):
    """Of no builtin class."""


def test_call_with():
    assert llm.call_with(lambda x: x * 2, 21) == 42
    assert llm.call_with(lambda x: f"<{x}>", "a") == "<a>"


@pytest.mark.parametrize("error", [KeyError("k"), CustomError("c"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_an_exception_in_a_callback_comes_out_as_itself(error, threads):
    def callback(*_):
        raise error

    with pytest.raises(type(error)) as caught:
        if threads == 0:
            llm.call_with(callback, 1)
        else:
            llm.call_from_threads(callback, n_threads=threads)
    assert type(caught.value) is type(error)
    assert caught.value.args == error.args
    assert "callback" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


def test_callbacks_from_cpp_threads():
    seen = set()

    def callback(thread, i):
        seen.add((thread, i, threading.get_ident()))
        return i

    assert llm.call_from_threads(callback, n_threads=4, n_calls=50) == 4 * sum(range(50))
    assert {(thread, i) for thread, i, _ in seen} == {(t, i) for t in range(4) for i in range(50)}
    assert threading.get_ident() not in {ident for _, _, ident in seen}


def test_call_from_threads_rejects():
    with pytest.raises(ValueError, match="n_threads is 65"):
        llm.call_from_threads(lambda t, i: 0, n_threads=65)
    with pytest.raises(ValueError, match="n_calls is -1"):
        llm.call_from_threads(lambda t, i: 0, n_calls=-1)
    with pytest.raises(TypeError):
        llm.call_from_threads(lambda t, i: "no number")
    with pytest.raises(TypeError):
        llm.call_from_threads(None)


# ---- run_example.py -----------------------------------------------------------------------------


def run_example(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "run_example.py"), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("add_one", "[1. 2. 3. 4. 5.]"),
        ("containers", "one, two, three"),
        ("int_pair", "second=20"),
        ("callback", "KeyError('absent')"),
        ("log", "[info]"),
        ("build_info", "cpu_level"),
    ],
)
def test_run_example(name, expected):
    result = run_example(name)
    assert result.returncode == 0, result.stderr
    assert expected in result.stdout


def test_run_example_raise_error_shows_the_cpp_frame():
    result = run_example("raise_error")
    assert result.returncode == 1
    assert 'File "src/extension.cc", line' in result.stderr
    assert result.stderr.rstrip().endswith("ValueError: boom")


def test_run_example_refuses_what_it_does_not_know():
    result = run_example("no_such_example")
    assert result.returncode == 2
    assert "usage:" in result.stderr


def test_run_example_generates_with_any_local_file(tiny_file):
    result = run_example(
        *("generate", "--model", str(tiny_file(TinySpec())), "--prompt", "a"),
        *("--max-new-tokens", "3", "--temperature", "0"),
    )
    assert result.returncode == 0, result.stderr
