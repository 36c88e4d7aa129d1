"""Names of the package's types in annotations: tests get the objects from fixtures alone."""

from __future__ import annotations

from typing import Any

Model = Any
Context = Any
Batch = Any
Sampler = Any
