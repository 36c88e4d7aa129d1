"""Tiny SPM and BPE vocabularies for the GGUF files that gguf_files.py writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguf import GGUFWriter

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
SPACE = "\u2581"
SPM_CHARACTERS = SPACE + "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?'"
# Each pair joins two pieces that exist before it; best first. SPACE is written as "_".
PAIRS = (
    "_ t|h e|_t he|i n|e r|a n|r e|o n|_ a|_ s|_ w|o r|_ b|i t|i s|e n|n d|in g|_ c|a r|_ h|_a nd|"
    "e d|_ m|_t o|_ o|_o f|a l|_ f|_ p|l y|_ l|_o n|_ i|_i n|l l|v e|o u"
)
MERGES = [tuple(pair.split(" ")) for pair in PAIRS.replace("_", SPACE).split("|")]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of a file in the order of their ids, with what GGUF says about each."""

    model: str  # tokenizer.ggml.model
    pre: str  # tokenizer.ggml.pre
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...]  # empty for BPE
    merges: tuple[str, ...]  # empty for SPM
    bos_id: int
    eos_id: int
    add_bos: bool

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    def id_of(self, piece: str) -> int:
        """Id of a token that stands for `piece` in running text (spaces as spaces)."""
        if self.model == "llama":
            return self.tokens.index(piece.replace(" ", SPACE))
        return self.tokens.index("".join(BYTE_TO_CHARACTER[byte] for byte in piece.encode()))

    def byte_id(self, byte: int) -> int:
        """Id of the token that stands for one byte."""
        if self.model == "llama":
            return self.tokens.index(f"<0x{byte:02X}>")
        return self.tokens.index(BYTE_TO_CHARACTER[byte])

    def special_id(self, name: str) -> int:
        """Id of a control token."""
        return self.tokens.index(name)

    def add_to(self, writer: GGUFWriter) -> None:
        """Writes the tokenizer's metadata."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.types))
        if self.scores:
            writer.add_token_scores(list(self.scores))
        if self.merges:
            writer.add_token_merges(list(self.merges))
        writer.add_bos_token_id(self.bos_id)
        writer.add_eos_token_id(self.eos_id)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_space_prefix(self.model == "llama")


def _byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-in of every byte: itself, or the next free one from U+0100 on."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in shown]
    return {
        byte: chr(byte) if byte in shown else chr(0x100 + hidden.index(byte)) for byte in range(256)
    }


BYTE_TO_CHARACTER = _byte_characters()


def spm_vocabulary() -> Vocabulary:
    """355 tokens: three specials, 256 bytes, characters and pairs."""
    specials = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = [a + b for a, b in MERGES] + list(SPM_CHARACTERS)
    return Vocabulary(
        model="llama",
        pre="default",
        tokens=(*specials, *bytes_, *pieces),
        types=(UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(pieces)),
        scores=(*[0.0] * 259, *[-float(rank) for rank in range(len(pieces))]),
        merges=(),
        bos_id=1,
        eos_id=2,
        add_bos=True,
    )


def bpe_vocabulary(pre: str = "gpt-2") -> Vocabulary:
    """297 tokens: 256 bytes, pairs, three specials."""
    space = BYTE_TO_CHARACTER[0x20]
    merges = [(a.replace(SPACE, space), b.replace(SPACE, space)) for a, b in MERGES]
    pieces = [BYTE_TO_CHARACTER[byte] for byte in range(256)] + [a + b for a, b in merges]
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return Vocabulary(
        model="gpt2",
        pre=pre,
        tokens=(*pieces, *specials),
        types=(*[NORMAL] * len(pieces), *[CONTROL] * 3),
        scores=(),
        merges=tuple(f"{a} {b}" for a, b in merges),
        bos_id=len(pieces),
        eos_id=len(pieces) + 2,
        add_bos=False,
    )
