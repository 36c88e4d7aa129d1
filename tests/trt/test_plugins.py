"""The framework: registration, calls on a network and eagerly, and every way to get them wrong."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tvm_ffi
from trt.fakes import Builder, Expression, Network, NetworkTensor, Operations, plugin_of

from my_llm_ffi.tensorrt import (
    DType,
    PluginBase,
    SymTensor,
    TensorWrapper,
    convert_to_torch_tensor,
    failures,
    inference,
    plugin,
    raise_stored,
    unregister,
)
from my_llm_ffi.tensorrt.inference import Inputs
from my_llm_ffi.tensorrt.symbolic import lower

Tensors = Sequence[TensorWrapper]


class Scale(PluginBase):
    """Of the first of two tensors that have as many rows."""

    def __init__(self, factor: float = 2.0, wide: bool = False) -> None:
        self.factor, self.wide = factor, wide

    def shape_dtype_inference(self, inputs: Sequence[SymTensor]) -> SymTensor:
        x, y = inputs
        if x.shape[0] != y.shape[0]:
            raise ValueError(f"Scale: {y} has other rows than {x}")
        return SymTensor("float32" if self.wide else x.dtype, [x.shape[0], *x.shape[1:]])

    def forward(self, inputs: Tensors, outputs: Tensors) -> None:
        out = np.from_dlpack(outputs[0])
        out[...] = np.from_dlpack(inputs[0]) * self.factor


def rows(*shape: int, dtype: str = "float32") -> Any:
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


# ---- registration -------------------------------------------------------------------------------


def test_a_name_is_registered_once(registered: Any):
    registered("Twice")(type("Twice", (Scale,), {}))
    with pytest.raises(ValueError, match=r"Twice, version 1 of namespace 'tests', is registered"):
        registered("Twice")(type("Other", (Scale,), {}))
    registered("Twice", version="2")(type("Twice2", (Scale,), {}))  # another version is another


def test_what_is_no_plugin_is_not_registered():
    with pytest.raises(TypeError, match="no class of plugins"):
        plugin("X")(int)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="name is ''"):
        plugin("")
    for wrong in ({"version": 1}, {"namespace": None}, {"schema_version": "2"}):
        with pytest.raises(TypeError, match=f"plugin: {next(iter(wrong))} is .*, expected"):
            plugin("X", **wrong)
    for wrong in ({"namespace": "a\0"}, {"version": "\ud800"}, {"schema_version": 2**31}):
        with pytest.raises(ValueError, match=f"plugin: {next(iter(wrong))} is .*, expected"):
            plugin("X", **wrong)
    with pytest.raises(KeyError, match="Scale"):
        unregister(Scale)
    gone = plugin("Gone", namespace="tests")(type("Gone", (Scale,), {}))
    unregister(gone)
    x = NetworkTensor("x", "float32", (4, 8))
    with pytest.raises(TypeError, match="Gone is not registered"):
        gone()(Network(), x, x)
    with pytest.raises(TypeError, match="Scale is not registered"):
        Scale()(rows(2, 3), rows(2, 3))


def test_a_class_has_a_name_and_outputs_of_its_own(registered: Any):
    base = registered("Base")(type("Base", (Scale,), {}))
    with pytest.raises(ValueError, match="Base is Base already"):
        plugin("Second", namespace="tests")(base)

    class Pair(base):
        def shape_dtype_inference(self, inputs) -> tuple[SymTensor, SymTensor]:
            return inputs[0], inputs[1]

    with pytest.raises(TypeError, match="Pair is not registered"):  # it would be a Base in engines
        Pair()(rows(2, 3), rows(2, 3))
    assert registered("Pair")(Pair).num_outputs == 2 and base.num_outputs == 1

    class Quiet(Pair):
        def shape_dtype_inference(self, inputs):
            return inputs[0], inputs[1]

    assert registered("Quiet")(Quiet).num_outputs == 2


def test_a_bad_attribute_type_is_refused(registered: Any):
    class Bad(Scale):
        def __init__(self, table: dict[str, int]) -> None: ...

    with pytest.raises(TypeError, match=r"Bad\.__init__: table is annotated .*expected bool, int"):
        registered("Bad")(Bad)


def test_the_number_of_outputs_must_be_known(registered: Any):
    class Silent(Scale):
        def shape_dtype_inference(self, inputs):
            return inputs[0]

    with pytest.raises(TypeError, match="how many outputs are there"):
        registered("Silent")(Silent)
    Silent.num_outputs = 1
    assert registered("Silent")(Silent).num_outputs == 1

    class Pair(Scale):
        def shape_dtype_inference(self, inputs) -> tuple[SymTensor, SymTensor]:
            return inputs[0], inputs[1]

    assert registered("Pair")(Pair).num_outputs == 2


def test_forward_takes_known_options_alone(registered: Any):
    class Odd(Scale):
        def forward(self, inputs, outputs, *, space): ...

    with pytest.raises(
        TypeError, match=r"Odd\.forward takes inputs, outputs, space, expected \(inputs, outputs"
    ):
        registered("Odd")(Odd)
    Odd.forward = lambda self, inputs: None
    with pytest.raises(TypeError, match=r"Odd\.forward takes inputs, expected \(inputs, outputs"):
        registered("Odd")(Odd)


def test_forward_runs_when_it_is_called(registered: Any):
    class Later(Scale):
        async def forward(self, inputs, outputs): ...

    class Stepwise(Scale):
        def forward(self, inputs, outputs):
            yield

    for cls, kind in ((Later, "coroutine"), (Stepwise, "generator")):
        with pytest.raises(TypeError, match=rf"{cls.__name__}\.forward is a {kind}, which no call"):
            registered(cls.__name__)(cls)


def test_forward_may_take_options_by_position_too(registered: Any):
    class Plain(Scale):
        def forward(self, inputs, outputs, workspace, stream):
            assert workspace is None and stream == 0
            super().forward(inputs, outputs)

    registered("Plain")(Plain)
    assert Plain()(rows(2, 3), rows(2, 3)).tolist() == (rows(2, 3) * 2).tolist()


def test_attributes_are_kept_and_of_their_types(registered: Any):
    class Forgetful(Scale):
        def __init__(self, gain: float = 1.0) -> None: ...

    registered("Forgetful")(Forgetful)
    with pytest.raises(TypeError, match=r"takes gain and does not keep it; expected self\.gain"):
        Forgetful()(rows(2, 3), rows(2, 3))
    registered("Scale")(Scale)
    with pytest.raises(TypeError, match="Scale: factor is 'two', expected a number"):
        Scale(factor="two")(rows(2, 3), rows(2, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["fields", "plugin_name", "forward_takes", "schema_version"])
def test_an_attribute_hides_nothing_of_the_plugin(registered: Any, name: str):
    class Hides(Scale):
        pass

    exec(f"def init(self, {name}: int): self.{name} = {name}", made := {})
    Hides.__init__ = made["init"]
    with pytest.raises(TypeError, match=f"{name} is a name that every plugin has already"):
        registered("Hides")(Hides)


def test_attributes_that_are_no_single_number(registered: Any):
    registered("Scale")(Scale)
    torch = pytest.importorskip("torch")
    for several in (np.ones(3), torch.ones(3)):
        with pytest.raises(TypeError, match=r"Scale: factor is .*, expected a number"):
            Scale(factor=several)(rows(2, 3), rows(2, 3))
    assert Scale(factor=np.float32(3)).values()["factor"] == 3.0


def test_attributes_are_kept_as_they_are_given(registered: Any):
    """A copy is made from what is kept: each would be another plugin."""

    class Doubles(Scale):
        def __init__(self, factor: float = 1.0) -> None:
            super().__init__(factor * 2)

    registered("Doubles")(Doubles)
    said = r"Doubles: __init__ makes factor = 4\.0 of 2\.0, expected it kept as it is given"
    for call in (Doubles().clone, lambda: Doubles()(rows(2, 3), rows(2, 3))):
        with pytest.raises(ValueError, match=said):
            call()
    registered("Scale")(Scale)
    assert np.isnan(Scale(factor=float("nan")).clone().values()["factor"])


def test_clones_share_nothing(registered: Any):
    registered("Scale")(Scale)
    first = Scale(factor=3.0)
    second = first.clone()
    first.factor, first.note = 5.0, []  # type: ignore[attr-defined]
    assert second.factor == 3.0 and not hasattr(second, "note")


# ---- on a network -------------------------------------------------------------------------------


def test_a_call_on_a_network_adds_a_layer(registered: Any):
    registered("Scale")(Scale)
    network, scale = Network(), Scale(factor=4.0)
    x, y = NetworkTensor("x", "float16", (-1, 8)), NetworkTensor("y", "float32", (-1,))
    out = scale(network, x, y)
    assert out.name == "layer1.0"
    inputs, shape_inputs, added = network.added[0]
    assert inputs == [x, y] and shape_inputs == []
    assert plugin_of(added) is not scale and plugin_of(added).factor == 4.0  # a layer has its own
    scale(network, x, y)
    assert len({id(plugin_of(added)) for *_, added in network.added}) == 2


def test_a_wrong_call_on_a_network_says_so_before_tensorrt(registered: Any):
    registered("Scale")(Scale)
    network, x = Network(), NetworkTensor("x", "float32", (4, 8))
    with pytest.raises(ValueError, match="has other rows than"):
        Scale()(network, x, NetworkTensor("y", "float32", (5,)))
    with pytest.raises(TypeError, match="input 1 is None"):
        Scale()(network, x, None)
    assert network.added == []
    with pytest.raises(RuntimeError, match="Scale: TensorRT added no layer"):
        Scale()(Network(refuses=True), x, x)


def test_shape_inputs_are_apart(registered: Any):
    class Broadcast(PluginBase):
        shape_inputs = 1

        def shape_dtype_inference(self, inputs, values) -> SymTensor:
            return SymTensor(inputs[0].dtype, [values[0][0], *inputs[0].shape])

        def forward(self, inputs: Tensors, outputs: Tensors) -> None:
            assert len(inputs) == 1
            np.from_dlpack(outputs[0])[...] = np.from_dlpack(inputs[0])

    registered("Broadcast")(Broadcast)
    network = Network()
    x, n = NetworkTensor("x", "int32", (-1,)), NetworkTensor("n", "int64", (1,))
    Broadcast()(network, x, n)
    assert network.added[0][:2] == ([x], [n])
    assert Broadcast()(rows(3), np.array([2])).tolist() == [[0, 1, 2]] * 2
    with pytest.raises(TypeError, match="1 of them must be shape inputs"):
        Broadcast()(network)
    size = Expression("name", ("n",))
    shape = inference.output_shapes(Broadcast(), Inputs(["int32"], [[7]], [[size]]))[0]
    assert [s if type(s) is int else s.leaf for s in shape] == [size, 7]


# ---- inference ----------------------------------------------------------------------------------


def expressions(*sizes: Any) -> list[Any]:
    return [s if type(s) is int else Expression("name", (s,)) for s in sizes]


def test_inference_depends_on_no_order_and_keeps_nothing(registered: Any):
    registered("Scale")(Scale)
    wide, narrow = Scale(wide=True), Scale()
    shapes = [expressions("n", 8), expressions("n", 8)]
    before = [dict(vars(p)) for p in (wide, narrow)]
    # Shapes first, before any dtype was seen; then dtypes of other calls in between.
    for known in (None, ["float16", "float16"]):
        found = inference.output_shapes(narrow, Inputs(known, shapes))
        made = [lower(s, Builder(), Operations()).value({"n": 5}) for s in found[0]]
        assert made == [5, 8]
        assert inference.output_dtypes(wide, ["float16", "int32"]) == ["float32"]
        assert inference.output_dtypes(narrow, ["bfloat16", "int32"]) == ["bfloat16"]
    assert [dict(vars(p)) for p in (wide, narrow)] == before


def test_inference_in_many_threads(registered: Any):
    registered("Scale")(Scale)
    shared, wrong = Scale(), []

    def infer(dtype: str, width: int) -> None:
        for _ in range(50):
            shapes = [expressions("n", width), expressions("m", 3)]
            found = inference.output_shapes(shared, Inputs([dtype, "int32"], shapes))
            if found[0][1] != width or inference.output_dtypes(shared, [dtype, "int8"]) != [dtype]:
                wrong.append((dtype, width))

    kinds = ("float32", "float16", "bfloat16", "int8")
    threads = [threading.Thread(target=infer, args=(d, i)) for i, d in enumerate(kinds)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_inference_returns_is_checked(registered: Any):
    class Wrong(Scale):
        given: Any = None

        def shape_dtype_inference(self, inputs) -> SymTensor:
            return self.given

    registered("Wrong")(Wrong)
    x = rows(2, 3)
    cases = [
        (x, TypeError, "returned ndarray, expected SymTensor"),
        ((SymTensor("int8", [1]),) * 2, ValueError, "returned 2 outputs.*says 1"),
        (SymTensor("int8", [1] * 9), ValueError, "9 dimensions, at most 8"),
        (None, TypeError, "returned NoneType, expected SymTensor"),
        (SymTensor("int8", [-1]), ValueError, r"output 0 would have shape \[-1\]"),
    ]
    for Wrong.given, error, said in cases:
        with pytest.raises(error, match=f"Wrong: .*{said}"):
            Wrong()(x, x)


def test_dtypes_that_a_plugin_does_not_take_are_refused(registered: Any):
    class Indexed(Scale):
        supported_dtypes = (("int32", "int64"), ("float32",))

        def input_name(self, index: int) -> str:
            return ("index", "table")[index]

    registered("Indexed")(Indexed)
    network, x = Network(), NetworkTensor("x", "float32", (4, 8))
    with pytest.raises(TypeError, match="Indexed: index is float32, expected int32 or int64"):
        Indexed()(network, x, x)
    for dtype in ("int32", "int64"):  # either one, each by itself
        Indexed()(network, NetworkTensor("i", dtype, (4, 8)), x)
    with pytest.raises(TypeError, match="3 inputs given, expected 2"):
        Indexed()(network, x, x, x)


# ---- eagerly ------------------------------------------------------------------------------------


def test_a_call_with_arrays_computes(registered: Any):
    registered("Scale")(Scale)
    assert Scale(factor=3.0)(rows(2, 3), rows(2)).tolist() == (rows(2, 3) * 3).tolist()
    assert Scale(wide=True)(rows(2, 3, dtype="float16"), rows(2)).dtype == np.float32
    assert Scale()(rows(0, 3), rows(0)).shape == (0, 3)
    with pytest.raises(ValueError, match="Scale: input 0 is not contiguous"):
        Scale()(rows(3, 2).T, rows(2))
    with pytest.raises(TypeError, match=r"input 1 is list, expected a tensor of torch"):
        Scale()(rows(2, 3), [1, 2])
    with pytest.raises(TypeError, match=r"Scale: input 0: .*complex64.* is no dtype"):
        Scale()(rows(2, 3, dtype="complex64"), rows(2))
    with pytest.raises(ValueError, match="has other rows than"):
        Scale()(rows(2, 3), rows(3))


def test_workspace_stream_and_aliases(registered: Any):
    class Add(PluginBase):
        aliased_outputs = {0: 1}  # noqa: RUF012

        def shape_dtype_inference(self, inputs) -> tuple[SymTensor, SymTensor]:
            return SymTensor(inputs[1].dtype, inputs[1].shape), inputs[0]

        def workspace_size(self, inputs, outputs) -> int:
            assert outputs[1].shape == inputs[0].shape
            return 4 * int(np.prod(inputs[0].shape))

        def forward(self, inputs, outputs, *, workspace, stream) -> None:
            assert stream == 0 and workspace.nbytes == 24 and workspace.dtype == "uint8"
            total = np.from_dlpack(outputs[0])
            total += np.from_dlpack(inputs[0])
            np.from_dlpack(outputs[1])[...] = 7

    registered("Add")(Add)
    x, total = rows(2, 3), rows(2, 3)
    same, other = Add()(x, total)
    assert same is total and total.tolist() == (rows(2, 3) * 2).tolist()
    assert (other == 7).all()
    fixed = rows(2, 3)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="Add: input 1 is read-only"):
        Add()(x, fixed)
    with pytest.raises(ValueError, match=r"aliased_outputs is \{0: 5\}.* 2 inputs"):
        Add.aliased_outputs = {0: 5}
        Add()(x, total)
    said = r"output 0 is float32 \[3, 2\], expected float32 \[2, 3\], those of input 0"
    with pytest.raises(ValueError, match=said):
        Add.aliased_outputs = {0: 0}
        Add()(rows(2, 3), rows(3, 2))


DTYPES = ("float32", "float16", "bfloat16", "float8_e4m3fn", "int8", "int32", "int64", "bool")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)])
def test_a_wrapper_shares_memory_with_torch(dtype: str, shape: tuple[int, ...]):
    torch = pytest.importorskip("torch")
    source = (torch.rand(shape) * 9).to(getattr(torch, dtype))
    wrapper = TensorWrapper(source.data_ptr(), source.dtype, shape, (1, 0))
    seen = convert_to_torch_tensor(wrapper)
    assert seen.dtype == source.dtype and seen.shape == source.shape
    assert source.numel() == 0 or seen.data_ptr() == source.data_ptr()
    if shape:  # as bytes: fp8 has no equality
        assert torch.equal(seen.view(torch.uint8), source.view(torch.uint8))
    assert wrapper.dtype == source.dtype and wrapper.nbytes == source.nbytes
    assert convert_to_torch_tensor(source) is source


def test_what_was_taken_from_a_wrapper_stays_where_it_was():
    first, second = rows(4), rows(4) + 10
    wrapper = TensorWrapper(first.ctypes.data, "float32", [4], (1, 0))
    kept, taken = np.from_dlpack(wrapper), tvm_ffi.from_dlpack(wrapper)
    assert wrapper.tensor.data_ptr() == first.ctypes.data
    wrapper.point(second.ctypes.data)
    assert wrapper.tensor.data_ptr() == second.ctypes.data == wrapper.data_ptr()
    assert kept.tolist() == first.tolist() and taken.data_ptr() == first.ctypes.data
    assert np.from_dlpack(wrapper).tolist() == second.tolist()
    assert repr(wrapper) == "TensorWrapper(float32, [4], cpu)"


def test_what_other_packages_say_of_pythons_functions_does_not_matter(monkeypatch: Any):
    new = ctypes.pythonapi.PyCapsule_New
    monkeypatch.setattr(new, "argtypes", [ctypes.c_char_p] * 3)
    monkeypatch.setattr(new, "restype", ctypes.c_int)
    array = rows(4)
    wrapper = TensorWrapper(array.ctypes.data, "float32", [4], (1, 0))
    assert np.from_dlpack(wrapper).tolist() == array.tolist()


# ---- dtypes and failures ------------------------------------------------------------------------


def test_a_dtype_equals_those_of_other_frameworks():
    torch = pytest.importorskip("torch")
    for name in DTYPES:
        assert DType(getattr(torch, name)) == name == DType(name)
        assert DType(name) == getattr(torch, name) and not DType(name) != getattr(torch, name)
        assert DType(name) in [getattr(torch, name)] and DType(name).torch == getattr(torch, name)
    assert DType(np.float32) == np.dtype("float32") != DType("float16")
    assert DType("bf16") == "bfloat16" and DType("int32") != torch.int64
    with pytest.raises(TypeError, match=r"torch\.complex64 is no dtype of a plugin"):
        DType(torch.complex64)


def test_failures_are_raised_where_they_happened():
    error, others = KeyError("mine"), []

    def other() -> None:
        failures.store(ValueError("other"))
        try:
            raise_stored()
        except ValueError as raised:
            others.append(str(raised))

    failures.store(error)
    failures.store(error)  # on its way through several callbacks
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    with pytest.raises(KeyError) as caught:
        raise_stored()
    assert caught.value is error and others == ["other"]
    raise_stored()


def test_the_package_is_light_and_its_parts_are_not_imported_with_it():
    code = "import my_llm_ffi, sys; print(*[m for m in sys.modules if 'tensorrt' in m])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
