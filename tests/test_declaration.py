"""Declarations of ops: what is read back, what it agrees with, what is made from it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm_ffi
from reference import op_samples

import my_llm_ffi as llm
from my_llm_ffi import arrays, declaration, render
from my_llm_ffi.declaration import REQUIRED, parse

ROOT = Path(__file__).parents[1]
NAMES = declaration.op_names()


@pytest.fixture(params=NAMES)
def op(request):
    return declaration.load(request.param)


# ---- every op -----------------------------------------------------------------------------------


def test_every_recipe_has_an_op():
    assert set(op_samples.RECIPES) <= set(NAMES)


def test_every_sample_is_valid(op):
    for floats in ("float32", "float16"):
        for tensors, options in op_samples.samples(op, seed=1, floats=floats):
            getattr(llm.ops, op.name)(*tensors, **options)


def test_the_signature_agrees_with_the_cpp_type(op):
    assert declaration.actual_schema(op) == declaration.expected_schema(op)


def test_a_signature_that_disagrees_is_refused(op):
    extended = op.signature.replace(") ->", ", *, more: float = 1.0) ->", 1)
    if op.attributes:
        extended = op.signature.replace("*,", "*, more: float = 1.0,", 1)
    lie = parse(op.name, extended)
    assert declaration.expected_schema(lie) != declaration.actual_schema(op)


def test_every_argument_is_documented(op):
    head, texts = render.split_doc(op)
    arguments = {t.name for t in op.inputs} | {a.name for a in op.attributes}
    assert arguments <= set(texts), f"no text for {arguments - set(texts)}"
    assert head.splitlines()[0].endswith("."), "the first line is a sentence"
    assert all(text.endswith(".") for text in texts.values())


def test_the_function_has_the_declared_signature(op):
    function = getattr(llm.ops, op.name)
    parameters = inspect.signature(function).parameters
    positional = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    keyword = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert positional == [t.name for t in op.inputs]
    assert keyword == [a.name for a in op.attributes] + ["out"] * bool(op.outputs)
    for a in op.attributes:
        expected = inspect.Parameter.empty if a.default is REQUIRED else a.default
        assert parameters[a.name].default == expected
    assert function.__doc__.startswith(render.split_doc(op)[0].splitlines()[0])
    assert "Raises:" in function.__doc__


def test_inference_agrees_with_what_the_op_accepts(op):
    """The outputs that are allocated from the declaration pass the native checks, and are used."""
    tensors, options = op_samples.sample(op.name)
    shapes = [None if t is None else t.shape for t in tensors]
    dtypes = [None if t is None else t.dtype.name for t in tensors]
    made = op.infer(shapes, dtypes, options)
    result = getattr(llm.ops, op.name)(*tensors, **options)
    results = [] if result is None else list(result) if isinstance(result, tuple) else [result]
    assert [(r.shape, r.dtype.name) for r in results] == made


def test_outputs_of_tvm_ffi_tensors_are_tvm_ffi_tensors(op):
    tensors, options = op_samples.sample(op.name)
    ours = [None if t is None else tvm_ffi.from_dlpack(t) for t in tensors]
    result = getattr(llm.ops, op.name)(*ours, **options)
    expected = getattr(llm.ops, op.name)(*op_samples.sample(op.name)[0], **options)
    if len(op.outputs) == 1:
        result, expected = (result,), (expected,)
    for mine, theirs in zip(result or (), expected or ()):
        assert isinstance(mine, tvm_ffi.Tensor)
        np.testing.assert_array_equal(np.from_dlpack(mine), theirs)


def test_an_int_array_no_array_and_none_are_refused_by_name(op):
    tensors, options = op_samples.sample(op.name)
    function = getattr(llm.ops, op.name)
    first = op.inputs[0].name
    for bad in (None, "x", [1.0, 2.0], 3):
        with pytest.raises(TypeError, match=f"{op.name}: {first} is .*expected an array"):
            function(bad, *tensors[1:], **options)
    with pytest.raises(TypeError, match=f"{op.name}: {first} is complex64, expected"):
        function(tensors[0].astype(np.complex64), *tensors[1:], **options)


def test_a_view_with_strides_is_refused_by_name(op):
    tensors, options = op_samples.sample(op.name)
    for i, tensor in enumerate(op.inputs[: len(tensors)]):
        if tensors[i] is None or tensors[i].size < 2:
            continue
        wide = np.repeat(tensors[i], 2, axis=-1)[..., ::2]
        given = [*tensors[:i], wide, *tensors[i + 1 :]]
        with pytest.raises(ValueError, match=f"{tensor.name} must be contiguous"):
            getattr(llm.ops, op.name)(*given, **options)


def test_a_read_only_array_is_refused(op):
    tensors, options = op_samples.sample(op.name)
    tensors[0].flags.writeable = False
    with pytest.raises(BufferError):
        getattr(llm.ops, op.name)(*tensors, **options)


def test_too_many_dimensions_are_refused_by_name(op):
    tensors, options = op_samples.sample(op.name)
    for i, tensor in enumerate(op.inputs[: len(tensors)]):
        if tensors[i] is None or tensor.dims[0].startswith("*"):
            continue
        given = [*tensors[:i], tensors[i][None], *tensors[i + 1 :]]
        with pytest.raises(ValueError, match=rf"{op.name}: {tensor.name} has shape .*expected"):
            getattr(llm.ops, op.name)(*given, **options)


def test_an_attribute_of_the_wrong_type_is_refused_by_name(op):
    tensors, options = op_samples.sample(op.name)
    for a in op.attributes:
        with pytest.raises((TypeError, ValueError), match=f"{op.name}: {a.name} is "):
            getattr(llm.ops, op.name)(*tensors, **{**options, a.name: object()})


def test_an_output_of_negative_size_is_refused():
    op = parse("f", "(x: T['n', 'f32'], *, k: int) -> {'p': T['n k']}")
    with pytest.raises(ValueError, match=r"f: p would have shape \[3, -1\]"):
        op.infer([(3,)], ["float32"], {"k": -1})


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (True, TypeError, "is bool, expected an integer"),
        (np.bool_(True), TypeError, r"is numpy\.bool_?, expected an integer"),
        (2.0, TypeError, "is float, expected an integer"),
        (2**80, OverflowError, r"is 1.20893e\+24, which does not fit 64 bits"),
        (-(2**63) - 1, OverflowError, r"is -9.22337e\+18, which does not fit 64 bits"),
        (2**62, ValueError, ""),
    ],
)
def test_an_integer_option_that_is_none_is_refused_by_name(op, value, kind, message):
    """With outputs that are given and with outputs that are allocated."""
    for a in (a for a in op.attributes if a.kind == "int"):
        if value == 2**62 and a.name in ("window", "original_context"):
            continue  # may be any number
        for allocated in (True, False):
            tensors, options = op_samples.sample(op.name)
            made = getattr(llm.ops, op.name)(*tensors, **options)
            out = {} if allocated or made is None else {"out": made}
            with pytest.raises(kind, match=f"^{op.name}: {a.name} {message}"):
                getattr(llm.ops, op.name)(*tensors, **{**options, a.name: value, **out})


def test_an_output_that_cannot_be_allocated_is_named():
    table, ids = np.zeros((1, 1 << 20), np.float32), np.zeros(1, np.int32)
    ids = np.lib.stride_tricks.as_strided(ids, (1 << 20, 1 << 30), (0, 0))
    with pytest.raises((MemoryError, ValueError), match="embedding_lookup: out of shape"):
        llm.ops.embedding_lookup(table, ids)


def refused(name, tensors, options):
    """The words in which inference refuses a call, and those of the op itself."""
    op = declaration.load(name)
    given = [*tensors, *[None] * (len(op.inputs) - len(tensors))]
    shapes = [None if t is None else t.shape for t in given]
    dtypes = [None if t is None else t.dtype.name for t in given]
    with pytest.raises(ValueError) as inferred:
        op.infer(shapes, dtypes, options)
    made = [_room(op, o, given, options) for o in op.outputs]
    values = [options.get(a.name, a.default) for a in op.attributes]
    with pytest.raises(ValueError) as called:
        op.function(*given, *made, *values)
    return str(inferred.value), str(called.value)


def _room(op, out, tensors, options):
    """An output as the signature alone has it, so that the native call comes to its own checks."""
    sizes = {a.name: options.get(a.name, a.default) for a in op.attributes}
    if "format" in sizes:
        sizes["block"], sizes["block_bytes"] = declaration.block_of(sizes["format"])
    dtype_of, bound_by = {}, {}
    for tensor, array in zip(op.inputs, tensors):
        if array is not None:
            op._bind(tensor, array.shape, sizes, bound_by)
            dtype_of[tensor.name] = array.dtype.name
    shape = [max(0, size) for size in declaration.evaluate_dims(out.dims, sizes)]
    return np.empty(shape, declaration.output_dtype(out, dtype_of))


F32, U8, I32 = np.float32, np.uint8, np.int32
Q = {"format": "Q8_0"}
X, W = np.zeros((3, 32), F32), np.zeros((16, 34), U8)
HEADS = [np.zeros((2, n, 8), F32) for n in (4, 3, 3)]
QKV = [np.zeros((2, 4, 8), F32) for _ in range(3)]
BOUNDS = np.array([0, 2], I32)
PAGED = [
    *(np.zeros(shape, F32) for shape in ((2, 4, 8), (1, 3, 8, 32), (1, 3, 32, 8))),
    *(np.zeros(shape, I32) for shape in ((1, 32), (1, 1), 2, 2)),
]


@pytest.mark.parametrize(
    ("name", "tensors", "options", "words"),
    [
        ("top_k", [X], {"k": 33}, "k is 33, expected 0 to the 32 elements"),
        ("quantize_q8_0", [X[:, :31].copy()], {}, "x has rows of 31, expected a multiple of 32"),
        ("dequantize", [W[:, :33].copy()], Q, "weight has rows of 33 bytes, expected a multiple"),
        ("pack_weight", [W[:, :33].copy()], Q, "weight has rows of 33 bytes, expected a multiple"),
        ("linear", [X, W], {}, "weight is uint8, expected format="),
        ("linear", [X, W[:, :33].copy()], Q, "weight has rows of 33 bytes, expected a multiple"),
        ("linear", [X, X], Q, "format is for a uint8 weight, got weight of dtype float32"),
        ("linear", [X, X], {"packed": True}, "packed is for a uint8 weight, got weight of dtype"),
        ("linear", [X, W[:9].copy()], {**Q, "packed": True}, "weight has 9 rows, expected a mul"),
        ("linear", [X, W], {**Q, "packed": True, "rows": 17}, "rows is 17, expected 1 to 16"),
        ("linear", [X, W], {**Q, "packed": True, "rows": 0}, "rows is 0, expected 1 to 16"),
        ("linear", [X, W], {**Q, "rows": 15}, "rows is 15, expected 16 (from weight)"),
        ("linear", [X, X], {"rows": 2}, "rows is 2, expected 3 (from weight)"),
        ("linear", [X[:, :31].copy(), W], Q, "x has shape [..., 31], expected [..., 32] (from w"),
        ("linear", [X, X[:, :31].copy()], {}, "x has shape [..., 32], expected [..., 31] (from"),
        ("linear", [X, W, np.zeros(9, F32)], Q, "bias has shape [9], expected [16] (rows of w"),
        ("embedding_lookup", [W, BOUNDS], {}, "table is uint8, expected format="),
        ("embedding_lookup", [W, BOUNDS], {**Q, "rows": 17}, "rows is 17, expected 16 (from table"),
        ("attention", HEADS, {}, "q has 4 heads, expected a multiple of the 3 of k"),
        ("attention", QKV, {"window": 0}, "window must be positive or None, got 0"),
        ("attention", [*QKV, BOUNDS], {}, "cu_q is given without cu_k"),
        ("attention", [*QKV, None, BOUNDS], {}, "cu_k is given without cu_q"),
        ("paged_attention", PAGED, {}, "q has 4 heads, expected a multiple of the 3 of k_pages"),
        ("apply_token_bitmask", [X, np.zeros((3, 0), I32)], {}, "bitmask has 0 words in a row"),
        ("apply_token_bitmask", [X, np.zeros((2, 1), I32)], {}, "bitmask has 2 rows, expected 3"),
        ("mask_logits", [X, None, np.zeros(3, I32)], {}, "mask_rows without a bitmask"),
    ],
)
def test_inference_refuses_what_the_op_refuses(name, tensors, options, words):
    inferred, called = refused(name, tensors, options)
    assert inferred.startswith(f"{name}: {words}")
    assert called == inferred or "expected format=" in words  # the op lists them


def test_inference_leaves_sizes_that_are_symbols_to_the_call():
    class Symbol:
        def __eq__(self, other):
            return True

        __hash__ = None

    made = declaration.load("top_k").infer([(3, Symbol())], ["float32"], {"k": 99})
    assert [shape for shape, _ in made] == [(3, 99), (3, 99)]


# ---- files and the command ----------------------------------------------------------------------


def test_generated_files_are_up_to_date():
    command = [sys.executable, str(ROOT / "scripts" / "generate"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_stub_is_python_and_has_all_ops():
    stub = ast.parse((ROOT / "python/my_llm_ffi/ops.pyi").read_text("utf-8"))
    assert [n.name for n in stub.body if isinstance(n, ast.FunctionDef)] == NAMES


def test_the_module_prints_a_table():
    command = [sys.executable, "-W", "error", "-m", "my_llm_ffi.ops"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = result.stdout.splitlines()
    assert [row.split()[0] for row in rows] == ["op", *NAMES]
    assert re.search(r"rms_norm +cpu(?: cuda)? +float32 float16 bfloat16 +\(x: T", result.stdout)


def test_dir_and_unknown_names():
    assert dir(llm.ops) == NAMES
    with pytest.raises(AttributeError, match="no op 'nope'"):
        _ = llm.ops.nope


# ---- the grammar --------------------------------------------------------------------------------


def test_everything_a_signature_can_say():
    op = parse(
        "f",
        "(x: T['*b d', 'f32 f16'], m: Mut['d', 'i32'], o: T['n d', 'like x or u8'] | None = None, "
        "*, a: float, i: int | None = None, c: Literal['u', 'v'] = 'u') -> "
        "{'p': T['*b (i or d)', 'may be x'], 'q': T['d//2*3 7', 'i64']}",
    )
    x, m, o = op.inputs
    assert (x.use, x.dims, x.dtypes, x.like) == ("input", ("*b", "d"), ("float32", "float16"), None)
    assert (m.use, m.dtypes, m.optional) == ("mutable", ("int32",), False)
    assert (o.like, o.dtypes, o.optional) == ("x", ("uint8",), True)
    a, i, c = op.attributes
    assert a.default is REQUIRED
    assert (i.default, i.optional) == (None, True)
    assert (c.kind, c.choices, c.default) == ("str", ("u", "v"), "u")
    p = op.outputs[0]
    assert (p.dims, p.like, p.may_be) == (("*b", "(i or d)"), "x", ("x",))
    shapes, dtypes = [(2, 3, 8), (8,), None], ["float16", "int32", None]
    assert op.infer(shapes, dtypes, {"a": 1.0}) == [((2, 3, 8), "float16"), ((12, 7), "int64")]
    assert op.infer(shapes, dtypes, {"a": 1.0, "i": 5})[0][0] == (2, 3, 5)
    with pytest.raises(ValueError, match=r"m has shape \[7\], expected \[d=8 \(from x\)\]"):
        op.infer([(2, 8), (7,), None], dtypes, {})
    with pytest.raises(TypeError, match="o is int32, expected one of uint8, float16"):
        op.infer([(2, 8), (8,), (1, 8)], ["float16", "int32", "int32"], {})
    with pytest.raises(ValueError, match="c is \"w\", expected one of 'u', 'v'"):
        op.infer(shapes, dtypes, {"c": "w"})


LIKE = [  # what follows "->", and the dtypes of an allocated output for each pair of inputs
    ("T['n d']", ["int32", "int32", "int32"]),
    ("T['n d', 'i64']", ["int64", "int64", "int64"]),
    ("T['n d', 'like table']", ["float32", "float16", "uint8"]),
    ("T['n d', 'like table or f16']", ["float32", "float16", "float16"]),
    ("T['n d', 'like o or f32']", ["float32", "float16", "float32"]),
    ("{'p': T['n'], 'q': T['n d', 'like table or f32']}", ["float32", "float16", "float32"]),
]


@pytest.mark.parametrize("options", ["", ", *, format: str | None = None"])
@pytest.mark.parametrize(("outputs", "expected"), LIKE)
def test_what_is_allocated_is_what_is_inferred(outputs, expected, options):
    """Rendered and compiled, for every tensor that an output's dtype may follow."""
    inputs = "ids: T['n', 'i32'], table: T['r d', 'f32 f16 u8'], o: T['n', 'like table'] | None"
    op = parse("toy", f"({inputs} = None{options}) -> {outputs}")
    op = dataclasses.replace(op, function=lambda *arguments: None)
    toy, ids = render.compile_op(op), np.zeros(3, np.int32)
    for dtype, wanted in zip(("float32", "float16", "uint8"), expected):
        table = np.zeros((2, 4), dtype)
        o = None if dtype == "uint8" else np.zeros(3, dtype)
        format = {"format": "Q8_0"} if options and dtype == "uint8" else {}
        given = [ids, table, o]
        shapes = [None if x is None else x.shape for x in given]
        dtypes = [None if x is None else x.dtype.name for x in given]
        made = toy(*given, **format)
        made = made if isinstance(made, tuple) else (made,)
        inferred = op.infer(shapes, dtypes, format)
        assert [(m.shape, m.dtype.name) for m in made] == inferred
        assert made[-1].dtype.name == wanted


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        ("(x: T['n']) -> T['n']", "x is like x, which is no input before it"),
        ("(x: T['n', 'f32']) -> T['n', 'like y']", "out is like y, which is no input before it"),
        ("(x: T['n', 'f32']) -> {'p': T['n'], 'q': T['n', 'like p']}", "q is like p, which is no"),
        (
            "(x: T['n', 'f32'], o: T['n', 'f16'] | None = None) -> T['n', 'like o']",
            "out is like o, which may be None; expected a dtype beside it",
        ),
    ],
)
def test_a_dtype_that_follows_nothing_is_refused(signature, words):
    with pytest.raises(ValueError, match=f"f: bad signature, {words}"):
        parse("f", signature)


@pytest.mark.parametrize("bad", ["", "(x: T['n', 'f32']) -", "(x: float) -> None", "(x:) -> None"])
def test_what_is_no_signature_is_refused(bad):
    with pytest.raises(ValueError, match=r"f: bad signature|no type of a tensor"):
        parse("f", bad)


def test_bad_expressions_are_refused():
    for dim in ("n**2", "f(n)", "n.real"):
        with pytest.raises(ValueError, match="bad expression"):
            declaration.evaluate_dims([dim], {"n": 2})


def test_out_must_have_as_many_arrays_as_outputs():
    op = parse("f", "(x: T['n', 'f32']) -> {'p': T['n'], 'q': T['n']}")
    x = np.zeros(3, np.float32)
    for bad in (x, (x,), (x, x, x)):
        with pytest.raises(ValueError, match="f: out must be a tuple of 2: p, q"):
            arrays.allocate(op, [x], {}, bad)


def test_outputs_of_other_frameworks_must_be_given():
    class Foreign:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

        @property
        def shape(self):
            return self.array.shape

        @property
        def dtype(self):
            return self.array.dtype

    x, weight = np.ones((2, 8), np.float32), np.ones(8, np.float32)
    with pytest.raises(TypeError, match=r"rms_norm: cannot allocate the output for a .*Foreign"):
        llm.ops.rms_norm(Foreign(x), weight)
    out = np.zeros_like(x)
    assert llm.ops.rms_norm(Foreign(x), weight, out=out) is out
    assert (out > 0.9).all()


def test_arrays_that_cannot_be_shared_are_named():
    x, weight, out = np.ones((2, 8), np.float32), np.ones(8, np.float32), np.ones((2, 8), "f4")
    weight.flags.writeable = False
    with pytest.raises(BufferError, match="rms_norm: weight is a read-only array"):
        llm.ops.rms_norm(x, weight)
    with pytest.raises(BufferError, match="rms_norm: x is an array of foreign byte order"):
        llm.ops.rms_norm(x.astype(">f4"), np.ones(8, np.float32), out=out)
    with pytest.raises(TypeError, match="softmax: x is a MaskedArray"):
        llm.ops.softmax(np.ma.masked_array(x, x > 0))


@pytest.mark.parametrize(
    "dtype", [object, "U3", "S4", "M8[s]", "m8[s]", [("a", "f4")], np.longdouble, np.clongdouble]
)
def test_dtypes_that_dlpack_does_not_know_are_named(dtype):
    x, weight = np.zeros((2, 8), dtype), np.ones(8, np.float32)
    said = "rms_norm: {} is of dtype .*, which cannot be shared"
    with pytest.raises(TypeError, match=said.format("x")):
        llm.ops.rms_norm(x, weight)
    with pytest.raises(TypeError, match=said.format("weight")):
        llm.ops.rms_norm(np.ones((2, 8), np.float32), x[0])
    with pytest.raises(TypeError, match=said.format("out")):
        llm.ops.rms_norm(np.ones((2, 8), np.float32), weight, out=x)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (True, TypeError, "is bool, expected a number"),
        (False, TypeError, "is bool, expected a number"),
        (10**400, OverflowError, "is an integer of 333 hexadecimal digits, which does not fit"),
        (-(10**400), OverflowError, "is an integer of 333 hexadecimal digits, which does not fit"),
    ],
    ids=["True", "False", "10**400", "-10**400"],
)
def test_a_number_option_that_is_none_is_refused_by_name(op, value, kind, message):
    tensors, options = op_samples.sample(op.name)
    shapes = [None if t is None else t.shape for t in tensors]
    dtypes = [None if t is None else t.dtype.name for t in tensors]
    for a in (a for a in op.attributes if a.kind in ("float", "int")):
        said = message.replace("a number", "an integer") if a.kind == "int" else message
        given = {**options, a.name: value}
        with pytest.raises(kind, match=f"^{op.name}: {a.name} {said}"):
            getattr(llm.ops, op.name)(*tensors, **given)
        with pytest.raises(kind, match=f"^{op.name}: {a.name} {said}"):
            op.infer(shapes, dtypes, given)


def test_numbers_that_do_not_fit_are_named():
    x = np.ones((2, 8), np.float32)
    with pytest.raises(OverflowError, match=r"attention: window is .*does not fit 64 bits"):
        llm.ops.attention(x[:, None], x[:, None], x[:, None], window=2**63)
