"""The plugins that ship: the same as their ops, on NumPy and torch; and their fields."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from trt.fakes import Expression, Network, NetworkTensor, plugin_of

import my_llm_ffi as llm
from my_llm_ffi import declaration, tensorrt
from my_llm_ffi.tensorrt import inference, op_plugin
from my_llm_ffi.tensorrt.fields import decode_all, encode_all
from my_llm_ffi.tensorrt.inference import Inputs
from my_llm_ffi.tensorrt.plugin_base import registry

NAMES = ("RmsNorm", "AddRmsNorm", "SiluMul", "Rope", "MaskLogits", "PagedAttention")
RNG = np.random.default_rng(7)


def floats(*shape: int) -> Any:
    return RNG.normal(size=shape).astype("f4")


def arguments(name: str) -> tuple[list[Any], dict[str, Any]]:
    """A call: arrays and options."""
    if name == "PagedAttention":
        pages, positions = floats(4, 2, 8, 32), np.arange(4 * 32, dtype="i4").reshape(4, 32)
        table, rows = np.array([[2, 1]], "i4"), np.zeros(3, "i4")
        token_positions = np.array([90, 91, 99], "i4")
        given = [floats(3, 4, 8), pages, floats(4, 2, 32, 8), positions, table, rows]
        return [*given, token_positions], {"window": 40, "soft_cap": 5.0}
    return {
        "RmsNorm": ([floats(3, 16), floats(16)], {"eps": 1e-3}),
        "AddRmsNorm": ([floats(3, 16), floats(3, 16), floats(16)], {"eps": 1e-3}),
        "SiluMul": ([floats(2, 3, 4), floats(2, 3, 4)], {}),
        "Rope": (
            [floats(3, 4, 8), floats(3, 2, 8), np.arange(3), floats(4) + 3],
            {"interleaved": True, "scaling": "linear", "factor": 2.0},
        ),
        "MaskLogits": ([floats(2, 40), np.array([[-1, 3], [7, 1]], "i4"), None, None], {}),
    }[name]


def snake(name: str) -> str:
    return "".join("_" * (i > 0 and c.isupper()) + c.lower() for i, c in enumerate(name))


def as_list(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple) else [] if result is None else [result]


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("name", NAMES)
def test_an_eager_call_is_the_op(name: str, framework: str):
    given, options = arguments(name)
    op, cls = declaration.load(snake(name)), getattr(tensorrt, name)
    copies = [None if a is None else a.copy() for a in given]
    want = as_list(getattr(llm.ops, op.name)(*copies, **options))
    written = [c for c, t in zip(copies, op.inputs) if t.use == "mutable"]
    if framework == "torch":
        torch = pytest.importorskip("torch")
        given = [None if a is None else torch.from_numpy(a) for a in given]
    found = as_list(cls(**options)(*given))
    assert len(found) == len(written) + len(want) == cls.num_outputs
    for have, expected in zip(found, written + want):
        assert np.array_equal(np.asarray(have), expected)
    for have, source in zip(found, [g for g, t in zip(given, op.inputs) if t.use == "mutable"]):
        assert have is source  # in place


@pytest.mark.parametrize("name", NAMES)
def test_fields_are_the_options_and_what_is_left_out(name: str):
    op, cls = declaration.load(snake(name)), getattr(tensorrt, name)
    optional = [f"has_{t.name}" for t in op.inputs if t.optional]
    assert [f.name for f in cls.fields] == [a.name for a in op.attributes] + optional
    assert registry[name, "1", "my_llm_ffi"] is cls
    given, options = arguments(name)
    called, _ = cls(**options).prepare(given)
    raws = encode_all(cls.fields, 1, called.values())
    again = cls(**decode_all(name, cls.fields, 1, raws))
    assert again.values() == called.values()
    assert again.supported_dtypes == called.supported_dtypes


def test_an_optional_input_is_left_out_of_the_layer():
    network = Network()
    q, k = (NetworkTensor(n, "float16", (-1, h, 64)) for n, h in (("q", 8), ("k", 2)))
    positions, factors = NetworkTensor("p", "int64", (-1,)), NetworkTensor("f", "float32", (32,))
    rope = tensorrt.Rope(base=5e5)
    assert len(rope(network, q, k, positions)) == 2
    rope(network, q, k, positions, factors)
    without, within = (plugin_of(added) for *_, added in network.added)
    assert network.added[0][0] == [q, k, positions] and not without.has_freq_factors
    assert network.added[1][0] == [q, k, positions, factors] and within.has_freq_factors
    assert within.base == without.base == 5e5 and within.aliased_outputs == {0: 0, 1: 1}
    assert inference.output_dtypes(within, ["float16", "float16", "int64", "float32"]) == [
        "float16",
        "float16",
    ]


def test_shapes_are_those_of_the_declaration():
    n, rows = Expression("name", ("n",)), Expression("name", ("rows",))
    found = inference.output_shapes(tensorrt.AddRmsNorm(), Inputs(None, [[n, 64], [n, 64], [64]]))
    assert [[getattr(s, "leaf", s) for s in shape] for shape in found] == [[n, 64], [n, 64]]
    mask = tensorrt.MaskLogits(has_temperature=True)
    found = inference.output_shapes(mask, Inputs(None, [[rows, 1000], [rows]]))
    assert [[getattr(s, "leaf", s) for s in shape] for shape in found] == [
        [rows, 1000],
        [rows],
        [rows],
    ]
    with pytest.raises(ValueError, match=r"weight has shape \[32\], expected \[hidden=64"):
        inference.output_shapes(tensorrt.RmsNorm(), Inputs(None, [[n, 64], [32]]))


def test_wrong_options_dtypes_and_inputs_are_refused():
    with pytest.raises(TypeError, match="RmsNorm: no option 'epsilon', expected eps"):
        tensorrt.RmsNorm(epsilon=1)
    with pytest.raises(TypeError, match="RmsNorm: eps is None, expected a number"):
        tensorrt.RmsNorm(eps=None)
    with pytest.raises(ValueError, match="Rope: scaling is 'ntk', expected one of 'none'"):
        tensorrt.Rope(scaling="ntk")
    with pytest.raises(TypeError, match="RmsNorm: weight is missing"):
        tensorrt.RmsNorm()(floats(2, 3))
    with pytest.raises(TypeError, match="RmsNorm: 3 inputs given, at most 2 expected"):
        tensorrt.RmsNorm()(floats(2, 3), floats(3), floats(3))
    with pytest.raises(TypeError, match="RmsNorm: x is int32, expected float32 or float16 or"):
        tensorrt.RmsNorm()(np.zeros((2, 3), "i4"), floats(3))
    with pytest.raises(TypeError, match="rms_norm: weight is float16, expected float32"):
        tensorrt.RmsNorm()(floats(2, 3), floats(3).astype("f2"))


def test_any_op_becomes_a_plugin():
    cls = op_plugin("softmax", name="TestSoftmax", namespace="tests")
    try:
        x = floats(2, 9)
        assert np.array_equal(cls(scale=2.0)(x), llm.ops.softmax(x, scale=2.0))
        with pytest.raises(ValueError, match="is registered already"):
            op_plugin("softmax", name="TestSoftmax", namespace="tests")
    finally:
        tensorrt.unregister(cls)
    with pytest.raises(KeyError):
        op_plugin("no_such_op")
    with pytest.raises(ValueError, match=r"(x|w|weight) has no dtype"):
        op_plugin("dequantize", name="TestDequantize", namespace="tests")


@pytest.mark.parametrize("use_torch", [False, True])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
def test_lookup_is_torchs_embedding(dtype: str, index_dtype: str, wide: bool, use_torch: bool):
    torch = pytest.importorskip("torch")
    table = torch.randn(40, 24).to(getattr(torch, dtype))
    index = torch.randint(0, 40, (3, 5), dtype=getattr(torch, index_dtype))
    found = tensorrt.LookUp(use_torch_tensor=use_torch, fp32_output=wide)(index, table)
    want = torch.nn.functional.embedding(index, table)
    assert torch.equal(found, want.float() if wide else want)
    assert found.dtype == (torch.float32 if wide else table.dtype)


def test_lookup_refuses_what_it_does_not_take():
    table = floats(4, 3)
    with pytest.raises(TypeError, match="LookUp: index is float32, expected int32 or int64"):
        tensorrt.LookUp()(floats(2), table)
    with pytest.raises(ValueError, match=r"LookUp: table has shape \[4\], expected \[n, width\]"):
        tensorrt.LookUp()(np.zeros(2, "i4"), floats(4))
    with pytest.raises(TypeError, match="LookUp: 1 inputs given, expected 2"):
        tensorrt.LookUp()(np.zeros(2, "i4"))
    with pytest.raises(IndexError, match="embedding_lookup: "):
        tensorrt.LookUp()(np.full(2, 9, "i4"), table)


@pytest.mark.parametrize("wide", [False, True])
def test_torch_looks_up_what_the_op_does(wide: bool):
    """No row from the end for a negative index, and tables of no width."""
    torch = pytest.importorskip("torch")
    index = torch.tensor([-1, 0])
    for use_torch in (False, True):
        lookup = tensorrt.LookUp(use_torch_tensor=use_torch, fp32_output=wide)
        with pytest.raises(IndexError):
            lookup(index, torch.ones(3, 2, dtype=torch.float16))
        assert lookup(index + 1, torch.ones(3, 0, dtype=torch.float16)).shape == (2, 0)
