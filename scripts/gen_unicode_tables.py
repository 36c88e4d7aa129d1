"""Write src/text/unicode_tables.cc, the character classes of src/text/unicode.h, from `unicodedata`.

    python scripts/gen_unicode_tables.py            # writes the file
    python scripts/gen_unicode_tables.py --check    # compares; passes over another Unicode version

The Unicode version is that of the Python that runs this; take the newest at hand.
"""

from __future__ import annotations

import argparse
import re
import sys
import unicodedata
from pathlib import Path

TABLES = Path(__file__).resolve().parent.parent / "src" / "text" / "unicode_tables.cc"
OTHER, LETTER, NUMBER, SPACE = range(4)  # CharClass
CONTROL_SPACES = {0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x85}  # White_Space that is not a category Z
COLUMNS = 100

HEADER = """\
// Classes of all code points, Unicode {version}. By scripts/gen_unicode_tables.py: do not edit.
// Counterpart: unicode_tables.h.
#include "text/unicode_tables.h"

namespace mlf {{

// clang-format off
const uint32_t kCharClassRuns[] = {{
"""
FOOTER = """\
}};
// clang-format on
const size_t kCharClassRunCount = {count};

}}  // namespace mlf
"""


def char_class(code: int) -> int:
    """Class of one code point; surrogates and unassigned ones are OTHER."""
    category = unicodedata.category(chr(code))
    if category[0] == "L":
        return LETTER
    if category[0] == "N":
        return NUMBER
    if category[0] == "Z" or code in CONTROL_SPACES:
        return SPACE
    return OTHER


def class_runs() -> list[int]:
    """Every place where the class changes, as `first code point << 2 | class`."""
    runs: list[int] = []
    previous = None
    for code in range(sys.maxunicode + 1):
        current = char_class(code)
        if current != previous:
            runs.append(code << 2 | current)
            previous = current
    return runs


def render() -> str:
    """Text of the generated file."""
    runs = class_runs()
    lines: list[str] = []
    line = "   "
    for run in runs:
        item = f" {run:#x},"
        if len(line) + len(item) > COLUMNS:
            lines.append(line)
            line = "   "
        line += item
    lines.append(line)
    header = HEADER.format(version=unicodedata.unidata_version)
    return header + "\n".join(lines) + "\n" + FOOTER.format(count=len(runs))


def check() -> int:
    """0 when the file in the tree is what this Python would write, or speaks another Unicode."""
    text = TABLES.read_text(encoding="utf-8")
    match = re.search(r"Unicode (\d+\.\d+\.\d+)", text)
    if match is None:
        print(f"{TABLES}: no Unicode version found", file=sys.stderr)
        return 1
    if match[1] != unicodedata.unidata_version:
        print(f"not compared: {TABLES.name} has Unicode {match[1]}, this Python has "
              f"{unicodedata.unidata_version}")  # fmt: skip
        return 0
    if text != render():
        print(f"{TABLES} is stale: run {Path(__file__).name}", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    """Write or check the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    if parser.parse_args().check:
        return check()
    TABLES.write_text(render(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
