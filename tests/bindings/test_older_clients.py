"""Programs compiled against the headers of each release so far run with this library.

scripts/keep_client keeps headers and programs of a release; nothing of it is edited afterwards.
"""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from reference.gguf_files import TinySpec
from reference.native_builds import need_cargo

sys.path.insert(0, str(Path(__file__).parent))

from compiling import (
    ROOT,
    WARNINGS,
    build,
    build_cpp,
    cargo_environment,
    compiler,
    flags,
    run,
    without_python,
)

KEPT = sorted((ROOT / "tests/golden/clients").glob("*.tar.xz"))


@pytest.fixture(scope="module", params=KEPT, ids=lambda path: path.name[: -len(".tar.xz")])
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a release."""
    folder = tmp_path_factory.mktemp("kept")
    with tarfile.open(request.param) as archive:
        archive.extractall(folder, **({"filter": "data"} if sys.version_info >= (3, 12) else {}))
    return folder


def test_there_is_one():
    assert KEPT, "scripts/keep_client writes it"


def test_cpp(
    llm: ModuleType, kept: Path, tiny_file: Callable[[TinySpec], Path], tmp_path: Path
) -> None:
    model = tiny_file(TinySpec())
    for name, arguments in (("ops", []), ("generate", [model, "Hello", "8"]), ("serve", [model])):
        source = kept / "examples/cpp" / f"{name}.cc"
        program = build_cpp(source, tmp_path / name, "-O0", includes=kept / "include")
        done = run([program, *arguments], env=without_python())
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_c(llm: ModuleType, kept: Path, tmp_path: Path) -> None:
    from my_llm_ffi import base

    cc, program = compiler("CC", "gcc", "clang"), tmp_path / "ops"
    included = [f"-I{kept / 'include'}", *flags("cflags")[1:]]
    source = kept / "examples/c/ops.c"
    build([cc, "-std=c11", *WARNINGS, *included, source, "-ldl", "-o", program])
    done = run([program, base.library_path()], env=without_python())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"my_llm_ffi {llm.__version__}\n")


def test_rust(
    llm: ModuleType, kept: Path, tiny_file: Callable[[TinySpec], Path], tmp_path: Path
) -> None:
    cargo = need_cargo()
    model, environment = tiny_file(TinySpec()), cargo_environment(tmp_path / "target")
    crate = kept / "rust/my-llm-ffi"
    build([cargo, "build", "--quiet", "--examples"], cwd=crate, env=environment)
    for name, arguments in (("ops", []), ("generate", [model, "Hello", "8"]), ("serve", [model])):
        program = tmp_path / "target/debug/examples" / name
        done = run([program, *arguments], env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_a_library_of_ops(llm: ModuleType, kept: Path, tmp_path: Path) -> None:
    """A wheel of somebody else's ops, built with the headers of then."""
    source = kept / "examples/python/my_op/src/softcap.cc"
    shared = ("-fPIC", "-shared")
    library = build_cpp(source, tmp_path / "libmy_op.so", *shared, includes=kept / "include")
    code = (
        "import sys, numpy, my_llm_ffi as llm; print(llm.load_ops(sys.argv[1])); "
        "print(llm.ops.softcap(numpy.array([-90, 0, 90], 'f4'), cap=5.0).tolist())"
    )
    done = run([sys.executable, "-c", code, library])
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['softcap']\n[-5.0, 0.0, 5.0]\n"
