"""Real queries for an index: the states behind the tokens that a decoder reads, and behind those that it writes."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from dyntok_jax.decoding import hidden_queries, query_states as module, written_queries
from dyntok_jax.errors import InputError
from dyntok_jax.models import embed_ids, forward
from tests.decoding.test_decode_loop import PLAIN, random_decoder
from tests.decoding.test_vocabularies import large_of, oracle

TEXTS = [[5, 9, 2], [], [7], [3, 3, 8, 1, 6, 4]]


@pytest.mark.slow
def test_states_of_reading_are_those_of_each_text_alone(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    decoder = random_decoder(PLAIN)
    found = hidden_queries(decoder, TEXTS, max_tokens=5)
    cut = [ids[:5] for ids in TEXTS if ids]
    alone = [
        forward(decoder, embed_ids(decoder, jnp.array([ids], jnp.int32)), jnp.ones((1, len(ids)), bool))[0]
        for ids in cut
    ]
    np.testing.assert_allclose(found, np.concatenate(alone), atol=1e-5)


@pytest.mark.slow
def test_states_of_writing_choose_the_tokens_of_exact_search(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    decoder = random_decoder(PLAIN)
    large = large_of(decoder, n_more=20, is_indexed=False)
    found = written_queries(decoder, large, TEXTS, max_prompt=4, n_tokens=5)
    expected = [token for ids in TEXTS if ids for token in oracle(decoder, large, ids[:4], 5)]
    assert (found @ large.output_VD.T).argmax(axis=1).tolist() == expected


@pytest.mark.slow
def test_a_text_that_ends_has_no_more_states():
    decoder = random_decoder(PLAIN)
    large = large_of(decoder, n_more=20, is_indexed=False)
    written = oracle(decoder, large, TEXTS[0], 5)
    end = written[2]
    found = written_queries(decoder, large, TEXTS[:1], end_ids=[end], max_prompt=4, n_tokens=5)
    assert len(found) == written.index(end) + 1
    assert len(written_queries(decoder, large, TEXTS[:1], max_prompt=4, n_tokens=1)) == 1


def test_no_text_or_another_models_rows_are_told():
    decoder = random_decoder(PLAIN)
    large = large_of(decoder, is_indexed=False)
    for states in (lambda: hidden_queries(decoder, [[]]), lambda: written_queries(decoder, large, [])):
        with pytest.raises(InputError, match="All texts are empty"):
            states()
    with pytest.raises(InputError, match="different models"):
        written_queries(decoder, replace(large, input_VD=large.input_VD[:, 1:], output_VD=None), TEXTS)
