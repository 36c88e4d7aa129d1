"""Refuses a release wheel that is too large, too new for old systems, or not loadable alone."""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import zipfile
from pathlib import Path

from elftools.elf.elffile import ELFFile  # of auditwheel

RPATH = "$ORIGIN/../../tvm_ffi/lib"
CORE, CUDA = "libmy_llm_ffi.so", "libmy_llm_ffi_cuda.so"
MACHINES = {62: "x86_64", 183: "aarch64"}  # e_machine of ELF


def glibc_minor(wheel: Path) -> int:
    """N of the oldest glibc, 2.N, that the wheel's name promises to run with."""
    minors = re.findall(r"manylinux_2_(\d+)_(?:x86_64|aarch64)", wheel.name)
    if "-py3-none-" not in wheel.name or not minors:
        raise SystemExit(f"check_wheel: {wheel.name}: expected a py3-none-manylinux_2_* wheel")
    return min(map(int, minors))


def machine_of(library: bytes) -> str:
    """The machine that an ELF file is for, as wheels call it."""
    number = int.from_bytes(library[18:20], "little")
    return MACHINES.get(number, f"ELF machine {number}")


def output_of(*command: str | Path) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def shown_symbols(library: Path) -> list[str]:
    """What the library shows to the linker beside functions of tvm-ffi's C ABI."""
    with library.open("rb") as file:
        symbols = ELFFile(file).get_section_by_name(".dynsym").iter_symbols()
        names = [s.name for s in symbols if s.name and s["st_shndx"] != "SHN_UNDEF"]
    return [name for name in names if not name.startswith("__tvm_ffi_")]


def check_contents(wheel: Path) -> list[str]:
    """Problems of the other files inside: the package alone belongs into a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        strangers = [
            n for n in archive.namelist() if not n.startswith(("my_llm_ffi/", "my_llm_ffi-"))
        ]
    return [f"holds {', '.join(strangers)}"] if strangers else []


def check_libraries(wheel: Path, with_cuda: bool) -> list[str]:
    """Problems of the shared libraries inside."""
    problems = []
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
        found = {path.name: path for path in Path(folder).rglob("*.so*")}
        expected = {CORE, CUDA} if with_cuda else {CORE}
        if set(found) != expected:
            problems.append(f"holds the libraries {sorted(found)}, expected {sorted(expected)}")
        for name, path in found.items():
            if path.parent != Path(folder) / "my_llm_ffi" / "lib":
                problems.append(f"{name} lies in {path.parent.relative_to(folder)}")
            rpath = output_of("patchelf", "--print-rpath", path).split(":")
            if RPATH not in rpath:
                problems.append(f"{name} has RPATH {rpath}, expected {RPATH}")
            if any(entry.startswith("/") for entry in rpath):
                problems.append(f"{name} has an absolute RPATH: {rpath}")
            library = path.read_bytes()
            if not wheel.stem.endswith(f"_{machine_of(library)}"):
                problems.append(f"{name} is for {machine_of(library)}, its wheel is not")
            if b".symtab" in library:
                problems.append(f"{name} is not stripped")
            # Types of the C++ library inside would meet those of a program that links with it.
            if name == CORE and (shown := shown_symbols(path)):
                problems.append(f"{name} shows {', '.join(shown)}")
    return problems


def main() -> int:
    """Checks one wheel; prints its tag and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--max-glibc-minor", type=int, required=True)
    parser.add_argument("--max-bytes", type=int, default=0, help="0: any size")
    parser.add_argument("--with-cuda", action="store_true")
    args = parser.parse_args()
    minor, size = glibc_minor(args.wheel), args.wheel.stat().st_size
    problems = check_contents(args.wheel) + check_libraries(args.wheel, args.with_cuda)
    if minor > args.max_glibc_minor:
        problems.append(f"needs glibc 2.{minor}, at most 2.{args.max_glibc_minor} is allowed")
    if args.max_bytes and size >= args.max_bytes:
        problems.append(f"is {size} bytes, expected less than {args.max_bytes}")
    for problem in problems:
        print(f"check_wheel: {args.wheel.name} {problem}")
    tag = "-".join(args.wheel.stem.split("-")[2:])
    print(f"{args.wheel.name}: tag {tag}, {size / 2**20:.2f} MiB")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
