"""Tokenizers rebuilt from GGUF metadata give the ids of the tokenizers they were made from."""

from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from dyntok_jax.assets import load_sample
from dyntok_jax.convert.offline.gguf_tokenizer import SPLITTINGS, gguf_tokenizer, gguf_tokenizer_config
from dyntok_jax.errors import CheckpointError
from tests.support.gguf_files import bpe_fields, bpe_tokenizer

FILE = Path("model.gguf")
ODD = ["", " ", "  two  spaces ", "a\n\nb\tc", "12345 ½ ٣٤", "don't I'LL", "👩‍👩‍👧 \u200b", "x<|end|>y", "\x00\ufffd"]
TEXTS = [text for paragraphs in load_sample().values() for text in paragraphs[:4]] + ODD


def sentencepiece_fields(processor: SentencePieceProcessor, **changes):
    """The metadata that llama.cpp's converter writes for a SentencePiece model."""
    ids = range(processor.get_piece_size())
    kinds = [
        2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 6 if processor.is_byte(i) else 1
        for i in ids
    ]
    fields = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [processor.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [processor.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    return fields | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


def test_byte_level_bpe_gives_the_ids_it_was_made_from():
    ours = gguf_tokenizer(FILE, bpe_fields())
    for text in TEXTS:
        assert ours.encode(text).ids == bpe_tokenizer().encode(text).ids
        assert ours.decode(ours.encode(text).ids, skip_special_tokens=False) == text


def test_sentencepiece_bpe_gives_sentencepieces_ids(sentencepiece):
    ours = gguf_tokenizer(FILE, sentencepiece_fields(sentencepiece))
    for text in TEXTS:
        # SentencePiece puts its space before the empty text too
        expected = sentencepiece.encode(text, add_bos=True) if text else [1]
        assert ours.encode(text).ids == expected
        assert ours.decode(ours.encode(text).ids) == text
    assert ours.encode("<s>a</s>", add_special_tokens=False).ids == [1, *sentencepiece.encode("a"), 2]


def test_sentencepiece_without_the_leading_space(sentencepiece):
    ours = gguf_tokenizer(FILE, sentencepiece_fields(sentencepiece, add_space_prefix=False, add_bos_token=False))
    assert ours.encode("Hello", add_special_tokens=True).tokens == ["Hello"]
    assert ours.decode(ours.encode(" Hello").ids) == " Hello"


def test_sentencepiece_ids_are_known_where_the_file_is_silent(sentencepiece):
    silent = {f"{name}_token_id": None for name in ("bos", "eos", "unknown")}
    fields = sentencepiece_fields(sentencepiece, **silent)
    fields = {key: value for key, value in fields.items() if value is not None}
    assert gguf_tokenizer(FILE, fields).encode("a").ids == [1, *sentencepiece.encode("a")]
    config = gguf_tokenizer_config(fields)
    assert (config["bos_token"], config["eos_token"], config["unk_token"]) == ("<s>", "</s>", "<unk>")


def test_scores_must_be_there():
    fields = bpe_fields(model="llama")
    with pytest.raises(CheckpointError, match="500 pieces, but 0 scores"):
        gguf_tokenizer(FILE, fields)


EXPECTED_SPLITS = {
    "gpt-2": ["Don", "'t", " pay", " 12345", "!?", " ok"],
    "smollm": ["Don", "'t", " pay", " ", "1", "2", "3", "4", "5", "!?", " ok"],
    "llama-bpe": ["Don", "'t", " pay", " ", "123", "45", "!?", " ok"],
    "smaug-bpe": ["Don", "'t", " pay", " ", "123", "45", "!?", " ok"],
    "tekken": ["Don", "'t", " pay", " ", "1", "2", "3", "4", "5", "!?", " ok"],
    "default": ["Don", "'", "t", " pay", " ", "123", "45", "!?", " ok"],
}


@pytest.mark.parametrize("name", EXPECTED_SPLITS)
def test_text_is_split_as_the_name_says(name):
    tokenizer = gguf_tokenizer(FILE, bpe_fields(pre=name, add_bos_token=False))
    pieces = tokenizer.pre_tokenizer.pre_tokenize_str("Don't pay 12345!? ok")
    assert [piece.replace("Ġ", " ") for piece, _ in pieces] == EXPECTED_SPLITS[name]


def test_tekken_splits_at_capitals():
    tokenizer = gguf_tokenizer(FILE, bpe_fields(pre="tekken"))
    pieces = [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("helloWorld HTTPServer")]
    assert pieces == ["hello", "World", "ĠHTTPServer"]


def test_llama3_takes_whole_pretokens_that_are_pieces():
    fields = bpe_fields(pre="llama-bpe", add_bos_token=False)
    tokens = fields["tokenizer.ggml.tokens"]
    fields["tokenizer.ggml.tokens"] = [*tokens[:-1], "qzqz"]
    fields["tokenizer.ggml.merges"] = [
        merge for merge in fields["tokenizer.ggml.merges"] if "".join(merge.split(" ")) in tokens[:-1]
    ]
    assert gguf_tokenizer(FILE, fields).encode("qzqz").tokens == ["qzqz"]
    assert len(gguf_tokenizer(FILE, fields | {"tokenizer.ggml.pre": "smaug-bpe"}).encode("qzqz").tokens) == 4


@pytest.mark.parametrize(
    ("changes", "single", "pair"),
    [
        ({}, [], []),
        ({"add_bos_token": True}, [1], [1]),
        ({"add_bos_token": True, "add_eos_token": True}, [1], [0, 1]),
        ({"pre": "llama-bpe"}, [1], [1]),
        ({"pre": "llama-bpe", "add_bos_token": False}, [], []),
    ],
)
def test_the_ends_of_a_text_are_marked_where_the_file_says(changes, single, pair):
    ours = gguf_tokenizer(FILE, bpe_fields(**changes))
    plain = ours.encode("abc", add_special_tokens=False).ids
    end = [0] if changes.get("add_eos_token") else []
    assert ours.encode("abc").ids == [*single, *plain, *end]
    assert ours.encode("abc", "abc").ids == [*single, *plain, *pair, *plain, *end]


def test_every_name_makes_a_tokenizer():
    for name in SPLITTINGS:
        assert gguf_tokenizer(FILE, bpe_fields(pre=name)).encode("abc").ids
