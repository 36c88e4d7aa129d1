"""The examples of the guides run as they stand, each with the names of those above it."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from reference.custom_ops import forget

DOCS = Path(__file__).parents[1] / "docs"


def blocks(name: str) -> list[str]:
    """The Python in a guide, with line numbers kept for tracebacks."""
    text = (DOCS / name).read_text("utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S)
    return ["\n" * text.count("\n", 0, match.start(1)) + match[1] for match in found]


def run(name: str, skip: tuple[str, ...] = ()) -> int:
    """Runs all blocks but those with a word of `skip`; returns how many."""
    names: dict[str, Any] = {}
    chosen = [block for block in blocks(name) if not any(word in block for word in skip)]
    for block in chosen:
        exec(compile(block, str(DOCS / name), "exec"), names)
    return len(chosen)


def test_guide_ops() -> None:
    try:
        import torch  # noqa: F401
    except ImportError:
        skip, least = ("torch",), 5
    else:
        skip, least = (), 6
    try:
        assert run("guide_ops.md", skip=skip) >= least
    finally:
        forget("square")


def test_guide_jax() -> None:
    for package in ("jax", "jax_tvm_ffi"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    assert run("guide_jax.md") == 2


def test_guide_tensorrt(llm: Any) -> None:
    """What needs a network of TensorRT's own is left out."""
    pytest.importorskip("torch")
    from my_llm_ffi import tensorrt

    try:
        assert run("guide_tensorrt.md", skip=("import tensorrt", "Session")) >= 3
    finally:
        for key in [key for key in tensorrt.plugin_base.registry if key[2] == "my_plugins"]:
            tensorrt.unregister(tensorrt.plugin_base.registry[key])


def test_guide_models(
    llm: Any, smollm2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(llm, "fetch_model", lambda name: smollm2)
    assert run("guide_models.md", skip=("adapter.gguf",)) >= 7
    assert "Hello, wörld" in capsys.readouterr().out


def test_guide_plan(
    llm: Any, smollm2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(llm, "fetch_model", lambda name: smollm2)
    assert run("guide_plan.md") == 4
    assert "Paris" in capsys.readouterr().out


def test_guide_executor(
    llm: Any, smollm2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(llm, "fetch_model", lambda name: smollm2)
    assert run("guide_executor.md", skip=("pirate.gguf",)) >= 2
    assert "Paris" in capsys.readouterr().out


def test_guide_guided(llm: Any, smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llguidance")
    monkeypatch.setattr(llm, "fetch_model", lambda name: smollm2)
    assert run("guide_guided.md") >= 2


def test_guide_own_op_quotes_the_package() -> None:
    text = (DOCS / "guide_own_op.md").read_text("utf-8")
    quotes = re.findall(r"^<!-- from: (\S+) -->\n```\w+\n(.*?)^```$", text, re.M | re.S)
    assert len(quotes) >= 12
    for name, quoted in quotes:
        source = DOCS.parent / "examples" / "python" / "my_op" / name
        assert quoted in source.read_text("utf-8"), f"{name} has no longer:\n{quoted}"


def test_the_tests_that_the_comparison_names_are_there() -> None:
    """Each after its file; a name that ends in … is the begin of one."""
    root = DOCS.parent
    rows = [
        line
        for line in (DOCS / "comparison_tt_mlir.md").read_text("utf-8").splitlines()
        if line.startswith("|")
    ]
    named = 0
    for row in rows:
        source = ""
        for path, test in re.findall(
            r"`((?:tests|rust|examples|scripts)/[^`]+)`|`(test_[^`]+)`", row
        ):
            if path and (root / path.partition("/")[0]).is_dir():
                assert (root / path).exists(), f"{path} is not there"
                source = (root / path).read_text("utf-8") if (root / path).is_file() else ""
            elif test:
                named += 1
                end = "" if test.endswith("…") else r"\("
                assert re.search(rf"def {test.rstrip('…')}{end}", source), f"no {test}: {row}"
    assert named >= 15


# What tlc.h declares: parameters of the executor; of a request and what it contains.
TLC_ENGINE = """
guaranteed_no_evict iter_stats_max_iterations request_stats_max_iterations max_batch_size
max_num_tokens max_queue_size max_queue_delay_microseconds enable_chunked_context
gpu_weights_percent kv_cache_free_gpu_mem_fraction max_tokens_in_paged_kv_cache
kv_cache_host_memory_bytes kv_cache_onboard_blocks cross_kv_cache_fraction
secondary_offload_min_priority event_buffer_max_size max_attention_window_size sink_token_length
enable_kv_cache_reuse enable_batch_size_tuning enable_max_num_tokens_tuning
"""
TLC_REQUEST = """
tokens num_tokens client_req_id params lora_params prompt_params use_logits_post_processor
streaming logprobs max_new_tokens num_return_sequences eos_token_id temperature top_p min_p
frequency_penalty presence_penalty priority top_k min_tokens seed lora_id weights config
prompt_table input_token_extra_ids mrope_rotary_sin_cos mrope_position_deltas
skip_cross_attn_blocks encoder_input_features encoder_output_length cross_attention_masks
input_position_ids
"""
TLC_CALLS = """
tlc_default_init_params tlc_init tlc_can_enqueue_request tlc_shutdown tlc_enqueue_request
tlc_cancel_request tlc_await_responses tlc_alloc_logit_data tlc_mask_fraction_ptr
"""


def rows(begin: str, end: str) -> dict[str, tuple[str, str]]:
    """Names in the rows of trtllm_c.md between two headings: what becomes of each, and our text."""
    text = (DOCS / "trtllm_c.md").read_text("utf-8")
    part = text[text.index(f"\n{begin}") : text.index(f"\n{end}")]
    return {
        name: (kind, ours)
        for first, kind, ours in re.findall(r"^\| (`.*?) \| (\w+) \| ?(.*) \|$", part, re.M)
        for name in re.findall(r"`(\w+)`", first)
    }


def test_every_call_of_trtllm_c_is_set_beside_ours() -> None:
    text = (DOCS / "trtllm_c.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(tlc_\w+)`", text, re.M)) == set(TLC_CALLS.split())


@pytest.mark.parametrize("what", ["executor", "request"])
def test_every_parameter_of_trtllm_c_works_or_is_refused_by_name(llm: Any, what: str) -> None:
    if what == "executor":
        found, expected = rows("## Parameters of the executor", "## Requests"), TLC_ENGINE
        kinds, given = [llm.ExecutorConfig], {}
    else:
        found, expected = rows("## Requests", "## Answers"), TLC_REQUEST
        kinds, given = [llm.Request, llm.SamplingParams], {"tokens": [1]}
    assert set(found) == set(expected.split())
    known = {field.name for kind in (*kinds, llm.Request) for field in fields(kind)}
    for name, (becomes, ours) in found.items():
        assert (name in known) == (becomes == "same"), name
        if becomes == "other":
            assert name.endswith("params") or known & set(re.findall(r"\w+", ours)), name
        elif becomes == "refused":
            with pytest.raises(TypeError, match=rf"\b{name}\b"):
                kinds[0](**given, **{name: 1})
