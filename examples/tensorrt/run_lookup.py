"""Loads the engine of build_lookup.py in a process of its own, runs it, compares with torch.

    python examples/tensorrt/run_lookup.py

Needs TensorRT and a GPU. The manifest says which package the plugin is of; it is imported because
it is one of the three that are known here, and not because a file says so.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from build_lookup import ENGINE, PACKAGES, missing


def package_of(engine: Path) -> str:
    """The package that an engine's manifest names."""
    from my_llm_ffi.tensorrt import manifest_path

    rows = json.loads(manifest_path(engine).read_text("utf-8"))["plugins"]
    modules = sorted({row["module"] for row in rows})
    found = [p for p in PACKAGES if any(m == p or m.startswith(f"{p}.") for m in modules)]
    if len(found) != 1:
        raise SystemExit(f"the manifest names {modules}, expected one of {', '.join(PACKAGES)}")
    return found[0]


def main() -> str | None:
    """Loads, runs with indices of several lengths, compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, default=ENGINE)
    options = parser.parse_args()
    lacking = missing()
    if lacking is not None:
        return f"run_lookup.py needs {lacking}"
    from my_llm_ffi.tensorrt import manifest_path

    for file in (options.engine, manifest_path(options.engine)):
        if not file.exists():
            return f"run_lookup.py needs {file}: run build_lookup.py first"
    import torch

    from my_llm_ffi.tensorrt import Session, TensorInfo

    importlib.import_module(package_of(options.engine))
    session = Session.from_serialized_engine(options.engine)
    table_info = next(info for info in session.inputs if info.name == "table")
    table = torch.randn(table_info.shape, device="cuda").to(table_info.dtype.torch)
    stream = torch.cuda.Stream()
    for n in (1, 17, 64, 1000):
        index = torch.randint(0, table.shape[0], (n,), dtype=torch.int32, device="cuda")
        inputs = {"index": index, "table": table}
        infos = session.infer_shapes([TensorInfo(k, t.dtype, t.shape) for k, t in inputs.items()])
        outputs = {
            info.name: torch.empty(info.shape, dtype=info.dtype.torch, device="cuda")
            for info in infos
        }
        stream.wait_stream(torch.cuda.current_stream())
        session.run(inputs, outputs, stream)
        stream.synchronize()
        want = torch.nn.functional.embedding(index, table).to(outputs["out"].dtype)
        if not torch.equal(outputs["out"], want):
            return f"{n} rows differ from torch's"
        print(f"{n} rows of {table.dtype} as {outputs['out'].dtype}: equal to torch's")
    return None


if __name__ == "__main__":
    sys.exit(main())
