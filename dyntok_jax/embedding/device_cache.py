"""The embedding cache that lives on the device: predicted rows in a hash table of arrays, updated within a program.

A token's key (its language and the subwords of its surface form) names a set of `WAYS` slots; it may lie in any of
them. Keys are compared whole, so two tokens never share a row. A new row takes the slot of its set that was not used
for the longest time; if a batch has more new rows for a set than the set has slots, the last ones are not kept.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int32

WAYS = 8
"""Slots of a set."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DeviceCache:
    """G sets of W slots.

    Attributes:
      key_GWK: what lies in each slot.
      row_CD: the row in each slot; C = G · W.
      used_GW: the clock when it was last used; 0 where a slot is empty.
      clock: batches so far.

    >>> empty_device_cache(20, key_width=8, width=32).key_GWK.shape
    (2, 8, 8)
    """

    key_GWK: Int32[Array, "G W K"]
    row_CD: Float[Array, "C D"]
    used_GW: Int32[Array, "G W"]
    clock: Int32[Array, ""]


class CachedRows(NamedTuple):
    """What a look-up finds.

    Attributes:
      rows_UD: the row of each key; where it was not found, any.
      is_hit_U: whether it was found.
      slot_U: where.
      set_U: the set that it belongs to.
    """

    rows_UD: Float[Array, "U D"]
    is_hit_U: Bool[Array, " U"]
    slot_U: Int32[Array, " U"]
    set_U: Int32[Array, " U"]


def empty_device_cache(capacity: int, key_width: int, width: int, dtype: DTypeLike = jnp.float32) -> DeviceCache:
    """A cache of at most `capacity` rows, a multiple of `WAYS` if there are so many.

    Args:
      capacity: 1 or more.
      key_width: numbers of a key, K.
      width: D.
      dtype: of the rows.

    >>> empty_device_cache(20, key_width=8, width=32).row_CD.shape
    (16, 32)
    """
    n_ways = min(WAYS, capacity)
    n_sets = capacity // n_ways
    return DeviceCache(
        key_GWK=jnp.zeros((n_sets, n_ways, key_width), jnp.int32),
        row_CD=jnp.zeros((n_sets * n_ways, width), dtype),
        used_GW=jnp.zeros((n_sets, n_ways), jnp.int32),
        clock=jnp.zeros((), jnp.int32),
    )


def look_up(cache: DeviceCache, key_UK: Int32[Array, "U K"], is_key_U: Bool[Array, " U"]) -> CachedRows:
    """The rows of distinct keys; `is_key_U` is False for padding, which is never found.

    >>> key_UK, is_key_U = jnp.array([[0, 7], [0, 8]]), jnp.ones(2, bool)
    >>> cache = empty_device_cache(8, key_width=2, width=3)
    >>> found = look_up(cache, key_UK, is_key_U)
    >>> cache = with_rows(cache, found, key_UK, jnp.ones((2, 3)), jnp.array([True, False]))
    >>> look_up(cache, key_UK, is_key_U).is_hit_U
    Array([ True, False], dtype=bool)
    """
    n_sets, n_ways, _ = cache.key_GWK.shape
    set_U = (hash_of_keys(key_UK) % jnp.uint32(n_sets)).astype(jnp.int32)
    is_same_UW = (cache.key_GWK[set_U] == key_UK[:, None]).all(axis=2) & (cache.used_GW[set_U] > 0)
    slot_U = set_U * n_ways + is_same_UW.argmax(axis=1).astype(jnp.int32)
    return CachedRows(cache.row_CD[slot_U], is_same_UW.any(axis=1) & is_key_U, slot_U, set_U)


def with_rows(
    cache: DeviceCache,
    found: CachedRows,
    key_UK: Int32[Array, "U K"],
    rows_UD: Float[Array, "U D"],
    is_new_U: Bool[Array, " U"],
) -> DeviceCache:
    """The cache after a look-up: what was found counts as used, and new rows are stored.

    Args:
      cache: as it was at the look-up.
      found: the look-up's result.
      key_UK: its keys.
      rows_UD: their rows.
      is_new_U: which of them to store: not those that were found.

    >>> cache = empty_device_cache(8, key_width=2, width=3)
    >>> key_UK, is_key_U = jnp.array([[0, 7]]), jnp.ones(1, bool)
    >>> found = look_up(cache, key_UK, is_key_U)
    >>> with_rows(cache, found, key_UK, jnp.ones((1, 3)), is_key_U).row_CD.sum()
    Array(3., dtype=float32)
    """
    n_sets, n_ways, n_keys = cache.key_GWK.shape
    n_slots, now = n_sets * n_ways, cache.clock + 1
    used_C = cache.used_GW.reshape(n_slots)
    used_C = used_C.at[jnp.where(found.is_hit_U, found.slot_U, n_slots)].set(now, mode="drop")

    # the first new key of a set takes the slot that was used least recently, the second the next, and so on
    position_U = jnp.arange(len(key_UK), dtype=jnp.int32)
    set_U, order_U = lax.sort((jnp.where(is_new_U, found.set_U, n_sets), position_U), num_keys=1, is_stable=True)
    is_first_U = jnp.append(True, set_U[1:] != set_U[:-1])
    rank_U = position_U - lax.cummax(jnp.where(is_first_U, position_U, 0))
    _, rank_U = lax.sort((order_U, rank_U), num_keys=1)
    ways_UW = jnp.argsort(used_C.reshape(n_sets, n_ways)[found.set_U], axis=1, stable=True).astype(jnp.int32)
    way_U = jnp.take_along_axis(ways_UW, jnp.minimum(rank_U, n_ways - 1)[:, None], axis=1)[:, 0]
    slot_U = jnp.where(is_new_U & (rank_U < n_ways), found.set_U * n_ways + way_U, n_slots)
    return DeviceCache(
        key_GWK=cache.key_GWK.reshape(n_slots, n_keys).at[slot_U].set(key_UK, mode="drop").reshape(cache.key_GWK.shape),
        row_CD=cache.row_CD.at[slot_U].set(rows_UD.astype(cache.row_CD.dtype), mode="drop"),
        used_GW=used_C.at[slot_U].set(now, mode="drop").reshape(n_sets, n_ways),
        clock=now,
    )


def hash_of_keys(key_UK: Int32[Array, "U K"]) -> Array:
    """32 bits of each key: its numbers one after the other, each mixed in by multiplication (as in MurmurHash3)."""
    hashed_U = jnp.zeros(len(key_UK), jnp.uint32)
    for column_U in key_UK.astype(jnp.uint32).T:
        hashed_U = (hashed_U ^ (column_U * jnp.uint32(0xCC9E2D51))) * jnp.uint32(0x1B873593)
        hashed_U = hashed_U ^ (hashed_U >> 15)
    hashed_U = (hashed_U ^ (hashed_U >> 16)) * jnp.uint32(0x85EBCA6B)
    return hashed_U ^ (hashed_U >> 13)
