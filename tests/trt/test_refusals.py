"""What plugins say of themselves, and calls of them, that are refused before TensorRT sees them."""

from __future__ import annotations

import sys
import threading
import types
from typing import Any

import numpy as np
import pytest
from trt.fakes import Builder, Expression, Network, NetworkTensor, Operations

from my_llm_ffi.tensorrt import (
    PluginBase,
    RmsNorm,
    SymTensor,
    TensorInfo,
    bindings,
    failures,
    inference,
    op_plugin,
    raise_stored,
    save_engine,
    where,
)
from my_llm_ffi.tensorrt.execution import Execution
from my_llm_ffi.tensorrt.memory import host_memory
from my_llm_ffi.tensorrt.symbolic import lower


class First(PluginBase):
    """Its first input."""

    def shape_dtype_inference(self, inputs) -> SymTensor:
        return inputs[0]

    def forward(self, inputs, outputs) -> None:
        np.from_dlpack(outputs[0])[...] = np.from_dlpack(inputs[0])


class Filled(PluginBase):
    """As many rows as a shape input says."""

    shape_inputs = 1

    def shape_dtype_inference(self, inputs, values) -> SymTensor:
        return SymTensor(inputs[0].dtype, [values[0][0], *inputs[0].shape])

    def forward(self, inputs, outputs) -> None:
        np.from_dlpack(outputs[0])[...] = np.from_dlpack(inputs[0])


def x(*shape: int, dtype: str = "float32") -> NetworkTensor:
    return NetworkTensor("x", dtype, shape)


ATTRIBUTES = [
    ({"supported_dtypes": ("float32",)}, r"supported_dtypes is \('float32',\), expected a tuple"),
    ({"supported_dtypes": ((),)}, "supported_dtypes is"),
    ({"supported_dtypes": (("float31",),)}, "supported_dtypes is"),
    ({"supported_dtypes": (("uint8",),)}, "supported_dtypes is"),
    ({"ranks": (2.0,)}, r"ranks is \(2\.0,\), expected a number of dimensions up to 8 or None"),
    ({"ranks": (9,)}, "ranks is"),
    ({"ranks": 2}, "ranks is"),
    ({"aliased_outputs": {0: "x"}}, "aliased_outputs is .*, expected output -> input"),
    ({"aliased_outputs": {0: -1}}, "aliased_outputs is"),
    ({"aliased_outputs": {0: 0, 1: 0}}, "aliased_outputs is .*, each input once"),
    ({"aliased_outputs": [0]}, "aliased_outputs is"),
    ({"shape_inputs": -1}, "shape_inputs is -1, expected a number of inputs"),
    ({"shape_inputs": True}, "shape_inputs is True"),
]


@pytest.mark.parametrize(("wrong", "said"), ATTRIBUTES)
def test_attributes_of_a_class_and_of_a_plugin(registered: Any, wrong: dict[str, Any], said: str):
    with pytest.raises(TypeError, match=f"Wrong: {said}"):
        registered("Wrong")(type("Wrong", (First,), wrong))

    class Later(First):
        def __init__(self) -> None:
            vars(self).update(wrong)

    registered("Later")(Later)
    for call in (lambda: Later()(Network(), x(2, 3)), lambda: Later()(np.zeros(3, np.float32))):
        with pytest.raises(TypeError, match=f"Later: {said}"):
            call()


def test_dtypes_and_ranks_are_of_as_many_inputs(registered: Any):
    named = {"supported_dtypes": (("float32",),), "ranks": (1, 2)}
    with pytest.raises(ValueError, match="Two: supported_dtypes is of 1 inputs and ranks of 2"):
        registered("Two")(type("Two", (First,), named))
    plugin = registered("Ranked")(type("Ranked", (First,), {"ranks": (1, 2)}))
    with pytest.raises(TypeError, match="Ranked: 1 inputs given, expected 2"):
        plugin()(Network(), NetworkTensor("x", "float32", (-1,)))


def test_inputs_of_a_network_are_its_tensors(registered: Any):
    registered("First")(First)
    for given in (5, "x", np.zeros(3), [1.0]):
        kind = type(given).__name__
        with pytest.raises(TypeError, match=f"First: input 0 is {kind}, expected a tensor of the"):
            First()(Network(), given)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_tensors_without_plain_memory_are_refused(registered: Any):
    """``forward`` would read them at no address, or read other values."""
    torch = pytest.importorskip("torch")
    from torch._subclasses import FakeTensorMode

    freed = torch.ones(2, 3)
    freed.untyped_storage().resize_(0)
    with FakeTensorMode():
        fake = torch.ones(2, 3)
    wrong = [
        (freed, ValueError, "is a Tensor that has no memory"),
        (fake, ValueError, "is a FakeTensor that has no memory"),
        (torch._neg_view(torch.ones(3)), ValueError, "is negated when it is read"),
        (torch.eye(3).to_sparse(), TypeError, "is of layout torch.sparse_coo, expected"),
        (torch.ones(2, device="meta"), TypeError, "is on meta, expected cpu or cuda"),
        (np.float32(3), TypeError, "is float32, expected a tensor of torch or an array"),
    ]
    registered("First")(First)
    for given, error, said in wrong:
        with pytest.raises(error, match=f"First: input 0 {said}"):
            First()(given)
    with pytest.raises(ValueError, match="First: input 0 is a Tensor that has no memory"):
        torch.vmap(First())(torch.ones(2, 3))
    with pytest.raises(TypeError, match="First: 0 inputs given, expected a tensor at least"):
        First()()
    assert First()(torch.ones(0, 3)).shape == (0, 3)


SHAPE_INPUTS = [
    (NetworkTensor("n", "float32", (1,)), TypeError, "is float32, expected int32 or int64"),
    (NetworkTensor("n", "int32", (-1,)), ValueError, r"has shape \[-1\], expected one dimension"),
    (NetworkTensor("n", "int32", ()), ValueError, r"has shape \[\], expected one dimension"),
    (NetworkTensor("n", "int32", (1, 1)), ValueError, r"has shape \[1, 1\], expected one dim"),
    (np.array([2.0]), TypeError, ".*float64.* is no dtype"),
    (np.array(2), ValueError, r"has shape \[\], expected one dimension of known size"),
    (2, TypeError, "is int, expected a tensor of int32 or int64"),
]


@pytest.mark.parametrize(("given", "error", "said"), SHAPE_INPUTS)
def test_shape_inputs_are_integers_of_one_dimension(
    registered: Any, given: Any, error: type[Exception], said: str
):
    registered("Filled")(Filled)
    on_network = not isinstance(given, np.ndarray)
    with pytest.raises(error, match=f"Filled: shape input 0:? ?({said})"):
        if on_network:
            Filled()(Network(), x(3), given)
        else:
            Filled()(np.zeros(3, np.float32), given)


def test_aliases_are_looked_at_when_a_layer_is_added(registered: Any):
    class Swapped(PluginBase):
        aliased_outputs = {0: 1}  # noqa: RUF012

        def shape_dtype_inference(self, inputs) -> SymTensor:
            return inputs[0]

    registered("Swapped")(Swapped)
    network = Network()
    Swapped()(network, x(-1, 3), x(4, 3))  # may fit, once it runs
    Swapped()(network, x(4, 3), x(4, 3))
    said = r"Swapped: output 0 is float32 \[4, 3\], expected float32 \[5, 3\], those of input 1"
    with pytest.raises(ValueError, match=said):
        Swapped()(network, x(4, 3), x(5, 3))
    with pytest.raises(ValueError, match=r"output 0 is float32 .*, expected float16"):
        Swapped()(network, x(4, 3), x(4, 3, dtype="float16"))
    with pytest.raises(ValueError, match=r"expected float32 \[4, 3, 1\]"):
        Swapped()(network, x(-1, 3), x(4, 3, 1))
    with pytest.raises(ValueError, match=r"aliased_outputs is \{0: 1\}.* 1 outputs and 1 inputs"):
        Swapped()(network, x(4, 3))
    assert len(network.added) == 2


@pytest.mark.parametrize(
    ("dtype", "size", "error", "said"),
    [
        ("uint8", 3, TypeError, "output 0 would be uint8, which no plugin gives"),
        ("float32", -1, ValueError, r"output 0 would have shape \[-1\]"),
        ("float32", 2**63, ValueError, r"output 0 would have shape \[9223372036854775808\]"),
    ],
)
def test_outputs_are_what_plugins_give(
    registered: Any, dtype: str, size: int, error: type[Exception], said: str
):
    class Gives(First):
        def shape_dtype_inference(self, inputs) -> SymTensor:
            return SymTensor(dtype, [size])

    registered("Gives")(Gives)
    for call in (lambda: Gives()(Network(), x(-1, 3)), lambda: Gives()(np.zeros(3, np.float32))):
        with pytest.raises(error, match=f"Gives: {said}"):
            call()


def test_inputs_of_one_name_are_told_apart(registered: Any):
    class Grown(First):
        def input_name(self, index: int) -> str:
            return "tensor"

        def shape_dtype_inference(self, inputs) -> SymTensor:
            first, second = (tensor.shape[0] for tensor in inputs)
            return SymTensor("float32", [second - first])

    registered("Grown")(Grown)
    shapes = [[Expression("name", (name,))] for name in "ab"]
    ((grown,),) = inference.output_shapes(Grown(), inference.Inputs(["float32"] * 2, shapes))
    assert lower(grown, Builder(), Operations()).value({"a": 3, "b": 7}) == 4


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (-1, ValueError, "workspace_size is -1, expected 0 or more"),
        (1.5, TypeError, "workspace_size is 1.5, expected an integer"),
        (None, TypeError, "workspace_size is None, expected an integer"),
    ],
)
def test_a_workspace_has_a_size(registered: Any, given: Any, error: type[Exception], said: str):
    class Asks(First):
        def workspace_size(self, inputs, outputs) -> int:
            return given

    registered("Asks")(Asks)
    with pytest.raises(error, match=f"Asks: {said}"):
        Asks()(np.zeros(3, np.float32))

    class Desc:
        type, dims = "float32", (3,)

    with host_memory(), pytest.raises(error, match=f"Asks: {said}"):
        Execution(Asks(), [Desc()], [Desc()])


def test_messages_name_what_is_wrong():
    for condition in (5, "x", 0.5, None):
        with pytest.raises(TypeError, match=r"where: condition is .*, expected a comparison"):
            where(condition, 1, 2)  # type: ignore[arg-type]
    assert [where(True, 1, 2), where(0, 1, 2), where(np.int64(5) < 3, 1, 2)] == [1, 2, 2]
    with pytest.raises(TypeError, match="'a' is str, expected a size"):
        where(1, "a", 2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"n has shape \(1\.5,\), expected a tuple of integers"):
        TensorInfo("n", "float32", (1.5,))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="n has shape 3, expected a tuple of integers"):
        TensorInfo("n", "float32", 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="op_plugin: op_name is 5, expected a string"):
        op_plugin(5)  # type: ignore[arg-type]


def test_a_tensorrt_that_is_too_old_is_none(monkeypatch: pytest.MonkeyPatch):
    """Version 10.0 has IPluginV3; what plugins stand on came with 10.3."""
    monkeypatch.setitem(sys.modules, "tensorrt", types.SimpleNamespace(IPluginV3=object))
    module, why = bindings._load()
    assert module is None and "has no IPluginV3OneBuildV2" in why


def test_saving_takes_a_list_of_plugins(tmp_path: Any):
    for wrong in (RmsNorm, RmsNorm(), "RmsNorm", 5):
        with pytest.raises(TypeError, match=r"save_engine: plugins is .*, expected a list of"):
            save_engine(tmp_path / "e", b"engine", plugins=wrong)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_thread_does_not_meet_what_an_ended_one_left():
    ended = threading.Thread(target=lambda: failures.store(ValueError("left")))
    ended.start()
    ended.join()
    met: list[BaseException | None] = []
    threads = [threading.Thread(target=lambda: met.append(failures.take())) for _ in range(8)]
    for thread in threads:  # one after the other: numbers of threads are used again
        thread.start()
        thread.join()
    raise_stored()
    assert met == [None] * 8
    with pytest.raises(ValueError, match="left"):
        raise_stored(any_thread=True)
    raise_stored(any_thread=True)
