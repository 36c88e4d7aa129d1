"""What a forward pass needs: tensors as the gguf package reads them, sums by hand."""

from __future__ import annotations

from types import SimpleNamespace

import gguf
import pytest
from reference.gguf_files import TinySpec
from reference.stored import FLOATS, FORMATS

from my_llm_ffi import _ffi_api, work
from my_llm_ffi.limits import Limits

LIMITS = Limits(read=1e9, copy=2e9, fma=1e10, int8=1e11)
PLANES = {name: 0 if name in FLOATS else 2 if name in ("Q4_1", "Q5_1") else 1 for name in FORMATS}


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setattr(work, "last_level_cache", lambda: 0)


def tensor(name, shape, n_bytes, planes):
    return {"name": name, "shape": shape, "bytes": n_bytes, "activation_planes": planes}


@pytest.mark.parametrize("name", FORMATS)
def test_tensors_of_a_file(tiny_file, name):
    path = tiny_file(TinySpec(format=name))
    ours = list(_ffi_api.Gguf.open(str(path)).tensors())
    theirs = gguf.GGUFReader(path).tensors
    assert len(ours) == len(theirs) > 10
    for mine, other in zip(ours, theirs):
        assert bytes(mine["name"]).decode() == other.name
        assert list(mine["shape"]) == [int(n) for n in reversed(other.shape)]
        assert mine["format"] == other.tensor_type.name
        assert mine["bytes"] == other.n_bytes
        assert mine["activation_planes"] == PLANES[mine["format"]]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["F16", "Q8_0", "Q4_1"])
def test_work_of_a_file(llm, tiny_file, name, tied):
    path = tiny_file(TinySpec(format=name, tied=tied, freq_factors=True))
    with llm.Model(path) as model:
        found = work.work_of(path, model.config)
    head = "token_embd.weight" if tied else "output.weight"
    n_bytes, operations = 0, {"fma": 0.0, "int8": 0.0, "head": 0.0}
    for t in gguf.GGUFReader(path).tensors:
        if len(t.shape) != 2 or not (t.name.startswith("blk.") or t.name == head):
            continue
        n_bytes += int(t.n_bytes)
        planes = PLANES[t.tensor_type.name]
        count = 2.0 * int(t.shape[0]) * int(t.shape[1]) * max(1, planes)
        operations["head" if t.name == head else "int8" if planes else "fma"] += count
    assert found.weight_bytes == n_bytes
    assert found.blocks == work.Operations(operations["fma"], operations["int8"])
    assert found.head.fma + found.head.int8 == operations["head"] > 0
    assert found.kv_bytes == 2 * 2 * 2 * 2 * 16  # K and V, float16, 2 layers, 2 heads of 16


def test_decode_reads_weights_and_cache():
    found = work.count([tensor(b"blk.0.ffn_up.weight", (4, 5), 1000, 0)], kv_bytes=10)
    bound = found.decode(steps=3, sequences=2, depth=7, limits=LIMITS)
    looked_at = 2 * (8 + 9 + 10)
    assert bound.seconds == pytest.approx((3 * 1000 + looked_at * 10) / 1e9)
    assert bound.limit == "read"


def test_prefill_computes_and_mixed_formats_add_up():
    tensors = [
        tensor(b"token_embd.weight", (1000, 50), 10**9, 0),  # looked up only
        tensor(b"output.weight", (60, 50), 10, 1),
        tensor(b"blk.0.ffn_up.weight", (100, 50), 10, 1),
        tensor(b"blk.0.ffn_gate.weight", (100, 50), 10, 2),
        tensor(b"blk.0.ffn_down.weight", (50, 100), 10, 0),
        tensor(b"blk.0.attn_norm.weight", (50,), 200, 0),
    ]
    found = work.count(tensors, kv_bytes=0)
    assert found.weight_bytes == 40
    bound = found.prefill(tokens=300, passes=1, rows=2, limits=LIMITS)
    int8 = 300 * (1 + 2) * 2 * 5000 + 2 * 2 * 3000
    assert bound.seconds == pytest.approx(int8 / 1e11 + 300 * 2 * 5000 / 1e10)
    assert bound.limit == "compute"


def test_what_lies_in_the_cache_is_not_bound_by_memory(monkeypatch):
    found = work.count([tensor(b"blk.0.ffn_up.weight", (1, 1), 1000, 0)], kv_bytes=0)
    monkeypatch.setattr(work, "last_level_cache", lambda: 1001)
    assert found.decode(5, 1, 0, LIMITS).limit == "in cache"
    monkeypatch.setattr(work, "last_level_cache", lambda: 1000)
    assert found.decode(5, 1, 0, LIMITS).limit == "read"


def test_kv_bytes():
    config = SimpleNamespace(n_layers=24, n_kv_heads=2, head_dim=64)
    assert work.kv_bytes(config) == 24 * 2 * 64 * 2 * 2
