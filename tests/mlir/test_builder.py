"""The builder: methods like the ops, their documentation, names, places, refusals."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

pytest.importorskip("torch_mlir", reason="torch-mlir is not installed")

from my_llm_ffi import declaration, mlir, render


@pytest.mark.parametrize("name", declaration.op_names())
def test_methods_have_the_ops_documentation(name):
    method = getattr(mlir.Builder(), name)
    assert method.func.__doc__ == render.docstring(declaration.load(name))
    assert name in dir(mlir.Builder())


def test_names_and_sizes_of_arguments_and_results():
    builder = mlir.Builder("norm")
    x = builder.input("x", "float16", ("tokens", 8), written=True)
    weight = builder.parameter("w", "float16", (8,))
    builder.output("y", builder.rms_norm(x, weight=weight, eps=0.5))
    text = str(builder.build())
    assert 'llm.name = "x", llm.sizes = ["tokens", 8], llm.written' in text
    assert 'llm.name = "w", llm.parameter' in text and '{llm.name = "y"}' in text
    assert "@norm" in text and "eps = 5.000000e-01" in text


def test_defaults_are_left_out():
    builder = mlir.Builder()
    x = builder.input("x", "float32", (2, 8))
    builder.output("y", builder.softmax(x, scale=1.0, soft_cap=None))
    assert '"llm.softmax"(%arg0) :' in str(builder.build())


def test_errors_of_lower_point_at_the_line_that_made_the_operation():
    builder = mlir.Builder()
    x = builder.input("x", "float32", (2, 8))
    builder.output("y", builder.silu(x))
    line = inspect.currentframe().f_lineno - 1
    with pytest.raises(mlir.MlirError, match=r"llm\.silu has no kernel") as raised:
        mlir.lower(builder.build())
    assert (raised.value.source, raised.value.line) == (__file__, line)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda b, x: b.rms_norm(x), TypeError, "rms_norm: weight is missing"),
        (lambda b, x: b.rms_norm(x, x, x), TypeError, "rms_norm: got 3 values, expected at most 2"),
        (lambda b, x: b.rms_norm(x, x=x), TypeError, "rms_norm: x is given twice"),
        (lambda b, x: b.rms_norm(x, None), TypeError, "rms_norm: weight is None, expected a value"),
        (lambda b, x: b.softmax(x, eps=1.0), TypeError, "softmax: has no option eps"),
        (lambda b, x: b.softmax(x, scale="a"), TypeError, "softmax: scale is str, expected a num"),
        (lambda b, x: b.softmax(x, scale=True), TypeError, "softmax: scale is bool, expected a nu"),
        (lambda b, x: b.top_k(x), TypeError, "top_k: k is missing"),
        (lambda b, x: b.top_k(x, k=9), ValueError, "top_k: k is 9, expected 0 to the 8 elements"),
        (lambda b, x: b.no_such_op(x), AttributeError, "Builder has no op 'no_such_op'"),
        (lambda b, x: b.input("x", "float32", (1,)), ValueError, "there are two arguments 'x'"),
        (lambda b, x: b.input("y", "float33", (1,)), TypeError, "dtype is 'float33', expected one"),
        (lambda b, x: b.view(x, (3, 8)), ValueError, "view: out has 24 elements from 0 on"),
        (lambda b, x: b.view(x, (8,), offset=9), ValueError, "8 elements from 9 on, expected at"),
        (lambda b, x: b.constant(np.zeros(2, complex)), TypeError, "dtype is 'complex128', expe"),
        (lambda b, x: b.constant(np.zeros(2, "u1")), TypeError, "constant: dtype is 'uint8', exp"),
        (lambda b, x: b.constant([1.0]), TypeError, "constant: dtype is 'list', expected one of"),
        (lambda b, x: b.softmax("x"), TypeError, "softmax: x is str, expected a value"),
        (lambda b, x: b.view(None, (16,)), TypeError, "view: x is NoneType, expected a value"),
        (lambda b, x: b.output("y", None), TypeError, "output: value is NoneType, expected a val"),
        (lambda b, x: b.output(1, x), TypeError, "output: name is int, expected str"),
        (lambda b, x: b.input(None, "float32", (1,)), TypeError, "name is NoneType, expected str"),
        (lambda b, x: b.input("y", "float32", 3), TypeError, "shape is int, expected sizes"),
        (
            lambda b, x: b.input("y", "float32", (-1,)),
            ValueError,
            "a size of shape is -1, expected",
        ),
        (lambda b, x: b.input("y", "float32", (2**63,)), ValueError, "expected 0 or greater in 64"),
        (lambda b, x: b.input("y", "float32", (1.5,)), TypeError, "a size of shape is float, exp"),
        (lambda b, x: b.parameter("y", "", (3,), format="Q8_0"), ValueError, "shape has 1 sizes"),
    ],
)
def test_refusals(call, error, message):
    builder = mlir.Builder()
    x = builder.input("x", "float32", (2, 8))
    with pytest.raises(error) as raised:
        call(builder, x)
    assert message in str(raised.value)


def test_values_of_another_builder_are_refused():
    """Once that one is gone, MLIR ends the process over them."""
    other, builder = mlir.Builder(), mlir.Builder()
    x = other.input("x", "float32", (2, 8))
    calls = [
        lambda value: builder.softmax(value),
        lambda value: builder.view(value, (16,)),
        lambda value: builder.output("y", value),
    ]
    for value in (x, other.softmax(x)):
        for call in calls:
            with pytest.raises(ValueError, match="is a value of another builder"):
                call(value)


def test_a_builder_builds_once():
    builder = mlir.Builder()
    x = builder.input("x", "float32", (2, 8))
    builder.build()
    calls = [
        builder.build,
        lambda: builder.softmax(x),
        lambda: builder.view(x, (16,)),
        lambda: builder.constant(np.zeros(2, np.float32)),
        lambda: builder.input("y", "float32", (2,)),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match="the module has been built"):
            call()


def test_outputs_have_different_names():
    builder = mlir.Builder()
    x = builder.input("x", "float32", (2, 8))
    builder.output("y", x)
    with pytest.raises(ValueError, match="there are two outputs 'y'"):
        builder.output("y", x)
