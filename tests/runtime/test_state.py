"""save_state and load_state: the same bits afterwards, and files that are refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from reference.driving import decode_all, rows, sequence
from reference.forward import Token
from reference.gguf_files import TinySpec
from reference.handles import Context, Model

SPEC = TinySpec()
PROMPT = [5, 90, 17, 203, 64, 64, 8, 131] * 5


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Model]) -> Model:
    return tiny_model(SPEC)


@pytest.fixture(params=["f32", "f16"])
def make(request: pytest.FixtureRequest, model: Model) -> Callable[[], Context]:
    """Opens an empty context of three sequences."""
    return lambda: model.context(n_ctx=128, n_seq_max=3, kv_dtype=request.param)


def test_whole_state(llm: ModuleType, make: Callable[[], Context], tmp_path: Path) -> None:
    saved, loaded = make(), make()
    for seq in (0, 2):
        decode_all(llm, saved, sequence(PROMPT[seq:], seq_ids=(seq,)))
    saved.seq_remove(0, 4, 9)
    saved.seq_shift(0, 9, 40, -5)
    loaded.decode([1, 2, 3])  # is replaced
    saved.save_state(tmp_path / "all.state")
    loaded.load_state(tmp_path / "all.state")
    for seq in range(3):
        assert saved.seq_positions(seq) == loaded.seq_positions(seq)
    batch = [Token(7, 35), Token(8, 38, (2,)), Token(9, 0, (1,))]
    expected, got = (decode_all(llm, c, batch) for c in (saved, loaded))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("rope", [{"rope_freq_base": 5e5}, {"rope_freq_scale": 0.25}])
def test_keys_turned_by_other_angles_are_refused(
    model: Model, tmp_path: Path, rope: dict[str, float]
) -> None:
    saved, same, other = (model.context(n_ctx=128, **options) for options in (rope, rope, {}))
    saved.decode(PROMPT)
    saved.save_state(tmp_path / "rope.state")
    same.load_state(tmp_path / "rope.state")
    with pytest.raises(ValueError, match=r"was saved by .*rope base"):
        other.load_state(tmp_path / "rope.state")
    assert other.seq_positions(0) is None


def test_one_sequence(llm: ModuleType, make: Callable[[], Context], tmp_path: Path) -> None:
    saved, loaded = make(), make()
    for context in (saved, loaded):
        decode_all(llm, context, sequence(PROMPT[::-1], seq_ids=(1,)))
    saved.decode(PROMPT)
    saved.save_state(tmp_path / "one.state", seq=0)
    loaded.load_state(tmp_path / "one.state", seq=2)
    assert loaded.seq_positions(0) is None
    assert tuple(loaded.seq_positions(2)) == (0, 39)
    got = decode_all(llm, loaded, [Token(7, 40, (2,)), Token(8, 40, (1,))])
    expected = decode_all(llm, saved, [Token(7, 40, (0,)), Token(8, 40, (1,))])
    np.testing.assert_array_equal(got, expected)


def test_shared_sequences_load_into_a_context_of_the_same_size(
    llm: ModuleType, model: Model, tmp_path: Path
) -> None:
    saved, loaded = (model.context(n_ctx=64, n_seq_max=8) for _ in range(2))  # ten pages
    saved.decode(PROMPT)
    for seq in range(1, 8):
        saved.seq_copy(0, seq)  # sixteen, if they were not shared
    saved.save_state(tmp_path / "shared.state")
    loaded.load_state(tmp_path / "shared.state")
    batch = [Token(7 + seq, 40, (seq,)) for seq in range(8)]
    expected, got = (decode_all(llm, c, batch) for c in (saved, loaded))
    np.testing.assert_array_equal(got, expected)


def test_paths_as_text(make: Callable[[], Context], tmp_path: Path) -> None:
    context = make()
    context.decode(PROMPT)
    context.save_state(str(tmp_path / "a.state"))
    context.load_state(str(tmp_path / "a.state"))
    assert tuple(context.seq_positions(0)) == (0, 39)


def refused(context: Context, path: Path, *kinds: type[Exception]) -> None:
    """The file is refused and the context goes on from what it held."""
    context.clear()
    context.decode(PROMPT)
    with pytest.raises(kinds):
        context.load_state(path)
    assert tuple(context.seq_positions(0)) == (0, 39)
    context.decode([3])
    got = rows(context)
    context.seq_remove(0)
    context.decode([*PROMPT, 3])
    np.testing.assert_array_equal(got, rows(context))


def test_state_of_another_model(
    tiny_model: Callable[..., Model], make: Callable[[], Context], tmp_path: Path
) -> None:
    for number, spec in enumerate(
        [TinySpec(seed=9), TinySpec(n_layers=1), TinySpec(n_heads=2, n_kv_heads=1)]
    ):
        other = tiny_model(spec).context(n_ctx=128, n_seq_max=3)
        other.decode(PROMPT)
        other.save_state(tmp_path / f"{number}.state")
        refused(make(), tmp_path / f"{number}.state", ValueError)


def test_state_of_another_cache_type(model: Model, tmp_path: Path) -> None:
    f32, f16 = (model.context(n_ctx=128, kv_dtype=name) for name in ("f32", "f16"))
    f32.decode(PROMPT)
    f32.save_state(tmp_path / "f32.state")
    refused(f16, tmp_path / "f32.state", ValueError)


def test_state_larger_than_the_context(model: Model, tmp_path: Path) -> None:
    large, small = (model.context(n_ctx=n) for n in (256, 64))
    large.decode(PROMPT * 4)
    large.save_state(tmp_path / "large.state")
    refused(small, tmp_path / "large.state", ValueError)


def test_state_cut_anywhere(make: Callable[[], Context], tmp_path: Path) -> None:
    context = make()
    context.decode(PROMPT)
    context.save_state(tmp_path / "whole.state")
    data = (tmp_path / "whole.state").read_bytes()
    rng = np.random.default_rng(0)
    for size in [0, 1, 7, 8, 9, len(data) - 1, *rng.integers(10, len(data) - 1, 40).tolist()]:
        (tmp_path / "cut.state").write_bytes(data[:size])
        refused(context, tmp_path / "cut.state", ValueError)


def test_state_with_any_byte_changed_never_kills(
    make: Callable[[], Context], tmp_path: Path
) -> None:
    context = make()
    context.decode(PROMPT)
    context.save_state(tmp_path / "whole.state")
    data = (tmp_path / "whole.state").read_bytes()
    rng = np.random.default_rng(1)
    for offset in [*range(64), *rng.integers(0, len(data), 100).tolist()]:
        changed = bytearray(data)
        changed[offset] ^= int(rng.integers(1, 256))
        (tmp_path / "changed.state").write_bytes(changed)
        try:
            context.load_state(tmp_path / "changed.state")
        except ValueError:
            continue
        context.decode([3]) if context.seq_positions(0) else None
        context.clear()


def test_not_a_state(make: Callable[[], Context], tmp_path: Path) -> None:
    (tmp_path / "text.state").write_text("not a state at all, but long enough to hold a header")
    refused(make(), tmp_path / "text.state", ValueError)
    refused(make(), tmp_path, OSError)
    refused(make(), tmp_path / "missing.state", FileNotFoundError)


def test_saving_where_nothing_can_be_written(make: Callable[[], Context], tmp_path: Path) -> None:
    context = make()
    context.decode(PROMPT)
    for path in (tmp_path, tmp_path / "no" / "folder.state"):
        with pytest.raises(OSError):
            context.save_state(path)
    assert tuple(context.seq_positions(0)) == (0, 39)


def test_paths_of_any_bytes(make: Callable[[], Context], tmp_path: Path) -> None:
    context = make()
    context.decode(PROMPT)
    raw = os.fsencode(tmp_path) + b"/caf\xe9.state"
    context.save_state(raw)
    for path in (raw, os.fsdecode(raw), Path(os.fsdecode(raw))):
        context.clear()
        context.load_state(path)
        assert tuple(context.seq_positions(0)) == (0, 39)
    with pytest.raises(FileNotFoundError, match=r"no\\x[Ee]9\.state"):
        context.load_state(os.fsencode(tmp_path) + b"/no\xe9.state")
    with pytest.raises(ValueError, match=r"bad\\x[Ee]9.*is not a state"):
        bad = os.fsencode(tmp_path) + b"/bad\xe9.state"
        Path(os.fsdecode(bad)).write_bytes(b"no state at all")
        context.load_state(bad)
    for call in (context.save_state, context.load_state):
        with pytest.raises(TypeError, match=r"path is int, expected str, bytes or os\.PathLike"):
            call(3)


def test_a_path_with_a_null_byte_is_refused(make: Callable[[], Context], tmp_path: Path) -> None:
    context = make()
    context.decode(PROMPT)
    context.save_state(tmp_path / "good")
    for call in (context.save_state, context.load_state):
        with pytest.raises(ValueError, match=r"state: path .*good.*junk.* contains a null byte"):
            call(f"{tmp_path}/good\0junk")


def test_what_is_no_regular_file_is_refused(make: Callable[[], Context], tmp_path: Path) -> None:
    """A named pipe without a writer would be waited for."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match=f'load_state: "{path}" is not a regular file'):
            make().load_state(path)
        with pytest.raises(OSError, match=f'save_state: "{path}" is not a regular file'):
            make().save_state(path)
