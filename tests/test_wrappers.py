"""What wraps a native object, whichever it is: neither copied nor pickled, and named arguments."""

from __future__ import annotations

import copy
import importlib
import pickle
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from reference.gguf_files import TinySpec

# Those that take more than a tiny model to make: an empty one refuses all the same.
EMPTY = {"Executor": "executor", "MaskEntry": "executor", "ResponseStream": "responses"}
EMPTY["LoraAdapter"] = "lora"
NAMES = ["Model", "Metadata", "Vocab", "StreamDecoder", "Context", "Batch", "Sampler", "TextStream"]
NAMES += ["PlanBuilder", "Plan"]


@pytest.fixture(scope="module")
def wrappers(llm: ModuleType, tiny_model: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    model = tiny_model(TinySpec())
    batch = llm.Batch()
    batch.add(1, 0)
    made = [model, model.metadata, model.vocab, model.vocab.decoder(), model.context(n_ctx=8)]
    made += [batch, llm.Sampler([llm.TopK(5), llm.Draw(seed=1)]), model.stream([1, 2])]
    made += [llm.PlanBuilder(), llm.PlanBuilder().build()]
    for name, module in EMPTY.items():
        cls = getattr(importlib.import_module(f"my_llm_ffi.{module}"), name)
        made.append(cls.__new__(cls))
    yield {type(wrapper).__name__: wrapper for wrapper in made}


def test_every_wrapper_is_here(llm: ModuleType, wrappers: dict[str, Any]) -> None:
    def all_of(cls: type) -> set[str]:
        return {cls.__name__}.union(*map(all_of, cls.__subclasses__()))

    from my_llm_ffi import _ffi_api

    assert all_of(_ffi_api.Wrapper) - {"Wrapper"} == {*NAMES, *EMPTY} == set(wrappers)


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("name", [*NAMES, *EMPTY])
def test_no_copies(wrappers: dict[str, Any], name: str, make: Callable[[Any], object]) -> None:
    """They would be empty, and say nothing of it."""
    with pytest.raises(TypeError, match=f"a {name} can be neither copied nor pickled"):
        make(wrappers[name])


def test_parameters_are_copied(llm: ModuleType) -> None:
    params = llm.SamplingParams(top_k=3, logit_bias={1: 2.0})
    assert copy.deepcopy(params) == pickle.loads(pickle.dumps(params)) == params


# ---- arguments that are no container of what is expected ----------------------------------------

NO_IDS = [None, 5, "12", b"12", bytearray(b"12"), {1: 2}, {1, 2}, frozenset((1,)), np.array(1)]


@pytest.mark.parametrize("wrong", NO_IDS, ids=repr)
def test_what_is_no_sequence_of_ids(llm: ModuleType, wrappers: dict[str, Any], wrong: Any) -> None:
    kind = type(wrong).__name__
    calls: dict[str, Callable[[], object]] = {
        f"batch is {kind}, expected a Batch or token ids": lambda: wrappers["Context"].decode(
            wrong
        ),
        f"ids is {kind}, expected token ids": lambda: wrappers["Vocab"].detokenize(wrong),
        f"seq_ids is {kind}, expected sequence ids": lambda: llm.Batch().add(1, 0, wrong),
    }
    if not isinstance(wrong, str):
        prompt = f"prompt is {kind}, expected text or token ids"
        calls[prompt] = lambda: wrappers["Model"].generate(wrong)
    for message, call in calls.items():
        with pytest.raises(TypeError, match=f"^{message}$"):
            call()


@pytest.mark.parametrize("wrong", [None, "1", 1.0, True], ids=repr)
def test_an_item_that_is_no_id(llm: ModuleType, wrappers: dict[str, Any], wrong: Any) -> None:
    said = f"is {type(wrong).__name__}, expected an integer"
    with pytest.raises(TypeError, match=f"an item of batch {said}"):
        wrappers["Context"].decode([1, wrong])
    with pytest.raises(TypeError, match=f"an item of seq_ids {said}"):
        llm.Batch().add(1, 0, (0, wrong))


def test_ids_of_any_iterable(wrappers: dict[str, Any]) -> None:
    vocab, context = wrappers["Vocab"], wrappers["Context"]
    expected = vocab.detokenize([5, 6])
    for ids in ((5, 6), np.array([5, 6], np.int32), range(5, 7), iter([5, 6])):
        assert vocab.detokenize(ids) == expected
    context.clear()
    context.decode(np.array([1, 2], np.uint8))
    assert context.seq_positions(0) == (0, 1)


@pytest.mark.parametrize("wrong", [None, 5, b"a", {"a": 1}], ids=repr)
def test_stop_that_is_no_string(wrappers: dict[str, Any], wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"^stop is {type(wrong).__name__}, expected a string or"):
        wrappers["Model"].generate([1], stop=wrong)


@pytest.mark.parametrize("wrong", [5, "print"], ids=repr)
def test_progress_that_cannot_be_called(llm: ModuleType, wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"^progress is {type(wrong).__name__}, expected a callab"):
        llm.Model("unread.gguf", progress=wrong)


@pytest.mark.parametrize(
    ("logits", "said"),
    [
        ([0.0, 1.0], "list, expected an array"),
        (None, "NoneType, expected an array"),
        (np.float32(1), "float32, expected an array"),
        (np.zeros(3, object), "of dtype object, which cannot be shared"),
        (np.zeros(3, np.longdouble), "of dtype .*, which cannot be shared"),
    ],
    ids=["list", "None", "scalar", "object", "longdouble"],
)
def test_logits_that_are_no_array(llm: ModuleType, logits: Any, said: str) -> None:
    for call in (llm.Sampler().sample_logits, llm.Sampler().probabilities):
        with pytest.raises(TypeError, match=f"^logits is {said}"):
            call(logits)


def test_other_wrappers_than_expected_are_named(llm: ModuleType) -> None:
    with pytest.raises(TypeError, match=r"^ctx is NoneType, expected a Context"):
        llm.Sampler().sample(None)
    with pytest.raises(TypeError, match=r"^params is dict, expected SamplingParams"):
        llm.Sampler.from_params({})
    with pytest.raises(TypeError, match=r"^stages is int, expected stages of a sampler"):
        llm.Sampler(5)


def test_metadata_has_no_other_keys_than_strings(wrappers: dict[str, Any]) -> None:
    for key in (5, None, "no such key", "\ud800"):
        assert key not in wrappers["Metadata"]
        assert wrappers["Metadata"].get(key, "absent") == "absent"
        with pytest.raises(KeyError):
            wrappers["Metadata"][key]
