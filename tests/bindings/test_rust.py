"""The generated Rust functions: the file in the tree, names that Rust keeps for itself, a client of
ops that were declared elsewhere, and errors that are those of Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity.case import Case, read_case, write_case
from reference.native_builds import need_cargo

sys.path.insert(0, str(Path(__file__).parent))

from compiling import ROOT, cargo_environment

CRATE = ROOT / "rust/my-llm-ffi"


@pytest.fixture(scope="session")
def rust(llm: types.ModuleType) -> types.ModuleType:
    """The generator."""
    from my_llm_ffi.bindings import rust

    return rust


def op(llm: types.ModuleType, name: str, signature: str, doc: str = "What it does.") -> Any:
    """A declaration that nobody registered."""
    from my_llm_ffi import declaration

    return declaration.parse(name, signature, doc=doc)


def test_the_file_in_the_tree_is_what_comes_out(llm: types.ModuleType, rust: Any) -> None:
    if not CRATE.is_dir():
        pytest.skip("the crate is not here: these are the tests of an installed wheel")
    from my_llm_ffi import reference

    text = rust.source(reference.all_ops())
    assert text == rust.source(reference.all_ops())
    assert text == (CRATE / "src/ops.rs").read_text("utf-8"), "run scripts/generate"
    assert max(map(len, text.splitlines())) <= 100


NASTY = (
    "(match: T['*b d', 'f32 f16'], self: Mut['d', 'f32'], type: T['d', 'f32'] | None = None, *, "
    "fn: int, dyn: bool = False, crate: Literal['none', 'a-b', '3d', 'Q2_K', 'self'] = 'none', "
    "loop: float | None = None, where: float = 1e-300, super: Literal['x'] | None = None)"
    " -> T['*b d', 'may be match']"
)


def test_names_that_rust_keeps(llm: types.ModuleType, rust: Any) -> None:
    text = rust.source([op(llm, "impl", NASTY, "Text [of] <an> op.\n\nfn: `Vec<[u8]>` or <b>.")])
    assert "pub fn r#impl(" in text
    assert "pub fn impl_in_match(" in text
    for field in ("r#match: &TensorView<'_>", "self_: &mut TensorViewMut<'_>", "r#fn: i64"):
        assert f"    {field}," in text
    assert "pub r#loop: Option<f64>" in text
    assert "r#where: 1e-300" in text
    for variant in ("None", "AB", "_3d", "Q2_K", "Self_"):
        assert f"    {variant},\n" in text
    assert "/// Text \\[of\\] \\<an\\> op." in text
    assert "`Vec<[u8]>` or \\<b\\>." in text


def test_choices_are_one_type_where_they_are_the_same(llm: types.ModuleType, rust: Any) -> None:
    declared = "(x: T['d', 'f32'], *, mode: Literal[{}]) -> T['d']"
    ops = [
        op(llm, "one", declared.format("'a', 'b'")),
        op(llm, "two", declared.format("'a', 'b'")),
        op(llm, "three", declared.format("'a', 'c'")),
    ]
    text = rust.source(ops)
    assert text.count("pub enum ") == 2
    assert "pub enum Mode {" in text
    assert "pub enum ThreeMode {" in text


def test_choices_that_would_be_one_name_are_refused(llm: types.ModuleType, rust: Any) -> None:
    clash = op(llm, "clash", "(x: T['d', 'f32'], *, mode: Literal['a-b', 'a_b']) -> T['d']")
    with pytest.raises(ValueError, match=r"clash: mode has choices .* same name in Rust"):
        rust.source([clash])


# ---- with cargo ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cargo(llm: types.ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs cargo offline, with one folder for what it builds."""
    program = need_cargo()
    if not CRATE.is_dir():
        pytest.skip("the crate is not here: these are the tests of an installed wheel")
    target = os.environ.get("CARGO_TARGET_DIR") or str(tmp_path_factory.mktemp("cargo"))
    environment = cargo_environment(target)

    def run(folder: Path, *arguments: str) -> Path:
        command = [program, *arguments, "--offline", "--quiet"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return Path(target)

    run.environment = environment  # type: ignore[attr-defined]
    return run


def test_a_client_of_other_ops_builds_elsewhere(
    cargo: Any, llm: types.ModuleType, rust: Any, tmp_path: Path
) -> None:
    ops = [
        op(llm, "impl", NASTY, "Text [of] <an> op.\n\nfn: `Vec<[u8]>` or <b>."),
        op(llm, "plain", "(x: T['d', 'f32']) -> T['d']"),
        op(llm, "ours", "(options: T['d', 'f32'], call: T['d'], *, values: int) -> T['d']"),
        op(
            llm,
            "more",
            "(values: T['d', 'f32'], t: T['d'], *, tensors: int, options: int = 1) -> None",
        ),
        op(llm, "named", "(x: T['d', 'f32'], *, name: str, other: str = 'a\"b') -> T['d']"),
        op(llm, "told", "(x: Mut['d', 'f32'], *, name: str | None = None) -> None"),
    ]
    (tmp_path / "src").mkdir()
    (tmp_path / "src/ops.rs").write_text(rust.source(ops), "utf-8")
    head = "//! A client.\n#![deny(warnings, missing_docs)]\npub mod ops;\n"
    (tmp_path / "src/lib.rs").write_text(head, "utf-8")
    (tmp_path / "Cargo.toml").write_text(
        '[package]\nname = "client"\nversion = "0.1.0"\nedition = "2021"\n'
        f'[dependencies]\nmy-llm-ffi = {{ path = "{CRATE}" }}\n',
        "utf-8",
    )
    cargo(tmp_path, "build")
    if shutil.which("rustfmt") is not None:
        check = ["rustfmt", "--check", "--edition=2021", "--config-path", str(CRATE), "src/lib.rs"]
        done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.fixture(scope="session")
def driver(cargo: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs a case, or a file of bytes, through Rust: what comes out, or the error's line."""
    program = cargo(CRATE, "build", "--example", "parity_driver") / "debug/examples/parity_driver"
    folder = tmp_path_factory.mktemp("cases")

    def run(given: Case | bytes) -> Case | str:
        if isinstance(given, bytes):
            (folder / "in").write_bytes(given)
        else:
            write_case(folder / "in", given)
        (folder / "out").unlink(missing_ok=True)
        command = [program, folder / "in", folder / "out"]
        done = subprocess.run(command, env=cargo.environment, capture_output=True, text=True)
        if done.returncode == 0:
            return read_case(folder / "out")
        assert done.returncode == 1
        assert not (folder / "out").exists()
        return done.stderr.strip()

    return run


REFUSED = [
    ("rms_norm", [(2, 4), (3,), (2, 4)], [1e-6]),
    ("rms_norm", [(2, 4), (4,), (2, 5)], [1e-6]),
    ("rms_norm", [(2, 4), (4,), (2, 4)], [-1.0]),
    ("rms_norm", [(2, 4), (4,), (2, 4)], [True]),
    ("softmax", [(2, 4), (2, 4)], ["x", None]),
    ("gelu_mul", [(4,), (4,), (4,)], ["sometimes"]),
    ("linear", [(2, 4), (3, 4), None, (2, 3)], ["Q9", False, None]),
    ("linear", [(2, 4), (3, 4), None, (2, 3)], [None, False, 1.5]),
]


@pytest.mark.parametrize(("name", "shapes", "options"), REFUSED)
def test_errors_are_pythons(
    driver: Any, llm: types.ModuleType, name: str, shapes: list[Any], options: list[Any]
) -> None:
    from my_llm_ffi import declaration

    declared = declaration.load(name)
    arrays = [None if s is None else np.ones(s, np.float32) for s in shapes]
    given = {a.name: value for a, value in zip(declared.attributes, options)}
    *inputs, out = arrays
    with pytest.raises((ValueError, TypeError)) as refused:
        getattr(llm.ops, name)(*inputs, **given, out=out)
    said = f"{type(refused.value).__name__}: {refused.value}"
    assert driver(Case(name, arrays, options)) == said


def test_a_broken_case_is_refused(driver: Any, tmp_path: Path) -> None:
    write_case(tmp_path / "case", Case("rms_norm", [np.ones(4, np.float32)] * 3, [1e-6]))
    whole = (tmp_path / "case").read_bytes()
    assert driver(b"MLFCASE2") == "this is no case"
    for end in range(8, len(whole) - 1, 5):
        assert "cut off" in driver(whole[:end])
    assert driver(Case("no_op", [], [])) == "KeyError: no_op"
