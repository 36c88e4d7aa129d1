"""Write src/quant/iq2_xxs_grid.h, the codebook of IQ2_XXS, from PyPI's `gguf`.

    python scripts/gen_iq2_xxs_grid.py            # writes the file
    python scripts/gen_iq2_xxs_grid.py --check    # compares

Each of the 256 entries is eight values of three, which take 16 bits here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from gguf import quants

GRID = Path(__file__).resolve().parent.parent / "src" / "quant" / "iq2_xxs_grid.h"
VALUES = [8, 25, 43]  # numbered 0, 1, 2
FIELDS = [0, 4, 1, 5, 2, 6, 3, 7]  # of a code that hold values 0 … 7; field 0 is bits 1 … 0
PER_LINE = 12

HEADER = """\
// The codebook of IQ2_XXS. By scripts/gen_iq2_xxs_grid.py: do not edit. Counterpart: iq2_xxs.h.
#pragma once
#include <cstdint>

#include "base/half.h"

namespace mlf::quant {

// Eight values of 2 bits (0, 1 and 2 for 8, 25 and 43) to a code, so that both halves come out with
// one shift (IQ2_XXS::Half):
//
//   bit   15  14  13  12  11  10   9   8   7   6   5   4   3   2   1   0
//         | v7    | v5    | v3    | v1    | v6    | v4    | v2    | v0    |
//
// The 256 codes. In a function, because it is one of its own on a GPU.
MLF_INLINE_HALF static inline const uint16_t* Iq2XxsGrid() {
  // clang-format off
  static constexpr uint16_t kCodes[256] = {
"""
FOOTER = """\
  };
  // clang-format on
  return kCodes;
}

}  // namespace mlf::quant
"""


def codes() -> list[int]:
    """The 256 codes."""
    quants.IQ2_XXS.init_grid()
    grid = np.asarray(quants.IQ2_XXS.grid).reshape(256, 8)
    numbers = np.searchsorted(VALUES, grid)
    if not np.array_equal(np.take(VALUES, numbers), grid):
        raise ValueError(f"the codebook of gguf has values beside {VALUES}")
    return [sum(int(n) << 2 * field for n, field in zip(row, FIELDS)) for row in numbers]


def render() -> str:
    """Text of the generated file."""
    words = [f"0x{code:04x}," for code in codes()]
    lines = [" ".join(words[i : i + PER_LINE]) for i in range(0, len(words), PER_LINE)]
    return HEADER + "".join(f"    {line}\n" for line in lines) + FOOTER


def main() -> int:
    """Write or check the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    if not parser.parse_args().check:
        GRID.write_text(render(), encoding="utf-8")
        return 0
    if GRID.read_text(encoding="utf-8") == render():
        return 0
    print(f"{GRID} is stale: run {Path(__file__).name}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
