"""The cache on the device against the same cache in plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from dyntok_jax.embedding import WAYS, empty_device_cache, look_up, with_rows
from dyntok_jax.embedding.device_cache import hash_of_keys
from dyntok_jax.sharding import constrain_by_rules, make_mesh

N_KEYS, MOST = 40, 12
KEYS = np.array([[number % 2, number, -1] for number in range(N_KEYS)], np.int32)
ROWS = np.arange(N_KEYS, dtype=np.float32)[:, None] + np.array([[0.25, 0.5]], np.float32)
HASHES = np.asarray(jax.jit(hash_of_keys)(KEYS))


@jax.jit
def step(cache, key_UK, is_key_U, true_UD, is_known_U):
    """One batch: rows that are missing are made, except a few, as when there is no room for them."""
    found = look_up(cache, key_UK, is_key_U)
    rows_UD = jnp.where(found.is_hit_U[:, None], found.rows_UD, true_UD)
    return found, rows_UD, with_rows(cache, found, key_UK, rows_UD, is_key_U & ~found.is_hit_U & is_known_U)


class PlainCache:
    def __init__(self, capacity):
        self.n_ways = min(WAYS, capacity)
        self.sets = [[(None, 0)] * self.n_ways for _ in range(capacity // self.n_ways)]
        self.clock = 0

    def set_of(self, key):
        return self.sets[HASHES[key] % len(self.sets)]

    def step(self, keys, known):
        self.clock += 1
        hits = [any(key == held for held, _ in self.set_of(key)) for key in keys]
        for key, hit in zip(keys, hits, strict=True):
            if hit:
                slots = self.set_of(key)
                slots[[held for held, _ in slots].index(key)] = (key, self.clock)
        new = [key for key, hit, is_known in zip(keys, hits, known, strict=True) if not hit and is_known]
        for number, slots in enumerate(self.sets):
            oldest = sorted(range(self.n_ways), key=lambda way: slots[way][1])
            of_set = [key for key in new if HASHES[key] % len(self.sets) == number]
            for way, key in zip(oldest, of_set, strict=False):
                slots[way] = (key, self.clock)
        return hits


def padded(keys, known):
    index = np.array([*keys, *[0] * (MOST - len(keys))])
    is_key_U = np.arange(MOST) < len(keys)
    return KEYS[index], is_key_U, ROWS[index], np.array([*known, *[True] * (MOST - len(keys))])


batches = st.lists(
    st.lists(st.tuples(st.integers(0, N_KEYS - 1), st.booleans()), max_size=MOST, unique_by=lambda one: one[0]),
    max_size=12,
)


@given(st.sampled_from([1, 3, 8, 16, 34]), batches)
def test_hits_misses_and_evictions_are_those_of_the_plain_cache(capacity, batches):
    cache, plain = empty_device_cache(capacity, 3, 2), PlainCache(capacity)
    for batch in batches:
        keys, known = [key for key, _ in batch], [known for _, known in batch]
        found, rows_UD, cache = step(cache, *padded(keys, known))
        assert found.is_hit_U[: len(keys)].tolist() == plain.step(keys, known)
        assert not found.is_hit_U[len(keys) :].any()
        np.testing.assert_array_equal(rows_UD[: len(keys)], ROWS[keys])
    held = {key for slots in plain.sets for key, _ in slots if key is not None}
    everything = look_up(cache, jnp.asarray(KEYS), jnp.ones(N_KEYS, bool))
    assert set(np.flatnonzero(everything.is_hit_U)) == held
    np.testing.assert_array_equal(everything.rows_UD[np.array(sorted(held), int)], ROWS[sorted(held)])


@pytest.mark.parametrize("capacity", [1, 5, 8, 20])
def test_the_capacity_is_a_bound(capacity):
    assert capacity - WAYS < len(empty_device_cache(capacity, 3, 2).row_CD) <= capacity


def test_rows_are_split_by_width_over_a_mesh():
    cache = constrain_by_rules(empty_device_cache(16, 3, 32), make_mesh(2, 4))
    assert cache.row_CD.sharding.shard_shape(cache.row_CD.shape) == (16, 8)
    assert cache.key_GWK.sharding.is_fully_replicated


def test_hashes_spread_keys_over_the_sets():
    """A thousand keys over 128 sets: no set holds thrice its share."""
    keys = np.array([[0, number, number // 7, -1] for number in range(1000)], np.int32)
    assert np.bincount(np.asarray(hash_of_keys(jnp.asarray(keys))) % 128).max() <= 3 * 1000 / 128
