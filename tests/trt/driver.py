"""Plugins of TensorRT's registry, driven through their real vtables; counterpart: driver.cc.

NVIDIA's headers are in no package registry: TENSORRT_INCLUDE_DIR names their folder.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# All that the headers want of CUDA's, where that is not installed.
NO_CUDA = HERE.parents[1] / "src" / "tensorrt" / "no_cuda"
FIELD_TYPES = {"FLOAT32": 1, "FLOAT64": 2, "INT8": 3, "INT32": 5, "CHAR": 6, "INT64": 10}
FIELD_NAMES = {number: name for name, number in FIELD_TYPES.items()}
TYPES = {
    "float32": 0,
    "float16": 1,
    "int8": 2,
    "int32": 3,
    "bool": 4,
    "uint8": 5,
    "float8_e4m3fn": 6,
    "bfloat16": 7,
    "int64": 8,
}
TYPE_NAMES = {number: name for name, number in TYPES.items()}
Tensor = tuple[str, Sequence[int]]  # dtype and sizes
TakeField = ctypes.CFUNCTYPE(
    None, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64
)


def headers() -> Path | None:
    """NVIDIA's headers, or None."""
    folder = os.environ.get("TENSORRT_INCLUDE_DIR")
    return Path(folder) if folder and Path(folder, "NvInferRuntime.h").is_file() else None


def _compile(folder: Path, name: str, sources: Sequence[str], options: Sequence[str]) -> Path:
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    include = headers()
    assert compiler is not None and include is not None
    folder.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-std=c++17", "-O1", "-Wno-deprecated-declarations", *options]
    # What stands for CUDA's header comes last: that is better where it is there.
    command += ["-isystem", str(include), "-idirafter", str(NO_CUDA)]
    command += [str(HERE / source) for source in sources]
    subprocess.run([*command, "-o", str(folder / name), "-ldl", "-pthread"], check=True)
    return folder / name


def build(folder: Path) -> Path:
    """Compiles the driver."""
    return _compile(folder, "libdriver.so", ["driver.cc"], ["-shared", "-fPIC"])


def build_program(folder: Path, *, sanitize: str = "") -> Path:
    """Compiles the program without Python."""
    options = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-g"] if sanitize else []
    return _compile(folder, "program", ["driver.cc", "program.cc"], options)


def build_runner(folder: Path) -> Path:
    """Compiles the example that runs an engine from C++."""
    source = HERE.parents[1] / "examples" / "tensorrt" / "run_lookup.cc"
    return _compile(folder, "run_lookup", [str(source)], ["-Wall", "-Wextra", "-Werror"])


class _Tensors(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int32),
        ("types", ctypes.POINTER(ctypes.c_int32)),
        ("ndims", ctypes.POINTER(ctypes.c_int32)),
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
    )


def _ints(values: Sequence[int], kind: Any = ctypes.c_int32) -> Any:
    return (kind * max(len(values), 1))(*values)


def _tensors(tensors: Sequence[Tensor]) -> Any:
    sizes = [size for _, shape in tensors for size in shape]
    return _Tensors(
        len(tensors),
        _ints([TYPES[dtype] for dtype, _ in tensors]),
        _ints([len(shape) for _, shape in tensors]),
        _ints(sizes, ctypes.c_int64),
    )


class Driver:
    """The library of driver.cc, and the registry of the `tensorrt` module."""

    def __init__(self, library: Path) -> None:
        import tensorrt

        # PyDLL: the plugins are Python's, and the calls keep the GIL as TensorRT's bindings do.
        self.loaded = ctypes.PyDLL(str(library))
        for name in ("create", "clone", "attach"):
            getattr(self.loaded, f"mlf_drive_{name}").restype = ctypes.c_void_p
        self.loaded.mlf_drive_workspace.restype = ctypes.c_int64
        self._registry_object = tensorrt.get_plugin_registry()
        # A pybind11 object holds the address of what it wraps after its header.
        address = id(self._registry_object) + 16
        self.registry = ctypes.c_void_p(ctypes.c_void_p.from_address(address).value)

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls a function of driver.cc."""
        return getattr(self.loaded, f"mlf_drive_{name}")(*arguments)

    def _collect(self, name: str, *arguments: Any) -> list[tuple[str, str, int, bytes]]:
        found: list[tuple[str, str, int, bytes]] = []

        def take(key: bytes, kind: int, length: int, data: int | None, n_bytes: int) -> None:
            content = ctypes.string_at(data, n_bytes) if data else b""
            found.append((key.decode(), FIELD_NAMES.get(kind, str(kind)), length, content))

        assert self.call(name, *arguments, TakeField(take)) == 0
        return found

    def field_names(self, *key: str) -> list[tuple[str, str, int]]:
        """Name, type and length of each field that a creator lists."""
        found = self._collect("field_names", self.registry, *(k.encode() for k in key))
        return [(name, kind, length) for name, kind, length, _ in found]

    def create(
        self, *key: str, fields: Sequence[tuple[str, str, int, bytes]] = (), runtime: bool = False
    ) -> Plugin | None:
        """A plugin from fields (name, type, length, bytes); None: it was refused."""
        data = [ctypes.create_string_buffer(f[3], max(len(f[3]), 1)) for f in fields]
        pointers = (ctypes.c_void_p * max(len(fields), 1))(*(ctypes.addressof(d) for d in data))
        names = (ctypes.c_char_p * max(len(fields), 1))(*(f[0].encode() for f in fields))
        made = self.call(
            "create",
            self.registry,
            *(k.encode() for k in key),
            int(runtime),
            len(fields),
            names,
            _ints([FIELD_TYPES[f[1]] for f in fields]),
            _ints([f[2] for f in fields]),
            pointers,
        )
        return None if made is None else Plugin(self, made)


class Plugin:
    """A plugin that TensorRT's registry made; not released by itself, the process is short."""

    def __init__(self, driver: Driver, pointer: int) -> None:
        self.driver, self.pointer = driver, ctypes.c_void_p(pointer)

    def _derived(self, how: str) -> Plugin:
        made = self.driver.call(how, self.pointer)
        assert made is not None
        return Plugin(self.driver, made)

    def clone(self) -> Plugin:
        return self._derived("clone")

    def destroy(self) -> None:
        """Deletes it, as TensorRT does in the end: for plugins in C++ alone."""
        self.driver.call("destroy", self.pointer)

    def attach(self) -> Plugin:
        return self._derived("attach")

    def identity(self) -> tuple[str, ...]:
        """Name, version and namespace."""
        found: list[str] = []
        take = TakeField(lambda key, *_: found.append(key.decode()))
        self.driver.call("identity", self.pointer, take)
        return tuple(found)

    def output_types(self, dtypes: Sequence[str]) -> list[str] | None:
        found = (ctypes.c_int32 * 16)()
        given = _ints([TYPES[d] for d in dtypes])
        count = self.driver.call("output_types", self.pointer, len(dtypes), given, found)
        return None if count < 0 else [TYPE_NAMES[number] for number in found[:count]]

    def output_shapes(
        self, shapes: Sequence[Sequence[int]], values: Sequence[int] = ()
    ) -> list[list[int]] | None:
        """Shapes of the outputs; a negative size is one that is not constant, on both sides."""
        found = (ctypes.c_int64 * 256)()
        tensors = _tensors([("float32", shape) for shape in shapes])
        given = _ints(values, ctypes.c_int64)
        call = self.driver.call
        count = call(
            "output_shapes", self.pointer, ctypes.byref(tensors), len(values), given, found
        )
        if count < 0:
            return None
        outputs, at = [], 0
        for _ in range(count):
            outputs.append(list(found[at + 1 : at + 1 + found[at]]))
            at += 1 + found[at]
        return outputs

    def supports(
        self, tensors: Sequence[Tensor], n_inputs: int, position: int, layout: int = 0
    ) -> bool:
        made = ctypes.byref(_tensors(tensors))
        return bool(self.driver.call("supports", self.pointer, made, n_inputs, position, layout))

    def workspace(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
        given = (ctypes.byref(_tensors(ts)) for ts in (inputs, outputs))
        return int(self.driver.call("workspace", self.pointer, *given))

    def aliased(self, output: int) -> int:
        return int(self.driver.call("aliased", self.pointer, output))

    def serialize(self) -> list[tuple[str, str, int, bytes]]:
        return self.driver._collect("serialize", self.pointer)

    def shape_change(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
        given = (ctypes.byref(_tensors(ts)) for ts in (inputs, outputs))
        return int(self.driver.call("shape_change", self.pointer, *given))

    def enqueue(
        self,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        *,
        workspace: int = 0,
        stream: int = 0,
        times: int = 1,
        prepared: bool = False,
    ) -> int | Any:
        """Enqueues on torch tensors; `prepared`: returns what does so, for the clock."""
        described = [[(str(t.dtype)[6:], tuple(t.shape)) for t in ts] for ts in (inputs, outputs)]
        made = [_tensors(tensors) for tensors in described]
        pointers = [
            (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))
            for tensors in (inputs, outputs)
        ]
        function = self.driver.loaded.mlf_drive_enqueue
        arguments = (
            self.pointer,
            *(ctypes.byref(m) for m in made),
            *pointers,
            ctypes.c_void_p(workspace),
            ctypes.c_void_p(stream),
        )

        def run(count: int) -> int:
            assert made and pointers  # they must live
            return int(function(*arguments, count))

        return run if prepared else run(times)


def int8(name: str, value: int) -> tuple[str, str, int, bytes]:
    """A field for a bool."""
    return name, "INT8", 1, struct.pack("=b", value)


def int32(name: str, value: int) -> tuple[str, str, int, bytes]:
    return name, "INT32", 1, struct.pack("=i", value)


def float64(name: str, value: float) -> tuple[str, str, int, bytes]:
    return name, "FLOAT64", 1, struct.pack("=d", value)
