"""Positions that count subwords: a token of n subwords lies where the first of them would, and n positions follow."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyntok_jax.models import DecoderConfig, embed_ids, empty_cache, encode, extend, forward, prefill, unstacked
from tests.models.test_bert import fresh, small_config
from tests.models.test_decoder import LENGTHS, PLAIN, RING, batch, close, random_decoder

CONFIGS = pytest.mark.parametrize("config", [PLAIN, RING], ids=["plain", "ring"])


def steps_of(mask, seed=3):
    """Subwords of each token, 1 to 4; 0 for padding."""
    return jnp.asarray(np.random.default_rng(seed).integers(1, 5, mask.shape) * np.asarray(mask), jnp.int32)


def with_gaps(ids, mask, step, width):
    """Every token at the place of its first subword; the places of its other subwords are masked."""
    wide_ids, wide_mask = np.zeros((len(ids), width), np.int32), np.zeros((len(ids), width), bool)
    place = np.asarray(jnp.cumsum(step, axis=1) - step)
    for row, column in zip(*np.nonzero(np.asarray(mask)), strict=True):
        wide_ids[row, place[row, column]] = ids[row, column]
        wide_mask[row, place[row, column]] = True
    return jnp.asarray(wide_ids), jnp.asarray(wide_mask)


def test_a_decoder_reads_a_token_where_its_first_subword_would_be():
    decoder = random_decoder(PLAIN)
    ids, mask = batch()
    step = steps_of(mask)
    wide_ids, wide_mask = with_gaps(ids, mask, step, 160)
    expected = forward(decoder, embed_ids(decoder, wide_ids), wide_mask)[wide_mask]
    found = jax.jit(forward)(decoder, embed_ids(decoder, ids), mask, step)[mask]
    close(found, expected)
    counting_tokens = jax.jit(forward)(decoder, embed_ids(decoder, ids), mask)[mask]
    assert np.abs(counting_tokens - expected).max() > 0.01


def test_one_subword_each_is_counting_tokens():
    decoder = random_decoder(PLAIN)
    ids, mask = batch()
    counted = forward(decoder, embed_ids(decoder, ids), mask, jnp.ones_like(ids))
    np.testing.assert_array_equal(counted, forward(decoder, embed_ids(decoder, ids), mask))


@pytest.mark.slow
@CONFIGS
def test_without_jit_it_is_the_same(config):
    decoder = random_decoder(config)
    ids, mask = batch((5, 3), width=6)
    arguments = decoder, embed_ids(decoder, ids), mask, steps_of(mask)
    eager = forward(*arguments)
    close(jax.jit(forward)(*arguments)[mask], eager[mask])


@pytest.mark.slow
@CONFIGS
@pytest.mark.parametrize("is_stacked", [True, False], ids=["stacked", "apart"])
def test_cached_decoding_goes_on_at_the_right_position(config, is_stacked):
    decoder = random_decoder(config)
    ids, mask = batch()
    step = steps_of(mask)
    expected = forward(decoder, embed_ids(decoder, ids), mask, step)
    if not is_stacked:
        decoder = unstacked(decoder)
    cache = empty_cache(decoder, len(ids), 48, counts_subwords=True)
    one_step = jax.jit(extend)
    for t in range(ids.shape[1]):
        now = slice(t, t + 1)
        hidden, cache = one_step(decoder, embed_ids(decoder, ids[:, now]), mask[:, now], cache, step[:, now])
        close(hidden[mask[:, t], 0], expected[mask[:, t], t])
    assert cache.length_B.tolist() == list(LENGTHS)
    assert (cache.length_B + cache.skipped_B).tolist() == step.sum(axis=1).tolist()


@pytest.mark.slow
@CONFIGS
@pytest.mark.parametrize(("chunk", "last"), [(5, None), (20, 5)])
def test_chunks_and_copies_of_the_cache_keep_the_positions(config, chunk, last):
    decoder = random_decoder(config)
    ids, mask = batch()
    step = steps_of(mask)
    expected = forward(decoder, embed_ids(decoder, ids), mask, step)
    read = jax.jit(partial(prefill, chunk=chunk, last_chunk=last))
    cache = empty_cache(decoder, len(ids), 48, counts_subwords=True)
    hidden, cache = read(decoder, embed_ids(decoder, ids), mask, cache, step)
    close(hidden[mask], expected[mask])
    # what follows is of one subword each where nothing else is said
    order = jnp.array([2, 0, 3, 1])
    more, more_mask = batch([3, 3, 3, 3], width=3, seed=1)
    hidden, _ = jax.jit(extend)(decoder, embed_ids(decoder, more), more_mask, cache.take(order))
    for row, source in enumerate(order.tolist()):
        n = LENGTHS[source]
        joined = jnp.concatenate([ids[source, :n], more[row]])[None]
        joined_step = jnp.concatenate([step[source, :n], jnp.ones(3, jnp.int32)])[None]
        whole = forward(decoder, embed_ids(decoder, joined), jnp.ones_like(joined, bool), joined_step)
        np.testing.assert_allclose(hidden[row], whole[0, n:], atol=1e-5 * float(jnp.abs(whole).max()))


def test_a_cache_that_counts_tokens_takes_no_subwords():
    decoder = random_decoder(DecoderConfig("llama", 60, 32, 1, 4, 2, 8, 48, max_positions=64))
    ids, mask = batch((2,), width=2)
    with pytest.raises(ValueError, match="counts_subwords=True"):
        extend(decoder, embed_ids(decoder, ids), mask, empty_cache(decoder, 1, 4), jnp.ones_like(ids))


@pytest.mark.parametrize("model_type", ["bert", "xlm-roberta"])
def test_an_encoder_reads_a_token_where_its_first_subword_would_be(model_type):
    encoder = fresh(small_config(model_type=model_type, max_positions=48))
    ids, mask = batch((11, 7, 1), width=11)
    ids = jnp.minimum(ids, 49)
    step = steps_of(mask)
    wide_ids, wide_mask = with_gaps(ids, mask, step, 44)
    zeros = jnp.zeros_like(wide_ids)
    expected = encode(encoder, embed_ids(encoder, wide_ids), wide_mask, zeros)[wide_mask]
    arguments = encoder, embed_ids(encoder, ids), mask, jnp.zeros_like(ids), step
    close(encode(*arguments)[mask], expected)
    close(jax.jit(encode)(*arguments)[mask], expected)


def test_gradients_of_an_encoder_reach_the_positions_that_were_read():
    encoder = fresh(small_config(max_positions=48))
    ids, mask = batch((3,), width=3)
    step = jnp.array([[4, 2, 1]], jnp.int32)

    def total(encoder):
        return encode(encoder, embed_ids(encoder, ids), mask, jnp.zeros_like(ids), step).sum()

    moved = np.abs(jax.grad(total)(encoder).position_embeddings[...]).sum(axis=1) > 0
    assert np.flatnonzero(moved).tolist() == [0, 4, 6]
