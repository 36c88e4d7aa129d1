"""The command line over real files, most of them without a model in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import gguf

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
