"""examples/python/my_op: built as its author builds it, and called from each language there is."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from reference import native_builds as builds

PACKAGE = Path(__file__).parents[2] / "examples" / "python" / "my_op"
SOURCES = Path(__file__).parent / "my_op"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as pip installs it, out of a wheel that was built in a copy."""
    builds.need_package_tools()
    folder = tmp_path_factory.mktemp("my_op")
    shutil.copytree(PACKAGE, folder / "source")
    wheel = builds.build_wheel(folder / "source", folder)
    assert re.fullmatch(r"my_op-0\.1\.0-py3-none-linux_\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="session")
def library(site: Path) -> Path:
    """The library of the ops in C++."""
    return site / "my_op" / "lib" / "libmy_op.so"


def test_its_own_tests_pass(site: Path) -> None:
    """In NumPy, torch, JAX and MLIR, as far as they are installed."""
    said = builds.python(
        *("-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", PACKAGE / "tests"), path=[site]
    )
    assert re.search(r"\d+ passed", said)


def test_it_is_seen_by_the_table_of_ops(site: Path) -> None:
    code = "import my_op; from my_llm_ffi.reference import main; main()"
    said = builds.python("-c", code, path=[site])
    assert "softcap" in said and "token_entropy" in said and "rms_norm" in said


def test_from_cpp_by_name(library: Path, tmp_path: Path) -> None:
    program = builds.compile_cpp(SOURCES / "by_name.cc", tmp_path / "by_name")
    assert builds.run([program, library]).splitlines() == [
        "declared softcap",
        "declared again: 0",
        "-5.000 0.000 5.000",
        "ValueError: softcap: cap must be positive, got -1",
        "TypeError: softcap: x is int32, expected one of float32, bfloat16",
    ]


def test_from_cpp_through_the_generated_client(site: Path, library: Path, tmp_path: Path) -> None:
    _need_bindings("cpp")
    client = tmp_path / "my_op_client.h"
    client.write_text(_bindings("cpp", site), "utf-8")
    program = builds.compile_cpp(SOURCES / "client.cc", tmp_path / "client", f"-I{tmp_path}")
    assert builds.run([program, library]).splitlines() == [
        "softcap",
        "-5.000 0.000 5.000",
        "ValueError: softcap: cap must be positive, got 0",
    ]


def test_the_generated_rust_client(site: Path) -> None:
    """The text; rust/my-llm-ffi's tests compile such clients."""
    _need_bindings("rust")
    text = _bindings("rust", site)
    assert "pub fn softcap" in text and "pub fn token_entropy" in text


def _need_bindings(language: str) -> None:
    if importlib.util.find_spec("my_llm_ffi.bindings") is None:
        pytest.skip("this my_llm_ffi generates no clients")
    from my_llm_ffi.bindings import __main__ as command

    if language not in command.LANGUAGES:
        pytest.skip(f"this my_llm_ffi generates no client in {language}")


def _bindings(language: str, site: Path) -> str:
    ops = ("--op", "softcap", "--op", "token_entropy")
    command = ("-m", "my_llm_ffi.bindings", language, "--import", "my_op", *ops)
    return builds.python(*command, path=[site])


# ---- what a library of ops may do wrong ---------------------------------------------------------

LOAD = """
import sys
import my_llm_ffi as llm
try:
    print(llm.load_ops(sys.argv[1]))
    llm.ops.faulty(__import__("numpy").zeros(2, "f4"), k=-1)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library whose one block fails as the variable FAULT says."""
    output = tmp_path_factory.mktemp("faults") / "libfaults.so"
    return builds.compile_cpp(SOURCES / "faults.cc", output, "-shared")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("name taken", "ValueError: declare_op: my_llm_ffi.rms_norm is registered already"),
        ("no signature", "ValueError: faulty: bad signature, expected ']' at ''"),
        (
            "other type",
            "TypeError: register_kernel: the kernel of faulty for cpu takes (DLTensor*, "
            "DLTensor*, float), expected (DLTensor*, DLTensor*, int)",
        ),
        ("second kernel", "ValueError: register_kernel: faulty has a kernel for cpu"),
        ("no op", "KeyError: 'register_kernel: no op is declared as no_such_op'"),
        ("kernel throws", "['faulty']\nValueError: faulty: k is -1, expected more than 0"),
    ],
)
def test_faults_arrive_as_errors(faults: Path, fault: str, message: str) -> None:
    """Not as the end of the process, which a throwing static initializer would be."""
    assert builds.run([sys.executable, "-c", LOAD, faults], FAULT=fault).strip() == message
