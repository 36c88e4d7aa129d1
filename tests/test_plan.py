"""Plans: what they compute, what they refuse. Their files: test_plan_file.py."""

from __future__ import annotations

import re
import threading
import traceback

import numpy as np
import pytest
import tvm_ffi
from reference.custom_ops import forget
from reference.small_plan import ONES, expected, rows, small_builder

import my_llm_ffi as llm


@pytest.fixture
def small() -> llm.Plan:
    plan = small_builder().build()
    plan.bind({"p": 3 * ONES})
    return plan


# ---- runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("from_file", [False, True])
def test_runs_at_many_sizes(small, tmp_path, from_file):
    if from_file:
        small.save(tmp_path / "small.plan")
        small = llm.Plan.load(tmp_path / "small.plan")
        small.bind({"p": 3 * ONES})
    for n in (1, 5, 5, 0, 33, 2):
        x = rows(n, seed=n)
        got = small.run({"x": x})["out"]
        assert isinstance(got, np.ndarray)
        np.testing.assert_array_equal(got, expected(x))


def test_writes_where_it_is_told(small):
    x, out = rows(4), np.empty((8, 8), np.float32)
    assert small.run({"x": x}, out={"out": out})["out"] is out
    np.testing.assert_array_equal(out, expected(x))


def test_says_what_goes_in_and_out(small):
    (x,), (p,), (out,) = (
        list(values.values()) for values in (small.inputs, small.parameters, small.outputs)
    )
    assert (x.name, str(x.dtype), list(x.shape), x.written) == ("x", "float32", ["n", "16"], False)
    assert (p.name, list(p.shape)) == ("p", ["16"])
    assert (out.name, list(out.shape), out.written) == ("out", ["n * 2", "8"], True)


def test_parameters_are_bound_again(small):
    x = rows(3)
    small.run({"x": x})
    small.bind({"p": 5 * ONES})
    y = llm.ops.rms_norm(x, 2 * ONES)
    want = llm.ops.silu_mul(y, llm.ops.rms_norm(y, 5 * ONES)).reshape(-1, 8)
    np.testing.assert_array_equal(small.run({"x": x})["out"], want)


def test_constants_are_copied():
    b, w = llm.PlanBuilder(), ONES.copy()
    x, y = b.input("x", "float32", ("n", 16)), b.buffer("float32", ("n", 16))
    b.call("rms_norm", x, b.constant(w, name="w"), y, 1e-6)
    b.output("y", y)
    plan = b.build()
    w[:] = 7
    np.testing.assert_array_equal(plan.run({"x": rows(2)})["y"], llm.ops.rms_norm(rows(2), ONES))


def test_an_input_that_is_written_comes_back():
    b = llm.PlanBuilder()
    x, r = b.input("x", "float32", ("n", 16)), b.input("residual", "float32", ("n", 16))
    y = b.buffer("float32", ("n", 16))
    b.call("add_rms_norm", x, r, b.constant(ONES, name="w"), y, 1e-6)
    b.output("y", y)
    b.output("residual", r)
    plan = b.build()
    assert [v.written for v in plan.inputs.values()] == [False, True]
    residual = rows(3, seed=1)
    mine = residual.copy()
    got = plan.run({"x": rows(3), "residual": residual})
    assert got["residual"] is residual
    want = llm.ops.add_rms_norm(rows(3), mine, ONES)
    np.testing.assert_array_equal(residual, mine)
    np.testing.assert_array_equal(got["y"], want)


def test_slices_and_reshapes_are_views():
    b = llm.PlanBuilder()
    x = b.input("x", "float32", ("n", 16))
    w = b.constant(ONES, name="w")
    y = b.buffer("float32", ("n", 16))
    half = ("n // 2", 16)
    b.call("rms_norm", b.view(x, half, offset="(n - n // 2) * 16"), w, b.view(y, half), 1e-6)
    rest = ("n - n // 2", 16)
    b.call("rms_norm", b.view(x, rest), w, b.view(y, rest, offset="n // 2 * 16"), 1e-6)
    b.output("y", y)
    got = b.build().run({"x": rows(5)})["y"]
    np.testing.assert_array_equal(got, llm.ops.rms_norm(np.roll(rows(5), 2, axis=0), ONES))


def test_buffers_that_do_not_live_together_share_memory():
    b = llm.PlanBuilder()
    w = b.constant(ONES, name="w")
    value = b.input("x", "float32", ("n", 16))
    for _ in range(10):
        following = b.buffer("float32", ("n", 16))
        b.call("rms_norm", value, w, following, 1e-6)
        value = following
    b.output("y", value)
    plan = b.build()
    want = rows(4)
    got = plan.run({"x": want})["y"]
    for _ in range(10):
        want = llm.ops.rms_norm(want, ONES)
    np.testing.assert_array_equal(got, want)
    assert plan._handle.storage_bytes() == 2 * 4 * 16 * 4  # two at once, of ten


def test_other_languages_need_no_arrays(small):
    (got,) = small._handle.compute([tvm_ffi.from_dlpack(rows(3))])
    np.testing.assert_array_equal(np.from_dlpack(got), expected(rows(3)))


def test_torch(small):
    torch = pytest.importorskip("torch")
    got = small.run({"x": torch.from_numpy(rows(3))})["out"]
    assert isinstance(got, torch.Tensor)
    np.testing.assert_array_equal(got.numpy(), expected(rows(3)))


def test_an_op_whose_kernel_is_python():
    signature = "(x: T['n', 'f32'], *, add: float = 1.0) -> T['n']"
    llm.declare_op("test_plan_add", signature, doc="Adds.")
    try:

        @llm.register_kernel("test_plan_add", "cpu", arrays=np.from_dlpack)
        def add(x, out, add):
            if add < 0:
                raise KeyError("negative")
            out[:] = x + add

        b = llm.PlanBuilder()
        x, y = b.input("x", "float32", ("n",)), b.buffer("float32", ("n",))
        b.call("test_plan_add", x, y, 2)
        b.call("test_plan_add", y, y2 := b.buffer("float32", ("n",)), 0.5)
        b.output("y", y2)
        assert b.build().run({"x": ONES})["y"].tolist() == (ONES + 2.5).tolist()
        b.call("test_plan_add", x, y, -1.0)
        with pytest.raises(KeyError, match="negative") as caught:
            b.build().run({"x": ONES})
        shown = "".join(traceback.format_exception(None, caught.value, caught.value.__traceback__))
        assert 'File "<plan>", line 2, in my_llm_ffi.test_plan_add' in shown
    finally:
        forget("test_plan_add")


# ---- what is refused while building -------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            ("nope",),
            r'step 0 \(my_llm_ffi.nope\): calls "my_llm_ffi.nope", which is not registered',
        ),
        (
            ("rms_norm", "x", "w", "y"),
            r"step 0 \(my_llm_ffi.rms_norm\): has 3 arguments, exp",
        ),
        (("rms_norm", "x", "w", "y", None), r"argument 3 is None, expected float"),
        (("rms_norm", "x", "w", "y", True), r"argument 3 is a bool, expected float"),
        (("rms_norm", "x", "w", 1, 1e-6), r"argument 2 \(out\) is an integer, expected DLTensor\*"),
        (("rms_norm", "x", "w", None, 1e-6), r"argument 2 \(out\) is None"),
        (
            ("rms_norm", "x", "w", "w", 1e-6),
            r'writes out to constant "w", whose values are con',
        ),
        (("rms_norm", "y", "w", "x", 1e-6), r"reads x from buffer 2, which no step before writes"),
        (("softmax", "x", "y", 1.0, "wide"), r"argument 3 is text, expected float or None"),
    ],
)
def test_calls_are_checked_when_they_are_added(call, message):
    b = llm.PlanBuilder()
    values = {"x": b.input("x", "float32", ("n", 16)), "w": b.constant(ONES, name="w")}
    values["y"] = b.buffer("float32", ("n", 16))
    name, *arguments = call
    with pytest.raises(ValueError, match=message):
        b.call(name, *(values.get(a, a) if isinstance(a, str) else a for a in arguments))
    b.call("rms_norm", values["x"], values["w"], values["y"], 1e-6)  # goes on as it was
    b.output("y", values["y"])
    assert b.build().run({"x": rows(2)})["y"].shape == (2, 16)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("m", 'no input or parameter before says what "m" is'),
        ("n +", "expected a number, a name or a parenthesis"),
        ("(n", "a parenthesis is not closed"),
        ("n ** 2", "expected a number"),
        ("n / 2", 'there is "/ 2" after its end'),
        ("", "expected a number"),
        ("9" * 30, "does not fit 64 bits"),
        ("(" * 100 + "n" + ")" * 100, "nested too deeply"),
        ("n" + "+n" * 400, "longer than 256 characters"),
    ],
)
def test_sizes_are_checked_when_they_are_given(size, message):
    b = llm.PlanBuilder()
    b.input("x", "float32", ("n",))
    with pytest.raises(ValueError, match=re.escape(message)):
        b.buffer("float32", (size,))


@pytest.mark.parametrize(
    ("size", "n", "message"),
    [
        ("n // (n - 3)", 3, 'plan: buffer 1: size "n // (n - 3)" divides by 0'),
        ("n - 4", 3, "would have size n - 4=-1"),
        (f"n * {2**62}", 3, f'plan: buffer 1: size "n * {2**62}" does not fit 64 bits'),
        (f"n * {2**60}", 1, "more than any memory"),
    ],
)
def test_sizes_are_checked_when_they_are_known(size, n, message):
    b = llm.PlanBuilder()
    x, y = b.input("x", "float32", ("n", 16)), b.buffer("float32", (size, 16))
    b.call("rms_norm", x, b.constant(ONES, name="w"), y, 1e-6)
    b.output("y", y)
    plan = b.build()
    for _ in range(2):
        with pytest.raises(ValueError, match=re.escape(message)):
            plan.run({"x": rows(n)})


def test_names_and_dtypes_are_checked():
    b = llm.PlanBuilder()
    x = b.input("x", "float32", ("n",))
    for wrong in (
        lambda: b.parameter("x", "float32", ("n",)),
        lambda: b.input("", "float32", ("n",)),
        lambda: b.input("z", "float33", ("n",)),
        lambda: b.input("z", "complex64", ("n",)),
        lambda: b.buffer("float32", (1,) * 17),
        lambda: b.output("x", b.constant(ONES, name="w")),
        lambda: b.output("v", b.view(x, (1,))),
    ):
        with pytest.raises(ValueError):
            wrong()
    for wrong in (
        lambda: b.buffer("float32", "n"),
        lambda: b.buffer("float32", 3),
        lambda: b.buffer("float32", (2.5,)),
        lambda: b.view(3, (1,)),
        lambda: b.call("rms_norm", object()),
    ):
        with pytest.raises(TypeError):
            wrong()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda b, x: b.input(None, "float32", (1,)), "name is NoneType, expected str"),
        (lambda b, x: b.parameter(3, "float32", (1,)), "name is int, expected str"),
        (lambda b, x: b.constant(ONES, name=b"w"), "name is bytes, expected str"),
        (lambda b, x: b.view(None, (1,)), "value is NoneType, expected a PlanValue"),
        (lambda b, x: b.call(3, x), "function is int, expected str"),
        (lambda b, x: b.output("y", None), "value is NoneType, expected a PlanValue"),
        (lambda b, x: b.output(None, x), "name is NoneType, expected str"),
        (lambda b, x: b.build().bind(None), "Plan.bind: parameters is NoneType, expected arrays"),
        (lambda b, x: b.build().bind({3: ONES}), "Plan.bind: a name is int, expected str"),
        (lambda b, x: b.build().run(None), "Plan.run: inputs is NoneType, expected arrays by n"),
        (lambda b, x: b.build().run([ONES]), "Plan.run: inputs is list, expected arrays by name"),
        (lambda b, x: b.build().run({"x": ONES}, out=[ONES]), "Plan.run: out is list, expected a"),
        (lambda b, x: llm.Plan.load("x", allow=3), "allow is int, expected a sequence of names"),
        (lambda b, x: llm.Plan.load("x", allow=[3]), "an item of allow is int, expected str"),
    ],
)
def test_arguments_of_the_wrong_type_are_named(wrong, message):
    b = llm.PlanBuilder()
    with pytest.raises(TypeError, match=f"^{re.escape(message)}"):
        wrong(b, b.input("x", "float32", ("n",)))


def test_values_of_another_builder_are_refused():
    """Their number would mean another tensor."""
    b, other = llm.PlanBuilder(), llm.PlanBuilder()
    x, foreign = b.input("x", "float32", ("n", 16)), other.input("y", "float32", ("n", 16))
    y = b.buffer("float32", ("n", 16))
    for wrong, what in (
        (lambda: b.call("silu_mul", x, foreign, y), "argument 1"),
        (lambda: b.view(foreign, (16,)), "value"),
        (lambda: b.output("y", foreign), "value"),
    ):
        with pytest.raises(ValueError, match=f"plan: {what} is a value of another builder"):
            wrong()
    (again,) = b.build().inputs.values()  # what a plan shows is its builder's
    b.call("silu_mul", again, x, y)


def test_an_output_that_nobody_writes_is_refused():
    b = llm.PlanBuilder()
    b.input("x", "float32", ("n",))
    y = b.buffer("float32", ("n",))
    b.output("y", y)
    with pytest.raises(ValueError, match='output "y": no step writes buffer 1'):
        b.build()
    with pytest.raises(ValueError, match="which is an output already"):
        b.output("again", y)
    with pytest.raises(ValueError, match="another output has this name"):
        b.output("y", b.buffer("float32", ("n",)))


def test_an_output_must_be_the_whole_of_its_buffer():
    b = llm.PlanBuilder()
    x, y = b.input("x", "float32", ("n", 16)), b.buffer("float32", ("n", 16))
    b.call("rms_norm", x, b.constant(ONES, name="w"), y, 1e-6)
    b.output("y", b.view(y, ("n // 2", 32)))
    plan = b.build()
    assert plan.run({"x": rows(4)})["y"].shape == (2, 32)
    with pytest.raises(ValueError, match="has 64 of the 80 elements of buffer 1"):
        plan.run({"x": rows(5)})


def test_views_stay_inside():
    for offset in ("n * 16 - 15", "0 - 1"):
        b = llm.PlanBuilder()
        x, y = b.input("x", "float32", ("n", 16)), b.buffer("float32", (1, 16))
        view = b.view(x, (1, 16), offset=offset)
        b.call("rms_norm", view, b.constant(ONES, name="w"), y, 1e-6)
        b.output("y", y)
        with pytest.raises(ValueError, match="view 2 would take 16 elements from"):
            b.build().run({"x": rows(3)})


# ---- what is refused in a run -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({}, ValueError, r"inputs has no 'x', expected \['x'\]"),
        ({"x": rows(2), "y": rows(2)}, ValueError, "inputs has 'y'"),
        ({"x": rows(2).astype("f8")}, TypeError, 'input "x" is float64, expected float32'),
        ({"x": rows(2)[0]}, ValueError, 'input "x" has 1 dimensions, expected 2'),
        ({"x": rows(2, 8)}, ValueError, r'input "x" has shape \[2, 8\], expected \[n=2, 16\]'),
        ({"x": rows(2, 32)[:, ::2]}, ValueError, 'input "x" must be contiguous'),
        ({"x": 3}, TypeError, "x is int, expected an array"),
        ({"x": rows(2).astype("O")}, TypeError, "x is of dtype object, which cannot be shared"),
    ],
)
def test_inputs_are_checked(small, inputs, error, message):
    with pytest.raises(error, match=message):
        small.run(inputs)
    np.testing.assert_array_equal(small.run({"x": rows(2)})["out"], expected(rows(2)))


def test_outputs_are_checked(small):
    x = rows(2)
    with pytest.raises(
        ValueError, match=r'output "out" has shape \[2, 8\], expected \[n \* 2=4, 8\]'
    ):
        small.run({"x": x}, out={"out": np.empty((2, 8), np.float32)})
    with pytest.raises(ValueError, match="out has 'y'"):
        small.run({"x": x}, out={"y": x})
    with pytest.raises(TypeError, match='output "out" is float64'):
        small.run({"x": x}, out={"out": np.empty((4, 8))})
    with pytest.raises(ValueError, match='output "out" overlaps input "x"'):
        small.run({"x": x}, out={"out": x.reshape(4, 8)})


def test_parameters_are_checked(tmp_path):
    plan = small_builder().build()
    with pytest.raises(ValueError, match='parameter "p" has no tensor'):
        plan.run({"x": rows(2)})
    with pytest.raises(ValueError, match='there is no parameter "q"'):
        plan.bind({"q": ONES})
    with pytest.raises(TypeError, match='parameter "p" is float64'):
        plan.bind({"p": ONES.astype("f8")})
    plan.bind({"p": ONES[:8].copy()})
    with pytest.raises(ValueError, match=r'parameter "p" has shape \[8\], expected \[16\]'):
        plan.run({"x": rows(2)})
    plan.bind({"p": 3 * ONES})
    np.testing.assert_array_equal(plan.run({"x": rows(2)})["out"], expected(rows(2)))


def test_names_of_sizes_agree():
    b = llm.PlanBuilder()
    x, r = b.input("x", "float32", ("n", "d")), b.input("r", "float32", ("n", "d"))
    w, y = b.parameter("w", "float32", ("d",)), b.buffer("float32", ("n", "d"))
    b.call("add_rms_norm", x, r, w, y, 1e-6)
    b.output("y", y)
    plan = b.build()
    plan.bind({"w": ONES})
    plan.run({"x": rows(2), "r": rows(2)})
    with pytest.raises(ValueError, match=r'input "r" has shape \[3, 16\], expected \[n=2, d=16\]'):
        plan.run({"x": rows(2), "r": rows(3)})
    with pytest.raises(ValueError, match=r'parameter "w" has shape \[16\], expected \[d=8\]'):
        plan.run({"x": rows(2, 8), "r": rows(2, 8)})
    with pytest.raises(ValueError, match='input "r" overlaps input "x"'):
        plan.run({"x": (same := rows(2)), "r": same})
    assert plan.run({"x": rows(2), "r": rows(2)})["y"].shape == (2, 16)


def test_two_threads_at_once_are_refused():
    llm.declare_op("test_plan_wait", "(x: T['n', 'f32']) -> T['n']", doc="Waits.")
    inside, go_on = threading.Event(), threading.Event()
    try:

        @llm.register_kernel("test_plan_wait", "cpu", arrays=np.from_dlpack)
        def wait(x, out):
            inside.set()
            assert go_on.wait(60)
            out[:] = x

        b = llm.PlanBuilder()
        x, y = b.input("x", "float32", ("n",)), b.buffer("float32", ("n",))
        b.call("test_plan_wait", x, y)
        b.output("y", y)
        plan, got = b.build(), []
        out = np.empty_like(ONES)
        runner = threading.Thread(
            target=lambda: got.append(plan.run({"x": ONES}, out={"y": out})["y"])
        )
        runner.start()
        assert inside.wait(60)
        for second in (
            lambda: plan.run({"x": ONES}),
            lambda: plan.run({"x": ONES}, out={"y": ONES.copy()}),
            lambda: plan.bind({"p": ONES}),
        ):
            with pytest.raises(RuntimeError, match="this Plan is in use by another thread"):
                second()
        go_on.set()
        runner.join()
        np.testing.assert_array_equal(got[0], ONES)
    finally:
        go_on.set()
        forget("test_plan_wait")


def test_sizes_have_a_few_thousand_names_at_most():
    b = llm.PlanBuilder()
    for i in range(4096):
        b.input(f"x{i}", "float32", (f"n{i}",))
    with pytest.raises(ValueError, match=r'size "n4096" is no expression.*it would be name 4097'):
        b.input("x4096", "float32", ("n4096",))
