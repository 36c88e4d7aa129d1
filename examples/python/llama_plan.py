"""A model's whole forward pass as one file of op calls, and text from it.

``python llama_plan.py MODEL.gguf MODEL.plan "Once upon a time"`` writes the plan where there is
none yet, loads it, and generates greedily. Needs NumPy.
"""

from __future__ import annotations

import sys
from pathlib import Path

import my_llm_ffi as llm
from my_llm_ffi import plans

NEW_TOKENS = 32


def load_plan(model: str, file: Path) -> llm.Plan:
    """The plan of a model, from its file; built and saved where that is missing."""
    if not file.exists():
        plans.llama(model).save(file)
    return llm.Plan.load(file)


def generate(plan: llm.Plan, vocab: llm.Vocab, prompt: str) -> str:
    """The most probable continuation."""
    tokens = vocab.tokenize(prompt)
    session = plans.Session(plan, n_ctx=len(tokens) + NEW_TOKENS)
    text = vocab.decoder()
    pieces = []
    logits = session.decode(tokens)
    for _ in range(NEW_TOKENS):
        token = int(logits[-1].argmax())
        if vocab.is_eog(token):
            break
        pieces.append(text.push(token))
        logits = session.decode([token])
    return "".join(pieces) + text.finish()


def main(arguments: list[str]) -> int:
    """Writes, loads, generates."""
    if len(arguments) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    model, file, prompt = arguments
    plan = load_plan(model, Path(file))
    print(prompt + generate(plan, llm.Vocab.from_file(model), prompt))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
