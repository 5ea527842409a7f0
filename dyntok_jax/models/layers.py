"""What models and the hypernetwork share: word tables, dense maps, LayerNorm, masked attention, the post-norm layer.

Modules here only hold parameters; functions compute with them. A dense kernel is stored [in, out] (attention
kernels keep heads as their own axis), so every contraction reads as an einsum.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from dyntok_jax.models.low_rank import LowRank, add_adapters

INIT_STD = 0.02
"""Standard deviation of fresh kernels and embeddings: BERT's and RoBERTa's `initializer_range`."""

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
}
"""Hugging Face's `hidden_act` names that we support."""


@runtime_checkable
class HasWordTable(Protocol):
    """An encoder or a decoder."""

    word_embeddings: nnx.Param


def embed_ids(model: HasWordTable, ids_BT: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """The source rows of tokens that are subwords of the model's own vocabulary; zeros for ids past the table.

    >>> embed_ids(encoder.encoder, jnp.array([[0, 5, 2]])).shape
    (1, 3, 32)
    """
    return model.word_embeddings[...].at[ids_BT].get(mode="fill", fill_value=0)


def normal_param(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> nnx.Param:
    """A parameter drawn from N(0, `INIT_STD`²).

    >>> normal_param(jax.random.key(0), (2, 3), jnp.float32).shape
    (2, 3)
    """
    return nnx.Param(INIT_STD * jax.random.normal(key, shape, dtype))


class Dense(nnx.Module):
    """y = x · kernel + bias; `inputs` and `outputs` may each be several axes (heads stay apart).

    >>> Dense(jax.random.key(0), (4,), (2, 3), jnp.float32).kernel.shape
    (4, 2, 3)
    """

    adapters: tuple[LowRank, ...] = ()

    def __init__(self, key: Key[Array, ""], inputs: tuple[int, ...], outputs: tuple[int, ...], dtype: DTypeLike):
        self.kernel = normal_param(key, (*inputs, *outputs), dtype)
        self.bias = nnx.Param(jnp.zeros(outputs, dtype))


class LayerNorm(nnx.Module):
    """Scale and bias of a normalisation over the last axis.

    >>> LayerNorm(8, jnp.float32).scale.shape
    (8,)
    """

    def __init__(self, width: int, dtype: DTypeLike):
        self.scale = nnx.Param(jnp.ones((width,), dtype))
        self.bias = nnx.Param(jnp.zeros((width,), dtype))


class PostNormLayer(nnx.Module):
    """One layer of BERT and RoBERTa: attention, add, norm, feed-forward, add, norm (Vaswani et al. 2017, §3.1)."""

    def __init__(self, key: Key[Array, ""], width: int, heads: int, ffn_width: int, dtype: DTypeLike):
        keys = jax.random.split(key, 6)
        per_head = (heads, width // heads)
        self.query = Dense(keys[0], (width,), per_head, dtype)
        self.key = Dense(keys[1], (width,), per_head, dtype)
        self.value = Dense(keys[2], (width,), per_head, dtype)
        self.output = Dense(keys[3], per_head, (width,), dtype)
        self.attention_norm = LayerNorm(width, dtype)
        self.ffn_in = Dense(keys[4], (width,), (ffn_width,), dtype)
        self.ffn_out = Dense(keys[5], (ffn_width,), (width,), dtype)
        self.ffn_norm = LayerNorm(width, dtype)


def stacked_layers(
    key: Key[Array, ""], count: int, width: int, heads: int, ffn_width: int, dtype: DTypeLike
) -> PostNormLayer:
    """`count` layers in one module: every parameter has a leading layer axis, ready for `jax.lax.scan`.

    >>> layers = stacked_layers(jax.random.key(0), 3, width=8, heads=2, ffn_width=16, dtype=jnp.float32)
    >>> layers.query.kernel.shape  # layers, D, N, H
    (3, 8, 2, 4)
    """
    return jax.vmap(lambda one: PostNormLayer(one, width, heads, ffn_width, dtype))(jax.random.split(key, count))


def dense(module: Dense, x: Float[Array, "*rows D"]) -> Float[Array, "*rows F"]:
    """A linear map of the last axis.

    >>> dense(Dense(jax.random.key(0), (4,), (3,), jnp.float32), jnp.ones((2, 4))).shape
    (2, 3)
    """
    bias = module.bias[...]
    y = jnp.matmul(x, module.kernel[...]) + jnp.expand_dims(bias, tuple(range(x.ndim - 1)))
    return add_adapters(module, x, y)


def layer_norm(module: LayerNorm, x: Float[Array, "*rows D"], eps: float) -> Float[Array, "*rows D"]:
    """LayerNorm over the last axis (Ba et al. 2016, eq. 4), in float32 whatever the dtype of `x`.

    >>> layer_norm(LayerNorm(2, jnp.float32), jnp.array([1.0, 3.0]), eps=1e-6).round(3)
    Array([-1.,  1.], dtype=float32)
    """
    leading = tuple(range(x.ndim - 1))
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    normed = (centred * jax.lax.rsqrt(variance + eps)).astype(x.dtype)
    return normed * jnp.expand_dims(module.scale[...], leading) + jnp.expand_dims(module.bias[...], leading)


def masked_attention(
    query_BTNH: Float[Array, "B T N H"],
    key_BSNH: Float[Array, "B S N H"],
    value_BSNH: Float[Array, "B S N H"],
    mask_BS: Bool[Array, "B S"],
) -> Float[Array, "B T N H"]:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1) that sees only positions under a True mask.

    Where a whole row of the mask is False, every position has the same weight: a finite value that is not used.
    """
    scale = query_BTNH.shape[-1] ** -0.5
    scores_BNTS = jnp.einsum("BTNH,BSNH->BNTS", query_BTNH * scale, key_BSNH).astype(jnp.float32)
    scores_BNTS = jnp.where(mask_BS[:, None, None, :], scores_BNTS, jnp.finfo(jnp.float32).min)
    weight_BNTS = jnp.exp(scores_BNTS - jax.lax.stop_gradient(scores_BNTS.max(axis=-1, keepdims=True)))
    total_BNT1 = weight_BNTS.sum(axis=-1, keepdims=True)
    # Dividing the H sums instead of the S weights saves one pass over the largest array.
    mixed_BNTH = jnp.einsum("BNTS,BSNH->BNTH", weight_BNTS.astype(value_BSNH.dtype), value_BSNH)
    return (mixed_BNTH / total_BNT1.astype(mixed_BNTH.dtype)).transpose(0, 2, 1, 3)


def post_norm_layer(
    layer: PostNormLayer,
    x_BTD: Float[Array, "B T D"],
    context_BSD: Float[Array, "B S D"],
    mask_BS: Bool[Array, "B S"],
    *,
    eps: float,
    activation: str,
) -> Float[Array, "B T D"]:
    """Runs one layer for the positions `x_BTD`, which attend to `context_BSD` (self-attention: the same array).

    >>> layers = stacked_layers(jax.random.key(0), 1, width=8, heads=2, ffn_width=16, dtype=jnp.float32)
    >>> layer, x_BTD = jax.tree.map(lambda stack: stack[0], layers), jnp.ones((1, 3, 8))
    >>> post_norm_layer(layer, x_BTD, x_BTD, jnp.ones((1, 3), bool), eps=1e-5, activation="gelu").shape
    (1, 3, 8)
    """

    def heads(module: Dense, rows: Array) -> Array:
        mapped = jnp.einsum("BSD,DNH->BSNH", rows, module.kernel[...]) + module.bias[...][None, None]
        return add_adapters(module, rows, mapped)

    query, key, value = heads(layer.query, x_BTD), heads(layer.key, context_BSD), heads(layer.value, context_BSD)
    mixed_BTNH = masked_attention(query, key, value, mask_BS)
    attended_BTD = jnp.einsum("BTNH,NHD->BTD", mixed_BTNH, layer.output.kernel[...])
    attended_BTD = add_adapters(layer.output, mixed_BTNH, attended_BTD + layer.output.bias[...][None, None])
    x_BTD = layer_norm(layer.attention_norm, x_BTD + attended_BTD, eps)
    ffn_BTF = ACTIVATIONS[activation](dense(layer.ffn_in, x_BTD))
    return layer_norm(layer.ffn_norm, x_BTD + dense(layer.ffn_out, ffn_BTF), eps)
