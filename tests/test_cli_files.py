"""The command line over real files, most of them without a model in them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import gguf
import numpy as np

from my_llm_ffi import cli


def test_json_is_json_where_stdout_is_not_utf8(tmp_path):
    """Characters that the encoding lacks come as JSON's own escapes, not as Python's."""
    path = tmp_path / "é.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("naïve 🎈")
    writer.add_token_list(["a"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    for encoding, raw in {"ascii": False, "latin-1": False, "utf-8": True}.items():
        env = {**os.environ, "PYTHONIOENCODING": encoding}
        command = [sys.executable, "-m", "my_llm_ffi", "info", str(path), "--json"]
        out = subprocess.run(command, stdout=subprocess.PIPE, env=env, check=True).stdout
        facts = json.loads(out)
        assert facts["metadata"]["general.name"] == "naïve 🎈"
        assert facts["file"] == str(path)
        assert ("🎈".encode() in out) == raw


def test_info_of_a_vocabulary_alone(tmp_path, capsys):
    path = tmp_path / "vocab.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("a tokenizer that nobody knows")
    writer.add_token_list(["a", "b", "c"])
    writer.add_chat_template("{{ messages }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert cli.main(["info", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["metadata"]["tokenizer.ggml.tokens"] == ["a", "b", "c"]
    assert (facts["architecture"], facts["n_vocab"], facts["chat_template"]) == ("llama", 3, True)
    assert facts["weights"] == "none: a vocabulary only"
    assert cli.main(["info", str(path)]) == 0
    assert "tokenizer.ggml.model" in capsys.readouterr().out


EVIL = "a\x1b]0;title\x07\x1b[31m\n\r\t\u202e\x9bb\u2028é🎈"


def write_evil(path, *, arch="llama"):
    """A file whose keys and values hold what a terminal obeys, and numbers that JSON has not."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(EVIL)
    writer.add_string(f"key\x1b[2J{'k' * 100}", "short")
    writer.add_array("list", [EVIL, "x"])
    for name, value in {"nan": float("nan"), "inf": float("inf"), "minus": float("-inf")}.items():
        writer.add_float32(f"number.{name}", value)
    writer.add_array("numbers", [1.5, float("nan"), float("-inf")])
    writer.add_token_list(["a"])
    return writer


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_info_prints_nothing_that_a_terminal_obeys(tmp_path, capsys):
    path = tmp_path / "evil\x1b[31m.gguf"
    finish(write_evil(path, arch="llama\x1b[0m"))
    for options in ([], ["--json"]):
        assert cli.main(["info", str(path), *options]) == 0
        out = capsys.readouterr().out
        assert all(c.isprintable() or c == "\n" for c in out)
        assert "é🎈" in out
        assert max(map(len, out.splitlines())) < 250
    facts = json.loads(out)
    assert facts["metadata"]["general.name"] == EVIL
    assert facts["metadata"]["list"] == [EVIL, "x"]
    assert facts["file"] == str(path)


def test_numbers_that_json_has_not_are_strings(tmp_path, capsys):
    finish(write_evil(tmp_path / "evil.gguf"))
    assert cli.main(["info", str(tmp_path / "evil.gguf"), "--json"]) == 0

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    metadata = json.loads(capsys.readouterr().out, parse_constant=refuse)["metadata"]
    numbers = [metadata[f"number.{name}"] for name in ("nan", "inf", "minus")]
    assert numbers == ["NaN", "Infinity", "-Infinity"]
    assert metadata["numbers"] == [1.5, "NaN", "-Infinity"]
    assert cli.main(["info", str(tmp_path / "evil.gguf")]) == 0
    assert re.search(r"number\.nan +nan\n", capsys.readouterr().out)


def test_info_of_a_model_that_does_not_load(tmp_path, capsys):
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b"])
    writer.add_chat_template("{{ messages }}")
    writer.add_tensor("token_embd.weight", np.zeros((2, 32), np.float32))
    finish(writer)
    assert cli.main(["info", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["architecture"], facts["n_vocab"], facts["chat_template"]) == ("mamba", 2, True)
    assert facts["weights"].startswith("1 tensors, which do not load: ")
    assert "mamba" in facts["weights"]
    assert facts["metadata"]["tokenizer.ggml.tokens"] == ["a", "b"]
    assert cli.main(["info", str(path)]) == 0
    assert "weights " in capsys.readouterr().out


def test_info_of_the_shared_vocabularies(data_dir, capsys):
    paths = sorted((data_dir / "vocabs").glob("*.gguf"))
    assert paths
    for path in paths:
        assert cli.main(["info", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["n_vocab"] > 1000


def test_a_file_whose_name_is_not_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.gguf"
    writer = gguf.GGUFWriter(os.fsdecode(path), "llama")
    writer.add_token_list(["a"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    command = [sys.executable, "-m", "my_llm_ffi", "info", path, "--json"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert json.loads(done.stdout)["file"] == os.fsdecode(path)
