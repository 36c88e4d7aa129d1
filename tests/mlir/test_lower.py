"""MLIR -> Plan -> run: bit for bit what ops give; what cannot be lowered is refused by place."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("torch_mlir", reason="torch-mlir is not installed")

from lowering import expected, module_of, modules_of
from reference.custom_ops import forget

import my_llm_ffi as llm
from my_llm_ffi import declaration, mlir

NAMES = declaration.op_names()


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_same(got, wanted):
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype, name
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def run(module, arrays, op):
    given = {t.name: np.array(a) for t, a in zip(op.inputs, arrays) if a is not None}
    return mlir.lower(module).run(given)


@pytest.mark.parametrize("pipeline", ["", "optimize", "optimize{plan=false}", "canonicalize,cse"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", NAMES)
def test_every_op_bit_for_bit(name, dynamic, pipeline):
    op = declaration.load(name)
    for module, arrays, options in modules_of(op, dynamic=dynamic):
        if pipeline:
            mlir.run_pipeline(module, pipeline)
        assert_same(run(mlir.parse(str(module)), arrays, op), expected(op, arrays, options))


@pytest.mark.parametrize("name", NAMES)
def test_every_op_through_the_file_and_back(name, tmp_path):
    op = declaration.load(name)
    module, arrays, options = module_of(op, dynamic=True)
    mlir.save(mlir.run_pipeline(module, "optimize"), tmp_path / "plan")
    given = {t.name: np.array(a) for t, a in zip(op.inputs, arrays) if a is not None}
    assert_same(llm.Plan.load(tmp_path / "plan").run(given), expected(op, arrays, options))
    back = mlir.load_plan(tmp_path / "plan")
    assert_same(run(mlir.parse(str(back)), arrays, op), expected(op, arrays, options))


# ---- a layer ------------------------------------------------------------------------------------

HIDDEN, FF, HEADS, KV_HEADS, SIZE = 64, 96, 4, 2, 16


def layer():
    """A transformer's layer over the elementary ops, and its weights and caches."""
    rng = np.random.default_rng(1)
    shapes = {
        "wq": (HEADS * SIZE, HIDDEN),
        "wk": (KV_HEADS * SIZE, HIDDEN),
        "wv": (KV_HEADS * SIZE, HIDDEN),
        "wo": (HIDDEN, HEADS * SIZE),
        "gate": (FF, HIDDEN),
        "up": (FF, HIDDEN),
        "down": (HIDDEN, FF),
    }
    weights = {n: llm.ops.quantize_q8_0(rng.normal(size=s).astype("f4")) for n, s in shapes.items()}
    norms = {n: rng.normal(size=HIDDEN).astype("f4") for n in ("norm1", "norm2")}
    caches = {
        "k_pages": np.zeros((3, KV_HEADS, SIZE, 32), np.float32),
        "v_pages": np.zeros((3, KV_HEADS, 32, SIZE), np.float32),
    }
    b = mlir.Builder()
    x = b.input("x", "float32", ("n", HIDDEN), written=True)
    positions = b.input("positions", "int32", ("n",))
    slots = b.input("slots", "int64", ("n",))
    page_positions = b.input("page_positions", "int32", (3, 32))
    table, rows = b.input("table", "int32", (1, 3)), b.input("rows", "int32", ("n",))
    w = {n: b.parameter(n, "", s, format="Q8_0") for n, s in shapes.items()}
    g = {n: b.parameter(n, "float32", (HIDDEN,)) for n in norms}
    k_pages = b.cache("k_pages", "float32", caches["k_pages"].shape)
    v_pages = b.cache("v_pages", "float32", caches["v_pages"].shape)
    h = b.rms_norm(x, g["norm1"])
    q, k, v = (
        b.view(b.linear(h, w[n]), ("n", heads, SIZE))
        for n, heads in (("wq", HEADS), ("wk", KV_HEADS), ("wv", KV_HEADS))
    )
    q, k = b.rope(q, k, positions)
    k_pages, v_pages = b.kv_append(k_pages, v_pages, k, v, slots)
    y = b.paged_attention(q, k_pages, v_pages, page_positions, table, rows, positions)
    out = b.linear(b.view(y, ("n", HEADS * SIZE)), b.dequantize(w["wo"]))
    total = b.add(out, x)
    h = b.rms_norm(total, g["norm2"])
    ff = b.mul(b.silu(b.linear(h, w["gate"])), b.linear(h, w["up"]))
    b.output("out", b.linear(ff, w["down"]))
    b.output("residual", total)
    return b.build(), {**weights, **norms}, caches


def layer_by_hand(x, positions, slots, page_positions, table, rows, w, k_pages, v_pages):
    ops, n = llm.ops, len(x)
    h = ops.rms_norm(x, w["norm1"])
    q, k, v = (ops.linear(h, w[m], format="Q8_0").reshape(n, -1, SIZE) for m in ("wq", "wk", "wv"))
    ops.rope(q, k, positions)
    ops.kv_append(k_pages, v_pages, k, v, slots)
    y = ops.paged_attention(q, k_pages, v_pages, page_positions, table, rows, positions)
    out = ops.linear(y.reshape(n, -1), w["wo"], format="Q8_0")
    h = ops.add_rms_norm(out, x, w["norm2"])
    gate, up = (ops.linear(h, w[m], format="Q8_0") for m in ("gate", "up"))
    return ops.linear(ops.silu_mul(gate, up), w["down"], format="Q8_0"), x


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("pipeline", ["optimize", "optimize{plan=false}", "fuse,plan-buffers"])
def test_a_layer(pipeline, n, tmp_path):
    module, weights, caches = layer()
    mlir.run_pipeline(module, pipeline)
    module = mlir.parse(str(module))
    positions = np.arange(n, dtype=np.int32)
    page_positions = np.full((3, 32), -1, np.int32)
    page_positions[1, :n] = positions
    given = {
        "x": floats(n, HIDDEN),
        "positions": positions,
        "slots": np.arange(32, 32 + n, dtype=np.int64),
        "page_positions": page_positions,
        "table": np.array([[1, -1, -1]], np.int32),
        "rows": np.zeros(n, np.int32),
    }
    by_hand = {name: np.array(array) for name, array in {**given, **caches}.items()}
    wanted = layer_by_hand(**by_hand, w=weights)
    plan = mlir.lower(module)
    held = {name: np.array(array) for name, array in caches.items()}
    plan.bind({**weights, **held})
    got = plan.run(given)
    assert_same(got, dict(zip(("out", "residual"), wanted)))
    assert_same(held, {name: by_hand[name] for name in caches})


# ---- refusals -----------------------------------------------------------------------------------


def refused(text, message, line):
    with pytest.raises(mlir.MlirError, match=re.escape(message)) as raised:
        mlir.lower(mlir.parse(text))
    assert raised.value.line == line


def function(*lines, arguments="%x: tensor<?x8xf32>, %y: tensor<?x8xf32>"):
    return "\n".join([f"func.func @main({arguments}) {{", *lines, "  return", "}"])


BINARY = "(tensor<?x8xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>"


@pytest.mark.parametrize("name", ["add", "mul"])
def test_elementary_ops_are_refused_with_their_place(name):
    text = function(f'  %0 = "llm.{name}"(%x, %y) : {BINARY}')
    refused(text, f"llm.{name} has no kernel; run the pass fuse", 2)


def test_operations_of_other_dialects_are_refused():
    refused(function("  %0 = arith.addf %x, %y : tensor<?x8xf32>"), "arith.addf has no counter", 2)


def test_arguments_are_written_only_where_they_are_marked():
    line = (
        '  %0:2 = "llm.add_rms_norm"(%x, %y, %w) : (tensor<2x8xf32>, tensor<2x8xf32>, '
        "tensor<8xf32>) -> (tensor<2x8xf32>, tensor<2x8xf32>)"
    )
    arguments = "%x: tensor<2x8xf32>, %y: tensor<2x8xf32>, %w: tensor<8xf32>"
    text = function(line, arguments=arguments)
    refused(text, "add_rms_norm writes residual, an argument of the function that is not", 2)
    mlir.lower(mlir.parse(text.replace("%y: tensor<2x8xf32>", "%y: tensor<2x8xf32> {llm.written}")))


def test_a_value_that_was_written_over():
    builder = mlir.Builder()
    x, weight = builder.input("x", "float32", (2, 8)), builder.input("w", "float32", (8,))
    residual = builder.silu_mul(x, x)
    builder.add_rms_norm(x, residual, weight)
    builder.output("y", builder.softmax(residual))
    with pytest.raises(mlir.MlirError, match=r"a value that llm\.add_rms_norm has written"):
        mlir.lower(builder.build())


def test_constants_are_not_written():
    builder = mlir.Builder()
    x, weight = builder.input("x", "float32", (2, 8)), builder.input("w", "float32", (8,))
    builder.add_rms_norm(x, builder.constant(floats(2, 8)), weight)
    with pytest.raises(mlir.MlirError, match="writes residual, a constant"):
        mlir.lower(builder.build())


def test_a_tensor_that_is_written_and_read_by_one_op():
    builder = mlir.Builder()
    weight = builder.input("w", "float32", (8,))
    x = builder.input("x", "float32", (2, 8), written=True)
    builder.add_rms_norm(x, x, weight)
    with pytest.raises(mlir.MlirError, match="writes residual, which is another input too"):
        mlir.lower(builder.build())


def test_a_size_that_no_argument_has():
    text = function('  %0 = "llm.buffer"() : () -> tensor<?x8xf32>', arguments="")
    mlir.lower(mlir.parse(text.replace("?", "2")))
    text = function(
        '  %0 = "llm.view"(%x) : (tensor<?x8xf32>) -> tensor<?x?xf32>',
        '  %1 = "llm.softmax"(%0) : (tensor<?x?xf32>) -> tensor<?x?xf32>',
    )
    refused(text, "a size is ?, and no argument of the function has it", 2)


def test_a_size_without_a_name_gets_one_that_nobody_has():
    rows, weight = "tensor<?x8xf32>", "tensor<8xf32>"
    norm = f": ({rows}, {weight}) -> {rows}"
    text = (
        f'func.func @main(%a: {rows}, %b: {rows} {{llm.sizes = ["n0", 8]}}, %w: {weight})'
        f' -> ({rows}, {rows}) {{\n%0 = "llm.rms_norm"(%a, %w) {norm}\n'
        f'%1 = "llm.rms_norm"(%b, %w) {norm}\nreturn %0, %1 : {rows}, {rows} }}'
    )
    plan = mlir.lower(mlir.parse(text))
    one, two = np.ones((1, 8), np.float32), np.ones((2, 8), np.float32)
    made = plan.run({"arg0": one, "arg1": two, "arg2": one[0]})
    assert [a.shape for a in made.values()] == [(1, 8), (2, 8)]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("f32", "f32, expected a ranked tensor"),
        ("!llm.kv_cache<f32>", "f32, expected a ranked tensor"),
        ("tensor<3xf32> {llm.sizes = 3}", "llm.sizes is 3 : i64, expected numbers and names"),
        ('tensor<?xf32> {llm.sizes = ["n + 1"]}', 'size "n + 1" is no expression of sizes'),
        ("tensor<3xf32> {llm.name = 3}", "llm.name is 3 : i64, expected text"),
        ("tensor<3xf32> {llm.name}", "llm.name is unit, expected text"),
    ],
)
def test_arguments_that_no_plan_has(argument, message):
    module = mlir.parse(f"\n func.func @main(%a: {argument}) {{ return }}", source="x.mlir")
    with pytest.raises(mlir.MlirError, match=re.escape(message)) as raised:
        mlir.lower(module)
    assert (raised.value.line, raised.value.column) == (2, 2)


def test_sizes_that_contradict_each_other():
    text = (
        "func.func @main(%a: tensor<3x?xf32>, %v: tensor<8xf32>, %w: tensor<4xf32>) {\n%0 = "
        '"llm.rms_norm"(%a, %v) : (tensor<3x?xf32>, tensor<8xf32>) -> tensor<3x?xf32>\n'
        '%1 = "llm.rms_norm"(%a, %w) : (tensor<3x?xf32>, tensor<4xf32>) -> tensor<3x?xf32>\n'
        "return }"
    )
    with pytest.raises(mlir.MlirError, match=r":3:\d+: rms_norm: weight has shape \[4\]"):
        mlir.lower(mlir.parse(text))


def test_plans_that_no_module_says(tmp_path):
    def refused(message, *, values=np.ones(8, np.float32), width=8, offset=0):
        builder = llm.PlanBuilder()
        x = builder.view(builder.input("x", "float32", ("n", 8)), ("n - 1", 8), offset=offset)
        weight = builder.view(builder.constant(values, name="w"), (width,))
        y = builder.buffer("float32", ("n - 1", 8))
        builder.call("rms_norm", x, weight, y, 1e-6)
        builder.output("y", y)
        builder.build().save(tmp_path / "x.plan")
        with pytest.raises(mlir.MlirError, match=re.escape(message)):
            mlir.load_plan(tmp_path / "x.plan")

    refused("a view begins at 'n * 8 - n * 8', expected a number", offset="n * 8 - n * 8")
    refused("step 0: rms_norm: weight has shape [4], expected [hidden=8 (from x)]", width=4)
    refused("constant w is uint8, expected one of float32", values=np.ones(8, np.uint8))


def test_functions_by_name():
    one = 'func.func @NAME(%x: tensor<8xf32>) -> tensor<8xf32> {\n  %0 = "llm.softmax"(%x) : '
    one += "(tensor<8xf32>) -> tensor<8xf32>\n  return %0 : tensor<8xf32>\n}\n"
    module = mlir.parse(one.replace("NAME", "a") + one.replace("NAME", "b"))
    for name in ("a", "b"):
        assert list(mlir.lower(module, function=name).inputs) == ["arg0"]
    for name in (None, "c"):
        with pytest.raises(mlir.MlirError, match="expected one of: a, b"):
            mlir.lower(module, function=name)


def test_branches_are_refused():
    text = "func.func @main(%x: tensor<8xf32>) {\n  cf.br ^next\n^next:\n  return\n}"
    refused(text, "a function must have one block, without branches", 1)


# ---- composites and constants -------------------------------------------------------------------


def test_a_composite_takes_the_registered_op_of_its_name():
    seen = []
    op = mlir.dialect.declared("rope_kv_append")
    llm.declare_op(op.name, op.signature, doc=op.doc)
    try:
        llm.register_kernel(op.name, "cpu")(lambda *given: seen.append(len(given)))
        module, weights, caches = layer()
        plan = mlir.lower(mlir.run_pipeline(module, "optimize"))
        plan.bind({**weights, **caches})
        plan.run(
            {
                "x": floats(1, HIDDEN),
                "positions": np.zeros(1, np.int32),
                "slots": np.zeros(1, np.int64),
                "page_positions": np.full((3, 32), -1, np.int32),
                "table": np.array([[1, -1, -1]], np.int32),
                "rows": np.zeros(1, np.int32),
            }
        )
        assert seen == [len(op.inputs) + len(op.attributes)]
    finally:
        forget(op.name)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "int64"])
@pytest.mark.parametrize("same", [False, True], ids=["many", "splat"])
def test_constants(dtype, same):
    values = np.arange(6).reshape(2, 3).astype(dtype)
    values = np.full_like(values, 3) if same else values
    builder = mlir.Builder()
    table = builder.input("table", "float32", (6, 4))
    constant = builder.constant(values, name="c")
    if dtype in ("int32", "int64"):
        builder.output("y", builder.embedding_lookup(table, constant))
        wanted = llm.ops.embedding_lookup(floats(6, 4), values)
    else:
        builder.output("y", builder.softmax(constant))
        wanted = llm.ops.softmax(values)
    module = mlir.parse(str(builder.build()))
    np.testing.assert_array_equal(mlir.lower(module).run({"table": floats(6, 4)})["y"], wanted)
