"""Files that are no valid model: each gives one typed exception that says what is wrong.

The lies are listed in reference/gguf_lies.py.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from reference import gguf_raw as raw
from reference.gguf_files import TinySpec
from reference.gguf_lies import BPE_CASES, CASES, Bad, drop
from reference.gguf_raw import RawGguf


@pytest.fixture(scope="module")
def good(tiny_file: Callable[[TinySpec], Path]) -> Path:
    return tiny_file(TinySpec())


@pytest.fixture(scope="module")
def parts(good: Path) -> RawGguf:
    """The good file taken apart; copied before it is changed."""
    return raw.parse(good)


@pytest.fixture(scope="module")
def bpe_parts(tiny_file: Callable[[TinySpec], Path]) -> RawGguf:
    """The same of a model with a BPE vocabulary."""
    return raw.parse(tiny_file(TinySpec(tokenizer="bpe")))


def write_lie(folder: Path, parts: RawGguf, bad: Bad) -> Path:
    """Writes the parts with the change of the case."""
    lying = copy.deepcopy(parts)
    bad.change(lying)
    (folder / "bad.gguf").write_bytes(lying.to_bytes())
    return folder / "bad.gguf"


def refuse(llm: ModuleType, path: Path, bad: Bad, good: Path) -> None:
    """The bad file is refused as the case says; a good one loads after it."""
    with pytest.raises(bad.kind, match=bad.says) as caught:
        llm.Model(path)
    message = str(caught.value)
    assert message.strip(), "an empty message"
    assert "InternalError" not in type(caught.value).__name__
    llm.Model(good).close()


@pytest.mark.parametrize("bad", CASES, ids=lambda bad: bad.name)
def test_lies(llm: ModuleType, tmp_path: Path, good: Path, parts: RawGguf, bad: Bad) -> None:
    refuse(llm, write_lie(tmp_path, parts, bad), bad, good)


@pytest.mark.parametrize("bad", BPE_CASES, ids=lambda bad: bad.name)
def test_lies_about_bpe(
    llm: ModuleType, tmp_path: Path, good: Path, bpe_parts: RawGguf, bad: Bad
) -> None:
    refuse(llm, write_lie(tmp_path, bpe_parts, bad), bad, good)


def test_missing_bias_of_qwen2(
    llm: ModuleType, tiny_file: Callable[[TinySpec], Path], tmp_path: Path, good: Path
) -> None:
    parts = raw.parse(tiny_file(TinySpec(architecture="qwen2", tokenizer="bpe")))
    bad = Bad("no bias", drop("blk.0.attn_k.bias"), ValueError, r"blk\.0\.attn_k\.bias")
    refuse(llm, write_lie(tmp_path, parts, bad), bad, good)


# ---- files and folders ----------------------------------------------------------------------


def test_missing(llm: ModuleType, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.gguf", str(tmp_path / "no" / "folder.gguf")):
        with pytest.raises(FileNotFoundError, match="gguf"):
            llm.Model(path)


def test_directory(llm: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=re.escape(str(tmp_path))) as caught:
        llm.Model(tmp_path)
    assert not isinstance(caught.value, FileNotFoundError)


def test_no_permission(llm: ModuleType, tmp_path: Path, good: Path) -> None:
    secret = tmp_path / "secret.gguf"
    secret.write_bytes(good.read_bytes())
    secret.chmod(0)
    if os.access(secret, os.R_OK):
        pytest.skip("this user may read every file")
    with pytest.raises(PermissionError, match=r"secret\.gguf"):
        llm.Model(secret)


def test_empty(llm: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(ValueError, match=r"empty\.gguf"):
        llm.Model(tmp_path / "empty.gguf")


@pytest.mark.parametrize("mmap", [True, False])
def test_pipe(llm: ModuleType, tmp_path: Path, mmap: bool) -> None:
    """A pipe would block for ever."""
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises((OSError, ValueError), match=r"pipe\.gguf"):
        llm.Model(tmp_path / "pipe.gguf", mmap=mmap)


@pytest.mark.parametrize(
    "path", [None, 3, 1.5, [], object()], ids=["None", "int", "float", "list", "object"]
)
def test_path_of_another_type(llm: ModuleType, path: object) -> None:
    with pytest.raises(TypeError):
        llm.Model(path)


def test_path_with_nul(llm: ModuleType) -> None:
    with pytest.raises((ValueError, OSError)):
        llm.Model("model\0.gguf")


CONTENTS = {
    "empty": b"",
    "byte": b"G",
    "magic": b"GGUF",
    "zip": b"PK\x03\x04" * 99,
    "zeros": bytes(4096),
    "random": np.random.default_rng(0).bytes(4096),
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_something_else(llm: ModuleType, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.gguf"):
        llm.Model(tmp_path / "other.gguf")


def test_vocabulary_alone_is_no_model(llm: ModuleType, data_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"tensor|weight|key"):
        llm.Model(data_dir / "vocabs" / "ggml-vocab-qwen2.gguf")


@pytest.mark.parametrize(
    ("name", "value"), [("n_threads", 0), ("n_threads", -1), ("device", "tpu")]
)
def test_options_refused_by_name(llm: ModuleType, good: Path, name: str, value: object) -> None:
    with pytest.raises((ValueError, NotImplementedError), match=name):
        llm.Model(good, **{name: value})


# ---- cut anywhere; nothing leaks ----------------------------------------------------------------


@pytest.mark.parametrize("mmap", [True, False])
def test_truncated(llm: ModuleType, tmp_path: Path, good: Path, mmap: bool) -> None:
    data, end, cut = good.read_bytes(), raw.end_of_data(good), tmp_path / "cut.gguf"
    positions = np.random.default_rng(0).integers(0, end, 200).tolist()
    for size in [*positions, end - 1]:
        cut.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"cut\.gguf"):
            llm.Model(cut, mmap=mmap)
    llm.Model(good).close()


def test_any_byte_of_the_header_changed_never_kills(
    llm: ModuleType, tmp_path: Path, good: Path
) -> None:
    data = good.read_bytes()
    rng, path = np.random.default_rng(0), tmp_path / "changed.gguf"
    header = data.index(b"output.weight") + 40
    for offset in [*range(24), *rng.integers(24, header, 400).tolist()]:
        changed = bytearray(data)
        changed[offset] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        try:
            llm.Model(path).close()
        except (ValueError, NotImplementedError, MemoryError):
            continue


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    """File descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("mmap", [True, False])
def test_failures_leak_nothing(
    llm: ModuleType, tmp_path: Path, good: Path, parts: RawGguf, mmap: bool
) -> None:
    whole = copy.deepcopy(parts)
    drop("blk.1.ffn_down.weight")(whole)  # fails last, with everything else loaded
    late, cut = tmp_path / "late.gguf", tmp_path / "cut.gguf"
    late.write_bytes(whole.to_bytes())
    cut.write_bytes(good.read_bytes()[:-4096])

    def attempts(count: int) -> None:
        for _ in range(count):
            for path in (late, cut):
                with pytest.raises(ValueError):
                    llm.Model(path, mmap=mmap)

    attempts(20)
    files, memory = open_files(), resident_bytes()
    attempts(200)
    assert open_files() == files
    assert resident_bytes() - memory < 20 * good.stat().st_size  # of 400 attempts
    mapped = Path("/proc/self/maps").read_text()
    assert "late.gguf" not in mapped
    assert "cut.gguf" not in mapped


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_models_leak_nothing(llm: ModuleType, good: Path) -> None:
    def attempts(count: int) -> None:
        for _ in range(count):
            with llm.Model(good) as model:
                context = model.context(n_ctx=64)
                context.decode([1, 2, 3])
                del context

    attempts(20)
    files, memory = open_files(), resident_bytes()
    attempts(200)
    assert open_files() == files
    assert resident_bytes() - memory < 20 * good.stat().st_size
