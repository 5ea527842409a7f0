"""Tokenizers that are damaged are refused, in no time and little memory, and never read as something else."""

import json

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from dyntok_jax.errors import TokenizerError
from dyntok_jax.text import ByteLevelTokenizer, TextEncoder
from tests.support.tiny import tiny_decoder_tokenizer, tiny_tokenizer


def load(folder, spec, config=None):
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return ByteLevelTokenizer.load(folder)


def bpe():
    return json.loads(tiny_decoder_tokenizer().to_str())


def test_19_two_pieces_with_one_id_are_refused(tmp_path):
    spec = bpe()
    vocabulary = spec["model"]["vocab"]
    first, second = list(vocabulary)[300:302]
    vocabulary[second] = vocabulary[first]
    with pytest.raises(TokenizerError, match=rf"tokenizer.json: .*have one id, {vocabulary[first]}"):
        load(tmp_path, spec)


def test_19_a_piece_with_two_ids_is_refused(tmp_path):
    content = json.dumps(bpe())
    (tmp_path / "tokenizer.json").write_text(content.replace('"!": 2,', '"!": 2, "!": 3,', 1))
    with pytest.raises(TokenizerError, match='has "!" twice'):
        ByteLevelTokenizer.load(tmp_path)


@pytest.mark.parametrize("index", [10**6, 10**9, 2**32 - 2])
def test_21_an_id_far_behind_the_others_is_refused(tmp_path, index):
    spec = bpe()
    vocabulary = spec["model"]["vocab"]
    vocabulary[list(vocabulary)[-1]] = index
    spec["model"]["merges"] = spec["model"]["merges"][:-1]
    with pytest.raises(TokenizerError, match=f"has the id {index:,}, and there are"):
        load(tmp_path, spec)


def test_21_ids_with_small_gaps_are_kept(tmp_path):
    spec = bpe()
    vocabulary = spec["model"]["vocab"]
    vocabulary[list(vocabulary)[-1]] = 2000
    assert load(tmp_path, spec).n_own == 2001


def test_20_a_padding_token_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match="has the pad_token 5"):
        load(tmp_path, bpe(), {"pad_token": 5})


def test_20_a_normaliser_that_leaves_nothing_is_no_error(tmp_path):
    own = Tokenizer.from_str(tiny_tokenizer().to_str())
    own.normalizer = normalizers.Replace("a", "")
    own.save(str(tmp_path / "tokenizer.json"))
    encoder = TextEncoder(ByteLevelTokenizer.load(tmp_path))
    assert encoder.encode_static(["aaa"]).counts.tolist() == [0]


def test_20_an_unknown_character_without_an_unknown_token_is_told(tmp_path):
    own = Tokenizer(models.Unigram([("a", -1.0), ("b", -2.0)], unk_id=None, byte_fallback=False))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    own.save(str(tmp_path / "tokenizer.json"))
    encoder = TextEncoder(ByteLevelTokenizer.load(tmp_path))
    assert encoder.encode(["ab c"]).counts.tolist() == [4]
    with pytest.raises(TokenizerError, match="cannot write these texts"):
        encoder.encode_static(["ab c"])
