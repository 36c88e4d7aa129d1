"""The creators of libmy_llm_ffi_tensorrt.so beside Python's, and in a program without Python.

Needs what tier 1 needs, NVIDIA's headers (TENSORRT_INCLUDE_DIR) and cmake. test_tier1.py drives the
same library through every step of an engine.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from trt import cpp_library
from trt import driver as drive
from trt.cpp_library import SHIPPED, CppLibrary
from trt.driver import Driver, float64, int8, int32

from my_llm_ffi import op_rules
from my_llm_ffi import tensorrt as plugins
from my_llm_ffi.tensorrt import op_plugin, op_plugins
from my_llm_ffi.tensorrt.fields import Field, Raw, decode_all, encode_all

trt = plugins.bindings.trt
pytestmark = pytest.mark.skipif(
    trt is None, reason="no Python module tensorrt: tests/trt/install.py makes an environment"
)
OURS = ("1", "my_llm_ffi")
OPS = {"".join(word.capitalize() for word in op.split("_")): op for op in op_plugins.SHIPPED}
DTYPES = ("float32", "float16", "bfloat16", "int32", "int64", "int8")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CppLibrary]:
    reason = cpp_library.lacking()
    if reason is not None or drive.headers() is None:
        pytest.skip(reason or "TENSORRT_INCLUDE_DIR names no folder with NvInferRuntime.h")
    pytest.importorskip("torch")
    with CppLibrary(cpp_library.build(tmp_path_factory.mktemp("library"))).registered() as loaded:
        yield loaded


@pytest.fixture(scope="module")
def driver(library: CppLibrary, tmp_path_factory: pytest.TempPathFactory) -> Driver:
    return Driver(drive.build(tmp_path_factory.mktemp("driver")))


def values_of(field: Field) -> st.SearchStrategy[Any]:
    """All that a field may be."""
    by_kind: dict[str, st.SearchStrategy[Any]] = {
        "bool": st.booleans(),
        "int": st.integers(-(2**63), 2**63 - 1),
        "float": st.floats(allow_nan=False),
        "str": st.sampled_from(field.choices or ("",)),
    }
    found = by_kind[field.kind]
    return st.none() | found if field.optional else found


def as_driven(raws: list[tuple[str, Raw]]) -> list[tuple[str, str, int, bytes]]:
    return [(name, raw.type, raw.length, raw.data) for name, raw in raws]


# ---- fields -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_creators_list_the_fields_of_python(library: CppLibrary, name: str):
    creator = trt.get_plugin_registry().get_creator(name, *OURS)
    assert (creator.name, creator.plugin_version, creator.plugin_namespace) == (name, *OURS)
    fields = [("schema_version", "INT32")]
    fields += [(f.name, f.type) for f in getattr(plugins, name).fields]
    assert [(f.name, f.type.name) for f in creator.field_names] == fields


@pytest.mark.parametrize("name", SHIPPED)
@hypothesis.given(data=st.data())
def test_what_python_writes_cpp_reads_and_writes_again(driver: Driver, name: str, data: Any):
    cls = getattr(plugins, name)
    values = {f.name: data.draw(values_of(f), f.name) for f in cls.fields}
    written = encode_all(cls.fields, 1, values)
    plugin = driver.create(name, *OURS, fields=data.draw(st.permutations(as_driven(written))))
    assert plugin is not None
    assert plugin.serialize() == plugin.clone().serialize() == as_driven(written)
    again = [(key, Raw(kind, content)) for key, kind, _, content in plugin.serialize()]
    assert decode_all(name, cls.fields, 1, again) == values
    plugin.destroy()


@pytest.mark.parametrize("name", SHIPPED)
def test_absent_fields_have_the_defaults_of_python(driver: Driver, name: str):
    cls = getattr(plugins, name)
    plugin = driver.create(name, *OURS)
    assert plugin is not None
    defaults = encode_all(cls.fields, 1, {f.name: f.default for f in cls.fields})
    assert plugin.serialize() == as_driven(defaults)


def test_other_types_that_are_read(driver: Driver):
    given = [
        ("scaling", "CHAR", 5, b"yarn\0"),
        int32("interleaved", 1),
        int32("original_context", -7),
        ("factor", "FLOAT32", 1, b"\0\0\x80\x3e"),
        ("has_freq_factors", "INT64", 1, bytes([1, *[0] * 7])),
        ("schema_version", "INT64", 1, bytes([1, *[0] * 7])),
    ]
    plugin = driver.create("Rope", *OURS, fields=given)
    assert plugin is not None
    found = {name: content for name, _, _, content in plugin.serialize()}
    assert (
        found["scaling"] == b"yarn" and found["interleaved"] == found["has_freq_factors"] == b"\1"
    )
    assert int.from_bytes(found["original_context"], "little", signed=True) == -7
    assert found["factor"] == float64("", 0.25)[3]


@pytest.mark.parametrize(
    ("name", "field", "message"),
    [
        ("RmsNorm", int32("schema_version", 2), "schema version 2, this plugin reads 1"),
        ("RmsNorm", float64("epsilon", 1), 'there is no field "epsilon", expected eps'),
        ("RmsNorm", int8("eps", 1), "eps is a field of type INT8, expected FLOAT64 or FLOAT32"),
        ("RmsNorm", ("eps", "FLOAT64", 2, bytes(16)), "eps is a field of length 2, expected 1"),
        ("LookUp", int8("fp32_output", 2), "fp32_output is 2, expected 0 or 1 for a bool"),
        ("LookUp", float64("fp32_output", 1), "of type FLOAT64, expected INT8 or INT32 or INT64"),
        ("Rope", int8("rotary_dims", 1), "of type INT8, expected INT64 or INT32"),
        ("Rope", int8("scaling", 1), "scaling is a field of type INT8, expected CHAR"),
        ("Rope", ("scaling", "CHAR", 3, b"ntk"), "scaling is \"ntk\", expected one of 'none', "),
        ("Rope", ("scaling", "CHAR", 1, b"\xff"), 'scaling is "\\xff", expected UTF-8'),
        ("Rope", ("base", "FLOAT64", 0, b""), "base is a field of length 0, expected 1"),
    ],
)
def test_fields_that_are_refused(
    library: CppLibrary, driver: Driver, name: str, field: Any, message: str
):
    assert driver.create(name, *OURS, fields=[field]) is None
    assert library.last_error().startswith(f"my_llm_ffi: {name}.createPlugin: ")
    assert f": {name}: " in library.last_error() and message in library.last_error()
    cls = getattr(plugins, name)
    with pytest.raises((TypeError, ValueError)):  # as Python refuses it
        decode_all(name, cls.fields, 1, [(field[0], Raw(field[1], field[3]))])


# ---- inference ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_python(library: CppLibrary) -> Iterator[dict[str, Any]]:
    """The same plugins in Python, in a namespace of their own, and of signatures alone.

    What an op asks for besides is known to Python while a network is built; in C++ the op says it.
    """
    space = "compared"
    made = {name: op_plugin(op, name=name, namespace=space) for name, op in OPS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(op_rules, "check", lambda *_: None)
        yield made
    for cls in made.values():
        plugins.unregister(cls)


@st.composite
def shapes_for(draw: Any, cls: Any, fields: dict[str, bool]) -> list[list[int]]:
    """Shapes of the inputs that fit, one of them perhaps spoilt; a negative size is not known."""
    sizes: dict[str, Any] = {}
    found = []
    for tensor in cls(**fields)._present:
        shape: list[int] = []
        for dim in tensor.dims:
            if dim.startswith("*"):
                batch = st.lists(st.integers(1, 9), max_size=2)
                shape += sizes.setdefault(dim, draw(batch))
            else:
                shape.append(int(dim) if dim.isdigit() else sizes.setdefault(dim, len(sizes) + 2))
        found.append(shape)
    spoilt = draw(st.none() | st.integers(0, len(found) - 1))
    if spoilt is not None:
        change = draw(st.sampled_from(["longer", "shorter", "other"]))
        if change == "longer":
            found[spoilt] = [7, *found[spoilt]]
        elif change == "shorter":
            found[spoilt] = found[spoilt][1:]
        elif found[spoilt]:
            found[spoilt] = [*found[spoilt][:-1], found[spoilt][-1] + 1]
    return [[-s if draw(st.booleans()) else s for s in shape] for shape in found]


@pytest.mark.parametrize("name", OPS)
@hypothesis.given(data=st.data())
def test_inference_is_that_of_python(
    driver: Driver, in_python: dict[str, Any], name: str, data: Any
):
    cls = in_python[name]
    fields = {f.name: data.draw(st.booleans()) for f in cls.fields if f.name.startswith("has_")}
    shapes = data.draw(shapes_for(cls, fields))
    dtypes = data.draw(
        st.lists(st.sampled_from(DTYPES), min_size=len(shapes), max_size=len(shapes))
    )
    given = [int8(key, int(value)) for key, value in fields.items()]
    ours = driver.create(name, *OURS, fields=given)
    theirs = driver.create(name, "1", "compared", fields=given)
    assert ours is not None and theirs is not None
    assert ours.output_types(dtypes) == theirs.output_types(dtypes)
    assert ours.output_shapes(shapes) == theirs.output_shapes(shapes)
    ours.destroy()
    plugins.failures.forget()


# ---- what a plugin refuses ----------------------------------------------------------------------


def test_dtypes_and_shapes_that_are_refused(library: CppLibrary, driver: Driver):
    norm = driver.create("RmsNorm", *OURS)
    assert norm is not None
    assert norm.output_types(["float32", "float16"]) is None
    assert "RmsNorm: weight is float16, expected float32" in library.last_error()
    assert norm.output_types(["int8", "int8"]) is None
    assert "x is of another dtype, expected float32 or float16 or bfloat16" in library.last_error()
    assert norm.output_types(["float32"]) is None
    assert "RmsNorm: 1 inputs given, expected 2" in library.last_error()
    assert norm.output_shapes([[-2, 4], [5]]) is None
    assert (
        "weight has shape [5], expected the sizes of the inputs before it" in library.last_error()
    )
    assert norm.output_shapes([[], [5]]) is None
    assert "x has shape [], expected another number of dimensions" in library.last_error()
    assert norm.output_shapes([[-2, 3, -4], [8]]) == [[-2, 3, -4]]  # as the first one has it
    assert norm.output_shapes([[-2, -4], [-4]]) == [[-2, -4]]
    swiglu = driver.create("SiluMul", *OURS)
    assert swiglu is not None
    assert swiglu.output_shapes([[2, -3, 4], [3, 4]]) is None
    assert "up has shape [3, 4], expected the leading dimensions" in library.last_error()
    paged = driver.create("PagedAttention", *OURS)
    assert paged is not None
    pages = [[-3, 4, 8], [9, 2, 8, 32], [9, 2, 31, 8], [9, 32], [2, 2], [-3], [-3]]
    assert paged.output_shapes(pages) is None
    assert "v_pages has shape [9, 2, 31, 8], expected 32" in library.last_error()


def test_formats_go_by_what_stands_before(driver: Driver):
    lookup = driver.create("LookUp", *OURS, fields=[int8("fp32_output", 1)])
    assert lookup is not None
    good = [("int64", (3,)), ("bfloat16", (5, 2)), ("float32", (3, 2))]
    assert [lookup.supports(good, 2, i) for i in range(3)] == [True] * 3
    assert not lookup.supports([*good[:2], ("bfloat16", (3, 2))], 2, 2)
    assert not lookup.supports([good[0], ("int32", (5, 2)), good[2]], 2, 1)
    assert not lookup.supports([("float32", (3,)), *good[1:]], 2, 2)
    assert not lookup.supports(good, 2, 1, layout=2)
    assert not lookup.supports(good[:2], 1, 1)


def test_an_error_of_the_op_is_a_status_and_a_message(library: CppLibrary, driver: Driver):
    import torch

    norm = driver.create("RmsNorm", *OURS, fields=[float64("eps", -1.0)])
    assert norm is not None
    x, weight, out = torch.ones(1, 4), torch.ones(4), torch.zeros(1, 4)
    assert norm.enqueue([x, weight], [out]) == -1
    assert library.last_error().startswith("my_llm_ffi: RmsNorm.enqueue: ValueError: rms_norm: eps")
    assert norm.enqueue([x, weight[:3]], [out]) == -1
    assert "rms_norm: weight has shape [3]" in library.last_error()
    assert torch.equal(out, torch.zeros(1, 4))
    add = driver.create("AddRmsNorm", *OURS)
    assert add is not None
    assert add.enqueue([x, x, weight], [torch.zeros(2, 4), out]) == -1
    assert "AddRmsNorm: output 0 is not of the shape and dtype of residual" in library.last_error()


def test_outputs_are_checked_when_shapes_change(library: CppLibrary, driver: Driver):
    lookup = driver.create("LookUp", *OURS)
    assert lookup is not None
    inputs = [("int32", (3,)), ("float16", (5, 2))]
    assert lookup.shape_change(inputs, [("float16", (3, 2))]) == 0
    assert lookup.shape_change(inputs, [("float32", (3, 2))]) == -1
    assert "output 0 is float32 [3, 2] in the engine, inference" in library.last_error()
    assert lookup.shape_change(inputs[:1], [("float16", (3, 2))]) == -1
    assert lookup.shape_change(inputs, []) == -1
    assert "LookUp: 0 outputs given, expected 1" in library.last_error()


def test_without_a_gpu_device_memory_is_refused(library: CppLibrary, driver: Driver):
    import torch

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("there is a driver")
    norm = driver.create("RmsNorm", *OURS)
    assert norm is not None
    library.handle.my_llm_ffi_tensorrt_host_memory(0)
    try:
        x = torch.ones(1, 4)
        assert norm.enqueue([x, x[0]], [torch.zeros(1, 4)]) == -1
    finally:
        library.handle.my_llm_ffi_tensorrt_host_memory(1)
    assert "RuntimeError: this needs a GPU of NVIDIA: there is no driver" in library.last_error()


def test_devices_streams_and_copies_on_a_fake_driver(
    library: CppLibrary, driver: Driver, tmp_path: Path
):
    """See fake_device.py: a process of its own, whose libcuda.so.1 is fake_driver.c."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None
    here, fake = Path(__file__).parent, tmp_path / "libcuda.so.1"
    options = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([compiler, *options, here / "fake_driver.c", "-o", fake], check=True)
    files = [library.path, driver.loaded._name, fake]
    command = [sys.executable, here / "fake_device.py", *files]
    found = subprocess.run(command, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "all is well\n"), found.stdout + found.stderr


# ---- the library --------------------------------------------------------------------------------


def tool(*command: str) -> list[str]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} (binutils) is not installed")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_it_shows_its_c_functions_alone(library: CppLibrary):
    own = "my_llm_ffi_tensorrt_"
    shown = {line.split()[-1] for line in tool("nm", "-D", "--defined-only", str(library.path))}
    wanted = {"getCreators", "setLoggerFinder", f"{own}host_memory", f"{own}last_error"}
    assert {name for name in shown if not name.startswith("__asan")} == wanted


def test_it_needs_neither_tensorrt_nor_cuda(library: CppLibrary):
    lines = tool("readelf", "-d", "-W", str(library.path))
    needed = [line.partition("[")[2].rstrip("]") for line in lines if "(NEEDED)" in line]
    assert {"libmy_llm_ffi.so", "libtvm_ffi.so"} <= set(needed)
    assert not [name for name in needed if "nvinfer" in name or "cu" in name]


@pytest.mark.parametrize("sanitize", ["", "address,undefined"])
def test_a_program_without_python(library: CppLibrary, tmp_path: Path, sanitize: str):
    """An engine's fields, written by Python, in a process that has no Python."""
    path = library.path
    if sanitize:
        if shutil.which("cmake") is None:
            pytest.skip("no cmake")
        path = cpp_library.compile(tmp_path / "library", sanitize=sanitize)
    written = encode_all(
        plugins.LookUp.fields, 1, plugins.LookUp(use_torch_tensor=True, fp32_output=True).values()
    )
    lines = [
        f"{name} {drive.FIELD_TYPES[raw.type]} {raw.length} {raw.data.hex()}\n"
        for name, raw in written
    ]
    fields = tmp_path / "fields.txt"
    fields.write_text("".join(lines), "utf-8")
    program = drive.build_program(tmp_path, sanitize=sanitize)
    import tensorrt_dispatch_libs

    (folder,) = map(Path, tensorrt_dispatch_libs.__path__)
    dispatch = next(folder.glob("libnvinfer_dispatch.so.*"))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LD_"))}
    command = [str(program), str(dispatch), str(path), str(fields)]
    found = subprocess.run(command, capture_output=True, text=True, env=clean, cwd=tmp_path)
    assert (found.returncode, found.stdout) == (0, "all is well\n"), found.stdout + found.stderr
