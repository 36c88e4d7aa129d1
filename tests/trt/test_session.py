"""Sessions on a context that records: names, shapes, dtypes, and errors of plugins."""

from __future__ import annotations

import types
from typing import Any

import pytest

from my_llm_ffi.tensorrt import Session, TensorInfo, failures, has_tensorrt, session

torch = pytest.importorskip("torch")
MODES = types.SimpleNamespace(INPUT="in", OUTPUT="out")
PLACES = types.SimpleNamespace(HOST="host", DEVICE="device")


class Engine:
    """Of x [-1, 4] float16 and index [-1] int32; gives y like x."""

    TENSORS = {  # noqa: RUF012
        "x": ("in", "float16", (-1, 4)),
        "index": ("in", "int32", (-1,)),
        "y": ("out", "float16", (-1, 4)),
    }
    num_io_tensors = 3
    place = "host"  # there is no GPU

    def get_tensor_location(self, name: str) -> str:
        return self.place

    def get_tensor_name(self, i: int) -> str:
        return list(self.TENSORS)[i]

    def get_tensor_mode(self, name: str) -> str:
        return self.TENSORS[name][0]

    def get_tensor_dtype(self, name: str) -> str:
        return self.TENSORS[name][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.TENSORS[name][2]


class Context:
    """Copies x to y on the host."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.error: Exception | None = None
        self.works, self.streams = True, []

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return shape[0] <= 8 and len(shape) == len(Engine.TENSORS[name][2])

    def infer_shapes(self) -> list[str]:
        self.known = dict(self.addresses)  # the values of shape tensors are read here
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes["x"] if name == "y" else self.shapes[name]

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        self.streams.append(stream)
        if self.error is not None:
            failures.store(self.error)
            return False
        return self.works


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Session:
    names = types.SimpleNamespace(TensorIOMode=MODES, TensorLocation=PLACES)
    monkeypatch.setattr(session, "require", lambda: names)
    return Session(Engine(), Context())


def inputs(n: int = 3, dtype: Any = torch.float16) -> dict[str, Any]:
    return {"x": torch.ones(n, 4, dtype=dtype), "index": torch.zeros(n, dtype=torch.int32)}


def infos(**given: Any) -> list[TensorInfo]:
    return [TensorInfo(name, t.dtype, t.shape) for name, t in given.items()]


def test_shapes_are_inferred(made: Session):
    assert made.infer_shapes(infos(**inputs(5))) == [TensorInfo("y", "float16", (5, 4))]
    assert [i.name for i in made.inputs] == ["x", "index"]
    assert made.outputs == [TensorInfo("y", torch.float16, (-1, 4))]


def test_a_run_points_the_context_at_the_tensors(made: Session):
    given, out = inputs(), torch.empty(3, 4, dtype=torch.float16)
    found = made.run(given, {"y": out}, 77)
    assert found == {"y": out} and found["y"] is out and made.context.streams == [77]
    everything = {**given, "y": out}
    assert made.context.addresses == {name: t.data_ptr() for name, t in everything.items()}


def test_a_failure_of_before_is_none_of_this_run(made: Session):
    failures.store(KeyError("before"))
    made.infer_shapes(infos(**inputs()))
    failures.store(KeyError("before"))
    made.run(inputs(), {"y": torch.empty(3, 4, dtype=torch.float16)}, 0)


def test_an_error_of_inference_comes_out(made: Session, monkeypatch: pytest.MonkeyPatch):
    error = KeyError("inferred")
    monkeypatch.setattr(made.context, "infer_shapes", lambda: failures.store(error) or ["y"])
    with pytest.raises(KeyError) as caught:
        made.infer_shapes(infos(**inputs()))
    assert caught.value is error
    monkeypatch.setattr(made.context, "infer_shapes", lambda: ["index"])
    with pytest.raises(ValueError, match="cannot be inferred without index"):
        made.infer_shapes(infos(**inputs()))


def test_shape_tensors_have_addresses_before_shapes_are_inferred(made: Session):
    out = {"y": torch.empty(3, 4, dtype=torch.float16)}
    for given in (inputs(), inputs()):
        made.run(given, out, 0)
        assert made.context.known["index"] == given["index"].data_ptr()


def test_empty_tensors_have_an_address(made: Session):
    """TensorRT refuses null, which torch gives for them."""
    out = {"y": torch.empty(0, 4, dtype=torch.float16)}
    assert made.run(inputs(0), out, 0) == out and made.context.streams == [0]
    assert all(made.context.addresses[name] for name in ("x", "index", "y"))


def test_an_output_whose_shape_the_data_says_is_refused(
    made: Session, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Context, "get_tensor_shape", lambda *_: (-1, 4))
    with pytest.raises(ValueError, match=r"y has shape \[-1, 4\], which only the data says"):
        made.run(inputs(), None, 0)
    assert made.context.streams == []


def test_outputs_are_allocated_beside_the_inputs(made: Session, monkeypatch: pytest.MonkeyPatch):
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, device, **k: empty(*a, **k))
    found = made.run(inputs(2), stream=types.SimpleNamespace(cuda_stream=5))
    assert found["y"].shape == (2, 4) and found["y"].dtype == torch.float16
    assert made.context.streams == [5]


def test_an_error_of_a_plugin_comes_out_with_its_traceback(made: Session):
    def fails() -> None:
        raise ZeroDivisionError("in forward")

    try:
        fails()
    except ZeroDivisionError as error:
        made.context.error = error
    out = {"y": torch.empty(3, 4, dtype=torch.float16)}
    with pytest.raises(ZeroDivisionError, match="in forward") as caught:
        made.run(inputs(), out, 0)
    assert caught.traceback[-1].name == "fails"
    made.context.error = None
    made.run(inputs(), out, 0)  # it is not raised again
    made.context.works = False
    with pytest.raises(RuntimeError, match="did not execute"):
        made.run(inputs(), out, 0)


def test_what_does_not_fit_is_refused(made: Session):
    good = {"y": torch.empty(3, 4, dtype=torch.float16)}
    with pytest.raises(ValueError, match="inputs are x, the engine has x, index"):
        made.run({"x": inputs()["x"]}, good, 0)
    with pytest.raises(TypeError, match="x is float32, the engine takes float16"):
        made.run(inputs(dtype=torch.float32), good, 0)
    with pytest.raises(ValueError, match=r"x has shape \[9, 4\], the engine takes \[-1, 4\]"):
        made.run(inputs(9), good, 0)
    with pytest.raises(ValueError, match=r"y has shape \[2, 4\], expected \[3, 4\]"):
        made.run(inputs(), {"y": good["y"][:2]}, 0)
    with pytest.raises(TypeError, match=r"y is torch\.float32, the engine gives float16"):
        made.run(inputs(), {"y": good["y"].float()}, 0)
    with pytest.raises(ValueError, match="the engine has y too"):
        made.run(inputs(), {"z": good["y"]}, 0)
    with pytest.raises(ValueError, match="the engine has no output z"):
        made.run(inputs(), {**good, "z": good["y"]}, 0)
    with pytest.raises(ValueError, match="x is expected to be a contiguous torch tensor"):
        made.run({**inputs(), "x": torch.ones(4, 3, dtype=torch.float16).T}, good, 0)


def test_memory_of_the_host_is_not_given_to_the_gpu(made: Session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Engine, "place", "device")
    on_gpu = Session(Engine(), Context())
    with pytest.raises(ValueError, match="x is on cpu, expected cuda"):
        on_gpu.run(inputs(), None, 0)
    assert on_gpu.context.streams == []


@pytest.mark.parametrize("engine", [None, 5, [1]])
def test_what_is_no_engine_is_refused(made: Session, engine: Any):
    with pytest.raises(TypeError, match=r"from_serialized_engine: engine is (NoneType|int|list)"):
        Session.from_serialized_engine(engine)


def test_without_a_gpu_no_engine_is_loaded():
    """TensorRT's runtime would end the process, or there is none: one line says it."""
    if torch.cuda.is_available() and has_tensorrt():
        pytest.skip("TensorRT and a GPU are here")
    with pytest.raises((ImportError, RuntimeError), match=r"this needs (TensorRT|a GPU)"):
        Session.from_serialized_engine(b"engine")
