"""Manifests beside engines: what is written, and what is said before TensorRT would fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from my_llm_ffi import tensorrt
from my_llm_ffi.tensorrt import LookUp, PluginBase, RmsNorm, load_engine, manifest_path, save_engine


def test_an_engine_and_its_manifest(tmp_path: Path):
    path = tmp_path / "model.engine"
    manifest = save_engine(path, memoryview(b"engine"), plugins=[LookUp(), RmsNorm, LookUp])
    assert manifest == manifest_path(path) == tmp_path / "model.engine.plugins.json"
    content = json.loads(manifest.read_text("utf-8"))
    row = {"version": "1", "namespace": "my_llm_ffi", "module": "my_llm_ffi.tensorrt"}
    assert content["plugins"] == [{"name": "LookUp", **row}, {"name": "RmsNorm", **row}]
    assert content["format"] == 1 and content["engine_bytes"] == 6
    assert load_engine(path) == b"engine"
    manifest.unlink()
    assert load_engine(path) == b"engine"  # without one, TensorRT is the one to say


def test_a_plugin_that_is_not_there_is_named_with_what_to_import(tmp_path: Path, registered: Any):
    class Mine(PluginBase):
        num_outputs = 1

    Mine.__module__ = "their.package"
    path = tmp_path / "x.engine"
    cls = tensorrt.plugin("Mine", version="7", namespace="their")(Mine)
    save_engine(path, b"engine", plugins=[cls])
    load_engine(path)
    tensorrt.unregister(cls)
    with pytest.raises(LookupError) as caught:
        load_engine(path)
    assert str(caught.value) == (
        f"{manifest_path(path)}: plugin Mine, version 7 of namespace 'their', is not registered: "
        "import their.package before the engine is loaded"
    )


def test_plugins_of_a_script_cannot_be_imported(tmp_path: Path, registered: Any):
    cls = type("Mine", (PluginBase,), {"num_outputs": 1, "__module__": "__main__"})
    registered("Mine")(cls)
    manifest = save_engine(tmp_path / "x", b"engine", plugins=[cls])
    content = json.loads(manifest.read_text("utf-8"))
    content["plugins"][0].update(name="Gone", module="")
    manifest.write_text(json.dumps(content), "utf-8")
    with pytest.raises(LookupError, match=r"Gone.*run the script that defines it"):
        load_engine(tmp_path / "x")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("[", "is no manifest"),
        ("[" * 100_000, "is no manifest"),
        ('{"format": ' + "1" * 5000 + "}", "is no manifest|format is 1"),
        ('{"format": true}', "format is True, expected 1"),
        ("[]", "format is None, expected 1"),
        ('{"format": 2}', "format is 2, expected 1"),
        ('{"format": 1}', "a member is missing"),
        ('{"format": 1, "engine_sha256": "", "plugins": [{"name": 3}]}', "a member is missing"),
        ('{"format": 1, "engine_sha256": "", "plugins": []}', "belongs to another engine"),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, change: str, said: str):
    path = tmp_path / "x"
    save_engine(path, b"engine", plugins=[]).write_text(change, "utf-8")
    with pytest.raises(ValueError, match=said):
        load_engine(path)


@pytest.mark.parametrize("name", ["RmsNorm\0", "\ud800"])
def test_names_that_cannot_be_asked_for_are_refused(tmp_path: Path, name: str):
    manifest = save_engine(tmp_path / "x", b"engine", plugins=[RmsNorm])
    content = json.loads(manifest.read_text("utf-8"))
    content["plugins"][0]["name"] = name
    manifest.write_text(json.dumps(content), "utf-8")
    with pytest.raises(ValueError, match="of another type"):
        load_engine(tmp_path / "x")


def test_another_version_is_told_from_none(tmp_path: Path):
    manifest = save_engine(tmp_path / "x", b"engine", plugins=[RmsNorm])
    manifest.write_text(manifest.read_text("utf-8").replace('"version": "1"', '"version": "2"'))
    with pytest.raises(LookupError, match=r"version 2 .*: version 1 is, expected another my_llm"):
        load_engine(tmp_path / "x")


def test_an_op_of_your_own_package_is_registered_by_it(tmp_path: Path):
    cls = tensorrt.op_plugin("softmax", namespace="tests")
    try:
        manifest = save_engine(tmp_path / "x", b"engine", plugins=[cls])
        (row,) = json.loads(manifest.read_text("utf-8"))["plugins"]
        assert row["module"] == __name__
    finally:
        tensorrt.unregister(cls)


def test_nothing_is_saved_without_an_engine(tmp_path: Path):
    for number in (5, [1], "engine"):
        with pytest.raises(TypeError, match=r"engine is (int|list|str), expected a serialized"):
            save_engine(tmp_path / "x", number)
    with pytest.raises(TypeError, match="the build failed"):
        save_engine(tmp_path / "x", None)
    with pytest.raises(TypeError, match="is no registered plugin"):
        save_engine(tmp_path / "x", b"engine", plugins=[PluginBase])
    unregistered = type("Sub", (RmsNorm,), {})  # it would stand there as RmsNorm
    with pytest.raises(TypeError, match=r"Sub.* is no registered plugin"):
        save_engine(tmp_path / "x", b"engine", plugins=[unregistered])
    with pytest.raises(TypeError, match="check_manifest: engine is str, expected a serialized"):
        tensorrt.check_manifest(tmp_path / "x", "engine")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
