"""What the generators read from the registry, what they write, and the command."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from reference.custom_ops import forget

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def interface(llm):
    from my_llm_ffi.bindings import interface

    return interface


SCHEMA = (
    '{"type":"ffi.Function","named_args":{"return":[{"type":"bool"}],'
    '"params":[{"type":"my_llm_ffi.Batch"},{"type":"int"},{"type":"ffi.Array","args":'
    '[{"type":"float"}]}]}}'
)


def test_a_line_names_what_the_schema_types(interface):
    line = "(seq, parts: Callable[[int], None] = None) -> Kind: What: it does."
    f = interface.read_function("x", line, SCHEMA, is_static=False)
    assert [(p.name, p.type.name, p.annotation) for p in f.parameters] == [
        ("seq", "int", ""),
        ("parts", "ffi.Array", "Callable[[int], None]"),
    ]
    assert f.parameters[0].default is interface.REQUIRED and f.parameters[1].default is None
    assert (f.result.name, f.result_annotation, f.doc) == ("bool", "Kind", "What: it does.")


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("(seq): Too few.", "1 names for 2 parameters"),
        ("(seq, 3): No name.", "bad line"),
        ("(seq, parts) no text", "no text"),
    ],
)
def test_a_line_that_does_not_fit_is_refused(interface, line, wrong):
    with pytest.raises(ValueError, match=wrong):
        interface.read_function("x", line, SCHEMA, is_static=False)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ('{"type":"Variant","args":[{"type":"ffi.String"},{"type":"ffi.Bytes"}]}', "std::string"),
        (
            '{"type":"Variant","args":[{"type":"int"},{"type":"ffi.String"}]}',
            "std::variant<int64_t, std::string>",
        ),
        (
            '{"type":"ffi.Map","args":[{"type":"ffi.String"},{"type":"ffi.Tensor"}]}',
            "std::map<std::string, Tensor>",
        ),
        ('{"type":"Optional","args":[{"type":"my_llm_ffi.Vocab"}]}', "std::optional<Vocab>"),
        ('{"type":"of.somebody.else"}', "tvm::ffi::Any"),
    ],
)
def test_types_in_cpp(interface, kind, expected):
    from my_llm_ffi.bindings import cpp_text

    schema = f'{{"type":"ffi.Function","named_args":{{"return":[{kind}],"params":[]}}}}'
    f = interface.read_function("x", "(): Nothing.", schema)
    assert cpp_text.cpp_type(f.result) == expected


def test_everything_registered_is_there(interface):
    import tvm_ffi

    objects = {o.name: o for o in interface.objects()}
    keys = {str(k) for k in tvm_ffi.get_global_func("ffi.GetRegisteredTypeKeys")()}
    assert {f"my_llm_ffi.{name}" for name in objects} == {
        k for k in keys if k.startswith("my_llm_ffi.")
    }
    assert all(o.doc for o in objects.values()), "say in _OBJECT_DOCS what it is"
    methods = [m for o in objects.values() for m in o.methods]
    assert len(methods) > 90 and all(m.doc.endswith(".") for m in methods)
    assert {"version", "empty", "set_log_callback"} <= {f.name for f in interface.functions()}


def fields_of(message: str) -> set[str]:
    return set(re.split(", ", message.partition("fields are ")[2]))


def test_structures_have_the_fields_that_the_library_reads(llm, interface, tiny_file):
    from reference.gguf_files import TinySpec

    from my_llm_ffi import _ffi_api

    structures = {s.name: {f.name for f in s.fields} for s in interface.structures()}
    model = _ffi_api.Model.load(str(tiny_file(TinySpec())), 1, True, True, False, None)
    with pytest.raises(ValueError) as caught:
        _ffi_api.Executor.create(model, {"no_such": 1}, None, None)
    assert fields_of(str(caught.value)) == structures["ExecutorConfig"]
    executor = _ffi_api.Executor.create(model, {}, None, None)
    with pytest.raises(ValueError) as caught:
        executor.enqueue({"no_such": 1}, 0)
    wanted = structures["Request"] - {"sampling"} | structures["SamplingParams"]
    assert fields_of(str(caught.value)) == wanted
    executor.shutdown(False)
    assert set(model.config()) == structures["ModelConfig"]


def test_token_types_are_those_of_the_library(interface):
    header = (ROOT / "src/text/vocab.h").read_text("utf-8")
    listed = re.findall(r"k(\w+) = (\d)", header.partition("enum class TokenType")[2].split("}")[0])
    names = [(name.replace("_", "").lower(), value) for name, value in enum_of(interface)]
    assert names == [(name.lower(), int(value)) for name, value in listed]


def enum_of(interface):
    return next(e.values for e in interface.enums() if e.name == "TokenType")


def test_generation_is_the_same_every_time(llm):
    code = (
        "import hashlib; from my_llm_ffi.bindings import files; "
        "print(hashlib.sha256(repr(files.generated()).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(digests) == 1


def test_lines_fit(llm):
    from my_llm_ffi.bindings import files

    for name, text in files.generated().items():
        long = [line for line in text.splitlines() if len(line) > 100]
        assert not long, f"{name}: {long[0]}"
        assert "\t" not in text and text.endswith("\n")


# ---- the command --------------------------------------------------------------------------------


def command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "my_llm_ffi.bindings", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd)


def test_the_command_prints_what_is_shipped(llm):
    done = command("cpp")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (ROOT / "include/my_llm_ffi/ops.h").read_text("utf-8")


def test_the_command_prints_your_own_op(llm, tmp_path):
    (tmp_path / "my_package.py").write_text(
        "import my_llm_ffi as llm\n"
        "llm.declare_op('double_it', \"(x: T['*batch n', 'f32'], *, by: int, mode: "
        "Literal['a', 'b'] = 'a') -> T['*batch n']\", doc='Doubles.')\n",
        "utf-8",
    )
    arguments = ["--import", "my_package", "--op", "double_it"]
    done = command("cpp", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "inline void double_it(" in done.stdout
    assert "int64_t by, const DoubleItOptions& options = {})" in done.stdout
    assert "DoubleItMode mode = DoubleItMode::kA;" in done.stdout
    done = command("c", *arguments, cwd=tmp_path)
    assert "int64_t by, const char* mode)" in " ".join(done.stdout.split())


def test_the_command_refuses(llm):
    done = command("cpp", "--op", "no_such")
    assert done.returncode == 1 and "no op 'no_such' is declared" in done.stderr
    done = command("cpp", "--import", "no_such_module")
    assert done.returncode == 1 and "no_such_module" in done.stderr
    assert command("cobol").returncode == 2
    assert command("--help").returncode == 0


def test_an_op_may_be_named_like_a_keyword(llm):
    from my_llm_ffi.bindings import c, cpp

    llm.declare_op("new", "(x: T['n', 'f32'], *, default: float = 0.5) -> T['n']", doc="Odd.")
    try:
        from my_llm_ffi.declaration import load

        op = load("new")
        text = cpp.ops_header([op])
        assert "inline void new_(" in text and "double default_ = 0.5;" in text
        assert "options.default_" in text
        assert "double default_)" in c.ops_header([op])
    finally:
        forget("new")
