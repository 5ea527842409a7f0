"""The key/value cache: where it keeps tokens, and how they are written into it.

Every sequence keeps its tokens in their order: token p is in slot p mod C. That order, which is what "position" means
here, is independent of the positions that keys and queries are rotated by (see `AttentionSpan`). A layer with a sliding
window needs no more slots than its window, so its cache is a ring; without one, C is at least the longest sequence and
nothing wraps. The length of a sequence alone determines the position that each slot holds, so no mask is stored.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int32


class ByKind(NamedTuple):
    """Something of the layers that attend to all tokens before, and of those with a sliding window."""

    full: Any
    sliding: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of the tokens that a model has read.

    Attributes:
      key: [layers, B, K, C, H], rotated; where layers are of two kinds, a `ByKind` of such stacks, whose C differ; with
        unstacked layers, a tuple of one [B, K, C, H] a layer.
      value: the same shapes.
      length_B: how many tokens of each sequence the cache has seen.
      skipped_B: where positions count subwords, how many more subwords those tokens had; None where positions count
        tokens.

    >>> from dyntok_jax.models import empty_cache
    >>> cache = empty_cache(decoder.decoder, n_batch=2, capacity=16)
    >>> cache.capacity, cache.take(jnp.array([0, 0, 1])).length_B.tolist()
    (16, [0, 0, 0])
    """

    key: Any
    value: Any
    length_B: Int32[Array, "B"]
    skipped_B: Int32[Array, "B"] | None = None

    @property
    def capacity(self) -> int:
        """C, the slots a sequence; of layers with a sliding window, as many as it has, or fewer."""
        return max(array.shape[-2] for array in jax.tree.leaves(self.key))

    def take(self, row_B: Int32[Array, "B"]) -> "KeyValueCache":
        """The cache of other sequences: copies of some of these."""
        key, value = (jax.tree.map(lambda a: jnp.take(a, row_B, axis=-4), kept) for kept in (self.key, self.value))
        skipped_B = None if self.skipped_B is None else self.skipped_B[row_B]
        return KeyValueCache(key, value, self.length_B[row_B], skipped_B)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LayerCache:
    """The keys and values of one layer, read in place: nothing is copied out of the stack of all layers.

    Attributes:
      key: [B, K, C, H]; or [layers, B, K, C, H], where `layer` is the index.
      value: the same shapes.
      layer: its index in the stack; None where the arrays are the layer's own.
    """

    key: Array
    value: Array
    layer: Int32[Array, ""] | None

    @property
    def capacity(self) -> int:
        """C, the slots a sequence."""
        return self.key.shape[-2]

    def slots(self, start: Int32[Array, ""], size: int) -> tuple[Float[Array, "B K S H"], Float[Array, "B K S H"]]:
        """Keys and values of `size` slots of every sequence."""
        return _slots(self.key, self.layer, start, size), _slots(self.value, self.layer, start, size)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MixedLayerCache:
    """The keys and values of a layer whose kind is known only when the program runs.

    Attributes:
      full: those of the layer if it attends to all tokens before.
      sliding: those of the layer if it has a sliding window.
      is_full: which of the two it is.
    """

    full: LayerCache
    sliding: LayerCache
    is_full: Bool[Array, ""]


def _slots(cache: Array, layer: Int32[Array, ""] | None, start: Int32[Array, ""], size: int) -> Array:
    if layer is None:
        return lax.dynamic_slice_in_dim(cache, start, size, axis=2)
    _, n_batch, n_kv, _, width = cache.shape
    return lax.dynamic_slice(cache, (layer, 0, 0, start, 0), (1, n_batch, n_kv, size, width))[0]


def slot_positions(length_B: Int32[Array, "B"], slot_C: Int32[Array, "C"], capacity: int) -> Int32[Array, "B C"]:
    """The position that each slot holds, negative where it holds none: the latest p < length with p mod C = slot."""
    last_B1 = length_B[:, None] - 1
    return last_B1 - jnp.remainder(last_B1 - slot_C[None, :], capacity)


Pair = tuple[Array, Array]
"""Keys, and values."""


def add_tokens(cache: KeyValueCache, key: Any, value: Any, is_new_BT: Bool[Array, "B T"]) -> KeyValueCache:
    """Puts the keys and values of new tokens into the slots of their positions; padding is not written.

    If there are more tokens than slots, the last ones are kept.

    Args:
      cache: the tokens before, in stacks of layers.
      key: of the new tokens, [layers, B, T, K, H], or a `ByKind` of such stacks where the cache has them.
      value: the same shapes.
      is_new_BT: True for tokens, padding on the right.
    """
    length_B = cache.length_B + is_new_BT.sum(axis=1, dtype=jnp.int32)
    if not isinstance(cache.key, ByKind):
        written = write_tokens((cache.key, cache.value), (key, value), cache.length_B, is_new_BT)
        return replace(cache, key=written[0], value=written[1], length_B=length_B)
    # one after the other: their numbers of slots differ
    written = [
        write_tokens(old, new, cache.length_B, is_new_BT)
        for old, new in zip(zip(cache.key, cache.value, strict=True), zip(key, value, strict=True), strict=True)
    ]
    keys, values = zip(*written, strict=True)
    return replace(cache, key=ByKind(*keys), value=ByKind(*values), length_B=length_B)


def write_tokens(old: Pair, new: Pair, length_B: Int32[Array, "B"], is_new_BT: Bool[Array, "B T"]) -> Pair:
    """Keys and values of a cache, with those of new tokens in their slots."""
    n_tokens, capacity = is_new_BT.shape[1], old[0].shape[-2]
    count_B = is_new_BT.sum(axis=1, dtype=jnp.int32)
    chunk = _Chunk(length_B, is_new_BT, count_B)

    def write(way, old):
        return jax.tree.map(partial(way, chunk=chunk), old, new)

    if n_tokens == 1 or n_tokens > capacity:
        return write(_write_each, old)
    # prompts that are read together from their beginnings fill the same slots: one slice, which is far faster on
    # accelerators than a scatter of every token
    first = jnp.where(count_B > 0, length_B, 0).max()
    is_level = ((count_B == 0) | (length_B == first)).all()
    is_level &= jnp.remainder(first, capacity) + n_tokens <= capacity
    return lax.cond(is_level, partial(write, _write_level), partial(write, _write_each), old)


@dataclass(frozen=True)
class _Chunk:
    """The new tokens of each sequence (`is_new_BT`, `count_B`), and how many came before (`length_B`)."""

    length_B: Int32[Array, "B"]
    is_new_BT: Bool[Array, "B T"]
    count_B: Int32[Array, "B"]


def _write_each(cache_BKCH: Array, new_BTKH: Array, chunk: _Chunk) -> Array:
    """Writes every token to its own slot, which may differ between sequences.

    All of layer, sequence, head and slot are indexed, in the order of the axes: a scatter that moved whole columns of
    layers would make the TPU compiler change the cache's layout, and copy it, in each step.
    """
    capacity, n_tokens = cache_BKCH.shape[-2], new_BTKH.shape[-3]
    step_1T = jnp.arange(n_tokens, dtype=jnp.int32)[None]
    is_kept_BT = chunk.is_new_BT & (step_1T >= chunk.count_B[:, None] - capacity)
    slot_BT = jnp.where(is_kept_BT, jnp.remainder(chunk.length_B[:, None] + step_1T, capacity), capacity)
    new_BKTH = jnp.swapaxes(new_BTKH, -3, -2)
    index = jnp.indices(new_BKTH.shape[:-1], dtype=jnp.int32, sparse=True)
    slots = jnp.broadcast_to(slot_BT[:, None, :], new_BKTH.shape[:-1])
    return cache_BKCH.at[(*index[:-1], slots)].set(new_BKTH, mode="drop", unique_indices=False)


def _write_level(cache_BKCH: Array, new_BTKH: Array, chunk: _Chunk) -> Array:
    """Writes the tokens of all sequences to the same slots."""
    capacity, n_tokens = cache_BKCH.shape[-2], new_BTKH.shape[-3]
    slot = jnp.remainder(jnp.where(chunk.count_B > 0, chunk.length_B, 0).max(), capacity)
    old_BKTH = lax.dynamic_slice_in_dim(cache_BKCH, slot, n_tokens, axis=-2)
    is_new = jnp.broadcast_to(chunk.is_new_BT[:, None, :, None], old_BKTH.shape)
    merged_BKTH = jnp.where(is_new, jnp.swapaxes(new_BTKH, -3, -2).astype(old_BKTH.dtype), old_BKTH)
    return lax.dynamic_update_slice_in_dim(cache_BKCH, merged_BKTH, slot, axis=cache_BKCH.ndim - 2)
