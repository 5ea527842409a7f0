"""Gemma 3 270M out of a GGUF file: the logits, the texts and the pieces that it was published with."""

import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import dyntok_jax
from dyntok_jax import DynamicDecoder, Share
from dyntok_jax.assets import load_sample
from dyntok_jax.convert import load_decoder
from dyntok_jax.files import find_model
from dyntok_jax.models import embed_ids, forward, logits
from dyntok_jax.text import ByteLevelTokenizer, TextEncoder
from dyntok_jax.text.byte_characters import to_bytes

LANGUAGES = ("en", "de", "el", "ru", "zh")
LENGTH = 640
"""Longer than the sliding window of 512."""
PUBLISHED = "031b00251b27d28623c0134e8c5e072b"
"""Of the vocabulary and the merges of the published tokenizer.json."""
ODD = [
    "",
    " ",
    "  two  spaces ",
    "a\n\nb\tc",
    "a" + " " * 40 + "b",
    "12345 ½ ٣٤",
    "👩‍👩‍👧 \u200b",
    "\x00\ufffd",
    "\U00012000",
]


@pytest.fixture(scope="module")
def folder(gemma_file):
    return find_model(gemma_file)


@pytest.fixture(scope="module")
def model(folder):
    loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not any(info[faults] for faults in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return loaded.eval()


@pytest.fixture(scope="module")
def tokenizer(folder):
    return ByteLevelTokenizer.load(folder)


@torch.no_grad()
def test_logits_are_pytorchs_in_five_languages(folder, model):
    config, decoder = load_decoder(folder)
    assert (config.n_layers, config.full_layers, config.sliding_window) == (18, (5, 11, 17), 512)
    of_text = AutoTokenizer.from_pretrained(folder)
    read = jax.jit(lambda model, ids, mask: logits(model, forward(model, embed_ids(model, ids), mask)))
    for code in LANGUAGES:
        ids = of_text(" ".join(load_sample()[code])).input_ids[:LENGTH]
        assert len(ids) == LENGTH
        ours = np.asarray(read(decoder, jnp.array([ids]), jnp.ones((1, LENGTH), bool)))[0]
        theirs = model(torch.tensor([ids])).logits[0].numpy()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())
        np.testing.assert_array_equal(ours.argmax(axis=-1), theirs.argmax(axis=-1))


def test_greedy_texts_are_pytorchs_and_merged_prompts_are_read(gemma_file, folder, model):
    decoder, of_text = DynamicDecoder.load(gemma_file), AutoTokenizer.from_pretrained(folder)
    prompts = ["The capital of France is", "Die Hauptstadt von Frankreich ist", "Η πρωτεύουσα της Γαλλίας είναι"]
    for prompt in prompts:
        inputs = of_text(prompt, return_tensors="pt")
        expected = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs.input_ids.shape[1] :]
        (found,) = decoder.generate([prompt], max_tokens=12)
        assert found.ids == expected.tolist()
    (answer,) = decoder.generate(["Question: What is the capital of France?\nAnswer:"], max_tokens=3)
    assert " Paris" in answer.text
    (merged,) = decoder.generate(prompts[2:], goal=Share(100), max_tokens=4)
    assert merged.n_tokens < merged.n_static


def test_the_tokenizer_is_the_published_one(tokenizer):
    model = json.loads(tokenizer.own.to_str())["model"]
    read = json.dumps([model["vocab"], model["merges"]]).encode()
    assert hashlib.sha256(read).hexdigest()[:32] == PUBLISHED


def test_every_piece_stands_for_its_bytes(tokenizer):
    wrong = []
    for index in set(range(tokenizer.n_own)) - tokenizer.added_ids:
        piece = tokenizer.own.id_to_token(index)
        is_byte = len(piece) == 6 and piece.startswith("<0x")
        expected = bytes([int(piece[3:5], 16)]) if is_byte else piece.replace("▁", " ").encode()
        if to_bytes(tokenizer.token_string([index])) != expected:
            wrong.append((index, piece))
    assert wrong == []


def code() -> list[str]:
    """This package as 200 texts, of four lines or more, some indented by tabs."""
    files = sorted(Path(dyntok_jax.__file__).parent.rglob("*.py"))[:50]
    lines = [file.read_text(encoding="utf-8").splitlines(keepends=True) for file in files]
    parts = ["".join(of_file[at : at + 4 + at]) for of_file in lines for at in range(0, 40, 10)]
    return [text.replace("    ", "\t") if number % 4 == 0 else text for number, text in enumerate(parts)]


def test_white_space_in_code_is_read_as_transformers_reads_it(folder, tokenizer):
    encoder, texts = TextEncoder(tokenizer), [*code(), *ODD]
    expected = AutoTokenizer.from_pretrained(folder)(texts, add_special_tokens=False).input_ids
    for reader in (encoder, encoder.twin):
        static = reader.encode_static(texts, add_special_tokens=False)
        assert static.ids_N.tolist() == [index for ids in expected for index in ids]
        assert static.lengths.tolist() == [len(ids) for ids in expected]


def test_texts_survive_the_byte_level_form(tokenizer):
    texts = [text for paragraphs in load_sample().values() for text in paragraphs[:10]] + code() + ODD
    encoder = TextEncoder(tokenizer)
    for reader in (encoder, encoder.twin):
        encoded = reader.encode(texts, add_special_tokens=False)
        for row, text in enumerate(texts):
            ids = encoded.ids_N[encoded.offsets[row] : encoded.offsets[row + 1]].tolist()
            assert b"".join(to_bytes(tokenizer.token_string([index])) for index in ids).decode() == text
            assert max(ids, default=0) < tokenizer.n_own  # nothing is an appended byte, which has no row
