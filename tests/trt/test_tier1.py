"""Plugins in TensorRT's genuine registry, and through its vtables: no GPU, no builder.

Needs the Python module `tensorrt`; tests/trt/install.py makes an environment that has it. What goes
through the vtables needs NVIDIA's headers too: TENSORRT_INCLUDE_DIR.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from trt import cpp_library
from trt import driver as drive
from trt.cpp_library import SHIPPED, CppLibrary
from trt.driver import Driver, float64, int8, int32

import my_llm_ffi as llm
from my_llm_ffi import tensorrt as plugins
from my_llm_ffi.tensorrt import PluginBase, SymTensor

trt = plugins.bindings.trt
pytestmark = pytest.mark.skipif(
    trt is None, reason="no Python module tensorrt: tests/trt/install.py makes an environment"
)
OURS = ("1", "my_llm_ffi")


def described(tensors: Any) -> list[drive.Tensor]:
    return [(str(t.dtype)[6:], tuple(t.shape)) for t in tensors]


# ---- the registry -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_importing_registers_creators(name: str):
    creator = trt.get_plugin_registry().get_creator(name, *OURS)
    fields = {f.name: f.type.name for f in creator.field_names}
    cls = getattr(plugins, name)
    assert fields == {"schema_version": "INT32", **{f.name: f.type for f in cls.fields}}


def test_a_name_that_tensorrt_has_is_refused(registered: Any):
    class Mine(PluginBase):
        num_outputs = 1

    registered("Mine")(Mine)
    del plugins.plugin_base.registry["Mine", "1", "tests"]  # as if a library had registered it
    try:
        with pytest.raises(ValueError, match="TensorRT has a creator of Mine, version 1"):
            plugins.plugin("Mine", namespace="tests")(type("Other", (Mine,), {}))
    finally:
        plugins.plugin_base.registry["Mine", "1", "tests"] = Mine
        Mine.plugin_name = "Mine"


def test_an_unregistered_plugin_is_gone():
    cls = plugins.plugin("Gone", namespace="tests")(type("Gone", (PluginBase,), {"num_outputs": 1}))
    registry = trt.get_plugin_registry()
    assert registry.get_creator("Gone", "1", "tests") is not None
    plugins.unregister(cls)
    assert registry.get_creator("Gone", "1", "tests") is None


def field(name: str, values: Any, kind: str) -> Any:
    return trt.PluginField(name, np.array(values), getattr(trt.PluginFieldType, kind))


def test_fields_are_marshalled_by_the_genuine_classes():
    creator = plugins.adapter._creators[plugins.Rope]
    text = np.frombuffer(b"yarn", np.int8)
    given = [
        field("base", np.float64(5e5), "FLOAT64"),
        field("factor", np.array([4], np.float32), "FLOAT32"),
        field("original_context", np.array([8192], np.int32), "INT32"),
        field("interleaved", np.array([1], np.int8), "INT8"),
        trt.PluginField("scaling", text, trt.PluginFieldType.CHAR),
    ]
    made = creator.create_plugin("r", trt.PluginFieldCollection(given), trt.TensorRTPhase.BUILD)
    values = made.plugin.values()
    assert (values["base"], values["factor"], values["scaling"]) == (5e5, 4.0, "yarn")
    assert (values["original_context"], values["interleaved"]) == (8192, True)
    again = creator.create_plugin("r", made.get_fields_to_serialize(), trt.TensorRTPhase.RUNTIME)
    assert again.plugin.values() == values and again.plugin is not made.plugin


def test_a_field_that_does_not_fit_is_refused_and_kept():
    creator = plugins.adapter._creators[plugins.RmsNorm]
    given = trt.PluginFieldCollection([field("epsilon", np.array([1.0]), "FLOAT64")])
    with pytest.raises(ValueError, match="RmsNorm: there is no field 'epsilon'"):
        creator.create_plugin("n", given, trt.TensorRTPhase.BUILD)
    with pytest.raises(ValueError, match="RmsNorm: there is no field 'epsilon'"):
        plugins.raise_stored()


# ---- the vtables --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def python_driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    if drive.headers() is None:
        pytest.skip("TENSORRT_INCLUDE_DIR names no folder with NvInferRuntime.h")
    pytest.importorskip("torch")
    with plugins.host_memory():
        yield Driver(drive.build(tmp_path_factory.mktemp("driver")))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> CppLibrary:
    reason = cpp_library.lacking()
    if reason is not None:
        pytest.skip(reason)
    return CppLibrary(cpp_library.build(tmp_path_factory.mktemp("library")))


@pytest.fixture(scope="module", params=["python", "cpp"])
def driver(request: pytest.FixtureRequest, python_driver: Driver) -> Iterator[Driver]:
    """For each test twice: the plugins that ship are Python's, then those of the C++ library."""
    if request.param == "python":
        yield python_driver
    else:
        with request.getfixturevalue("library").registered():
            yield python_driver


def run(driver: Driver, name: str, fields: Any, inputs: Any, outputs: Any) -> Any:
    """The whole way of a plugin from its fields to results, as an engine goes it."""
    built = driver.create(name, *OURS, fields=fields)
    assert built is not None and built.identity() == (name, *OURS)
    built = built.clone()
    dtypes = [dtype for dtype, _ in described(inputs)]
    assert built.output_types(dtypes) == [dtype for dtype, _ in described(outputs)]
    dynamic = [[-s if d == 0 else s for d, s in enumerate(t.shape)] for t in inputs]
    shapes = built.output_shapes(dynamic)
    assert shapes is not None
    assert [[abs(s) for s in shape] for shape in shapes] == [list(t.shape) for t in outputs]
    both = described([*inputs, *outputs])
    assert all(built.supports(both, len(inputs), i) for i in range(len(both)))
    assert not built.supports(both, len(inputs), 0, layout=1)
    assert built.workspace(described(inputs), described(outputs)) == 0
    loaded = driver.create(name, *OURS, fields=built.serialize(), runtime=True)
    assert loaded is not None
    assert loaded.serialize() == built.serialize()
    running = loaded.attach()
    assert running.shape_change(described(inputs), described(outputs)) == 0
    assert running.enqueue(inputs, outputs) == 0
    plugins.raise_stored()
    return running


@pytest.mark.parametrize(("dtype", "wide"), [("bfloat16", 1), ("float16", 0), ("float32", 0)])
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
def test_lookup(driver: Driver, dtype: str, wide: int, index_dtype: str):
    import torch

    table = torch.randn(32, 16).to(getattr(torch, dtype))
    index = torch.randint(0, 32, (5,), dtype=getattr(torch, index_dtype))
    out = torch.empty(5, 16, dtype=torch.float32 if wide else table.dtype)
    run(driver, "LookUp", [int8("fp32_output", wide)], [index, table], [out])
    assert torch.equal(out, table[index.long()].to(out.dtype))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_norms_and_silu_mul(driver: Driver, dtype: str):
    import torch

    x, y = torch.randn(2, 3, 64).to(getattr(torch, dtype))
    weight = torch.randn(64).to(x.dtype)
    out = torch.empty_like(x)
    run(driver, "RmsNorm", [float64("eps", 1e-3)], [x, weight], [out])
    assert torch.equal(out, llm.ops.rms_norm(x, weight, eps=1e-3))
    run(driver, "SiluMul", [], [x, y], [out])
    assert torch.equal(out, llm.ops.silu_mul(x, y))
    want_stream, stream = y.clone(), torch.empty_like(y)
    want = llm.ops.add_rms_norm(x, want_stream, weight, eps=1e-3)
    source = y.clone()
    running = run(driver, "AddRmsNorm", [float64("eps", 1e-3)], [x, source, weight], [stream, out])
    assert torch.equal(out, want) and torch.equal(stream, want_stream)
    assert torch.equal(source, y)  # memory of its own: the input stays
    assert [running.aliased(i) for i in range(2)] == [1, -1]
    assert running.enqueue([x, source, weight], [source, out]) == 0  # the same memory
    assert torch.equal(source, want_stream)


def test_rope_with_and_without_its_optional_input(driver: Driver):
    import torch

    q, k, positions = torch.randn(3, 4, 8), torch.randn(3, 2, 8), torch.arange(3)
    factors = torch.rand(4) + 1
    for given in ([], [factors]):
        want = [q.clone(), k.clone()]
        llm.ops.rope(*want, positions, *given, base=500.0)
        found = [torch.empty_like(q), torch.empty_like(k)]
        fields = [float64("base", 500.0), int8("has_freq_factors", len(given))]
        running = run(driver, "Rope", fields, [q, k, positions, *given], found)
        assert all(torch.equal(a, b) for a, b in zip(found, want))
        assert [running.aliased(i) for i in range(2)] == [0, 1]


def test_mask_logits_and_paged_attention(driver: Driver):
    import torch

    logits, temperature = torch.randn(2, 40), torch.tensor([0.5, 2.0])
    want = logits.clone()
    mass, status = llm.ops.mask_logits(want, None, None, temperature)
    found = [torch.empty_like(t) for t in (logits, mass, status)]
    run(driver, "MaskLogits", [int8("has_temperature", 1)], [logits, temperature], found)
    assert all(torch.equal(a, b) for a, b in zip(found, (want, mass, status)))
    pages = [torch.randn(4, 2, 8, 32), torch.randn(4, 2, 32, 8)]
    positions = torch.arange(128, dtype=torch.int32).view(4, 32)
    tables = [torch.tensor([[2, 1]]), torch.zeros(3), torch.tensor([90, 91, 99])]
    given = [torch.randn(3, 4, 8), *pages, positions, *(t.int() for t in tables)]
    out = torch.empty(3, 4, 8)
    run(driver, "PagedAttention", [float64("soft_cap", 5.0)], given, [out])
    assert torch.equal(out, llm.ops.paged_attention(*given, soft_cap=5.0))


def test_what_a_plugin_refuses(driver: Driver):
    assert driver.create("RmsNorm", *OURS, fields=[int32("schema_version", 2)]) is None
    assert driver.create("RmsNorm", *OURS, fields=[int8("eps", 1)]) is None
    assert driver.create("RmsNorm", *OURS, fields=[int8("unknown", 1)]) is None
    assert driver.create("LookUp", *OURS, fields=[int8("fp32_output", 2)]) is None
    assert driver.create("RmsNorm", "1", "") is None  # another namespace
    norm = driver.create("RmsNorm", *OURS)
    assert norm is not None
    both = [("float32", (2, 4)), ("float16", (4,)), ("float32", (2, 4))]
    assert not all(norm.supports(both, 2, i) for i in range(3))
    assert norm.output_shapes([[-2, 4], [5]]) is None
    plugins.failures.forget()


def test_field_names_are_those_of_the_contract(driver: Driver):
    for name in SHIPPED:
        fields = getattr(plugins, name).fields
        listed = [(f.name, f.type, f.listed_length) for f in fields]
        assert driver.field_names(name, *OURS) == [("schema_version", "INT32", 1), *listed]


# ---- plugins of one's own, in Python ------------------------------------------------------------


@pytest.fixture
def failing(registered: Callable[..., Any]) -> Any:
    class Failing(PluginBase):
        def __init__(self, message: str = "boom") -> None:
            self.message = message

        def shape_dtype_inference(self, inputs) -> SymTensor:
            if inputs[0].dtype == "int8":
                raise TypeError("no int8 here")
            return SymTensor(inputs[0].dtype, [-(-inputs[0].shape[0] // 2) + 1])

        def workspace_size(self, inputs, outputs) -> int:
            return 16 * inputs[0].shape[0]

        def forward(self, inputs, outputs, *, workspace, stream) -> None:
            assert workspace.nbytes == 80 and stream == 0
            raise RuntimeError(self.message)

    return registered("Failing")(Failing)


def test_an_exception_of_forward_is_raised_after_the_execution(
    python_driver: Driver, failing: Any, capfd: Any
):
    import torch

    fields = [("message", "CHAR", 5, b"kaput")]
    plugin = python_driver.create("Failing", "1", "tests", fields=fields)
    assert plugin is not None
    assert plugin.output_types(["int8"]) is None
    with pytest.raises(TypeError, match="no int8 here"):
        plugins.raise_stored()
    assert plugin.output_shapes([[-5]]) == [[-4]] and plugin.output_shapes([[5]]) == [[4]]
    x, out = torch.zeros(5), torch.zeros(4)
    assert plugin.workspace(described([x]), described([out])) == 80
    running = plugin.attach()
    assert running.shape_change(described([x]), described([out])) == 0
    space = torch.empty(80, dtype=torch.uint8)
    assert running.enqueue([x], [out], workspace=space.data_ptr()) == -1
    with pytest.raises(RuntimeError, match="kaput") as caught:
        plugins.raise_stored()
    assert caught.traceback[-1].name == "forward"
    assert running.shape_change(described([x]), described([out[:1]])) == -1
    with pytest.raises(ValueError, match=r"output 0 is float32 \[1\] in the engine"):
        plugins.raise_stored()


def test_contexts_have_plugins_of_their_own(python_driver: Driver, failing: Any):
    plugin = python_driver.create("Failing", "1", "tests")
    assert plugin is not None
    pointers = {p.pointer.value for p in (plugin, plugin.clone(), plugin.attach(), plugin.attach())}
    assert len(pointers) == 4
