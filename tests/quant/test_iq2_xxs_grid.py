"""The codebook of IQ2_XXS is what scripts/gen_iq2_xxs_grid.py makes of `gguf`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "gen_iq2_xxs_grid.py"


@pytest.mark.skipif(not SCRIPT.is_file(), reason="scripts/ is not beside these tests")
def test_the_codebook_agrees_with_gguf() -> None:
    run = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
