"""What base.py and src/base give to everybody: error kinds, relayed callbacks, log, build info."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tvm_ffi

import my_llm_ffi as llm
from my_llm_ffi import _ffi_api, base, config

BUILTIN_KINDS = [ValueError, TypeError, KeyError, IndexError, AttributeError, MemoryError]


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter, away from the source tree."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent / "golden",
        env={**os.environ, **env},
        timeout=120,
    )


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*base.ERRORS, *BUILTIN_KINDS], ids=lambda kind: kind.__name__)
def test_every_kind_of_error_arrives_as_itself(kind):
    with pytest.raises(kind, match="it broke") as caught:
        _ffi_api.raise_error(kind.__name__, "it broke")
    assert type(caught.value) is kind


def test_an_unknown_kind_arrives_as_runtime_error():
    with pytest.raises(RuntimeError, match="it broke"):
        _ffi_api.raise_error("NoSuchError", "it broke")


def test_internal_error_is_a_runtime_error():
    assert issubclass(llm.InternalError, RuntimeError)


def test_memory_that_tvm_ffi_does_not_get_is_a_memory_error():
    """It copies arguments before our functions see them."""
    with pytest.raises(MemoryError, match="the system has no memory left"):
        _ffi_api.raise_error("InternalError", "std::bad_alloc")


class CustomError(Exception):
    """Not known to tvm-ffi."""


def test_a_relayed_exception_is_the_same_object():
    raised = CustomError("mine")

    def callback(_):
        raise raised

    with pytest.raises(CustomError) as caught:
        base.call_relaying(_ffi_api.call_with, callback, 1)
    assert caught.value is raised


def test_relaying_lets_native_errors_through():
    with pytest.raises(TypeError):
        base.call_relaying(_ffi_api.call_from_threads, print, "not a number", 1)


# ---- loading ------------------------------------------------------------------------------------


def test_a_broken_library_is_one_clear_import_error(tmp_path, monkeypatch):
    broken = tmp_path / "libmy_llm_ffi.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(base, "library_path", lambda: broken)
    with pytest.raises(ImportError, match=r"libmy_llm_ffi\.so does not load, reinstall"):
        base._load_library()


def test_another_platform_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "library_path", lambda: tmp_path / "absent.so")
    monkeypatch.setattr(base.platform, "machine", lambda: "riscv64")
    with pytest.raises(ImportError, match=r"aarch64 is supported, this is .* on riscv64"):
        base._load_library()


def test_an_attribute_that_is_not_there():
    with pytest.raises(AttributeError, match="no_such_name"):
        llm.no_such_name


@pytest.mark.parametrize("name", sorted(llm.__all__))
def test_every_public_name_resolves(name):
    assert getattr(llm, name) is not None
    assert name in dir(llm)


# ---- log ----------------------------------------------------------------------------------------


@pytest.fixture
def messages():
    received = []
    llm.set_log_callback(lambda level, message: received.append((level, message)))
    yield received
    llm.set_log_callback(None)


def test_log_is_silent_by_default(capfd):
    _ffi_api.log("error", "nobody listens")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_log_reaches_the_callback(messages, level):
    _ffi_api.log(level, "größer")
    assert messages == [(level, "größer")]


def test_log_callback_can_be_taken_away(messages):
    llm.set_log_callback(None)
    _ffi_api.log("info", "gone")
    assert messages == []


def test_log_refuses_unknown_levels():
    with pytest.raises(ValueError, match='level is "loud", expected debug, info, warning or error'):
        _ffi_api.log("loud", "x")


def test_a_callback_that_raises_harms_nobody_and_stays(messages):
    calls = []

    def raising(level, message):
        calls.append(message)
        raise CustomError(message)

    llm.set_log_callback(raising)
    _ffi_api.log("info", "one")
    _ffi_api.log("info", "two")
    assert calls == ["one", "two"]


def test_keyboard_interrupt_in_the_callback_is_passed_on(messages):
    def interrupt(level, message):
        raise KeyboardInterrupt

    llm.set_log_callback(interrupt)
    with pytest.raises(KeyboardInterrupt):
        _ffi_api.log("info", "x")


def test_a_callback_may_log_and_replace_itself(messages):
    def first(level, message):
        llm.set_log_callback(lambda level, message: messages.append((level, message)))
        _ffi_api.log("debug", f"inner {message}")

    llm.set_log_callback(first)
    _ffi_api.log("info", "outer")
    assert messages == [("debug", "inner outer")]


def test_log_from_eight_threads(messages):
    def work(thread):
        for i in range(200):
            _ffi_api.log("info", f"{thread} {i}")

    threads = [threading.Thread(target=work, args=(t,)) for t in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(message for _, message in messages) == sorted(
        f"{t} {i}" for t in range(8) for i in range(200)
    )


@pytest.mark.parametrize("wrong", [3, "print", object()])
def test_set_log_callback_refuses_what_cannot_be_called(wrong):
    with pytest.raises(TypeError, match="expected a callable or None"):
        llm.set_log_callback(wrong)


def test_set_log_callback_is_registered_for_every_language(messages):
    received = []
    setter = tvm_ffi.get_global_func("my_llm_ffi.set_log_callback")
    setter(lambda level, message: received.append(message))
    _ffi_api.log("info", "registered")
    setter(None)
    assert received == ["registered"]


def test_a_callback_left_set_at_exit_is_harmless():
    code = "import my_llm_ffi as m; m.set_log_callback(print); print('end')"
    result = run_python(code)
    assert (result.returncode, result.stdout) == (0, "end\n"), result.stderr


# ---- build info and config ----------------------------------------------------------------------


def test_build_info():
    info = llm.build_info()
    assert info["version"] == llm.__version__
    assert info["cpu_level"] in ("baseline", "avx2", "avx512", "dotprod")
    assert info["cpu_level"] in info["cpu_levels"]
    assert info["cuda"] == "found" or "CUDA kernels" in info["cuda"]
    assert info["compiler"]
    assert info["tvm_ffi"].startswith("0.1.")
    assert set(info) == {
        *("version", "cpu_level", "cpu_levels", "cuda", "compiler", "tvm_ffi", "features")
    }


def test_the_cpu_level_can_be_lowered():
    code = "import my_llm_ffi; print(my_llm_ffi.build_info()['cpu_level'])"
    assert run_python(code, MY_LLM_FFI_CPU="baseline").stdout == "baseline\n"


def test_an_unknown_cpu_level_is_refused_at_first_use():
    result = run_python("import my_llm_ffi; my_llm_ffi.build_info()", MY_LLM_FFI_CPU="mmx")
    assert result.returncode == 1
    assert "ValueError: MY_LLM_FFI_CPU=mmx: expected baseline, avx2" in result.stderr


def test_config_names_what_is_there(capsys):
    assert config.main(["--libdir", "--includedir", "--cmakedir", "--version"]) == 0
    libdir, includedir, cmakedir, version = capsys.readouterr().out.splitlines()
    assert (Path(libdir) / "libmy_llm_ffi.so").is_file()
    assert version in (Path(includedir) / "my_llm_ffi" / "version.h").read_text("utf-8")
    assert (Path(cmakedir) / "my_llm_ffi-config.cmake").is_file()
    assert version == llm.__version__


def test_config_without_a_question_shows_its_help(capsys):
    assert config.main([]) == 2
    assert "--libdir" in capsys.readouterr().out
