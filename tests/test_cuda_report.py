"""scripts/cuda_report on reports of the compiler and of the disassembler, written down here."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "cuda_report"


def load_script():
    loader = importlib.machinery.SourceFileLoader("cuda_report", str(SCRIPT))
    spec = importlib.util.spec_from_loader("cuda_report", loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["cuda_report"] = module  # dataclasses look themselves up there
    loader.exec_module(module)
    return module


tool = load_script()

NORM = "_ZN3mlf12_GLOBAL__N_110NormKernelIfLi4EEEvPfPKfl"
PLAIN = "_Z5plainPf"
HELPER = "_Z6helperPf"
REPORT = f"""\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '{NORM}' for 'sm_80'
ptxas info    : Function properties for {NORM}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 32 bytes smem, 396 bytes cmem[0]
ptxas info    : Compile time = 135.242 ms
ptxas info    : Compiling entry function '{PLAIN}' for 'sm_80'
ptxas info    : Function properties for {PLAIN}
    24 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers, 24 bytes cumulative stack size, 360 bytes cmem[0]
ptxas info    : Compiling entry function '{NORM}' for 'sm_90'
ptxas info    : Function properties for {NORM}
    16 bytes stack frame, 20 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 2 barriers, 16 bytes cumulative stack size, 48 bytes smem
ptxas info    : Function properties for {HELPER}
    8 bytes stack frame, 8 bytes spill stores, 0 bytes spill loads
"""

CODE = f"""\
Fatbin elf code:
================
arch = sm_80
\tcode for sm_80
\t.target\tsm_80

\t\tFunction : {NORM}
\t.headerflags\t@"EF_CUDA_SM80 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM80)"
        /*0000*/          IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ; /* 0x00000a00ff017624 */
                                      /* 0x000fe400078e00ff */
        /*0010*/          LDG.E.128 R4, desc[UR4][R2.64] ; /* 0x0000000402047981 */
        /*0020*/     @!P0 LDG.E.128.CONSTANT R8, [R2.64+0x10] ; /* 0x0000100402087981 */
        /*0030*/     @UP0 LDG.E.U16 R9, [R2.64] ; /* 0x0000100402087981 */
        /*0040*/          LDGSTS.E.BYPASS.128 [R9], [R2.64] ; /* 0x0000100402087981 */
        /*0050*/          LDS.128 R4, [R9] ; /* 0x0000100402087981 */
        /*0060*/          HMMA.16816.F32.BF16 R4, R8, R10, R4 ; /* 0x0000100402087981 */
        /*0070*/      @P1 STG.E.64 [R2.64], R4 ; /* 0x0000100402087981 */
        /*0080*/          STG.E [R2.64], R4 ; /* 0x0000100402087981 */
        /*0090*/          STG.E.U8 [R2.64], R4 ; /* 0x0000100402087981 */
        /*00a0*/          EXIT ; /* 0x000000000000794d */
\tcode for sm_90
\t\tFunction : {NORM}
        /*0000*/          HGMMA.64x64x16.F32 R24, gdesc[UR4], R24 ; /* 0x000000000000794d */
"""


def test_the_compilers_report():
    kernels = tool.read_report(REPORT)
    assert set(kernels) == {(NORM, "80"), (PLAIN, "80"), (NORM, "90"), (HELPER, "90")}
    assert kernels[NORM, "80"] == tool.Kernel(registers=40, barriers=1, shared=32)
    assert kernels[PLAIN, "80"] == tool.Kernel(registers=8, stack=24)
    last = tool.Kernel(registers=255, barriers=2, shared=48, stack=16, spills=32)
    assert kernels[NORM, "90"] == last
    assert kernels[HELPER, "90"].spills == 8
    assert tool.spilling(kernels) == [
        "NormKernel<float, 4> spills 32 bytes on sm_90",
        "helper spills 8 bytes on sm_90",
    ]


def test_the_disassembly():
    kernels = tool.read_report(REPORT)
    tool.read_disassembly(CODE, kernels)
    kernel = kernels[NORM, "80"]
    assert kernel.loads == {16: 3, 2: 1}
    assert kernel.stores == {8: 1, 4: 1, 1: 1}
    assert (kernel.mma, kernels[NORM, "90"].mma, kernels[PLAIN, "80"].mma) == (1, 1, 0)


def test_rows_show_both_architectures_where_they_differ():
    kernels = tool.read_report(REPORT)
    tool.read_disassembly(CODE, kernels)
    assert [row for row in tool.rows(kernels) if row[0].startswith("Norm")] == [
        [
            *("NormKernel<float, 4>", "40/255", "32/48", "1/2", "0/16", "0/32"),
            *("16x3 2x1/", "8x1 4x1 1x1/", "1"),
        ]
    ]
    both = {("_Z1fPf", "80"): tool.Kernel(), ("_Z1fPd", "80"): tool.Kernel(registers=2)}
    assert [row[:2] for row in tool.rows(both)] == [["f", "0"], ["f", "2"]]


@pytest.mark.parametrize(
    "line",
    [
        "src/kernels/norm.cu(12): warning #177-D: variable was declared but never referenced",
        "ptxas warning : Potential Performance Loss: wgmma.mma_async are serialized",
        "nvcc warning : Support for offline compilation is ending",
        "norm.cu:3:1: warning: unused parameter [-Wunused-parameter]",
    ],
)
def test_warnings_of_every_compiler(line):
    assert tool.read_warnings(f"{REPORT}{line}\n") == [line]
    assert tool.read_warnings(REPORT) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("void mlf::(anonymous namespace)::K<float, 4>(float*, long)", "K<float, 4>"),
        ("void mlf::_GLOBAL__N__78f6b3d3_7_norm_cu_5197bad5::K<(int)4>(float*)", "K<4>"),
        ("mlf::K<mlf::quant::Q8_0, (mlf::Act)1>(int)", "K<quant::Q8_0, 1>"),
        ("plain(float*)", "plain"),
        ("plain", "plain"),
    ],
)
def test_short_names(name, expected):
    assert tool.short_name(name) == expected


def test_what_is_no_mangled_name_stays():
    assert tool.demangle("kernel") == "kernel"


@pytest.fixture
def run(tmp_path):
    """Runs the script with a compiler that prints a text, and a disassembler that prints CODE."""

    def call(said, status=0):
        (tmp_path / "said").write_text(said)
        (tmp_path / "code").write_text(CODE)
        for name, body in [
            ("nvcc", f"cat {tmp_path}/said; exit {status}"),
            ("cuobjdump", f"cat {tmp_path}/code"),
        ]:
            (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
            (tmp_path / name).chmod(0o755)
        path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
        env = {**os.environ, "PATH": path, "CUDACXX": str(tmp_path / "nvcc")}
        return subprocess.run(
            [sys.executable, str(SCRIPT), "norm"],
            capture_output=True,
            text=True,
            env=env,
            check=False,
        )

    return call


def clean():
    return REPORT.partition("ptxas info    : Compiling entry function '" + NORM + "' for 'sm_90'")[
        0
    ]


def test_status_0_without_spills_and_warnings(run):
    done = run(clean())
    assert done.returncode == 0, done.stderr
    assert "NormKernel<float, 4>" in done.stdout
    assert "no warnings" in done.stdout


def test_status_0_without_a_kernel(run):
    done = run("ptxas info    : 0 bytes gmem\n" * 2)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("said", "status", "message"),
    [
        (REPORT, 0, "NormKernel<float, 4> spills 32 bytes on sm_90"),
        (clean() + "ptxas warning : something\n", 0, "norm.cu: ptxas warning : something"),
        (clean(), 2, "norm.cu: does not compile, status 2"),
        ("", 0, "norm.cu: the compiler reports nothing"),
    ],
)
def test_status_1(run, said, status, message):
    done = run(said, status)
    assert done.returncode == 1
    assert message in done.stderr


def test_wrong_usage(tmp_path):
    def status(*words, **env):
        command = [sys.executable, str(SCRIPT), *words]
        return subprocess.run(
            command, capture_output=True, env={**os.environ, **env}, check=False
        ).returncode

    assert status("no_such_stem") == 2
    assert status("norm", CUDACXX=str(tmp_path / "missing")) == 2
