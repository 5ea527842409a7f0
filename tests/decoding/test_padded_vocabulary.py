"""Rows of a model's table that are no token's, as in vocabularies padded to a round number, are never chosen."""

import json

import numpy as np
import pytest

from dyntok_jax import DynamicDecoder, SamplingConfig, Share
from dyntok_jax.decoding.loaded_vocabulary import load_large_vocabulary
from dyntok_jax.text import ByteLevelTokenizer
from dyntok_jax.vocabulary import GrownVocabulary, RowSource, embed_vocabulary, save_vocabulary
from tests.support.tiny import write_tiny_decoder

ROWS, LAST, GAP = 640, 599, 6
PROMPTS = ["All human beings are born free", "Όλοι οι άνθρωποι"]
HOT = SamplingConfig(temperature=3.0)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """600 tokens with a gap before the last, and 640 rows; those of no token score high."""
    folder = tmp_path_factory.mktemp("padded")
    write_tiny_decoder(folder, n_rows=ROWS)
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["model"]["vocab"] = {piece: at + GAP * (at == LAST) for piece, at in spec["model"]["vocab"].items()}
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    decoder = DynamicDecoder.load(folder)
    table = np.array(decoder.decoder.output_embeddings[...])
    table[LAST : LAST + GAP] *= 9
    table[LAST + GAP + 1 :] *= 9
    decoder.decoder.output_embeddings[...] = table
    return decoder


def are_tokens(decoder, ids):
    return all(decoder.tokenizer.own.id_to_token(index) is not None for index in ids)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [SamplingConfig(), HOT])
@pytest.mark.parametrize(("goal", "vocabulary"), [(None, None), (Share(100), "prompt")])
def test_14_3_rows_without_a_token_are_never_sampled(decoder, sampling, goal, vocabulary):
    for text in decoder.generate(PROMPTS, max_tokens=60, goal=goal, sampling=sampling, vocabulary=vocabulary):
        n_rows = decoder.config.vocab_size
        assert are_tokens(decoder, [index for index in text.ids if index < n_rows])


@pytest.mark.slow
def test_14_3_rows_without_a_token_are_not_candidates_of_a_large_vocabulary(decoder, tmp_path):
    tokenizer, model = decoder.tokenizer, decoder.decoder
    grown = GrownVocabulary(tokenizer, np.array([[300, 301]], np.int32), "pretoken")
    source = RowSource(model.word_embeddings[...], model.output_embeddings[...])
    embed_vocabulary(tmp_path / "table", grown, source)
    save_vocabulary(tmp_path / "vocabulary", grown)
    loaded = load_large_vocabulary(
        tmp_path / "vocabulary", tmp_path / "table", None, tokenizer=tokenizer, model=model, mesh=None, k=8, n_probe=1
    )
    for text in decoder.generate(PROMPTS, max_tokens=60, sampling=HOT, vocabulary=loaded):
        assert are_tokens(decoder, [index for index in text.ids if index < tokenizer.vocab_size])


def test_14_3_the_most_probable_token_of_a_score_is_a_token(decoder):
    scored = decoder.score(PROMPTS[:1], [" and equal in dignity and rights"])[0]
    assert are_tokens(decoder, scored.greedy_O.tolist())


def test_14_3_gaps_and_appended_bytes_are_no_tokens(decoder, tokenizer):
    assert decoder.tokenizer.tokenless_ids.tolist() == list(range(LAST, LAST + GAP))
    assert tokenizer.tokenless_ids.tolist() == list(range(tokenizer.n_own, tokenizer.vocab_size))
    assert isinstance(tokenizer, ByteLevelTokenizer)
