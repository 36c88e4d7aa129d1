"""The Triton kernel of LookUp, apart from the plugin, as it may be called by anything."""

# No annotations of the kernel's parameters: Triton reads its own there.
# ruff: noqa: ANN001, ANN201

import triton
import triton.language as tl


@triton.jit
def lookup_kernel(index, table, out, width, n_rows, BLOCK: tl.constexpr):
    """One program per index and block of its row; an index outside of the table gives zeros."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    source = tl.load(index + row).to(tl.int64)
    inside = (at < width) & (source >= 0) & (source < n_rows)
    values = tl.load(table + source * width + at, mask=inside, other=0.0)
    tl.store(out + row * width + at, values, mask=at < width)
