"""What the calls of device_samples.py must give: float64 formulas in torch, or the op on the CPU.

A check takes a sample and its results, all on the CPU: the outputs, then the tensors that were
written in place. It raises AssertionError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from my_llm_ffi import declaration, ops

if TYPE_CHECKING:
    from .device_samples import Sample

Results = Sequence[torch.Tensor]
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16

# One rounding of the output (half an ulp), and a little for sums and functions in float32.
ROUNDING = {F32: 4e-6, F16: 6e-4, BF16: 4.5e-3}
# Of a row's norm, where weights of a sum were rounded too before they met the tensor cores.
ROW_ERROR = {F32: 1e-5, F16: 2e-3, BF16: 1.3e-2}
# Block formats: activations of 8 bits, or of bfloat16.
BLOCK_ERROR = 1.5e-2


def close(got: torch.Tensor, want: torch.Tensor, *, floor: float = 1e-2) -> None:
    """Element by element; what is smaller than `floor` counts as that size."""
    wide = got.double()
    assert got.shape == want.shape
    special = ~want.isfinite()
    assert torch.equal(wide[special].nan_to_num(7), want[special].nan_to_num(7))
    error = (wide - want).abs()[~special]
    bound = ROUNDING[got.dtype] * (want.abs()[~special] + floor)
    assert bool((error <= bound).all()), f"error {(error / bound).max():.3g} of what is allowed"


def close_rows(got: torch.Tensor, want: torch.Tensor, tolerance: float) -> None:
    """Row by row, relative to the norm of the row, or to 1e-3 where that is larger."""
    assert got.shape == want.shape
    assert bool(got.isfinite().all())
    error = (got.double() - want).norm(dim=-1) / want.norm(dim=-1).clamp_min(1e-3)
    worst = float(error.max()) if error.numel() else 0.0
    assert worst <= tolerance, f"error {worst:.3g} of the norm, {tolerance:.3g} is allowed"


def equal(got: torch.Tensor, want: torch.Tensor) -> None:
    """Bit for bit, all NaN being one."""
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    if got.is_floating_point():
        same = torch.equal(got.isnan(), want.isnan()) and torch.equal(
            got.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf),
            want.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf),
        )
    else:
        same = torch.equal(got, want)
    assert same, f"{int((got != want).sum())} of {got.numel()} elements differ"


def on_cpu(name: str, sample: Sample, *, dtype: torch.dtype | None = None) -> list[torch.Tensor]:
    """Outputs of the op on the CPU, then what it wrote in place; float inputs cast to `dtype`."""
    op = declaration.load(name)

    def copy(t: torch.Tensor | None) -> torch.Tensor | None:
        if t is None:
            return None
        return t.to(dtype, copy=True) if dtype and t.is_floating_point() else t.clone()

    inputs = [copy(t) for t in sample.tensors]
    options = dict(sample.options)
    if sample.out_dtypes is not None:
        shapes = [None if t is None else tuple(t.shape) for t in inputs]
        dtypes = [None if t is None else str(t.dtype)[6:] for t in inputs]
        made = op.infer(shapes, dtypes, options)
        outs = [torch.empty(s, dtype=d) for (s, _), d in zip(made, sample.out_dtypes)]
        options["out"] = outs[0] if len(outs) == 1 else tuple(outs)
    result = getattr(ops, name)(*inputs, **options)
    outputs = [] if result is None else list(result) if isinstance(result, tuple) else [result]
    return outputs + [t for t, spec in zip(inputs, op.inputs) if spec.use == "mutable"]


def same_as_cpu(name: str) -> Callable[[Sample, Results], None]:
    """For ops that only move, round or compare."""

    def check(sample: Sample, results: Results) -> None:
        for got, want in zip(results, on_cpu(name, sample), strict=True):
            equal(got, want)

    return check


# ---- norms, activations, softmax ----------------------------------------------------------------


def _rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def rms_norm(sample: Sample, results: Results) -> None:
    """By the formula."""
    x, weight = sample.tensors
    close(results[0], _rms(x, weight, sample.options["eps"]))


def add_rms_norm(sample: Sample, results: Results) -> None:
    """The stream, and the norm of the stream as it was rounded."""
    x, residual, weight = sample.tensors
    close(results[1], x.double() + residual.double())
    close(results[0], _rms(results[1], weight, sample.options["eps"]))


def layer_norm(sample: Sample, results: Results) -> None:
    """By the formula; a row of one element is all bias."""
    x, weight, bias = sample.tensors
    wide = x.double()
    centred = wide - wide.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + sample.options["eps"]).sqrt()
    want = centred / scale * weight.double()
    close(results[0], want if bias is None else want + bias.double(), floor=1.0)


def silu_mul(sample: Sample, results: Results) -> None:
    """By the formula."""
    gate, up = (t.double() for t in sample.tensors)
    close(results[0], gate * torch.sigmoid(gate) * up, floor=1e-3)


def gelu_mul(sample: Sample, results: Results) -> None:
    """By the formulas, in forms that do not cancel."""
    gate, up = (t.double() for t in sample.tensors)
    if sample.options["approximate"] == "none":
        part = torch.special.erfc(-gate * 0.5**0.5) / 2
    else:
        part = torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3))
    close(results[0], gate * part * up, floor=1e-3)


def _capped(sample: Sample) -> torch.Tensor:
    y = sample.tensors[0].double() * sample.options.get("scale", 1.0)
    cap = sample.options.get("soft_cap")
    return y if cap is None else cap * torch.tanh(y / cap)


def softmax(sample: Sample, results: Results) -> None:
    """By torch in float64."""
    close(results[0], torch.softmax(_capped(sample), -1), floor=1e-4)


def log_softmax(sample: Sample, results: Results) -> None:
    """By torch in float64."""
    close(results[0], torch.log_softmax(_capped(sample), -1), floor=1.0)


def rope(sample: Sample, results: Results) -> None:
    """The op on the CPU in float32, where its angles are float64's."""
    for got, want in zip(results, on_cpu("rope", _wide(sample)), strict=True):
        close(got, want.double(), floor=1.0)


def _wide(sample: Sample) -> Sample:
    import dataclasses

    tensors = [t.float() if t is not None and t.is_floating_point() else t for t in sample.tensors]
    return dataclasses.replace(sample, tensors=tensors)


# ---- attention ----------------------------------------------------------------------------------


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor, options: dict
) -> torch.Tensor:
    """softmax(scale * q @ k.T) @ v over seen [queries, keys] in float64; zeros for no key."""
    q, k, v = (t.double() for t in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(group, 1) for t in (k, v))
    scale = options.get("scale") or q.shape[-1] ** -0.5
    score = scale * torch.einsum("nhd,mhd->hnm", q, k)
    cap = options.get("soft_cap")
    if cap is not None:
        score = cap * torch.tanh(score / cap)
    weight = torch.softmax(score.masked_fill(~seen, -torch.inf), -1).nan_to_num(0.0)
    return torch.einsum("hnm,mhd->nhd", weight, v)


def attention(sample: Sample, results: Results) -> None:
    """Each sequence by the formula."""
    q, k, v, cu_q, cu_k = sample.tensors
    bounds_q = [0, len(q)] if cu_q is None else cu_q.tolist()
    bounds_k = [0, len(k)] if cu_k is None else cu_k.tolist()
    window = sample.options.get("window") or 1 << 40
    want = torch.zeros_like(q, dtype=torch.float64)
    for s in range(len(bounds_q) - 1):
        mine, keys = slice(*bounds_q[s : s + 2]), slice(*bounds_k[s : s + 2])
        n, m = mine.stop - mine.start, keys.stop - keys.start
        distance = (m - n + torch.arange(n))[:, None] - torch.arange(m)
        seen = distance.abs() < window
        if sample.options.get("causal", True):
            seen &= distance >= 0
        want[mine] = _attend(q[mine], k[keys], v[keys], seen, sample.options)
    close_rows(results[0], want, ROW_ERROR[q.dtype])


def paged_attention(sample: Sample, results: Results) -> None:
    """Each token by the formula, over the entries of its pages."""
    q, k_pages, v_pages, positions, table, row, position, windows, sinks = sample.tensors
    want = torch.zeros_like(q, dtype=torch.float64)
    for t in range(len(q)):
        pages = [p for p in table[row[t]].tolist() if p >= 0]
        if not pages:
            continue
        keys = k_pages[pages].permute(0, 3, 1, 2).flatten(0, 1)
        values = v_pages[pages].permute(0, 2, 1, 3).flatten(0, 1)
        at = positions[pages].flatten().long()
        window = sample.options.get("window") if windows is None else int(windows[t])
        seen = position[t] - at < (window or 1 << 40)
        if sinks is not None:
            seen |= at < sinks[t]
        seen &= (at >= 0) & (at <= position[t])
        chosen = seen.nonzero()[:, 0]
        every = torch.ones(1, len(chosen), dtype=torch.bool)
        one = _attend(q[t : t + 1], keys[chosen], values[chosen], every, sample.options)
        want[t] = one[0]
    coarsest = max(ROW_ERROR[q.dtype], ROW_ERROR[k_pages.dtype])
    close_rows(results[0], want, coarsest)


# ---- logits -------------------------------------------------------------------------------------


def apply_penalties(sample: Sample, results: Results) -> None:
    """As on the CPU, but for the last bit."""
    close(results[0], on_cpu("apply_penalties", sample)[0].double())


def mask_logits(sample: Sample, results: Results) -> None:
    """As on the CPU, but for the last bit; what is out is out in both."""
    mass, status, logits = on_cpu("mask_logits", sample)
    equal(results[1], status)
    assert float((results[0] - mass).abs().max() if mass.numel() else 0) <= 2e-5
    close(results[2], logits.double())


def sample(sample: Sample, results: Results) -> None:
    """A token at which the sum of the probabilities, in float64, passes the number drawn."""
    logits, uniform, *parameters = sample.tensors
    ids, logprobs = results
    for r in range(len(logits)):
        temperature, top_k, top_p, min_p = (None if p is None else p[r] for p in parameters)
        row = logits[r].double().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        if bool((row == -torch.inf).all()):
            assert (int(ids[r]), float(logprobs[r])) == (-1, -torch.inf)
            continue
        if bool((row == torch.inf).any()):
            row = torch.where(row == torch.inf, 0.0, -torch.inf).double()
        drawn = int(ids[r])
        want = float(torch.log_softmax(row, -1)[drawn])
        assert abs(float(logprobs[r]) - want) <= 1e-5 * (1 + abs(want))
        scaled = row if temperature is None else row / max(float(temperature), 1e-30)
        if temperature is not None and float(temperature) == 0:
            assert drawn == int(row.argmax())
            continue
        ranked = (top_k is not None and int(top_k) > 0) or (top_p is not None and top_p < 1)
        _check_draw(scaled, float(uniform[r]), drawn, top_k, top_p, min_p, ranked=ranked)


def _check_draw(row, uniform, drawn, top_k, top_p, min_p, *, ranked: bool) -> None:
    slack = 3e-5  # sums of up to 131,073 numbers in float32
    order = torch.sort(row, descending=True, stable=True).indices
    keep = torch.ones_like(row, dtype=torch.bool)
    if top_k is not None and int(top_k) > 0:
        keep[order[int(top_k) :]] = False
    weight = torch.softmax(row.masked_fill(~keep, -torch.inf), -1)
    surely = keep.clone()  # what is in whatever the rounding
    if top_p is not None and float(top_p) < 1:
        before = torch.zeros_like(weight)
        before[order] = weight[order].cumsum(0) - weight[order]
        surely &= before < float(top_p) - slack
        keep &= before < float(top_p) + slack
    if min_p is not None:
        least = float(min_p) * float(weight.max())
        surely &= weight >= least * (1 + slack)
        keep &= weight >= least * (1 - slack)
    assert bool(keep[drawn]), f"{drawn} was filtered out"
    bounds = []
    for chosen in (surely, keep):
        among = chosen.clone()
        among[drawn] = True
        kept = torch.where(among, weight, 0.0)
        kept = kept[order].cumsum(0) if ranked else kept.cumsum(0)
        at = int((order == drawn).nonzero()[0]) if ranked else drawn
        total = float(kept[-1])
        bounds.append((float(kept[at - 1]) / total if at else 0.0, float(kept[at]) / total))
    low, high = min(b[0] for b in bounds), max(b[1] for b in bounds)
    assert low - slack <= uniform <= high + slack, f"{uniform} is not in [{low}, {high}]"


# ---- linear -------------------------------------------------------------------------------------


def linear(sample: Sample, results: Results) -> None:
    """Float64 on the weights that the bytes stand for."""
    x, weight, bias = sample.tensors
    format, rows = sample.options.get("format"), sample.options.get("rows")
    if format is not None:
        values = torch.empty_like(x[..., :0])
        if sample.options.get("packed"):
            ids = torch.arange(rows, dtype=torch.int32)
            values = ops.embedding_lookup(weight, ids, format=format, packed=True, rows=rows)
        else:
            values = ops.dequantize(weight, format=format)
        weight = values
    want = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    if format is None or format in ("F32", "F16", "BF16"):
        sums = x.double().abs() @ weight.double().abs().T
        error = (results[0].double() - want).abs()
        assert bool((error <= ROUNDING[x.dtype] * want.abs() + 2e-6 * sums + 1e-30).all())
    else:
        close_rows(results[0], want, BLOCK_ERROR)
