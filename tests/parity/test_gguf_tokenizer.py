"""Folders that were made of GGUF files, as transformers reads their tokenizers."""

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from dyntok_jax.convert.offline import write_gguf
from dyntok_jax.text import ByteLevelTokenizer
from tests.convert.test_gguf_tokenizer import TEXTS, sentencepiece_fields
from tests.support.gguf_files import bpe_fields, llama_fields, tiny_llama, tiny_tensors, write_gguf_file


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_transformers_and_byte_level_form_read_the_folder(tmp_path, kind, sentencepiece):
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fields = (
        bpe_fields(add_bos_token=True, padding_token_id=0) if kind == "gpt2" else sentencepiece_fields(sentencepiece)
    )
    if kind == "llama":  # the tiny model's table has 500 rows
        for key in ("tokens", "scores", "token_type"):
            fields[f"tokenizer.ggml.{key}"] = fields[f"tokenizer.ggml.{key}"][:500]
    fields |= {"tokenizer.chat_template": template}
    source = write_gguf_file(tmp_path / "m.gguf", tiny_tensors(tiny_llama()), fields | llama_fields())
    write_gguf(source, tmp_path)
    auto, raw = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in TEXTS:
        assert auto(text).input_ids == raw.encode(text).ids
    assert auto.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"
    assert (auto.bos_token_id, auto.eos_token_id) == ((1, 0) if kind == "gpt2" else (1, 2))
    assert auto.pad_token_id == (0 if kind == "gpt2" else None)
    assert auto.model_max_length == 128
    ours = ByteLevelTokenizer.load(tmp_path)
    assert ours.space == ("always" if kind == "llama" else "none")
    assert ours.n_own == 500
