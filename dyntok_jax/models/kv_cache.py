"""The key/value cache, and attention of new tokens to it and to one another.

Every sequence keeps its tokens in their order: token p is in slot p mod C. That order, which is what "position" means
here, is independent of the positions that keys and queries are rotated by (see `AttentionSpan`). A model with a sliding
window needs no more slots than its window, so its cache is a ring; without one, C is at least the longest sequence and
nothing wraps. The length of a sequence alone determines the position that each slot holds, so no mask is stored.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int32

BLOCK = 256
"""Slots that attention reads at a time. The longest sequence, not C, determines how many blocks are read."""
QUERY_CHUNK = 512
"""Queries of a long sequence that attend at a time."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of the tokens that a model has read.

    Attributes:
      key: [layers, B, K, C, H], rotated; or, with unstacked layers, a tuple of one [B, K, C, H] a layer.
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
        """C, the slots a sequence."""
        return jax.tree.leaves(self.key)[0].shape[-2]

    def take(self, row_B: Int32[Array, "B"]) -> "KeyValueCache":
        """The cache of other sequences: copies of some of these."""
        key, value = (jax.tree.map(lambda a: jnp.take(a, row_B, axis=-4), kept) for kept in (self.key, self.value))
        skipped_B = None if self.skipped_B is None else self.skipped_B[row_B]
        return KeyValueCache(key, value, self.length_B[row_B], skipped_B)


NewTokens = tuple[Float[Array, "B T K H"], Float[Array, "B T K H"]]
"""Rotated keys, and values, of the tokens that are read."""


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


def _slots(cache: Array, layer: Int32[Array, ""] | None, start: Int32[Array, ""], size: int) -> Array:
    if layer is None:
        return lax.dynamic_slice_in_dim(cache, start, size, axis=2)
    _, n_batch, n_kv, _, width = cache.shape
    return lax.dynamic_slice(cache, (layer, 0, 0, start, 0), (1, n_batch, n_kv, size, width))[0]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionSpan:
    """Who attends to whom when T new tokens a sequence follow those in the cache; the same for every layer.

    Attributes:
      position_BT: positions of the new tokens, counted in tokens.
      is_new_BT: which of them are tokens, not padding.
      length_B: tokens of each sequence in the cache.
      window: sliding window, counted in tokens, or None.
      rotary_BT: the positions that their queries and keys are rotated by, where those are others.
    """

    position_BT: Int32[Array, "B T"]
    is_new_BT: Bool[Array, "B T"]
    length_B: Int32[Array, "B"]
    window: int | None = field(metadata={"static": True})
    rotary_BT: Int32[Array, "B T"] | None = None


def length_after(span: AttentionSpan) -> Int32[Array, "B"]:
    """Tokens of each sequence in the cache after the new ones are added."""
    return span.length_B + span.is_new_BT.sum(axis=1, dtype=jnp.int32)


def slot_positions(length_B: Int32[Array, "B"], slot_C: Int32[Array, "C"], capacity: int) -> Int32[Array, "B C"]:
    """The position that each slot holds, negative where it holds none: the latest p < length with p mod C = slot."""
    last_B1 = length_B[:, None] - 1
    return last_B1 - jnp.remainder(last_B1 - slot_C[None, :], capacity)


def sees(
    query_BT: Int32[Array, "B T"], key_BS: Int32[Array, "B S"], is_key_BS: Bool[Array, "B S"], window: int | None
) -> Bool[Array, "B T S"]:
    """Whether the token at one position attends to the one at another: not if that is later or outside the window."""
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
    """Adds keys to a softmax (Milakov & Gimelshein 2018, alg. 3), in float32."""
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

    The cache is read block by block, as many blocks as the longest sequence fills, and many new tokens attend chunk by
    chunk (`QUERY_CHUNK`), so no array of all pairs of positions is ever held in memory.

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

    if n_tokens <= QUERY_CHUNK:
        return of_queries(query_BTKGH, span.position_BT).reshape(query_BTNH.shape)
    chunks = tuple(_in_chunks(array) for array in (query_BTKGH, span.position_BT))
    # each chunk is recomputed for gradients; otherwise they would keep all pairs of positions
    mixed = lax.map(lambda chunk: jax.checkpoint(of_queries)(*chunk), chunks)
    return jnp.moveaxis(mixed, 0, 1).reshape(n_batch, -1, n_heads, width)[:, :n_tokens]


def _in_chunks(array_BT: Array) -> Array:
    """[B, T, …] as [chunks, B, QUERY_CHUNK, …], padded with zeros."""
    n_batch, n_tokens, *rest = array_BT.shape
    padded = jnp.pad(array_BT, ((0, 0), (0, -n_tokens % QUERY_CHUNK), *((0, 0) for _ in rest)))
    return jnp.moveaxis(padded.reshape(n_batch, -1, QUERY_CHUNK, *rest), 1, 0)


def block_size(n_tokens: int, capacity: int) -> int:
    """Slots that attention of `n_tokens` a sequence reads at a time; a single one reads a quarter of a long cache.

    >>> block_size(8, 4096), block_size(1, 4096)
    (256, 1024)
    """
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
    """Whether a layer's new tokens are written into its cache before attention reads it, not after the last layer.

    If a cache is read and then written, XLA copies all of it in every step of a loop; if it is written first, XLA
    writes in place. This needs a layer with arrays of its own, and no sliding window unless a single token comes: in a
    ring, the last of several tokens could overwrite what the first ones must still see.
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

    If there are more tokens than slots, the last ones are kept.

    Args:
      cache: the tokens before.
      key: of the new tokens, [layers, B, T, K, H], or a tuple of one [B, T, K, H] a layer.
      value: the same shapes.
      is_new_BT: True for tokens, padding on the right.
    """
    key, value = _write((cache.key, cache.value), (key, value), cache.length_B, is_new_BT)
    return replace(cache, key=key, value=value, length_B=cache.length_B + is_new_BT.sum(axis=1, dtype=jnp.int32))


def _write(old: Any, new: Any, length_B: Int32[Array, "B"], is_new_BT: Bool[Array, "B T"]) -> Any:
    """Trees of arrays of a cache, with those of new tokens in their slots."""
    n_tokens, capacity = is_new_BT.shape[1], jax.tree.leaves(old)[0].shape[-2]
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
