"""The key/value cache: what is read from it equals a full forward pass, whatever its size and however it is filled."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyntok_jax.models import (
    Decoder,
    DecoderConfig,
    KeyValueCache,
    embed_ids,
    empty_cache,
    extend,
    forward,
    prefill,
    unstacked,
)
from dyntok_jax.models.kv_cache import add_tokens


def tiny_decoder(window: int | None = None) -> Decoder:
    config = DecoderConfig("mistral", 50, 16, 2, 4, 2, 4, 24, 2048, sliding_window=window)
    return jax.tree.map(lambda x: 5 * x, Decoder(config, jax.random.key(0)))  # so that attention tells tokens apart


def prompts(model: Decoder, n_tokens: int):
    ids_BT = jax.random.randint(jax.random.key(1), (2, n_tokens), 0, 50)
    mask_BT = jnp.arange(n_tokens)[None] < jnp.array([n_tokens, n_tokens - 7])[:, None]
    return embed_ids(model, ids_BT), mask_BT


@pytest.mark.slow
@pytest.mark.parametrize("as_tuple", [False, True])
@pytest.mark.parametrize(
    ("capacity", "window"),
    [(1024, None), (301, None), (1100, 300), (1100, 37)],
    ids=["many blocks", "blocks that overlap", "ring of overlapping blocks", "ring shorter than a chunk"],
)
def test_cached_reading_equals_a_full_pass(capacity, window, as_tuple):
    model = tiny_decoder(window)
    embeddings_BTD, mask_BT = prompts(model, 300)
    expected_BTD = forward(model, embeddings_BTD, mask_BT)
    model = unstacked(model) if as_tuple else model
    cache = empty_cache(model, 2, capacity)
    hidden_BTD, cache = jax.jit(partial(prefill, chunk=100))(model, embeddings_BTD, mask_BT, cache)
    difference = jnp.where(mask_BT[..., None], hidden_BTD - expected_BTD, 0)
    assert jnp.abs(difference).max() < 1e-4 * jnp.abs(expected_BTD).max()


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 300])
def test_steps_equal_a_full_pass_when_sequences_have_different_lengths(window):
    model = tiny_decoder(window)
    embeddings_BTD, mask_BT = prompts(model, 320)
    read = jax.jit(extend)
    cache = empty_cache(model, 2, 1400)
    # the second sequence is read later than the first, so that the slots of a chunk differ
    _, cache = read(model, embeddings_BTD[:, :100], mask_BT[:, :100] & jnp.array([[True], [False]]), cache)
    rows = [np.arange(100, 310), np.arange(0, 210)]
    taken = jnp.stack([embeddings_BTD[row, at] for row, at in enumerate(rows)])
    _, cache = read(model, taken, jnp.ones(taken.shape[:2], bool), cache)
    last = jnp.stack([embeddings_BTD[0, 310], embeddings_BTD[1, 210]])[:, None]
    hidden_B1D, cache = read(model, last, jnp.ones((2, 1), bool), cache)
    expected_BTD = forward(model, embeddings_BTD, mask_BT)
    expected_BD = jnp.stack([expected_BTD[0, 310], expected_BTD[1, 210]])
    np.testing.assert_array_equal(cache.length_B, [311, 211])
    assert jnp.abs(hidden_B1D[:, 0] - expected_BD).max() < 1e-4 * jnp.abs(expected_BTD).max()


@pytest.mark.parametrize("lengths", [(0, 0), (5, 5), (5, 3), (9, 0), (12, 12)])
@pytest.mark.parametrize("counts", [(4, 4), (4, 2), (0, 3), (1, 0)])
@pytest.mark.parametrize("n_tokens", [1, 4, 11])
def test_every_token_lies_in_the_slot_of_its_position(lengths, counts, n_tokens):
    capacity, counts = 8, [min(count, n_tokens) for count in counts]
    old = np.random.default_rng(0).normal(size=(3, 2, 2, capacity, 4)).astype(np.float32)
    new = np.random.default_rng(1).normal(size=(3, 2, n_tokens, 2, 4)).astype(np.float32)
    expected = old.copy()
    for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        for step in range(count):
            expected[:, row, :, (length + step) % capacity] = new[:, row, step]
    is_new_BT = jnp.arange(n_tokens)[None] < jnp.array(counts)[:, None]
    cache = KeyValueCache(jnp.array(old), jnp.array(-old), jnp.array(lengths, jnp.int32))
    cache = jax.jit(add_tokens)(cache, jnp.array(new), jnp.array(-new), is_new_BT)
    np.testing.assert_array_equal(cache.key, expected)
    np.testing.assert_array_equal(cache.value, -expected)
    np.testing.assert_array_equal(cache.length_B, np.add(lengths, counts))
