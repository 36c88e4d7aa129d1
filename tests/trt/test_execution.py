"""What one execution gives to a plugin's forward beyond its tensors, and what inference knows."""

from __future__ import annotations

import types
from typing import Any

import pytest
import tvm_ffi
from trt.fakes import Expression, Network, NetworkTensor

from my_llm_ffi.tensorrt import PluginBase, SymTensor, execution, failures, has_tensorrt, inference
from my_llm_ffi.tensorrt.memory import CUDA

DEVICE, STREAM, OUTER = 3, 0x5EED, 0x0DD


class Looks(PluginBase):
    """Notes where ops of its forward would launch."""

    uses_torch = False
    seen: tuple[Any, ...] = ()

    def shape_dtype_inference(self, inputs) -> SymTensor:
        return inputs[0]

    def forward(self, inputs, outputs, *, stream) -> None:
        current = int(tvm_ffi.get_raw_stream(tvm_ffi.device("cuda", DEVICE)))
        type(self).seen = (stream, current, inputs[0].device, inputs[0].data_ptr())


def test_the_stream_of_ops_is_that_of_the_execution(
    registered: Any, monkeypatch: pytest.MonkeyPatch
):
    """No GPU is asked: the device is said to be current, and forward touches no memory."""
    monkeypatch.setattr(execution, "current_device", lambda: (CUDA, DEVICE))
    registered("Looks")(Looks)
    desc = types.SimpleNamespace(type="float32", dims=(4,))
    made = execution.Execution(Looks(), [desc], [desc])
    device = tvm_ffi.device("cuda", DEVICE)
    with tvm_ffi.use_raw_stream(device, OUTER):
        made.enqueue([0x1000], [0x2000], 0, STREAM)
        assert int(tvm_ffi.get_raw_stream(device)) == OUTER
    assert Looks.seen == (STREAM, STREAM, f"cuda:{DEVICE}", 0x1000)


def test_a_call_does_not_raise_what_failed_before_it(registered: Any):
    registered("Looks")(Looks)
    failures.store(ValueError("of an engine that ran before"))
    Looks()(Network(), NetworkTensor("x", "float32", (2, 3)))
    failures.raise_stored()


@pytest.mark.skipif(not has_tensorrt(), reason="no Python module tensorrt")
def test_dtypes_are_inferred_for_the_dimensions_of_the_network(registered: Any):
    """TensorRT does not say their number when it asks for dtypes."""
    from my_llm_ffi.tensorrt.adapter import Adapter

    class ByRank(Looks):
        def shape_dtype_inference(self, inputs) -> SymTensor:
            shape = inputs[0].shape
            return SymTensor("float16" if len(shape) == 4 else "int32", shape)

    registered("ByRank")(ByRank)
    import tensorrt as trt

    adapter = Adapter(ByRank(), dtypes=["float32"], shapes=[[None] * 4])
    for shown in (adapter, adapter.clone(), adapter.attach_to_context(None)):
        assert shown.get_output_data_types([trt.float32]) == [trt.float16]


@pytest.mark.skipif(not has_tensorrt(), reason="no Python module tensorrt")
def test_a_workspace_is_for_the_largest_sizes(registered: Any):
    from my_llm_ffi.tensorrt.adapter import Adapter

    class Asks(Looks):
        def workspace_size(self, inputs, outputs) -> int:
            return 4 * inputs[0].shape[0] + outputs[0].shape[0]

    registered("Asks")(Asks)
    dynamic = types.SimpleNamespace(desc=types.SimpleNamespace(type="float32"), min=(1,), max=(8,))
    assert Adapter(Asks()).get_workspace_size([dynamic], [dynamic]) == 40


def test_shapes_without_dtypes_are_those_of_a_dtype_that_the_plugin_takes(registered: Any):
    class Picky(PluginBase):
        def shape_dtype_inference(self, inputs) -> SymTensor:
            if inputs[0].dtype != "int64":
                raise ValueError(f"Picky: x is {inputs[0].dtype}, expected int64")
            return SymTensor("int8", [inputs[0].shape[0], 7])

    registered("Picky")(Picky)
    size = Expression("name", ("n",))
    shape = inference.output_shapes(Picky(), inference.Inputs(None, [[size]]))[0]
    assert shape[0].leaf is size and shape[1] == 7
