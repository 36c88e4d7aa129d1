"""Text: round trips of drawn modules; refusals in the words of the op; malformed text by place."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("torch_mlir", reason="torch-mlir is not installed")

import hypothesis
from drawing import calls
from hypothesis import strategies as st
from lowering import module_of

from my_llm_ffi import declaration, mlir

NAMES = declaration.op_names()
SOURCE = """\
func.func @main(%x: tensor<4x8xf32>, %w: tensor<8xf32>) -> tensor<4x8xf32> {
  %0 = "llm.rms_norm"(%x, %w) {eps = 1.0e-05 : f64} : (tensor<4x8xf32>, tensor<8xf32>) -> tensor<4x8xf32>
  return %0 : tensor<4x8xf32>
}
"""  # noqa: E501


@pytest.mark.parametrize("name", NAMES)
@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=40)
def test_the_verifier_says_what_the_op_says(name, data):
    """Right calls go through text and back; wrong ones are refused in the words of the op."""
    drawn = data.draw(calls(declaration.load(name)))
    try:
        outputs = drawn.outputs()
    except (ValueError, TypeError) as error:
        with pytest.raises(mlir.MlirError) as refused:
            mlir.parse(drawn.function([((), "float32")] * len(drawn.op.outputs)), source="x.mlir")
        assert re.fullmatch(r"x\.mlir:2:\d+: " + re.escape(str(error)), str(refused.value))
        return
    module = mlir.parse(drawn.function(outputs))
    text = str(module)
    assert str(mlir.parse(text)) == text
    operation = module.body.operations[0].regions[0].blocks[0].operations[0]
    for attribute in drawn.op.attributes:
        expected = drawn.options.get(attribute.name, attribute.default)
        assert getattr(operation, attribute.name) == expected


@pytest.mark.parametrize("name", NAMES)
def test_samples_go_through_text_and_back(name):
    module, _, _ = module_of(declaration.load(name), dynamic=True)
    text = str(module)
    assert str(mlir.parse(text)) == text
    mlir.verify(module)


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "message"),
    [
        ("return %0", "return %1", 3, 10, "use of undeclared SSA value name"),
        ("tensor<8xf32>)", "tensor<8xf32)", 1, 54, "expected '>'"),
        ('"llm.rms_norm"', '"llm.rms_nrom"', 2, 8, "unregistered operation"),
        ("func.func", "func.fun", 1, 1, "custom op 'func.fun' is unknown"),
        ("eps = 1.0e-05", "eps = ", 2, 0, "expected attribute value"),
        ("tensor<4x8xf32>,", "!llm.quart<3>,", 1, 0, "dynamic type"),
        ("}\n", "", 0, 0, "expected"),
        ('"llm.rms_norm"', "llm.rms_norm", 2, 8, 'stands without quotes, expected "llm.rms_norm"'),
    ],
)
def test_malformed_text(old, new, line, column, message):
    text = SOURCE.replace(old, new, 1)
    assert text != SOURCE
    with pytest.raises(mlir.MlirError, match=re.escape(message)) as raised:
        mlir.parse(text, source="broken.mlir")
    error = raised.value
    assert error.source == "broken.mlir" and error.line >= 1
    assert str(error).startswith(f"broken.mlir:{error.line}:{error.column}: ")
    assert line in (0, error.line) and column in (0, error.column)


@hypothesis.given(
    cut=st.integers(0, len(SOURCE)), junk=st.sampled_from(["", "<", "}", '"', "%", "\0"])
)
def test_damaged_text_is_refused_with_a_place_or_is_right(cut, junk):
    try:
        mlir.parse(SOURCE[:cut] + junk + SOURCE[cut + 3 :])
    except mlir.MlirError as error:
        assert error.line >= 1


@pytest.mark.parametrize(
    ("before", "repeated"),
    [
        ("module attributes {llm.a = ", "["),
        ("func.func private @f(%a: ", "tuple<"),
        ("", "module {"),
        ("func.func @f() -> ", "("),
        ("module {} loc(", 'callsite("a" at '),
    ],
)
def test_what_is_nested_too_deeply_for_a_parser(before, repeated):
    """A hundred thousand levels end the process where nobody counts."""
    with pytest.raises(mlir.MlirError, match=r"^<text>:1:\d+: more than 256 . are open$"):
        mlir.parse(before + repeated * 257)
    deep = "module {" * 200 + "}" * 200
    assert str(mlir.parse(deep)).count("module") == 200
    strings = f'// {"(" * 300}\nmodule attributes {{llm.a = "{"{" * 300}"}} {{}}'
    assert "{{{" in str(mlir.parse(strings))


@pytest.mark.parametrize(
    ("first", "next_one"), [("#a0 = 1", "#a{} = [#a{}]"), ("!a0 = i1", "!a{} = tuple<!a{}>")]
)
def test_names_of_names_that_nest_too_deeply(first, next_one):
    def text(n):
        return "\n".join([first, *(next_one.format(i + 1, i) for i in range(n)), SOURCE])

    mlir.parse(text(200))
    with pytest.raises(mlir.MlirError, match=r"^<text>:257:\d+: more than 256 names stand for"):
        mlir.parse(text(300))


def test_what_is_no_text():
    for wrong, error in ((None, TypeError), (b"ML\xefR", TypeError), ("\ud800", ValueError)):
        with pytest.raises(error, match=r"^text "):
            mlir.parse(wrong)
    with pytest.raises(TypeError, match=r"^module is str, expected a Module"):
        mlir.verify(SOURCE)
    with pytest.raises(TypeError, match=r"^pipeline is NoneType, expected str"):
        mlir.run_pipeline(mlir.parse(SOURCE), None)


def test_a_file_that_is_no_utf8(tmp_path):
    path = tmp_path / "bad.mlir"
    path.write_bytes("// ä\n  ".encode() + b"\xff")
    with pytest.raises(mlir.MlirError, match=f"^{re.escape(str(path))}:2:3: a byte is no UTF-8"):
        mlir.parse_file(path)


def test_a_file(tmp_path):
    path = tmp_path / "norm.mlir"
    path.write_text(SOURCE.replace("rms_norm", "rms_nrom"), "utf-8")
    with pytest.raises(mlir.MlirError, match=f"{re.escape(str(path))}:2:8: "):
        mlir.parse_file(path)
    with pytest.raises(FileNotFoundError):
        mlir.parse_file(tmp_path / "none.mlir")
