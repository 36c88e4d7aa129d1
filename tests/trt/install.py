"""Makes an environment with TensorRT's genuine Python bindings, for tests without a GPU.

    python tests/trt/install.py FOLDER
    FOLDER/bin/python -m pytest tests/trt

The full TensorRT is not on PyPI; its bindings and its dispatch runtime are. The bindings are linked
to three libraries, which stub.c stands in for: the plugin registry behind them is the genuine one
of dispatch. Builder and runtime are not there. The environment sees the packages of the Python that
runs this, and nothing is installed into that one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The same number: they are released together.
PACKAGES = ("tensorrt-cu13-bindings==11.*", "tensorrt-dispatch-cu13-libs==11.*")
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
PACKAGE = '''"""The package `tensorrt` as NVIDIA's wheels lay it out, on stub libraries."""

from tensorrt_bindings import *
from tensorrt_bindings import __version__
'''


def make(folder: Path) -> Path:
    """An environment that sees this one's packages; returns its folder of packages."""
    venv.create(folder, with_pip=False, symlinks=True, clear=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    seen = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    # Not plain paths: those would leave out what editable installs put into .pth files.
    lines = [f"import site; site.addsitedir({path!r})" for path in dict.fromkeys(seen)]
    (packages / "parent.pth").write_text("\n".join(lines) + "\n", "utf-8")
    return packages


def install(packages: Path) -> None:
    """Installs NVIDIA's wheels, without what they depend on."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
    command += ["--only-binary", ":all:", "--target", str(packages), *PACKAGES]
    subprocess.run(command, check=True)


def compile_stubs(packages: Path) -> None:
    """Puts the three libraries where the bindings look first: beside themselves."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise SystemExit("a C compiler is needed (cc, or $CC)")
    dispatch = next((packages / "tensorrt_dispatch_libs").glob("libnvinfer_dispatch.so.*"))
    major = dispatch.suffix
    for name in LIBRARIES:
        soname = f"lib{name}.so{major}"
        target = packages / "tensorrt_bindings" / soname
        options = [
            "-shared",
            "-fPIC",
            "-O1",
            f"-Wl,-soname,{soname}",
            f'-DMLF_DISPATCH="{dispatch}"',
        ]
        command = [compiler, *options, str(HERE / "stub.c"), "-o", str(target), "-ldl"]
        subprocess.run(command, check=True)


def main() -> None:
    """Makes it, and says what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.absolute()
    packages = make(folder)
    install(packages)
    compile_stubs(packages)
    (packages / "tensorrt").mkdir(exist_ok=True)
    (packages / "tensorrt" / "__init__.py").write_text(PACKAGE, "utf-8")
    said = "import tensorrt as t; r = t.get_plugin_registry(); print('tensorrt', t.__version__, r)"
    subprocess.run([str(folder / "bin" / "python"), "-c", said], check=True)


if __name__ == "__main__":
    main()
