"""The key/value cache, and attention of new tokens to what it holds and to one another.

Every sequence keeps its tokens in the order of their positions: position p lies in slot p mod C. A model with a sliding
window needs no more slots than its window, so its cache is a ring; without one, C is at least the longest sequence and
nothing wraps. Which position a slot holds follows from the sequence's length alone, so no mask is stored.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int32

BLOCK = 256
"""Slots that attention reads at a time: the longest sequence, not C, decides how many blocks are read."""
STRETCH = 512
"""Queries of a long sequence that attend at a time, where there is no cache."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of the tokens that a model has read.

    Attributes:
      key: [layers, B, K, C, H], rotated; or a tuple of one [B, K, C, H] a layer, beside unstacked layers.
      value: the same shapes.
      length_B: how many tokens of each sequence the cache has seen.
    """

    key: Any
    value: Any
    length_B: Int32[Array, "B"]

    @property
    def capacity(self) -> int:
        """C, the slots a sequence."""
        return jax.tree.leaves(self.key)[0].shape[-2]

    def take(self, row_B: Int32[Array, "B"]) -> "KeyValueCache":
        """The cache of other sequences: copies of some of these."""
        key, value = (jax.tree.map(lambda a: jnp.take(a, row_B, axis=-4), kept) for kept in (self.key, self.value))
        return KeyValueCache(key, value, self.length_B[row_B])


NewTokens = tuple[Float[Array, "B T K H"], Float[Array, "B T K H"]]
"""Rotated keys, and values, of the tokens that are read."""


@dataclass(frozen=True)
class LayerCache:
    """The keys and values of one layer, where they lie: nothing is copied out of the stack of all layers.

    Attributes:
      key: [B, K, C, H]; or [layers, B, K, C, H], of which `layer` says which.
      value: the same shapes.
      layer: its number in the stack; None where the arrays are its own.
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


def _slots(cache: Array, layer: Int32[Array, ""] | None, start: Int32[Array, ""], size: int) -> Array:
    if layer is None:
        return lax.dynamic_slice_in_dim(cache, start, size, axis=2)
    _, n_batch, n_kv, _, width = cache.shape
    return lax.dynamic_slice(cache, (layer, 0, 0, start, 0), (1, n_batch, n_kv, size, width))[0]


@dataclass(frozen=True)
class AttentionSpan:
    """Who attends to whom when T new tokens a sequence follow those in the cache; the same for every layer.

    Attributes:
      position_BT: positions of the new tokens.
      is_new_BT: which of them are tokens, not padding.
      length_B: tokens of each sequence in the cache.
      window: sliding window, or None.
    """

    position_BT: Int32[Array, "B T"]
    is_new_BT: Bool[Array, "B T"]
    length_B: Int32[Array, "B"]
    window: int | None


def length_after(span: AttentionSpan) -> Int32[Array, "B"]:
    """Tokens of each sequence in the cache once the new ones are there."""
    return span.length_B + span.is_new_BT.sum(axis=1, dtype=jnp.int32)


def slot_positions(length_B: Int32[Array, "B"], slot_C: Int32[Array, "C"], capacity: int) -> Int32[Array, "B C"]:
    """The position that each slot holds, negative where it holds none: the latest p < length with p mod C = slot."""
    last_B1 = length_B[:, None] - 1
    return last_B1 - jnp.remainder(last_B1 - slot_C[None, :], capacity)


def sees(
    query_BT: Int32[Array, "B T"], key_BS: Int32[Array, "B S"], is_key_BS: Bool[Array, "B S"], window: int | None
) -> Bool[Array, "B T S"]:
    """Whether the token at one position attends to the one at another: none after itself, none out of the window."""
    distance_BTS = query_BT[:, :, None] - key_BS[:, None, :]
    seen_BTS = (distance_BTS >= 0) & is_key_BS[:, None, :]
    return seen_BTS if window is None else seen_BTS & (distance_BTS < window)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Partial:
    """A softmax in progress: its largest score, the sum of exponentials, the values weighted by them."""

    top_BKGT: Float32[Array, "B K G T"]
    total_BKGT: Float32[Array, "B K G T"]
    mixed_BKGTH: Float32[Array, "B K G T H"]


def _no_keys(query_BTKGH: Array) -> _Partial:
    n_batch, n_tokens, n_kv, group, width = query_BTKGH.shape
    zeros = jnp.zeros((n_batch, n_kv, group, n_tokens), jnp.float32)
    top = jnp.full(zeros.shape, jnp.finfo(jnp.float32).min, jnp.float32)
    return _Partial(top, zeros, jnp.zeros((*zeros.shape, width), jnp.float32))


def _add_keys(
    partial: _Partial,
    query_BTKGH: Float[Array, "B T K G H"],
    key_BKSH: Float[Array, "B K S H"],
    value_BKSH: Float[Array, "B K S H"],
    sees_BTS: Bool[Array, "B T S"],
) -> _Partial:
    """Takes more keys into a softmax (Milakov & Gimelshein 2018, alg. 3), in float32."""
    scores_BKGTS = jnp.einsum("BTKGH,BKSH->BKGTS", query_BTKGH, key_BKSH, preferred_element_type=jnp.float32)
    is_seen = sees_BTS[:, None, None]
    top_BKGT = jnp.maximum(partial.top_BKGT, jnp.where(is_seen, scores_BKGTS, partial.top_BKGT[..., None]).max(axis=-1))
    # masked before exp: a query that sees nothing would get an infinite weight, and NaN gradients through the mask
    weight_BKGTS = jnp.exp(jnp.where(is_seen, scores_BKGTS - top_BKGT[..., None], -jnp.inf))
    mixed_BKGTH = jnp.einsum(
        "BKGTS,BKSH->BKGTH", weight_BKGTS.astype(value_BKSH.dtype), value_BKSH, preferred_element_type=jnp.float32
    )
    kept_BKGT = jnp.exp(partial.top_BKGT - top_BKGT)
    return _Partial(
        top_BKGT,
        partial.total_BKGT * kept_BKGT + weight_BKGTS.sum(axis=-1),
        partial.mixed_BKGTH * kept_BKGT[..., None] + mixed_BKGTH,
    )


def attend(
    query_BTNH: Float[Array, "B T N H"],
    own: NewTokens | None,
    past: LayerCache | None,
    span: AttentionSpan,
) -> Float[Array, "B T N H"]:
    """Grouped-query attention (Ainslie et al. 2023) of new tokens to the cache and to one another.

    The cache is read block by block, as many as the longest sequence fills, and long stretches of new tokens attend one
    after the other, so no array of all pairs of positions ever lies in memory.

    Args:
      query_BTNH: rotated queries.
      own: rotated keys, and values, of the new tokens; None where the cache holds them already.
      past: those in the cache; None where there is none.
      span: positions and lengths.

    Returns:
      In the dtype of the queries; zeros for padding that sees nothing.

    Raises:
      ValueError: `own` and `past` are both None.
    """
    n_batch, n_tokens, n_heads, width = query_BTNH.shape
    if own is not None:
        n_kv = own[0].shape[2]
    elif past is not None:
        n_kv = past.key.shape[-3]
    else:
        raise ValueError("own and past are both None: there must be keys to attend to.")
    query_BTKGH = (query_BTNH * jnp.asarray(width**-0.5, query_BTNH.dtype)).reshape(
        n_batch, n_tokens, n_kv, n_heads // n_kv, width
    )

    def of_queries(query_BTKGH, position_BT):
        partial = _no_keys(query_BTKGH)
        if past is not None:
            partial = _add_past(partial, query_BTKGH, past, position_BT, span)
        if own is not None:
            own_BTS = sees(position_BT, span.position_BT, span.is_new_BT, span.window)
            key_BKTH, value_BKTH = (jnp.swapaxes(new, 1, 2) for new in own)
            partial = _add_keys(partial, query_BTKGH, key_BKTH, value_BKTH, own_BTS)
        total = jnp.where(partial.total_BKGT > 0, partial.total_BKGT, 1)
        return (partial.mixed_BKGTH / total[..., None]).transpose(0, 3, 1, 2, 4).astype(query_BTNH.dtype)

    if n_tokens <= STRETCH:
        return of_queries(query_BTKGH, span.position_BT).reshape(query_BTNH.shape)
    stretches = tuple(_in_stretches(array) for array in (query_BTKGH, span.position_BT))
    # what a stretch computes is computed again for gradients, or all pairs of positions would be kept for them
    mixed = lax.map(lambda stretch: jax.checkpoint(of_queries)(*stretch), stretches)
    return jnp.moveaxis(mixed, 0, 1).reshape(n_batch, -1, n_heads, width)[:, :n_tokens]


def _in_stretches(array_BT: Array) -> Array:
    """[B, T, …] as [stretches, B, STRETCH, …], zeros behind the end."""
    n_batch, n_tokens, *rest = array_BT.shape
    padded = jnp.pad(array_BT, ((0, 0), (0, -n_tokens % STRETCH), *((0, 0) for _ in rest)))
    return jnp.moveaxis(padded.reshape(n_batch, -1, STRETCH, *rest), 1, 0)


def block_size(n_tokens: int, capacity: int) -> int:
    """Slots that attention of `n_tokens` a sequence reads at a time; a single one reads a quarter of a long cache."""
    return min(capacity, BLOCK if n_tokens > 1 else max(BLOCK, capacity // 4))


def _add_past(
    partial: _Partial, query_BTKGH: Array, past: LayerCache, position_BT: Array, span: AttentionSpan
) -> _Partial:
    capacity = past.capacity
    block = block_size(query_BTKGH.shape[1], capacity)

    def add_block(index, partial):
        first = index * block
        start = jnp.minimum(first, capacity - block)  # where blocks do not divide C, the last one begins before its own
        slots = start + jnp.arange(block, dtype=jnp.int32)
        position_BS = slot_positions(span.length_B, slots, capacity)
        is_held_BS = (position_BS >= 0) & (slots >= first)[None]
        is_seen = sees(position_BT, position_BS, is_held_BS, span.window)
        return _add_keys(partial, query_BTKGH, *past.slots(start, block), is_seen)

    if block == capacity:
        return add_block(0, partial)
    filled = jnp.minimum(span.length_B.max(), capacity)
    return lax.fori_loop(0, (filled + block - 1) // block, add_block, partial)


def writes_first(past: LayerCache | None, span: AttentionSpan) -> TypeGuard[LayerCache]:
    """Whether a layer's new tokens are written into its cache before attention reads it, not behind the last layer.

    A cache that is read and written afterwards is copied by XLA, whole and in every turn of a loop; the other way round
    it is written where it lies. It takes a layer with arrays of its own. Of several tokens a sequence, the last ones
    could overwrite in a ring what the first ones must still see.
    """
    n_tokens = span.position_BT.shape[1]
    return past is not None and past.layer is None and (n_tokens == 1 or span.window is None)


def write_and_attend(
    query_BTNH: Float[Array, "B T N H"], own: NewTokens, past: LayerCache, span: AttentionSpan
) -> tuple[Float[Array, "B T N H"], tuple[Float[Array, "B K C H"], Float[Array, "B K C H"]]]:
    """`attend` where the new tokens are in the layer's cache before it is read.

    Returns:
      What `attend` returns, and the layer's keys and values with the new ones among them.
    """
    key, value = _write((past.key, past.value), own, span.length_B, span.is_new_BT)
    after = replace(span, length_B=length_after(span))
    return attend(query_BTNH, None, LayerCache(key, value, None), after), (key, value)


def add_tokens(cache: KeyValueCache, key: Any, value: Any, is_new_BT: Bool[Array, "B T"]) -> KeyValueCache:
    """Puts the keys and values of new tokens into the slots of their positions; padding is not written.

    Where more tokens come than there are slots, the last ones stay.

    Args:
      cache: what came before.
      key: of the new tokens, [layers, B, T, K, H], or a tuple of one [B, T, K, H] a layer.
      value: the same shapes.
      is_new_BT: True for tokens, padding on the right.
    """
    key, value = _write((cache.key, cache.value), (key, value), cache.length_B, is_new_BT)
    return KeyValueCache(key, value, cache.length_B + is_new_BT.sum(axis=1, dtype=jnp.int32))


def _write(old: Any, new: Any, length_B: Int32[Array, "B"], is_new_BT: Bool[Array, "B T"]) -> Any:
    """Trees of arrays of a cache, with those of new tokens in their slots."""
    n_tokens, capacity = is_new_BT.shape[1], jax.tree.leaves(old)[0].shape[-2]
    count_B = is_new_BT.sum(axis=1, dtype=jnp.int32)
    stretch = _Stretch(length_B, is_new_BT, count_B)

    def write(way, old):
        return jax.tree.map(partial(way, stretch=stretch), old, new)

    if n_tokens == 1 or n_tokens > capacity:
        return write(_write_each, old)
    # prompts that are read together from their beginnings fill the same slots: one slice, where a scatter of every
    # token takes accelerators far longer
    first = jnp.where(count_B > 0, length_B, 0).max()
    is_level = ((count_B == 0) | (length_B == first)).all()
    is_level &= jnp.remainder(first, capacity) + n_tokens <= capacity
    return lax.cond(is_level, partial(write, _write_level), partial(write, _write_each), old)


@dataclass(frozen=True)
class _Stretch:
    """Which tokens come, and how many of each sequence came before."""

    length_B: Int32[Array, "B"]
    is_new_BT: Bool[Array, "B T"]
    count_B: Int32[Array, "B"]


def _write_each(cache_BKCH: Array, new_BTKH: Array, stretch: _Stretch) -> Array:
    """Every token to its own slot, wherever those of the sequences lie.

    All of layer, sequence, head and slot are indexed, in the order of the axes: a scatter that moved whole columns of
    layers would make the TPU compiler lay the cache out anew, and copy it, for each step.
    """
    capacity, n_tokens = cache_BKCH.shape[-2], new_BTKH.shape[-3]
    step_1T = jnp.arange(n_tokens, dtype=jnp.int32)[None]
    is_kept_BT = stretch.is_new_BT & (step_1T >= stretch.count_B[:, None] - capacity)
    slot_BT = jnp.where(is_kept_BT, jnp.remainder(stretch.length_B[:, None] + step_1T, capacity), capacity)
    new_BKTH = jnp.swapaxes(new_BTKH, -3, -2)
    index = jnp.indices(new_BKTH.shape[:-1], dtype=jnp.int32, sparse=True)
    slots = jnp.broadcast_to(slot_BT[:, None, :], new_BKTH.shape[:-1])
    return cache_BKCH.at[(*index[:-1], slots)].set(new_BKTH, mode="drop", unique_indices=False)


def _write_level(cache_BKCH: Array, new_BTKH: Array, stretch: _Stretch) -> Array:
    """All sequences' tokens to the same slots."""
    capacity, n_tokens = cache_BKCH.shape[-2], new_BTKH.shape[-3]
    slot = jnp.remainder(jnp.where(stretch.count_B > 0, stretch.length_B, 0).max(), capacity)
    old_BKTH = lax.dynamic_slice_in_dim(cache_BKCH, slot, n_tokens, axis=-2)
    is_new = jnp.broadcast_to(stretch.is_new_BT[:, None, :, None], old_BKTH.shape)
    merged_BKTH = jnp.where(is_new, jnp.swapaxes(new_BTKH, -3, -2).astype(old_BKTH.dtype), old_BKTH)
    return lax.dynamic_update_slice_in_dim(cache_BKCH, merged_BKTH, slot, axis=cache_BKCH.ndim - 2)
