"""The C client: programs that load the library by dlopen and are linked with nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from parity.case import Case, write_case
from reference.gguf_files import TinySpec

sys.path.insert(0, str(Path(__file__).parent))

from compiling import ROOT, build_c, run, said_by, without_python
from driving_cases import check_driver_errors

HERE = Path(__file__).parent / "c"


@pytest.fixture(scope="module")
def library(llm: ModuleType) -> Path:
    from my_llm_ffi import base

    path = base.library_path()
    assert path is not None
    return path


def test_example_ops(llm, library, tmp_path):
    program = build_c(ROOT / "examples/c/ops.c", tmp_path / "ops")
    done = run([program, library], env=without_python())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"my_llm_ffi {llm.__version__}",
        "0.3651 0.7303 1.0954 1.4606",
        "-1.4142 0.0000 1.4142 0.0000",
        "ValueError: rms_norm: weight has shape [3], expected [hidden=4 (from x)]",
    ]
    refused = run([program, "/no/such/library.so"])
    assert refused.returncode == 2 and "/no/such/library.so" in refused.stderr


def test_objects(library, tmp_path):
    source = tmp_path / "objects.c"
    source.write_text(OBJECTS, "utf-8")
    done = run([build_c(source, tmp_path / "objects"), library], env=without_python())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "size 1",
        "Batch",
        "TypeError",
        "there is no my_llm_ffi.Batch.nothing: a library of an older release may lack it",
    ]


OBJECTS = r"""
#include <my_llm_ffi/c.h>

int main(int argc, char** argv) {
  if (argc != 2 || mlf_open(argv[1]) != NULL) return 2;
  TVMFFIAny batch, sequences, size;
  TVMFFIObjectHandle make = NULL, nothing = NULL;
  TVMFFIAny first = mlf_int(0);
  if (mlf_batch_create(&batch) != 0) return 3;
  if (mlf_call(&make, "ffi.Array", &first, 1, &sequences) != 0) return 4;
  if (mlf_batch_add(batch, 1, 0, sequences, true) != 0) return 5;
  if (mlf_batch_size(batch, &size) != 0) return 6;
  printf("size %d\n", (int)size.v_int64);
  const char* key = mlf_api.type_info(batch.type_index)->type_key.data;
  printf("%s\n", strrchr(key, '.') + 1);
  if (mlf_batch_add(sequences, 1, 0, sequences, true) == 0) return 7;
  mlf_error error = mlf_take_error();
  printf("%.*s\n", (int)error.kind.size, error.kind.data);
  mlf_drop_error(&error);
  if (mlf_call_method(&nothing, "my_llm_ffi.Batch", "nothing", &batch, 1, NULL) == 0) return 8;
  error = mlf_take_error();
  printf("%.*s\n", (int)error.message.size, error.message.data);
  mlf_drop_error(&error);
  mlf_release(&sequences);
  mlf_release(&batch);
  return 0;
}
"""


def test_what_goes_wrong(llm, library, tiny_file, tmp_path):
    """Calls before the library is open, after close() and release, and callbacks that fail."""
    model_file = tiny_file(TinySpec())
    program = build_c(HERE / "checks.c", tmp_path / "checks")
    done = run([program, library, model_file], env=without_python())
    assert done.returncode == 0, done.stdout + done.stderr
    said = dict(line.split("|", 1) for line in done.stdout.splitlines())
    for name in ("not open", "method not open", "callback not open", "another library"):
        assert said[name] == "RuntimeError: the library is not open: call mlf_open() first"
    assert said["callback"] == said["threads"] == "TypeError: no number"
    assert said["no file"] == said_by(lambda: llm.Model("/no/such/model.gguf"))
    assert said["no path"].startswith("TypeError: ")
    assert said["post-processor"] == "logits post-processor: no mask today"
    assert said["shut down"] == "RuntimeError: this Executor is shut down"
    assert said["field"] == "TypeError: text: expected my_llm_ffi.Response, got my_llm_ffi.Executor"
    assert said["field of none"] == "TypeError: text: expected my_llm_ffi.Response, got no object"
    model = llm.Model(model_file)
    context = model.context(n_ctx=64)
    context.close()
    assert said["closed"] == said_by(lambda: context.n_ctx)
    assert said["released"].startswith("TypeError: ")
    model.close()
    assert said["closed model"] == said_by(model.context)


def test_a_plan(llm, library, tmp_path):
    """Made in Python, run in C, with more tensors than a call takes without memory of its own."""
    b = llm.PlanBuilder()
    inputs = [b.input(f"x{i}", "float32", ("n", 4)) for i in range(40)]
    result = b.buffer("float32", ("n", 4))
    b.call("silu_mul", inputs[0], inputs[-1], result)
    b.output("y", result)
    plan = b.build()
    plan.save(tmp_path / "plan")
    source = tmp_path / "run_plan.c"
    source.write_text(PLAN, "utf-8")
    program = build_c(source, tmp_path / "run_plan")
    done = run([program, library, tmp_path / "plan"], env=without_python())
    assert done.returncode == 0, done.stderr
    x = np.arange(8, dtype="f4").reshape(2, 4)
    y = plan.run({f"x{i}": x for i in range(40)})["y"]
    assert done.stdout.splitlines() == [
        " ".join(f"{v:.6f}" for v in y.ravel()),
        "ValueError: plan: got 2 tensors, expected 40 inputs and 1 outputs",
    ]


PLAN = r"""
#include <my_llm_ffi/c.h>

int main(int argc, char** argv) {
  if (argc != 3 || mlf_open(argv[1]) != NULL) return 2;
  float x[8], y[8];
  for (int i = 0; i < 8; ++i) x[i] = (float)i;
  int64_t sizes[] = {2, 4}, strides[] = {4, 1};
  const DLDevice cpu = {kDLCPU, 0};
  const DLDataType f32 = {kDLFloat, 32, 1};
  const DLTensor given = {x, cpu, 2, f32, sizes, strides, 0};
  const DLTensor made = {y, cpu, 2, f32, sizes, strides, 0};
  const DLTensor* tensors[41];
  for (int i = 0; i < 40; ++i) tensors[i] = &given;
  tensors[40] = &made;
  TVMFFIAny plan, allow;
  TVMFFIObjectHandle list = NULL;
  if (mlf_call(&list, "ffi.Array", NULL, 0, &allow) != 0) return 3;
  if (mlf_plan_load(argv[2], allow, &plan) != 0) return mlf_print_error(stderr), 4;
  if (mlf_plan_run(plan, tensors, 41) != 0) return mlf_print_error(stderr), 5;
  for (int i = 0; i < 8; ++i) printf("%.6f%c", y[i], i == 7 ? '\n' : ' ');
  if (mlf_plan_run(plan, tensors, 2) == 0) return 6;
  mlf_print_error(stdout);
  mlf_release(&allow);
  mlf_release(&plan);
  return 0;
}
"""


# ---- the driver of tests/parity -----------------------------------------------------------------


@pytest.fixture(scope="module")
def driver(llm: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = ROOT / "tests/parity/c"
    return build_c(folder / "driver.c", tmp_path_factory.mktemp("c") / "driver", "-O1")


@pytest.fixture
def call(driver, library, monkeypatch):
    monkeypatch.setenv("MY_LLM_FFI_LIBRARY", str(library))
    return [driver]


def test_driver_says_what_is_wrong(call, tmp_path):
    check_driver_errors(call, tmp_path)


def test_a_null_tensor_and_an_unknown_choice(llm, call, tmp_path):
    x = np.zeros((2, 4), "f4")
    write_case(tmp_path / "case", Case("rms_norm", [x, None, x], [1e-6]))
    done = run([*call, tmp_path / "case", tmp_path / "out"])
    assert done.returncode == 1 and done.stderr.startswith("TypeError: ")
    write_case(tmp_path / "case", Case("gelu_mul", [x, x, x], ["erf"]))
    done = run([*call, tmp_path / "case", tmp_path / "out"])
    from my_llm_ffi import declaration

    native = declaration.load("gelu_mul").function
    assert done.stderr.strip() == said_by(lambda: native(x, x, x, "erf"))
