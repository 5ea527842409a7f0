"""Attention of new tokens to a key/value cache and to one another, with bounded memory."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int32

from dyntok_jax.models.kv_cache import LayerCache, MixedLayerCache, slot_positions, write_tokens

BLOCK = 256
"""Slots that attention reads at a time. The longest sequence, not C, determines how many blocks are read."""
QUERY_CHUNK = 512
"""Queries of a long sequence that attend at a time."""
NewTokens = tuple[Float[Array, "B T K H"], Float[Array, "B T K H"]]
"""Rotated keys, and values, of the tokens that are read."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionSpan:
    """Who attends to whom when T new tokens a sequence follow those in the cache; the same for all layers of a kind.

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
    window: int | Int32[Array, ""] | None
    rotary_BT: Int32[Array, "B T"] | None = None


def length_after(span: AttentionSpan) -> Int32[Array, "B"]:
    """Tokens of each sequence in the cache after the new ones are added."""
    return span.length_B + span.is_new_BT.sum(axis=1, dtype=jnp.int32)


def sees(
    query_BT: Int32[Array, "B T"],
    key_BS: Int32[Array, "B S"],
    is_key_BS: Bool[Array, "B S"],
    window: int | Int32[Array, ""] | None,
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
    past: LayerCache | MixedLayerCache | None,
    span: AttentionSpan,
) -> Float[Array, "B T N H"]:
    """Grouped-query attention (Ainslie et al. 2023) of new tokens to the cache and to one another.

    The cache is read block by block, as many blocks as the longest sequence fills, and many new tokens attend chunk by
    chunk (`QUERY_CHUNK`), so no array of all pairs of positions is ever held in memory.

    Args:
      query_BTNH: rotated and scaled queries.
      own: rotated keys, and values, of the new tokens; None where the cache holds them already.
      past: those in the cache; None where there is none.
      span: positions and lengths.

    Returns:
      In the dtype of the queries; zeros for padding that sees nothing.

    Raises:
      ValueError: `own` is None, and `past` no cache of one layer.
    """
    n_batch, n_tokens, n_heads, width = query_BTNH.shape
    if own is not None:
        n_kv = own[0].shape[2]
    elif isinstance(past, LayerCache):
        n_kv = past.key.shape[-3]
    else:
        raise ValueError("There must be keys to attend to: of new tokens, or in the cache of a layer.")
    query_BTKGH = query_BTNH.reshape(n_batch, n_tokens, n_kv, n_heads // n_kv, width)

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
    partial: _Partial,
    query_BTKGH: Array,
    past: LayerCache | MixedLayerCache,
    position_BT: Array,
    span: AttentionSpan,
) -> _Partial:
    if isinstance(past, MixedLayerCache):
        full, sliding = (
            lambda partial, kind=kind: _add_past(partial, query_BTKGH, kind, position_BT, span)
            for kind in (past.full, past.sliding)
        )
        return lax.cond(past.is_full, full, sliding, partial)
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


def attend_and_keep(
    query_BTNH: Float[Array, "B T N H"],
    own: NewTokens,
    past: LayerCache | MixedLayerCache | None,
    span: AttentionSpan,
) -> tuple[Float[Array, "B T N H"], tuple[Array, Array]]:
    """`attend`; and the layer's cache with the new tokens in it, or the new tokens alone.

    A cache that is a layer's own is returned with the new tokens; they are written before attention reads it. If it
    were read and then written, XLA would copy all of it in every step of a loop. In a ring several tokens are written
    afterwards: the last ones could overwrite what the first ones must still see.

    Args:
      query_BTNH: rotated and scaled queries.
      own: rotated keys, and values, of the new tokens.
      past: those in the cache; None where there is none.
      span: positions and lengths.

    Returns:
      What `attend` returns; and keys and values, of the cache if `past` is a layer's own arrays, else `own`.
    """
    if not isinstance(past, LayerCache) or past.layer is not None:
        return attend(query_BTNH, own, past, span), own
    key, value = write_tokens((past.key, past.value), own, span.length_B, span.is_new_BT)
    if span.window is not None and span.position_BT.shape[1] > 1:
        return attend(query_BTNH, own, past, span), (key, value)
    after = replace(span, length_B=length_after(span))
    return attend(query_BTNH, None, LayerCache(key, value, None), after), (key, value)
