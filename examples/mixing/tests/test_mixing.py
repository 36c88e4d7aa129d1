"""Calls from nanobind's side to ours and back, in one process, and exceptions both ways."""

from __future__ import annotations

import threading

import mixing
import numpy as np
import pytest
import tvm_ffi

import my_llm_ffi as llm

X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)


class OutOfCheese(Exception):
    """No builtin class: it crosses as a RuntimeError with its message."""


def test_an_op_of_ours_on_a_buffer_of_theirs():
    expected = llm.ops.rms_norm(X, np.ones(8, np.float32), eps=1e-3)
    np.testing.assert_array_equal(mixing.normalized(X, eps=1e-3), expected)
    assert mixing.normalized(X[:0]).shape == (0, 8)


def test_a_method_of_an_object_of_ours():
    assert mixing.first_of_pair(3, 4) == 3


def test_an_error_of_ours_keeps_its_class_and_message():
    with pytest.raises(ValueError, match="rms_norm: eps must be") as theirs:
        mixing.normalized(X, eps=-1.0)
    with pytest.raises(ValueError, match="rms_norm: eps must be") as ours:
        llm.ops.rms_norm(X, np.ones(8, np.float32), eps=-1.0)
    assert str(theirs.value) == str(ours.value)
    with pytest.raises(ValueError, match="no_such_function"):
        mixing.call_registered("no_such_function", 1)


def test_a_function_of_theirs_that_our_python_calls():
    vetoes = mixing.Vetoes()
    mixing.register_vetoes("mixing.vetoes", vetoes)
    vetoes.add(2)
    function = tvm_ffi.get_global_func("mixing.vetoes")
    logits = np.zeros(4, np.float32)
    function(logits)  # state of a nanobind class, called through tvm-ffi
    assert logits.tolist() == [0, 0, np.float32(-1e30), 0]
    assert llm.call_with(function, tvm_ffi.from_dlpack(logits)) is None  # and from our C++
    vetoes.add(9)
    with pytest.raises(IndexError, match="vetoes: no token 9 among 4"):
        function(logits)
    with pytest.raises(TypeError, match="vetoes: logits must be one row of float32"):
        function(logits.astype(np.float64))


def test_a_callable_that_nanobind_holds():
    mixing.register_callable("mixing.double", lambda value: 2 * value)
    double = tvm_ffi.get_global_func("mixing.double")
    assert double(21) == 42
    assert llm.call_with(double, 21) == 42  # Python, our C++, nanobind, Python
    assert mixing.call_registered("mixing.double", 21) == 42  # nanobind, tvm-ffi, nanobind
    results = []
    threads = [
        threading.Thread(target=lambda: results.extend(double(i) for i in range(200)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(results) == 8 * sum(2 * i for i in range(200))


@pytest.mark.parametrize(
    ("raised", "arrives"),
    [
        (ValueError("no luck"), ValueError),
        (KeyError("no luck"), KeyError),
        (NotImplementedError("no luck"), NotImplementedError),
        (OutOfCheese("no luck"), RuntimeError),
    ],
)
def test_an_exception_crosses_both_borders(raised, arrives):
    """Raised in Python, out through nanobind, through our C++, into Python again."""

    def fail(value):
        raise raised

    name = f"mixing.fail_{type(raised).__name__}"
    mixing.register_callable(name, fail)
    function = tvm_ffi.get_global_func(name)
    for call in (
        lambda: function(1),
        lambda: llm.call_with(function, 1),
        lambda: mixing.call_registered(name, 1),
    ):
        with pytest.raises(arrives, match="no luck"):
            call()


def test_what_is_no_number_is_a_type_error():
    mixing.register_callable("mixing.text", lambda value: "text")
    with pytest.raises(TypeError, match="returned another type"):
        tvm_ffi.get_global_func("mixing.text")(1)
