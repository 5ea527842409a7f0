"""Mistral and Llama: one parameter tree, and pure functions that read tokens with and without a cache.

Jiang et al. 2023 (Mistral 7B), Touvron et al. 2023 (Llama 2), Grattafiori et al. 2024 (Llama 3): pre-norm layers of
grouped-query attention with rotary positions and a SwiGLU feed-forward (Shazeer 2020). All functions take word
embeddings, so a prompt may mix rows of the model's table with predicted ones. Positions count tokens.
"""

from functools import partial
from typing import overload

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Key

from dyntok_jax.errors import TooLongError
from dyntok_jax.models.decoder_config import DecoderConfig
from dyntok_jax.models.kv_cache import (
    AttentionSpan,
    KeyValueCache,
    LayerCache,
    add_tokens,
    attend,
    length_after,
    write_and_attend,
    writes_first,
)
from dyntok_jax.models.layers import normal_param
from dyntok_jax.models.low_rank import LowRank, add_adapters
from dyntok_jax.models.rotary import Angles, rotary_angles, rotate

FEW_ROWS = 32
"""The most sequences for which the product with the output table is limited by reading the table."""


class Kernel(nnx.Module):
    """A linear map without bias; `inputs` and `outputs` may each be several axes (heads stay apart)."""

    adapters: tuple[LowRank, ...] = ()

    def __init__(self, key: Key[Array, ""], inputs: tuple[int, ...], outputs: tuple[int, ...], dtype: DTypeLike):
        self.kernel = normal_param(key, (*inputs, *outputs), dtype)


class RmsNorm(nnx.Module):
    """Scale of a normalisation over the last axis."""

    def __init__(self, width: int, dtype: DTypeLike):
        self.scale = nnx.Param(jnp.ones((width,), dtype))


class DecoderLayer(nnx.Module):
    """Parameters of one layer."""

    def __init__(self, key: Key[Array, ""], config: DecoderConfig, dtype: DTypeLike):
        keys = jax.random.split(key, 7)
        width, heads = (config.width,), (config.n_heads, config.head_width)
        kv_heads, ffn = (config.n_kv_heads, config.head_width), (config.ffn_width,)
        self.attention_norm = RmsNorm(config.width, dtype)
        self.query = Kernel(keys[0], width, heads, dtype)
        self.key = Kernel(keys[1], width, kv_heads, dtype)
        self.value = Kernel(keys[2], width, kv_heads, dtype)
        self.output = Kernel(keys[3], heads, width, dtype)
        self.ffn_norm = RmsNorm(config.width, dtype)
        self.ffn_gate = Kernel(keys[4], width, ffn, dtype)
        self.ffn_up = Kernel(keys[5], width, ffn, dtype)
        self.ffn_out = Kernel(keys[6], ffn, width, dtype)


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
        self.final_norm = RmsNorm(config.width, dtype)
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


def rms_norm(module: RmsNorm, x: Float[Array, "*rows D"], eps: float) -> Float[Array, "*rows D"]:
    """Divides x by its root mean square, times the scale (Zhang & Sennrich 2019, eq. 4), in float32 up to the scale."""
    wide = x.astype(jnp.float32)
    normed = (wide * lax.rsqrt(jnp.square(wide).mean(axis=-1, keepdims=True) + eps)).astype(x.dtype)
    return normed * jnp.expand_dims(module.scale[...], tuple(range(x.ndim - 1)))


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


def empty_cache(model: Decoder, n_batch: int, capacity: int) -> KeyValueCache:
    """A cache for `n_batch` sequences of up to `capacity` tokens; with a sliding window, no more slots than the window.

    >>> cache = empty_cache(decoder.decoder, n_batch=2, capacity=16)
    >>> cache.capacity, cache.length_B.tolist()
    (16, [0, 0])
    """
    config = model.config
    if config.sliding_window is not None:
        capacity = min(capacity, config.sliding_window)
    shape = (n_batch, config.n_kv_heads, capacity, config.head_width)
    dtype = model.word_embeddings.dtype
    if isinstance(model.layers, tuple):
        key, value = (tuple(jnp.zeros(shape, dtype) for _ in model.layers) for _ in "kv")
    else:
        key, value = (jnp.zeros((config.n_layers, *shape), dtype) for _ in "kv")
    return KeyValueCache(key, value, jnp.zeros(n_batch, jnp.int32))


def forward(
    model: Decoder, embeddings_BTD: Float[Array, "B T D"], mask_BT: Bool[Array, "B T"]
) -> Float[Array, "B T D"]:
    """Reads whole sequences without a cache; differentiable.

    Args:
      model: the parameters.
      embeddings_BTD: one word embedding a token.
      mask_BT: True for tokens; padding is on the right.

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
    span = AttentionSpan(position_BT, mask_BT, jnp.zeros(n_batch, jnp.int32), model.config.sliding_window)
    hidden_BTD, _ = _run_layers(model, embeddings_BTD, None, span)
    return rms_norm(model.final_norm, hidden_BTD, model.config.norm_eps)


def extend(
    model: Decoder,
    embeddings_BTD: Float[Array, "B T D"],
    is_new_BT: Bool[Array, "B T"],
    cache: KeyValueCache,
) -> tuple[Float[Array, "B T D"], KeyValueCache]:
    """Reads tokens that come after those in the cache: one step of decoding (T = 1), or a prefill chunk.

    Args:
      model: the parameters.
      embeddings_BTD: word embeddings of the new tokens.
      is_new_BT: True for tokens, padding on the right; a sequence may have none.
      cache: the tokens before; its capacity must suffice for the new tokens too, unless the model has a sliding
        window.

    Returns:
      Final hidden states, normalised; and the cache with the new tokens in it.

    >>> from dyntok_jax.models import embed_ids
    >>> model, mask_BT = decoder.decoder, jnp.array([[True, True, True], [True, True, False]])
    >>> embeddings_BTD = embed_ids(model, jnp.array([[5, 6, 7], [8, 9, 1]]))
    >>> hidden_BTD, cache = extend(model, embeddings_BTD, mask_BT, empty_cache(model, n_batch=2, capacity=16))
    >>> hidden_BTD.shape, cache.length_B.tolist()
    ((2, 3, 32), [3, 2])
    """
    n_tokens = embeddings_BTD.shape[1]
    position_BT = cache.length_B[:, None] + jnp.arange(n_tokens, dtype=jnp.int32)[None]
    span = AttentionSpan(position_BT, is_new_BT, cache.length_B, model.config.sliding_window)
    hidden_BTD, cache = _run_layers(model, embeddings_BTD, cache, span)
    return rms_norm(model.final_norm, hidden_BTD, model.config.norm_eps), cache


def prefill(
    model: Decoder,
    embeddings_BTD: Float[Array, "B T D"],
    mask_BT: Bool[Array, "B T"],
    cache: KeyValueCache,
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
        new_BTD = lax.dynamic_slice_in_dim(embeddings_BTD, start, size, axis=1)
        is_new_BT = lax.dynamic_slice_in_dim(mask_BT, start, size, axis=1)
        new_BTD, cache = extend(model, new_BTD, is_new_BT, cache)
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
    model: Decoder, x_BTD: Float[Array, "B T D"], cache: None, span: AttentionSpan
) -> tuple[Float[Array, "B T D"], None]: ...
@overload
def _run_layers(
    model: Decoder, x_BTD: Float[Array, "B T D"], cache: KeyValueCache, span: AttentionSpan
) -> tuple[Float[Array, "B T D"], KeyValueCache]: ...
def _run_layers(
    model: Decoder, x_BTD: Float[Array, "B T D"], cache: KeyValueCache | None, span: AttentionSpan
) -> tuple[Float[Array, "B T D"], KeyValueCache | None]:
    """All layers; and the cache with the new tokens in it, None without one."""
    config = model.config
    angles = rotary_angles(span.position_BT, config.head_width, config.rope)

    past = None
    if isinstance(model.layers, tuple):
        kept = []
        for index, layer in enumerate(model.layers):
            past = None if cache is None else LayerCache(cache.key[index], cache.value[index], None)
            x_BTD, own = _traced_once(layer, x_BTD, past, span, angles, config)
            kept.append(own)
        key, value = zip(*kept, strict=True)
    else:

        def numbered_step(x_BTD, layer_and_number):
            layer, number = layer_and_number
            past = None if cache is None else LayerCache(cache.key, cache.value, number)
            return decoder_layer(layer, x_BTD, past, span, angles, config)

        numbered = model.layers, jnp.arange(config.n_layers, dtype=jnp.int32)
        x_BTD, (key, value) = lax.scan(numbered_step, x_BTD, numbered)
    if cache is None:
        return x_BTD, None
    if writes_first(past, span):
        return x_BTD, KeyValueCache(key, value, length_after(span))
    return x_BTD, add_tokens(cache, key, value, span.is_new_BT)


def decoder_layer(
    layer: DecoderLayer,
    x_BTD: Float[Array, "B T D"],
    past: LayerCache | None,
    span: AttentionSpan,
    angles: Angles,
    config: DecoderConfig,
) -> tuple[Float[Array, "B T D"], tuple[Array, Array]]:
    """One layer for the new tokens; and their keys and values, or the layer's cache if `writes_first`."""
    normed_BTD = rms_norm(layer.attention_norm, x_BTD, config.norm_eps)
    query_BTNH = rotate(_to_heads(layer.query, normed_BTD), angles)
    key_BTKH = rotate(_to_heads(layer.key, normed_BTD), angles)
    value_BTKH = _to_heads(layer.value, normed_BTD)
    own = key_BTKH, value_BTKH
    if writes_first(past, span):
        mixed_BTNH, kept = write_and_attend(query_BTNH, own, past, span)
    else:
        mixed_BTNH, kept = attend(query_BTNH, own, past, span), own
    x_BTD = x_BTD + _from_heads(layer.output, mixed_BTNH)
    normed_BTD = rms_norm(layer.ffn_norm, x_BTD, config.norm_eps)
    inner_BTF = jax.nn.silu(_linear(layer.ffn_gate, normed_BTD)) * _linear(layer.ffn_up, normed_BTD)
    return x_BTD + _linear(layer.ffn_out, inner_BTF), kept


_traced_once = jax.jit(decoder_layer, static_argnames="config")
"""`decoder_layer` for layers that are no stack: they differ in their arrays alone, so one trace serves all."""


def _linear(module: Kernel, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T F"]:
    return add_adapters(module, x_BTD, jnp.einsum("BTD,DF->BTF", x_BTD, module.kernel[...]))


def _to_heads(module: Kernel, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T N H"]:
    return add_adapters(module, x_BTD, jnp.einsum("BTD,DNH->BTNH", x_BTD, module.kernel[...]))


def _from_heads(module: Kernel, x_BTNH: Float[Array, "B T N H"]) -> Float[Array, "B T D"]:
    # joins heads and their widths by hand: einsum would contract them in an order that copies the kernel at every step
    kernel_NHD = module.kernel[...]
    joined_BTM = x_BTNH.reshape(*x_BTNH.shape[:2], -1)
    x_BTD = jnp.einsum("BTM,MD->BTD", joined_BTM, kernel_NHD.reshape(-1, kernel_NHD.shape[-1]))
    return add_adapters(module, x_BTNH, x_BTD)
