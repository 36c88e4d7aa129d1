"""The C++ client: programs are compiled with the guide's line and run without Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from reference.gguf_files import TinySpec

sys.path.insert(0, str(Path(__file__).parent))

from compiling import ROOT, build_cpp, compiler, flags, run, said_by, without_python
from driving_cases import check_driver_errors

HERE = Path(__file__).parent / "cpp"


@pytest.fixture(scope="module")
def model_file(tiny_file: Callable[[TinySpec], Path]) -> Path:
    return tiny_file(TinySpec())


@pytest.fixture(scope="module")
def checks(
    llm: ModuleType, model_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What checks.cc prints: a message by the name of what is wrong."""
    program = build_cpp(HERE / "checks.cc", tmp_path_factory.mktemp("cpp") / "checks", "-O0")
    done = run([program, model_file], env=without_python())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    return dict(line.split("|", 1) for line in done.stdout.splitlines())


def test_errors_of_tensors_are_those_of_python(llm, checks):
    x, weight = np.zeros((2, 4), "f4"), np.zeros(4, "f4")
    norm = llm.ops.rms_norm
    assert checks["shape"] == said_by(lambda: norm(x, weight[:3]))
    assert checks["dtype"] == said_by(lambda: norm(x.astype("f8"), weight, out=x.copy()))
    assert checks["overlap"] == said_by(lambda: norm(x, x[0], out=x))
    assert checks["eps"] == said_by(lambda: norm(x, weight, eps=-1.0))
    assert checks["no sizes"] == "ValueError: softmax: x has no shape, expected 2 sizes"
    assert checks["negative"].startswith("ValueError: softmax: x has shape [-2, 4], expected [")
    assert checks["too large"].startswith("ValueError: empty: shape[0] is 2305843009213693952, ")
    assert checks["devices"] == "ValueError: argmax: out is on device 1:0, x is on 8:0"
    assert checks["device"].startswith("NotImplementedError: softmax: ")


def test_errors_of_the_client_name_what_is_wrong(checks):
    assert checks["null"] == "ValueError: CpuView: data is null"
    assert checks["wraps"] == "ValueError: CpuView: the sizes are too large"
    assert checks["vector"].startswith("ValueError: CpuView: ")
    assert checks["parse"] == "ValueError: \"cubic\" is none of 'none', 'linear', 'yarn'"
    assert checks["null pointer"].startswith("InternalError: ")  # of tvm-ffi's own view
    assert checks["moved from"].startswith("TypeError: ")
    assert checks["moved response"] == "TypeError: this object was moved from"


def test_errors_of_objects_are_those_of_python(llm, checks, model_file):
    model = llm.Model(model_file)
    context = model.context(n_ctx=64)
    context.close()
    assert checks["closed"] == said_by(lambda: context.n_ctx)
    assert checks["token"] == said_by(lambda: model.vocab.piece(model.vocab.size))
    assert checks["no file"] == said_by(lambda: llm.Model("/no/such/model.gguf"))
    assert checks["no key"] == "KeyError: no.such.key"
    model.close()
    assert checks["closed model"] == said_by(model.context)
    assert checks["raise"] == "TimeoutError: of any kind"


def test_errors_of_requests_are_those_of_python(llm, checks, model_file):
    with llm.Executor(llm.Model(model_file)) as executor:
        request = llm.Request(tokens=[1, 2, 3], max_new_tokens=-1)
        assert checks["request"] == said_by(lambda: executor.enqueue_request(request))
    assert checks["shut down"] == said_by(lambda: executor.enqueue_request(llm.Request(tokens=[])))


def test_what_a_callback_throws_arrives(checks):
    assert checks["callback error"] == "KeyError: mine"
    assert checks["callback exception"] == "RuntimeError: far out"
    for name, call in (("", "call_with"), (" of threads", "call_from_threads")):
        said = f"TypeError: {call}: callback is None, expected a function"
        assert checks[f"no callback{name}"] == said
    assert checks["callback int"] == "RuntimeError: a callback threw what is no std::exception"
    assert checks["callback thread"] == "RuntimeError: thread 2"
    assert checks["progress"] == "RuntimeError: enough"
    assert "no mask today" in checks["post-processor"]


# ---- examples -----------------------------------------------------------------------------------


def example(name: str, folder: Path, **options: str) -> Path:
    return build_cpp(ROOT / "examples/cpp" / f"{name}.cc", folder / name, **options)


def test_example_ops(llm, tmp_path):
    done = run([example("ops", tmp_path, standard="c++20")], env=without_python())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "0.3651 0.7303 1.0954 1.4606",
        "-1.4142 0.0000 1.4142 0.0000",
        "ValueError: rms_norm: weight has shape [3], expected [hidden=4 (from x)]",
    ]


def test_example_generate(llm, model_file, tmp_path):
    program = example("generate", tmp_path)
    done = run([program, model_file, "Hello", "8"], env=without_python())
    assert done.returncode == 0, done.stderr
    greedy = llm.SamplingParams(temperature=0.0)
    with llm.Model(model_file) as model:
        expected = model.generate("Hello", max_new_tokens=8, sampling=greedy, n_ctx=512)
    assert done.stdout.rstrip("\n") == expected.text.rstrip("\n")
    assert f"{expected.finish_reason.name} after {len(expected.tokens)} tokens" in done.stderr
    assert run([program]).returncode == 2
    missing = run([program, tmp_path / "none.gguf"])
    assert missing.returncode == 1 and missing.stderr.startswith("FileNotFoundError: ")


def test_example_serve(llm, model_file, tmp_path):
    done = run([example("serve", tmp_path), model_file, "3"], env=without_python())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "3 answers, the forbidden token 0 times"


def test_the_guide(llm, tmp_path):
    """Its first program, built by its line, word for word."""
    text = (ROOT / "docs/guide_cpp.md").read_text("utf-8")
    compiler("none", "g++")
    flags("cflags")
    (program,) = re.findall(r"^```cpp\n(.*?int main.*?)^```$", text, re.M | re.S)
    (line,) = re.findall(COMPILE_COMMAND, text)
    (tmp_path / "program.cc").write_text(program, "utf-8")
    compile_by(line, tmp_path)
    done = run([tmp_path / "program"], env=without_python())
    assert (done.returncode, done.stdout) == (0, "0.365148\n"), done.stderr


def test_the_line_of_the_readme(llm, tmp_path):
    readme = ROOT / "README.md"
    if not readme.is_file():
        pytest.skip("README.md is not beside the tests")
    compiler("none", "g++")
    flags("cflags")
    (line,) = re.findall(COMPILE_COMMAND, readme.read_text("utf-8"))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    compile_by(line, tmp_path)
    done = run([tmp_path / "ops"], env=without_python())
    assert done.returncode == 0 and done.stdout.startswith("0.3651"), done.stderr


COMPILE_COMMAND = r"<!-- compile-command -->\n```sh\n(.*?)\n```"


def compile_by(line: str, folder: Path) -> None:
    """Runs a line of the documentation, word for word."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    where = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = run(["sh", "-ec", line], cwd=folder, env=where)
    assert done.returncode == 0, done.stderr


def test_cmake_package(llm, tmp_path):
    """find_package with the path that the package prints, in an installed package."""
    from my_llm_ffi import config

    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("no cmake")
    if not (config.cmakedir() / "my_llm_ffi-config.cmake").is_file():
        pytest.skip("the package is not installed: this is its source tree")
    source = tmp_path / "source"
    shutil.copytree(ROOT / "examples/cpp", source)
    build = tmp_path / "build"
    where = f"-Dmy_llm_ffi_DIR={config.cmakedir()}"
    python = f"-DPython_EXECUTABLE={sys.executable}"
    steps = [
        [cmake, "-S", source, "-B", build, where, python],
        [cmake, "--build", build, "--target", "ops"],
        [build / "ops"],
    ]
    for step in steps:
        done = run(step)
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("0.3651")


def refused_size(llm):
    builder = llm.PlanBuilder()
    builder.input("x", "float32", ("n", 4))
    builder.input("z", "float32", ("n +",))


def test_plans(llm, tmp_path):
    """A plan of C++ runs there and here, and its refusals are those of Python."""
    program = build_cpp(HERE / "plan.cc", tmp_path / "plan")
    done = run([program, tmp_path / "file"], env=without_python())
    assert done.returncode == 0, done.stdout + done.stderr
    said = dict(line.split("|", 1) for line in done.stdout.splitlines())
    plan = llm.Plan.load(tmp_path / "file")
    x = np.array([[1, 2, 3, 4], [1, 1, 1, 1]], "f4")
    y = plan.run({"x": x})["y"]
    assert said["y"] == " ".join(f"{v:.6f}" for v in y.ravel())
    assert said["shape"] == said_by(lambda: plan.run({"x": x[:, :3].copy()}))
    assert said["no file"] == said_by(lambda: llm.Plan.load("/no/such/plan"))
    assert said["size"] == said_by(lambda: refused_size(llm))
    assert said["function"].startswith("ValueError: ") and "no_such_op" in said["function"]
    assert said["few"] == "ValueError: plan: got 1 tensors, expected 1 inputs and 1 outputs"
    assert said["moved"].startswith("TypeError: ")


def test_a_program_that_is_not_linked_loads_the_library(llm, tmp_path):
    from my_llm_ffi import base

    cxx, program = compiler("CXX", "g++", "clang++"), tmp_path / "loaded"
    wanted = [f for f in flags("ldflags") if f not in ("-lmy_llm_ffi", "-Wl,--no-as-needed")]
    command = [cxx, "-std=c++17", *flags("cflags"), HERE / "loaded.cc", "-o", program, *wanted]
    subprocess.run([str(word) for word in [*command, "-ldl"]], check=True)
    done = run([program, base.library_path()], env=without_python())
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0].startswith("RuntimeError: there is no my_llm_ffi.version: link with")
    assert lines[1:] == ["OSError", llm.__version__]


# ---- the driver of tests/parity -----------------------------------------------------------------


@pytest.fixture(scope="module")
def driver(llm: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = ROOT / "tests/parity/cpp"
    return build_cpp(folder / "driver.cc", tmp_path_factory.mktemp("cpp") / "driver", "-O0")


def test_driver_says_what_is_wrong(driver, tmp_path):
    check_driver_errors([driver], tmp_path)
