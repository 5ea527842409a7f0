"""Decoders: one parameter tree for all families, and pure functions that read tokens with and without a cache.

Touvron et al. 2023 (Llama 2), Grattafiori et al. 2024 (Llama 3), Jiang et al. 2023 (Mistral 7B), and the families of
`decoder_families`. All functions take word embeddings, so a prompt may mix rows of the model's table with predicted
ones; both are in the units of the table. A family that scales its embeddings does so here, when they are read.
Positions count tokens or, where the functions are told how many subwords each token has (`step_BT`), the subwords
before a token.
"""

from dataclasses import replace
from functools import partial
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int32, Key

from dyntok_jax.errors import TooLongError
from dyntok_jax.models.attention import AttentionSpan, length_after
from dyntok_jax.models.decoder_config import DecoderConfig
from dyntok_jax.models.decoder_layer import DecoderLayer, RmsNorm, decoder_layer, rms_norm
from dyntok_jax.models.kv_cache import ByKind, KeyValueCache, LayerCache, add_tokens
from dyntok_jax.models.layer_kinds import (
    chosen_cache,
    chosen_reading,
    kinds_of_layers,
    reading_of_layer,
    readings_of,
    scaled_embeddings,
)
from dyntok_jax.models.layers import normal_param

FEW_ROWS = 32
"""The most sequences for which the product with the output table is limited by reading the table."""


class Decoder(nnx.Module):
    """Parameters of a decoder, and its config as a static field: a pytree for `jax.jit`, `jax.grad` and the rest.

    `layers` is one module whose parameters have a leading layer axis, run by `lax.scan`; or, from `unstacked`, a tuple
    of one module a layer. `output_embeddings` is None where the word table is the output table too.

    >>> Decoder(decoder.config, jax.random.key(0)).layers.query.kernel.shape  # layers, D, N, H
    (2, 32, 4, 8)
    """

    layers: DecoderLayer | tuple[DecoderLayer, ...]
    output_embeddings: nnx.Param | None

    def __init__(self, config: DecoderConfig, key: Key[Array, ""], dtype: DTypeLike = jnp.float32):
        """Draws fresh parameters; wrap it in `jax.eval_shape` for shapes alone."""
        keys = jax.random.split(key, 3)
        self.config = config
        self.word_embeddings = normal_param(keys[0], (config.vocab_size, config.width), dtype)
        one_layer = partial(DecoderLayer, config=config, dtype=dtype)
        self.layers = nnx.data(jax.vmap(one_layer)(jax.random.split(keys[1], config.n_layers)))
        self.final_norm = RmsNorm(config.width, dtype, adds_one=config.family.norm_adds_one)
        self.output_embeddings = nnx.data(None)
        if not config.ties_embeddings:
            self.output_embeddings = normal_param(keys[2], (config.vocab_size, config.width), dtype)


def unstacked(model: Decoder) -> Decoder:
    """The same model with a tuple of layers, each with arrays of its own.

    On a CPU a scan copies every layer's weights out of the stack before it multiplies by them: a third of the time of a
    decoding step of a few sequences. Arrays of their own are read in place. Compilation takes longer.

    >>> model = unstacked(Decoder(decoder.config, jax.random.key(0)))
    >>> len(model.layers), model.layers[0].query.kernel.shape
    (2, (32, 4, 8))
    """
    taken = jax.jit(lambda layers, index: jax.tree.map(lambda stack: stack[index], layers))
    copy = nnx.merge(*nnx.split(model))
    copy.layers = nnx.data(tuple(taken(model.layers, i) for i in range(model.config.n_layers)))
    return copy


def logits(model: Decoder, hidden: Float[Array, "*rows D"]) -> Float32[Array, "*rows V"]:
    """Scores of the vocabulary for the token that follows each hidden state.

    >>> logits(decoder.decoder, jnp.ones((3, 32))).shape == (3, decoder.config.vocab_size)
    True
    """
    table = model.word_embeddings if model.output_embeddings is None else model.output_embeddings
    if hidden.ndim == 2 and 1 < len(hidden) <= FEW_ROWS:
        # XLA's CPU kernels read the table 1.5 times as fast if its rows are the product's rows; without the barrier
        # XLA would transpose the product back to how it is used
        logits_VB = jnp.einsum("VD,BD->VB", table[...], hidden, preferred_element_type=jnp.float32)
        return lax.optimization_barrier(logits_VB).T
    return jnp.einsum("...D,VD->...V", hidden, table[...], preferred_element_type=jnp.float32)


def empty_cache(model: Decoder, n_batch: int, capacity: int, *, counts_subwords: bool = False) -> KeyValueCache:
    """A cache for `n_batch` sequences of up to `capacity` tokens; layers with a sliding window get no more slots.

    With `counts_subwords` the positions of what is read into it count subwords.

    >>> cache = empty_cache(decoder.decoder, n_batch=2, capacity=16)
    >>> cache.capacity, cache.length_B.tolist()
    (16, [0, 0])
    """
    config, dtype = model.config, model.word_embeddings.dtype
    ring = capacity if config.sliding_window is None else min(capacity, config.sliding_window)

    def zeros(n_slots: int, *stack: int) -> Array:
        return jnp.zeros((*stack, n_batch, config.n_kv_heads, n_slots, config.head_width), dtype)

    def rows() -> Any:
        if isinstance(model.layers, tuple):
            return tuple(zeros(capacity if config.is_full(i) else ring) for i in range(config.n_layers))
        if not config.full_layers:
            return zeros(ring, config.n_layers)
        n_full = len(config.full_layers)
        return ByKind(zeros(capacity, n_full), zeros(ring, config.n_layers - n_full))

    zeros_B = jnp.zeros(n_batch, jnp.int32)
    return KeyValueCache(rows(), rows(), zeros_B, zeros_B if counts_subwords else None)


def forward(
    model: Decoder,
    embeddings_BTD: Float[Array, "B T D"],
    mask_BT: Bool[Array, "B T"],
    step_BT: Int32[Array, "B T"] | None = None,
    *,
    remat: bool = False,
) -> Float[Array, "B T D"]:
    """Reads whole sequences without a cache; differentiable.

    Args:
      model: the parameters.
      embeddings_BTD: one word embedding a token.
      mask_BT: True for tokens; padding is on the right.
      step_BT: subwords of each token, for positions that count subwords.
      remat: for gradients keep what goes into each layer alone, and compute the rest again.

    Returns:
      Final hidden states, normalised, in the dtype of the embeddings; finite but meaningless under a False mask.

    Raises:
      TooLongError: T is more than the model has positions for.

    >>> from dyntok_jax.models import embed_ids
    >>> model, mask_BT = decoder.decoder, jnp.array([[True, True, True], [True, True, False]])
    >>> embeddings_BTD = embed_ids(model, jnp.array([[5, 6, 7], [8, 9, 1]]))
    >>> forward(model, embeddings_BTD, mask_BT).shape
    (2, 3, 32)
    """
    check_length(model.config, embeddings_BTD.shape[1])
    n_batch, length, _ = embeddings_BTD.shape
    position_BT = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (n_batch, length))
    rotary_BT = None if step_BT is None else jnp.cumsum(step_BT, axis=1) - step_BT
    span = AttentionSpan(position_BT, mask_BT, jnp.zeros(n_batch, jnp.int32), None, rotary_BT)
    hidden_BTD, _ = _run_layers(model, embeddings_BTD, None, span, remat)
    return rms_norm(model.final_norm, hidden_BTD, model.config.norm_eps)


def extend(
    model: Decoder,
    embeddings_BTD: Float[Array, "B T D"],
    is_new_BT: Bool[Array, "B T"],
    cache: KeyValueCache,
    step_BT: Int32[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T D"], KeyValueCache]:
    """Reads tokens that come after those in the cache: one step of decoding (T = 1), or a prefill chunk.

    Args:
      model: the parameters.
      embeddings_BTD: word embeddings of the new tokens.
      is_new_BT: True for tokens, padding on the right; a sequence may have none.
      cache: the tokens before; its capacity must suffice for the new tokens too, unless the model has a sliding
        window.
      step_BT: subwords of each new token, where the cache's positions count subwords; None for one each.

    Returns:
      Final hidden states, normalised; and the cache with the new tokens in it.

    Raises:
      ValueError: `step_BT` is given, but the cache's positions count tokens.

    >>> from dyntok_jax.models import embed_ids
    >>> model, mask_BT = decoder.decoder, jnp.array([[True, True, True], [True, True, False]])
    >>> embeddings_BTD = embed_ids(model, jnp.array([[5, 6, 7], [8, 9, 1]]))
    >>> hidden_BTD, cache = extend(model, embeddings_BTD, mask_BT, empty_cache(model, n_batch=2, capacity=16))
    >>> hidden_BTD.shape, cache.length_B.tolist()
    ((2, 3, 32), [3, 2])
    """
    n_tokens = embeddings_BTD.shape[1]
    position_BT = cache.length_B[:, None] + jnp.arange(n_tokens, dtype=jnp.int32)[None]
    span = AttentionSpan(position_BT, is_new_BT, cache.length_B, None)
    if cache.skipped_B is not None:
        more_BT = jnp.zeros_like(position_BT) if step_BT is None else jnp.where(is_new_BT, step_BT - 1, 0)
        skipped_BT = cache.skipped_B[:, None] + jnp.cumsum(more_BT, axis=1)
        span = replace(span, rotary_BT=position_BT + skipped_BT - more_BT)
        cache = replace(cache, skipped_B=skipped_BT[:, -1])
    elif step_BT is not None:
        raise ValueError("The cache's positions count tokens: make it with empty_cache(..., counts_subwords=True).")
    hidden_BTD, cache = _run_layers(model, embeddings_BTD, cache, span)
    return rms_norm(model.final_norm, hidden_BTD, model.config.norm_eps), cache


def prefill(
    model: Decoder,
    embeddings_BTD: Float[Array, "B T D"],
    mask_BT: Bool[Array, "B T"],
    cache: KeyValueCache,
    step_BT: Int32[Array, "B T"] | None = None,
    *,
    chunk: int,
    last_chunk: int | None = None,
) -> tuple[Float[Array, "B T D"], KeyValueCache]:
    """Reads prompts chunk by chunk, as many chunks as the longest prompt has.

    One program serves every length up to T, and the work grows with the longest prompt, not with T.

    Args:
      model: the parameters.
      embeddings_BTD: word embeddings; T must be a multiple of `chunk`.
      mask_BT: True for tokens; padding is on the right.
      cache: the tokens before; usually empty.
      step_BT: subwords of each token, where the cache's positions count subwords; None for one each.
      chunk: tokens read at a time.
      last_chunk: the same for what is left after the last whole chunk; it must divide `chunk`. Long chunks keep the
        device busy, short ones read less padding.

    Returns:
      Final hidden states, zeros after the last chunk; and the cache with the prompts in it.

    >>> from dyntok_jax.models import embed_ids
    >>> model, mask_BT = decoder.decoder, jnp.array([[True, True, True], [True, True, False]])
    >>> embeddings_BTD = embed_ids(model, jnp.array([[5, 6, 7], [8, 9, 1]]))
    >>> _, cache = prefill(model, embeddings_BTD, mask_BT, empty_cache(model, n_batch=2, capacity=16), chunk=3)
    >>> cache.length_B.tolist()
    [3, 2]
    """

    def read(index, state, size):
        hidden_BTD, cache = state
        start = index * size
        new_BTD, is_new_BT, new_step_BT = jax.tree.map(
            lambda array: lax.dynamic_slice_in_dim(array, start, size, axis=1), (embeddings_BTD, mask_BT, step_BT)
        )
        new_BTD, cache = extend(model, new_BTD, is_new_BT, cache, new_step_BT)
        return lax.dynamic_update_slice_in_dim(hidden_BTD, new_BTD, start, axis=1), cache

    longest = mask_BT.sum(axis=1, dtype=jnp.int32).max()
    state = (jnp.zeros_like(embeddings_BTD), cache)
    if last_chunk is None:
        return lax.fori_loop(0, (longest + chunk - 1) // chunk, partial(read, size=chunk), state)
    n_small, ratio = (longest + last_chunk - 1) // last_chunk, chunk // last_chunk
    state = lax.fori_loop(0, n_small // ratio, partial(read, size=chunk), state)
    return lax.fori_loop(n_small // ratio * ratio, n_small, partial(read, size=last_chunk), state)


def check_length(config: DecoderConfig, length: int) -> None:
    """Raises TooLongError if a sequence has more tokens than the model has positions."""
    if length > config.max_positions:
        raise TooLongError(
            f"A sequence of {length} tokens does not fit: the model has positions for {config.max_positions}. "
            "Merge further, shorten the text or generate less."
        )


@overload
def _run_layers(
    model: Decoder, x_BTD: Float[Array, "B T D"], cache: None, span: AttentionSpan, remat: bool = False
) -> tuple[Float[Array, "B T D"], None]: ...
@overload
def _run_layers(
    model: Decoder, x_BTD: Float[Array, "B T D"], cache: KeyValueCache, span: AttentionSpan
) -> tuple[Float[Array, "B T D"], KeyValueCache]: ...
def _run_layers(
    model: Decoder, x_BTD: Float[Array, "B T D"], cache: KeyValueCache | None, span: AttentionSpan, remat: bool = False
) -> tuple[Float[Array, "B T D"], KeyValueCache | None]:
    """All layers; and the cache with the new tokens in it, None without one."""
    config, x_BTD = model.config, scaled_embeddings(x_BTD, model.config)
    readings = readings_of(config, span)
    if not isinstance(model.layers, tuple):
        x_BTD, (key, value) = _scan_layers(model, x_BTD, cache, readings, remat)
        return x_BTD, None if cache is None else add_tokens(cache, key, value, span.is_new_BT)
    run_layer = jax.checkpoint(_traced_once, static_argnums=5) if remat else _traced_once
    kept = []
    for number, layer in enumerate(model.layers):
        past = None if cache is None else LayerCache(cache.key[number], cache.value[number], None)
        reading = reading_of_layer(config, readings, number)
        x_BTD, own = run_layer(layer, x_BTD, past, *reading, config)
        kept.append(own)
    key, value = zip(*kept, strict=True)
    return x_BTD, None if cache is None else replace(cache, key=key, value=value, length_B=length_after(span))


def _scan_layers(
    model: Decoder, x_BTD: Float[Array, "B T D"], cache: KeyValueCache | None, readings: ByKind, remat: bool
) -> tuple[Float[Array, "B T D"], tuple[Any, Any]]:
    """Stacked layers; and the keys and values of the new tokens, in stacks as the cache has them."""
    config = model.config
    # a loop's body is not merged with its copy that computes again, so nothing must prevent that
    run_layer = jax.checkpoint(decoder_layer, static_argnums=5, prevent_cse=False) if remat else decoder_layer
    is_full_L, number_L = kinds_of_layers(config)
    if not config.full_layers:
        reading = reading_of_layer(config, readings, 0)

        def step(x_BTD, layer_and_number):
            layer, number = layer_and_number
            past = None if cache is None else LayerCache(cache.key, cache.value, number)
            return run_layer(layer, x_BTD, past, *reading, config)

        return lax.scan(step, x_BTD, (model.layers, jnp.asarray(number_L)))

    def step_of_either_kind(x_BTD, layer_and_kind):
        layer, number, is_full = layer_and_kind
        past = chosen_cache(cache, number, is_full)
        return run_layer(layer, x_BTD, past, *chosen_reading(readings, is_full), config)

    scanned = model.layers, jnp.asarray(number_L), jnp.asarray(is_full_L)
    x_BTD, (key, value) = lax.scan(step_of_either_kind, x_BTD, scanned)
    full, sliding = np.flatnonzero(is_full_L), np.flatnonzero(~is_full_L)
    return x_BTD, (ByKind(key[full], key[sliding]), ByKind(value[full], value[sliding]))


_traced_once = jax.jit(decoder_layer, static_argnames="config")
"""`decoder_layer` for layers that are no stack: those of a kind differ in their arrays alone, and share one trace."""
