"""Vocab and StreamDecoder on real vocabularies; made-up ones are in tests/native/text_test.cc."""

from __future__ import annotations

import time
from pathlib import Path
from types import ModuleType
from typing import Protocol

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st


class Decoder(Protocol):
    """What Vocab.decoder() returns."""

    def push(self, token: int) -> str: ...
    def finish(self) -> str: ...


class Vocab(Protocol):
    """What is tested of my_llm_ffi.Vocab."""

    size: int
    bos_id: int
    eos_id: int
    chat_template: str

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...
    def detokenize(self, ids: list[int], *, skip_special: bool = False) -> str: ...
    def decoder(self) -> Decoder: ...
    def piece(self, token: int) -> bytes: ...
    def is_eog(self, token: int) -> bool: ...


NAMES = ["llama-spm", "gpt-2", "llama-bpe", "qwen2"]
BPE_NAMES = NAMES[1:]
SEPARATOR = "\n__ggml_vocab_test__\n"
MEGABYTE = 1_000_000

LONG_INPUTS = {
    "letter": "a" * MEGABYTE,
    "space": " " * MEGABYTE,
    "newline": "\n" * MEGABYTE,
    "digit": "7" * MEGABYTE,
    "emoji": "\N{GRINNING FACE}" * (MEGABYTE // 4),
    "angle bracket": "<" * MEGABYTE,
    "prose": ("It's 12 o'clock, and all is well. " * (MEGABYTE // 34)),
}

# What splits words: classes of characters, white space, contractions, special tokens, and any
# text at all.
TEXTS = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(
            [" ", "  ", "\n", "\r\n", "\t", "'s", "'LL", "don't", " I'm", "12345", "½", "\uff11",
             "!?", "你好", "かな", "한국어", "é", "e\u0301", "\U0001f469\u200d\U0001f4bb", "\u00a0",
             "\u2581", "\u3000", "\0", "<|im_start|>", "<|endoftext|>", "<s>", "<0x0A>"]
        ),
        st.builds(str.__mul__, st.sampled_from("a 1\n!'"), st.integers(2, 40)),
    ),
    max_size=12,
).map("".join)  # fmt: skip


@pytest.fixture(scope="session")
def vocabs(llm: ModuleType, data_dir: Path) -> dict[str, Vocab]:
    """The vocabularies of NAMES."""
    return {name: llm.Vocab.from_file(vocab_path(data_dir, name)) for name in NAMES}


def vocab_path(data_dir: Path, name: str) -> Path:
    """A vocabulary-only GGUF file; .inp and .out lie beside it."""
    return data_dir / "vocabs" / f"ggml-vocab-{name}.gguf"


def ids_of(vocab: Vocab, text: str, *, parse_special: bool = False) -> list[int]:
    """Ids without BOS and EOS."""
    return list(vocab.tokenize(text, add_special=False, parse_special=parse_special))


def streamed(vocab: Vocab, ids: list[int]) -> str:
    """Text of a decoder, piece by piece."""
    decoder = vocab.decoder(at_start=True)
    return "".join([*map(decoder.push, ids), decoder.finish()])


@pytest.mark.parametrize("name", NAMES)
def test_reference_ids(name: str, vocabs: dict[str, Vocab], data_dir: Path) -> None:
    path = vocab_path(data_dir, name)
    inputs = Path(f"{path}.inp").read_bytes().decode().split(SEPARATOR)
    outputs = Path(f"{path}.out").read_text(encoding="utf-8").split("\n")
    assert len(inputs) == len(outputs) > 40
    for text, line in zip(inputs, outputs):
        ids = ids_of(vocabs[name], text)
        assert ids == [int(word) for word in line.split()], repr(text)
        assert vocabs[name].detokenize(ids) == text
        assert streamed(vocabs[name], ids) == text


@pytest.mark.parametrize("name", BPE_NAMES)
@given(text=TEXTS)
def test_bpe_round_trip(name: str, vocabs: dict[str, Vocab], text: str) -> None:
    vocab = vocabs[name]
    for parse_special in (False, True):
        ids = ids_of(vocab, text, parse_special=parse_special)
        assert vocab.detokenize(ids) == text
        assert b"".join(map(vocab.piece, ids)).decode() == text
        assert streamed(vocab, ids) == text


@given(text=TEXTS.filter(lambda text: "\u2581" not in text))  # stands for a space in SPM
def test_spm_round_trip(vocabs: dict[str, Vocab], text: str) -> None:
    ids = ids_of(vocabs["llama-spm"], text)
    assert vocabs["llama-spm"].detokenize(ids) == text
    assert streamed(vocabs["llama-spm"], ids) == text


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_decoder_equals_detokenize_for_any_ids(
    name: str, vocabs: dict[str, Vocab], data: st.DataObject
) -> None:
    vocab = vocabs[name]
    ids = data.draw(st.lists(st.integers(0, vocab.size - 1), max_size=30))
    if name in BPE_NAMES:
        raw = b"".join(map(vocab.piece, ids))
        assert vocab.detokenize(ids) == raw.decode(errors="replace")
    assert streamed(vocab, ids) == vocab.detokenize(ids)


@pytest.mark.parametrize("kind", LONG_INPUTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_megabyte_takes_less_than_a_second(
    name: str, kind: str, vocabs: dict[str, Vocab]
) -> None:
    times = []
    for _ in range(3):  # the best of three: the machine may be busy with something else
        start = time.perf_counter()
        ids = vocabs[name].tokenize(LONG_INPUTS[kind], add_special=False, parse_special=True)
        times.append(time.perf_counter() - start)
        if times[-1] < 1:
            break
    assert min(times) < 1
    assert vocabs[name].detokenize(ids) == LONG_INPUTS[kind]


def test_special_ids(vocabs: dict[str, Vocab]) -> None:
    expected = {
        "llama-spm": (1, 2),
        "gpt-2": (50256, 50256),
        "llama-bpe": (128000, 128001),
        "qwen2": (151643, 151643),
    }
    for name, vocab in vocabs.items():
        assert (vocab.bos_id, vocab.eos_id) == expected[name]
        assert vocab.is_eog(vocab.eos_id)
    assert vocabs["llama-bpe"].is_eog(128009)  # <|eot_id|>
    assert vocabs["qwen2"].is_eog(151645)  # <|im_end|>
    assert not vocabs["qwen2"].is_eog(151644)


def test_bos_is_added_where_the_file_or_the_model_asks_for_it(vocabs: dict[str, Vocab]) -> None:
    for name, vocab in vocabs.items():
        front = [vocab.bos_id] if name in ("llama-spm", "llama-bpe") else []
        with_special = vocab.tokenize("Hello", add_special=True, parse_special=False)
        assert list(with_special) == front + ids_of(vocab, "Hello")
        assert list(vocab.tokenize("", add_special=True, parse_special=False)) == front
    llama = vocabs["llama-bpe"]
    written = llama.tokenize("<|begin_of_text|>Hi", add_special=True, parse_special=True)
    assert list(written) == [128000, *ids_of(llama, "Hi")]  # not twice


def test_chat_text(vocabs: dict[str, Vocab]) -> None:
    chat = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    qwen = vocabs["qwen2"]
    ids = ids_of(qwen, chat, parse_special=True)
    assert [i for i in ids if i >= 151643] == [151644, 151645, 151644]
    assert qwen.detokenize(ids) == chat
    assert qwen.detokenize(ids, skip_special=True) == "user\nHi\nassistant\n"
    plain = ids_of(qwen, chat)
    assert max(plain) < 151643
    assert qwen.detokenize(plain, skip_special=True) == chat


def test_smollm2_chat(llm: ModuleType, smollm2: Path) -> None:
    vocab = llm.Vocab.from_file(smollm2)
    chat = "<|im_start|>user\nAdd 12 and 3.<|im_end|>\n<|im_start|>assistant\n"
    ids = ids_of(vocab, chat, parse_special=True)
    assert [i for i in ids if i < 17] == [1, 2, 1]
    digits = [vocab.piece(i) for i in ids if vocab.piece(i).strip().isdigit()]
    assert digits == [b"1", b"2", b"3"]  # every digit is a token
    assert vocab.detokenize(ids) == chat
    assert vocab.detokenize(ids, skip_special=True) == "user\nAdd 12 and 3.\nassistant\n"
    assert (vocab.size, vocab.bos_id, vocab.eos_id) == (49152, 1, 2)
    assert vocab.is_eog(2) and vocab.is_eog(0) and not vocab.is_eog(1)
    assert list(vocab.tokenize(chat, add_special=True, parse_special=True)) == ids
    assert "im_start" in vocab.chat_template


def test_split_characters_are_held_back(vocabs: dict[str, Vocab]) -> None:
    text = "\N{PERSON WITH FOLDED HANDS}\N{SNOWMAN}é\U000e0041"
    for vocab in vocabs.values():
        decoder = vocab.decoder(at_start=True)
        ids = ids_of(vocab, text)
        pushed = [decoder.push(i) for i in ids]
        assert "".join(pushed) == text
        assert "" in pushed  # some character took more than one token
        assert decoder.finish() == ""
        cut = "".join(map(decoder.push, ids[:-1])) + decoder.finish()
        assert cut == text[:-1] + "\ufffd"


def test_pieces(vocabs: dict[str, Vocab]) -> None:
    assert vocabs["llama-spm"].piece(3 + ord("\n")) == b"\n"  # <0x0A>
    assert vocabs["llama-spm"].piece(1) == b"<s>"
    assert vocabs["llama-spm"].piece(ids_of(vocabs["llama-spm"], "the")[0]) == b" the"
    assert vocabs["gpt-2"].piece(262) == b" the"
    assert vocabs["gpt-2"].piece(50256) == b"<|endoftext|>"
    assert {len(vocabs["gpt-2"].piece(i)) for i in range(256)} == {1}


@pytest.mark.parametrize("name", NAMES)
def test_ids_out_of_range(name: str, vocabs: dict[str, Vocab]) -> None:
    vocab = vocabs[name]
    for wrong in (-1, vocab.size, 2**31 - 1):
        for call in (
            vocab.piece,
            vocab.is_eog,
            vocab.decoder().push,
            lambda token: vocab.detokenize([token]),
        ):
            with pytest.raises(IndexError, match=rf"{wrong}.*0 to {vocab.size - 1}"):
                call(wrong)
    assert vocab.detokenize(ids_of(vocab, "still usable")) == "still usable"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_text(name: str, vocabs: dict[str, Vocab]) -> None:
    for surrogate in ("\ud800", "a\udfffb"):
        with pytest.raises(ValueError, match=r"text holds '.ud.* at \d, .* expected text"):
            ids_of(vocabs[name], surrogate)
    for wrong in (None, 3, ["a"]):
        with pytest.raises(TypeError):
            ids_of(vocabs[name], wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        vocabs[name].detokenize("12")  # type: ignore[arg-type]


def write_vocab(path: Path, *, model: str, pre: str, tokens: list[str]) -> Path:
    """A vocabulary-only file."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_merges(["a b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_unknown_tokenizers_are_refused_by_name(
    llm: ModuleType, data_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotImplementedError, match='"bert"'):
        llm.Vocab.from_file(vocab_path(data_dir, "bert-bge"))
    path = write_vocab(tmp_path / "pre.gguf", model="gpt2", pre="tekken", tokens=["a", "b", "ab"])
    with pytest.raises(NotImplementedError, match=r'"tekken".*gpt-2.*llama-bpe.*qwen2.*smollm'):
        llm.Vocab.from_file(path)


def test_a_vocabulary_that_contradicts_itself(llm: ModuleType, tmp_path: Path) -> None:
    path = write_vocab(tmp_path / "merge.gguf", model="gpt2", pre="gpt-2", tokens=["a", "b"])
    with pytest.raises(ValueError, match=r'merges\[0\] is "a b", but "ab" is no token'):
        llm.Vocab.from_file(path)
    path = write_vocab(tmp_path / "twice.gguf", model="gpt2", pre="gpt-2", tokens=["a", "a"])
    with pytest.raises(ValueError, match=r"tokens\[1\]"):
        llm.Vocab.from_file(path)
