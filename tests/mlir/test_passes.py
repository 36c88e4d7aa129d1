"""Passes, text before and after; pipelines by name, their options and what is wrong with them."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("torch_mlir", reason="torch-mlir is not installed")

from my_llm_ffi import mlir
from my_llm_ffi.mlir import pipelines

T, W = "tensor<4x8xf32>", "tensor<8xf32>"
BINARY = f"({T}, {T}) -> {T}"
NORM = f"({T}, {W}) -> {T}"
FUSED = f"({T}, {T}, {W}) -> ({T}, {T})"


def body(module):
    """The operations of the function, without their types."""
    lines = [line.strip() for line in str(module).splitlines()]
    inside = [line for line in lines if line.startswith(("%", '"', "return"))]
    return [re.sub(r" : \(.*", "", line) for line in inside]


def module_of(*lines, arguments, result="%r", type=T):
    returned = f"return {result} : {type}"
    text = [f"func.func @main({arguments}) -> ({type}) {{", *lines, returned, "}"]
    return mlir.parse("\n".join(text))


def after(module, pipeline):
    mlir.run_pipeline(module, pipeline)
    assert str(mlir.parse(str(module))) == str(module)
    return body(module)


# ---- add + rms_norm -----------------------------------------------------------------------------

ADD = f'%s = "llm.add"(%x, %y) : {BINARY}'
THEN_NORM = f'%n = "llm.rms_norm"(%s, %w) {{eps = 0.5 : f64}} : {NORM}'
BOTH = f'%r = "llm.silu_mul"(%n, %s) : {BINARY}'
WRITTEN = f"%x: {T}, %y: {T} {{llm.written}}, %w: {W}"


def test_add_rms_norm():
    module = module_of(ADD, THEN_NORM, BOTH, arguments=WRITTEN)
    assert after(module, "fuse") == [
        '%0:2 = "llm.add_rms_norm"(%arg0, %arg1, %arg2) {eps = 5.000000e-01 : f64}',
        '%1 = "llm.silu_mul"(%0#0, %0#1)',
        f"return %1 : {T}",
    ]


def test_add_rms_norm_takes_the_term_that_may_be_written():
    module = module_of(ADD, THEN_NORM, BOTH, arguments=f"%x: {T} {{llm.written}}, %y: {T}, %w: {W}")
    assert '"llm.add_rms_norm"(%arg1, %arg0, %arg2)' in after(module, "fuse")[0]


@pytest.mark.parametrize(
    ("lines", "arguments"),
    [
        ([ADD, THEN_NORM, BOTH], f"%x: {T}, %y: {T}, %w: {W}"),  # nothing may be written
        (  # the term is read later
            [ADD, THEN_NORM, f'%r = "llm.silu_mul"(%n, %y) : {BINARY}'],
            WRITTEN,
        ),
        (  # both terms are the same memory
            [ADD.replace("%x", "%y"), THEN_NORM, BOTH],
            WRITTEN,
        ),
        (  # the gain comes after another use of the sum
            [
                ADD,
                f'%g = "llm.silu_mul"(%s, %s) : {BINARY}',
                f'%v = "llm.view"(%g) : ({T}) -> {W}',
                THEN_NORM.replace("%w", "%v"),
                BOTH,
            ],
            f"%x: {T}, %y: {T} {{llm.written}}",
        ),
    ],
    ids=["arguments", "read later", "itself", "order"],
)
def test_add_rms_norm_stays_apart(lines, arguments):
    module = module_of(*lines, arguments=arguments)
    assert any('"llm.rms_norm"' in line for line in after(module, "fuse"))


def test_the_sum_of_two_results_needs_no_mark():
    lines = [f'%y = "llm.silu_mul"(%x, %x) : {BINARY}', ADD, THEN_NORM, BOTH]
    found = after(module_of(*lines, arguments=f"%x: {T}, %w: {W}"), "fuse")
    assert '"llm.add_rms_norm"(%arg0, %0, %arg1)' in found[1]


# ---- silu + mul ---------------------------------------------------------------------------------

SILU = f'%a = "llm.silu"(%x) : ({T}) -> {T}'


@pytest.mark.parametrize("operands", ["%a, %y", "%y, %a"])
def test_silu_mul(operands):
    module = module_of(
        SILU, f'%r = "llm.mul"({operands}) : {BINARY}', arguments=f"%x: {T}, %y: {T}"
    )
    assert after(module, "fuse") == ['%0 = "llm.silu_mul"(%arg0, %arg1)', f"return %0 : {T}"]


def test_silu_with_another_user_stays():
    lines = [SILU, f'%m = "llm.mul"(%a, %y) : {BINARY}', f'%r = "llm.silu_mul"(%m, %a) : {BINARY}']
    found = after(module_of(*lines, arguments=f"%x: {T}, %y: {T}"), "fuse")
    assert '%0 = "llm.silu"(%arg0)' in found


def test_what_was_written_over_is_not_read_later():
    """%h is the memory of the sum before the product comes."""
    lines = [
        f'%h = "llm.silu_mul"(%x, %x) : {BINARY}',
        f'%a = "llm.silu"(%h) : ({T}) -> {T}',
        f'%n:2 = "llm.add_rms_norm"(%x, %h, %w) : {FUSED}',
        f'%r = "llm.mul"(%a, %n#0) : {BINARY}',
    ]
    found = after(module_of(*lines, arguments=f"%x: {T}, %w: {W}"), "fuse")
    assert '%1 = "llm.silu"(%0)' in found
    lines = [ADD, *lines[:1], '%n:2 = "llm.add_rms_norm"(%h, %y, %w) : ' + FUSED]
    lines += [f'%v = "llm.view"(%n#0) {{offset = 8 : i64}} : ({T}) -> {W}']
    lines += [f'%r = "llm.rms_norm"(%s, %v) : {NORM}']
    found = after(module_of(*lines, arguments=WRITTEN), "fuse")
    assert '%0 = "llm.add"(%arg0, %arg1)' in found


# ---- dequantize + linear ------------------------------------------------------------------------


@pytest.mark.parametrize("quant", [False, True])
def test_dequantize_linear(quant):
    weight = '!llm.quant<"Q8_0", tensor<5x32xf32>>' if quant else "tensor<5x34xui8>"
    out = "tensor<3x5xf32>"
    option = "" if quant else ' {format = #llm.format<"Q8_0">}'
    module = module_of(
        f'%d = "llm.dequantize"(%w){option} : ({weight}) -> tensor<5x32xf32>',
        '%r = "llm.linear"(%x, %d) {operandSegmentSizes = array<i32: 1, 1, 0, 0>} : '
        f"(tensor<3x32xf32>, tensor<5x32xf32>) -> {out}",
        arguments=f"%x: tensor<3x32xf32>, %w: {weight}",
        type=out,
    )
    (line, _) = after(module, "fuse{only=dequantize-linear}")
    assert line.startswith('%0 = "llm.linear"(%arg0, %arg1) {')
    assert ('format = #llm.format<"Q8_0">' in line) is not quant


# ---- rope + kv_append ---------------------------------------------------------------------------


def test_rope_kv_append():
    q, k, pages = "tensor<2x4x8xf32>", "tensor<2x2x8xf32>", "tensor<3x2x8x32xf32>"
    values, cache = "tensor<3x2x32x8xf32>", f"!llm.kv_cache<{pages}>"
    v_cache = cache.replace(pages, values)
    arguments = (
        f"%q: {q} {{llm.written}}, %k: {k} {{llm.written}}, %p: tensor<2xi32>, %v: {k}, "
        f"%s: tensor<2xi64>, %kp: {cache}, %vp: {v_cache}"
    )
    lines = [
        '%n:2 = "llm.rope"(%q, %k, %p) {base = 5.0e2 : f64, operandSegmentSizes = '
        f"array<i32: 1, 1, 1, 0>}} : ({q}, {k}, tensor<2xi32>) -> ({q}, {k})",
        '%c:2 = "llm.kv_append"(%kp, %vp, %n#1, %v, %s) : '
        f"({cache}, {v_cache}, {k}, {k}, tensor<2xi64>) -> ({cache}, {v_cache})",
    ]
    module = module_of(*lines, arguments=arguments, result="%n#0", type=q)
    found = after(module, "fuse")
    assert found[0].startswith(
        '%0:4 = "llm.rope_kv_append"(%arg0, %arg1, %arg2, %arg5, %arg6, %arg3, %arg4) '
        "{base = 5.000000e+02 : f64, "
    )
    assert found[1] == f"return %0#0 : {q}"
    # An update of a cache is an effect: it stays although nobody uses it.
    assert after(module, "dce") == found


# ---- dead code, buffers -------------------------------------------------------------------------


def test_dead_code():
    lines = [
        f'%a = "llm.silu_mul"(%x, %x) : {BINARY}',
        f'%b = "llm.softmax"(%a) : ({T}) -> {T}',
        f'%n:2 = "llm.add_rms_norm"(%x, %a, %w) : {FUSED}',
        f"%c = arith.constant dense<1.0> : {W}",
        f'%r = "llm.rms_norm"(%x, %w) : {NORM}',
    ]
    module = module_of(*lines, arguments=f"%x: {T}, %w: {W}")
    assert after(module, "dce") == ['%0 = "llm.rms_norm"(%arg0, %arg1)', f"return %0 : {T}"]


CHAIN = [
    f'%a = "llm.rms_norm"(%x, %w) : {NORM}',
    f'%b = "llm.silu_mul"(%a, %x) : {BINARY}',
    f'%c = "llm.softmax"(%b) : ({T}) -> {T}',
    f'%d = "llm.silu_mul"(%c, %b) : {BINARY}',
    f'%r = "llm.softmax"(%d) : ({T}) -> {T}',
]


def test_buffers_are_shared_and_written_over():
    module = module_of(*CHAIN, arguments=f"%x: {T}, %w: {W}")
    assert after(module, "plan-buffers") == [
        '%0 = "llm.buffer"() {storage = 0 : i64}',
        '%1 = "llm.rms_norm"(%arg0, %arg1, %0)',
        '%2 = "llm.silu_mul"(%1, %arg0, %1)',
        '%3 = "llm.buffer"() {storage = 1 : i64}',
        '%4 = "llm.softmax"(%2, %3)',
        '%5 = "llm.silu_mul"(%4, %2, %4)',
        '%6 = "llm.buffer"()',  # what is returned has memory of its own
        '%7 = "llm.softmax"(%5, %6)',
        f"return %7 : {T}",
    ]
    again = body(module)
    assert after(module, "plan-buffers") == again


def test_buffers_without_writing_over_inputs():
    module = module_of(*CHAIN, arguments=f"%x: {T}, %w: {W}")
    found = [line for line in after(module, "plan-buffers{in-place=false}") if "buffer" in line]
    numbers = [re.search(r"storage = (\d)", line) for line in found]
    assert [m and m[1] for m in numbers] == ["0", "1", "0", "2", None]


def test_a_buffer_that_a_view_reads_stays():
    lines = [
        CHAIN[0],
        f'%v = "llm.view"(%a) : ({T}) -> tensor<2x16xf32>',
        f'%b = "llm.softmax"(%a) : ({T}) -> {T}',
        '%e = "llm.softmax"(%v) : (tensor<2x16xf32>) -> tensor<2x16xf32>',
        f'%u = "llm.view"(%e) : (tensor<2x16xf32>) -> {T}',
        f'%r = "llm.silu_mul"(%b, %u) : {BINARY}',
    ]
    found = after(module_of(*lines, arguments=f"%x: {T}, %w: {W}"), "plan-buffers")
    assert '%4 = "llm.softmax"(%1, %3)' in found  # not over %1, which %v still reads


# ---- pipelines ----------------------------------------------------------------------------------


def elementary():
    lines = [ADD, THEN_NORM, SILU, f'%m = "llm.mul"(%a, %n) : {BINARY}', BOTH.replace("%n", "%m")]
    return module_of(*lines, arguments=f"%x: {T}, %y: {T} {{llm.written}}, %w: {W}")


def test_options_and_names():
    assert any("llm.rms_norm" in line for line in after(elementary(), "fuse{only=silu-mul}"))
    found = after(elementary(), " fuse { only=silu-mul,add-rms-norm } , dce")
    assert not any(name in line for line in found for name in ("llm.mul", "llm.rms_norm"))
    assert any("llm.buffer" in line for line in after(elementary(), "optimize"))
    found = after(elementary(), "optimize{only=silu-mul plan=false},cse,func.func(canonicalize)")
    assert not any("llm.buffer" in line for line in found)


@pytest.mark.parametrize(
    ("pipeline", "column", "message"),
    [
        ("fuse,no-such", 6, "there is no pass 'no-such', neither here (dce, fuse, optimize"),
        ("fuse{only}", 6, "fuse has no option 'only', expected name=value of: only"),
        ("dce,fuse{all=1}", 10, "fuse has no option 'all=1'"),
        ("dce{a=1}", 5, "dce has no option 'a=1', expected name=value of: none"),
        ("plan-buffers{in-place=2}", 14, "in-place is '2', expected true or false"),
        ("fuse{only=a", 12, "unbalanced braces"),
        ("fuse}", 5, "unbalanced braces"),
        ("fuse,,dce", 6, "'' is no pass"),
        ("", 1, "'' is no pass"),
        ("fuse dce", 1, "'fuse dce' is no pass"),
    ],
)
def test_pipelines_that_are_wrong(pipeline, column, message):
    module = elementary()
    before = str(module)
    with pytest.raises(mlir.MlirError, match=re.escape(message)) as raised:
        mlir.run_pipeline(module, pipeline)
    assert (raised.value.line, raised.value.column) == (1, column)
    assert str(module) == before  # all names are looked up before the first pass runs


def test_fusions_that_do_not_exist():
    with pytest.raises(mlir.MlirError, match="only has 'mul-silu', expected some of: add-rms"):
        mlir.run_pipeline(elementary(), "fuse{only=mul-silu}")


def test_passes_and_pipelines_of_ones_own():
    seen = []
    try:

        @mlir.register_pass("look")
        def look(module, *, times: int = 1, name: str = "x", deep: bool = False):
            """Looks."""
            seen.append((times, name, deep))

        @mlir.register_pipeline("look-twice")
        def look_twice(*, name: str = "y"):
            """Looks twice."""
            return f"look{{times=2 name={name}}},look{{deep=true}},{name}" + "-twice" * 0

        mlir.run_pipeline(elementary(), "look{times=-3},look-twice{name=dce}")
        assert seen == [(-3, "x", False), (2, "dce", False), (1, "x", True)]
        with pytest.raises(mlir.MlirError, match="look: times is 'a', expected an integer"):
            mlir.run_pipeline(elementary(), "look{times=a}")
        with pytest.raises(mlir.MlirError, match="look-twice contains itself"):
            mlir.run_pipeline(elementary(), "look-twice{name=look-twice}")
        assert {p.name: p.is_pipeline for p in mlir.passes()}["look-twice"]
        with pytest.raises(ValueError, match="there is a pass look already"):
            mlir.register_pass("look")(look)
    finally:
        for name in ("look", "look-twice"):
            pipelines._passes.pop(name, None)
    with pytest.raises(ValueError, match="expected lower-case words"):
        mlir.register_pass("Look")(look)
    with pytest.raises(TypeError, match="bad: option needs a default"):
        mlir.register_pass("bad")(lambda module, *, option: None)


def test_a_context_of_ones_own():
    from torch_mlir import ir

    context = ir.Context()
    mlir.load(context)
    with context:
        module = ir.Module.parse(str(module_of(*CHAIN, arguments=f"%x: {T}, %w: {W}")))
    mlir.run_pipeline(module, "cse,optimize")
    assert "storage = 1" in str(module) and mlir.lower(module).inputs.keys() == {"arg0", "arg1"}


def test_a_pass_that_breaks_the_module_is_found_out():
    try:

        @mlir.register_pass("break")
        def break_it(module):
            block = module.body.operations[0].regions[0].blocks[0]
            block.operations[0].operation.attributes["scale"] = mlir.context() and unit()

        module = module_of(f'%r = "llm.softmax"(%x) : ({T}) -> {T}', arguments=f"%x: {T}")
        with pytest.raises(mlir.MlirError, match="softmax: scale is unit, expected a number"):
            mlir.run_pipeline(module, "break")
    finally:
        pipelines._passes.pop("break", None)


def unit():
    from torch_mlir import ir

    return ir.UnitAttr.get()
