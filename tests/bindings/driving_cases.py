"""What the drivers of tests/parity, which are programs in other languages, say of bad calls.

That they give the right bits for every op is what tests/parity itself checks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from compiling import run
from parity.case import Case, write_case


def check_driver_errors(command: list[Any], folder: Path) -> None:
    """The message of the library, and nothing is written."""
    x, weight = np.zeros((2, 4), "f4"), np.zeros(3, "f4")
    write_case(folder / "case", Case("rms_norm", [x, weight, x], [1e-6]))
    done = run([*command, folder / "case", folder / "out"])
    assert done.returncode == 1 and not (folder / "out").exists()
    expected = "ValueError: rms_norm: weight has shape [3], expected [hidden=4 (from x)]"
    assert done.stderr.strip() == expected
    (folder / "case").write_bytes(b"something else")
    done = run([*command, folder / "case", folder / "out"])
    assert done.returncode == 1 and "no parity case" in done.stderr
