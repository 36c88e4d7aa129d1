"""Uses an installed wheel the way a stranger would; needs NumPy, and gguf only for ``--write``.

``smoke.py --write tiny.gguf`` writes a random model, ``smoke.py tiny.gguf`` uses it.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path

import numpy as np

N_EMBD, N_HEAD, N_KV_HEAD, N_FF, N_LAYER = 32, 4, 2, 64, 2
TEXT = "Hello, world"
NEEDS = {
    "my_llm_ffi.torch": "torch",
    "my_llm_ffi.jax": "jax",
    "my_llm_ffi.jax_calls": "jax",
    "my_llm_ffi.mlir": "torch_mlir",
    "my_llm_ffi.tensorrt.adapter": "tensorrt",
}


def vocabulary() -> tuple[list[bytes], list[float], list[int]]:
    """Tokens, scores and types of a small SPM vocabulary with all bytes."""
    pieces = ["\u2581", *"abcdefghijklmnopqrstuvwxyzHW,", "ll", "lo", "llo", "\u2581w", "or"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    types = [2, 3, 3, *[6] * 256, *[1] * len(pieces)]
    scores = [0.0] * 259 + [-float(i) for i in range(len(pieces))]
    return [token.encode() for token in tokens], scores, types


def write_model(path: Path) -> None:
    """Writes a llama of two layers with random weights."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_KV_HEAD)
    writer.add_rope_dimension_count(N_EMBD // N_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens, scores, types = vocabulary()
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    rng = np.random.default_rng(0)
    for name, shape in tensor_shapes(len(tokens)).items():
        values = np.ones(shape) if "norm" in name else rng.normal(0, 0.2, shape)
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor_shapes(n_vocab: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights."""
    n_kv = N_EMBD // N_HEAD * N_KV_HEAD
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (n_vocab, N_EMBD),
        "output_norm": (N_EMBD,),
        "output": (n_vocab, N_EMBD),
    }
    for i in range(N_LAYER):
        for name, shape in {
            "attn_norm": (N_EMBD,),
            "attn_q": (N_EMBD, N_EMBD),
            "attn_k": (n_kv, N_EMBD),
            "attn_v": (n_kv, N_EMBD),
            "attn_output": (N_EMBD, N_EMBD),
            "ffn_norm": (N_EMBD,),
            "ffn_gate": (N_FF, N_EMBD),
            "ffn_up": (N_FF, N_EMBD),
            "ffn_down": (N_EMBD, N_FF),
        }.items():
            shapes[f"blk.{i}.{name}"] = shape
    return shapes


def expect(condition: bool, what: str) -> None:
    """Ends with a message unless the condition holds; unlike assert, under -O as well."""
    if not condition:
        raise SystemExit(f"smoke: expected {what}")


def use_ops(llm) -> None:
    """Calls an op over NumPy arrays and sees its typed error."""
    x, weight = np.arange(32, dtype=np.float32).reshape(2, 16), np.full(16, 2, np.float32)
    expected = 2 * x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-6)
    expect(np.allclose(llm.ops.rms_norm(x, weight), expected, rtol=1e-5), "rms_norm as in NumPy")
    try:
        llm.ops.rms_norm(x, weight[:8].copy())
    except ValueError as error:
        expect("weight has shape [8]" in str(error), f"a message that names weight, got {error}")
    else:
        expect(False, "a ValueError for a weight that is too short")
    try:
        llm.raise_error("typed", kind="NotImplementedError")
    except NotImplementedError:
        pass


def use_model(llm, path: str) -> None:
    """Tokenizes, decodes 8 tokens step by step, generates the same ones, and sees typed errors."""
    with llm.Model(path) as model:
        ids = list(model.vocab.tokenize(TEXT))
        expect(ids[0] == 1, f"BOS first, got {ids}")
        expect(model.vocab.detokenize(ids, skip_special=True).strip() == TEXT, "the text back")
        context = model.context(n_ctx=64)
        context.decode(ids)
        tokens = []
        for _ in range(8):
            logits = np.from_dlpack(context.logits)
            expect(bool(np.isfinite(logits).all()), "finite logits")
            tokens.append(int(logits[-1].argmax()))
            context.decode([tokens[-1]])
        sampling = llm.SamplingParams(temperature=0.0)
        generation = model.generate(ids, max_new_tokens=8, sampling=sampling)
        same = list(generation.tokens)
        expect(same == tokens[: len(same)] and len(same) > 0, f"{tokens}, got {same}")
        try:
            model.vocab.piece(10**6)
        except IndexError:
            pass
        else:
            expect(False, "an IndexError for a token out of range")
        print(f"  decoded {tokens}")
    try:
        llm.Model("/no/such/file.gguf")
    except OSError as error:
        print(f"  typed error: {type(error).__name__}: {error}")
    else:
        expect(False, "an OSError for a file that is not there")


def import_everything(llm) -> int:
    """Imports every module of the package; returns how many there are."""
    names = [module.name for module in pkgutil.walk_packages(llm.__path__, "my_llm_ffi.")]
    for module, needs in NEEDS.items():
        expect(module in names, f"a module {module}")
        if importlib.util.find_spec(needs) is None:
            names = [name for name in names if not f"{name}.".startswith(f"{module}.")]
    for name in names:
        if not name.endswith("__main__"):
            importlib.import_module(name)
    for name in llm.__all__:
        getattr(llm, name)
    return len(names)


def main(argv: list[str]) -> int:
    """Runs all of it."""
    if len(argv) == 2 and argv[0] == "--write":
        write_model(Path(argv[1]))
        return 0
    if len(argv) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    import my_llm_ffi as llm

    python = "free-threaded" if not getattr(sys, "_is_gil_enabled", lambda: True)() else "CPython"
    print(f"{python} {sys.version.split()[0]}: {llm.build_info()}")
    print(f"  imported {import_everything(llm)} modules from {Path(llm.__file__).parent}")
    use_ops(llm)
    use_model(llm, argv[0])
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
