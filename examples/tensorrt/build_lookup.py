"""Builds an engine with a LookUp plugin: index [n] of any length, table [rows, width].

    python examples/tensorrt/build_lookup.py --dtype bfloat16 --plugin triton_lookup
    python examples/tensorrt/run_lookup.py

Needs TensorRT (pip install tensorrt, from NVIDIA's index) and a GPU.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # the packages of plugins beside this file

PACKAGES = ("my_llm_ffi.tensorrt", "lookup_plugin", "triton_lookup")
ENGINE = Path("lookup.engine")
DTYPES = ("float32", "float16", "bfloat16")
WIDTH, ROWS, MAX_INDICES = 128, 1000, 4096


def missing(package: str = PACKAGES[0]) -> str | None:
    """What this machine lacks for a package of plugins, or None."""
    try:
        import torch

        from my_llm_ffi.tensorrt import has_tensorrt
    except ImportError as error:
        return str(error)
    if not has_tensorrt():
        return "the Python module tensorrt (pip install tensorrt)"
    if not torch.cuda.is_available():
        return "an NVIDIA GPU that torch can use"
    try:
        importlib.import_module(package)
    except ImportError as error:
        return f"what {package} imports ({error})"
    return None if _has_builder() else "all of TensorRT: here is no builder"


def _has_builder() -> bool:
    """Whether more of TensorRT is here than its bindings."""
    import tensorrt as trt

    try:
        trt.Builder(trt.Logger(trt.Logger.WARNING))
    except (TypeError, RuntimeError):  # "factory function returned nullptr"
        return False
    return True


def build(package: str, dtype: str, fp32_output: bool) -> Any:
    """The serialized engine."""
    import tensorrt as trt

    from my_llm_ffi.tensorrt import DType, raise_stored

    plugins = importlib.import_module(package)
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    # A flag of TensorRT 10: since 11 all networks are so.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    index = network.add_input("index", trt.int32, (-1,))
    table = network.add_input("table", DType(dtype).tensorrt, (ROWS, WIDTH))
    out = plugins.LookUp(fp32_output=fp32_output)(network, index, table)
    out.name = "out"
    network.mark_output(out)
    profile = builder.create_optimization_profile()
    profile.set_shape("index", (1,), (64,), (MAX_INDICES,))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    raise_stored()  # what a plugin raised meanwhile, with its traceback
    return engine


def main() -> str | None:
    """Builds and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plugin", choices=PACKAGES, default=PACKAGES[0], metavar="PACKAGE")
    parser.add_argument("--dtype", choices=DTYPES, default="float16")
    parser.add_argument("--fp32-output", action="store_true")
    parser.add_argument("--output", type=Path, default=ENGINE)
    options = parser.parse_args()
    lacking = missing(options.plugin)
    if lacking is not None:
        return f"build_lookup.py needs {lacking}"
    from my_llm_ffi.tensorrt import save_engine

    engine = build(options.plugin, options.dtype, options.fp32_output)
    manifest = save_engine(options.output, engine)
    print(f"wrote {options.output} and {manifest}")
    return None


if __name__ == "__main__":
    sys.exit(main())
