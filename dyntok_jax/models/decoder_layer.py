"""One layer of a decoder: its parameters, and how it reads tokens.

Pre-norm layers of grouped-query attention with rotary positions and a gated feed-forward (Shazeer 2020), with what the
families add to them (see `Family`).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from dyntok_jax.models.attention import AttentionSpan, attend_and_keep
from dyntok_jax.models.decoder_config import DecoderConfig
from dyntok_jax.models.kv_cache import LayerCache, MixedLayerCache
from dyntok_jax.models.layers import ACTIVATIONS, Dense, normal_param
from dyntok_jax.models.low_rank import LowRank, add_adapters
from dyntok_jax.models.rotary import Angles, rotate


class Kernel(nnx.Module):
    """A linear map without bias; `inputs` and `outputs` may each be several axes (heads stay apart)."""

    adapters: tuple[LowRank, ...] = ()

    def __init__(self, key: Key[Array, ""], inputs: tuple[int, ...], outputs: tuple[int, ...], dtype: DTypeLike):
        self.kernel = normal_param(key, (*inputs, *outputs), dtype)


class RmsNorm(nnx.Module):
    """Scale of a normalisation over the last axis; with `adds_one`, less 1."""

    def __init__(self, width: int, dtype: DTypeLike, *, adds_one: bool):
        self.adds_one = adds_one
        self.scale = nnx.Param((jnp.zeros if adds_one else jnp.ones)((width,), dtype))


class DecoderLayer(nnx.Module):
    """Parameters of one layer; those in the lower half only where the family has them."""

    def __init__(self, key: Key[Array, ""], config: DecoderConfig, dtype: DTypeLike):
        keys, family = jax.random.split(key, 7), config.family
        width, heads = (config.width,), (config.n_heads, config.head_width)
        kv_heads, ffn = (config.n_kv_heads, config.head_width), (config.ffn_width,)
        to_heads = Dense if family.has_qkv_bias else Kernel

        def norm(width: int) -> RmsNorm:
            return RmsNorm(width, dtype, adds_one=family.norm_adds_one)

        self.attention_norm = norm(config.width)
        self.query = to_heads(keys[0], width, heads, dtype)
        self.key = to_heads(keys[1], width, kv_heads, dtype)
        self.value = to_heads(keys[2], width, kv_heads, dtype)
        self.output = Kernel(keys[3], heads, width, dtype)
        self.ffn_norm = norm(config.width)
        self.ffn_gate = Kernel(keys[4], width, ffn, dtype)
        self.ffn_up = Kernel(keys[5], width, ffn, dtype)
        self.ffn_out = Kernel(keys[6], ffn, width, dtype)
        if family.has_head_norms:
            self.query_norm, self.key_norm = norm(config.head_width), norm(config.head_width)
        if family.has_post_norms:
            self.attention_post_norm, self.ffn_post_norm = norm(config.width), norm(config.width)


def rms_norm(module: RmsNorm, x: Float[Array, "*rows D"], eps: float) -> Float[Array, "*rows D"]:
    """Divides x by its root mean square, times the scale (Zhang & Sennrich 2019, eq. 4).

    All in float32, but the product with the scale in the dtype of x; with `adds_one` that too is in float32.
    """
    wide = x.astype(jnp.float32)
    normed = wide * lax.rsqrt(jnp.square(wide).mean(axis=-1, keepdims=True) + eps)
    scale = jnp.expand_dims(module.scale[...], tuple(range(x.ndim - 1)))
    if module.adds_one:
        return (normed * (1 + scale.astype(jnp.float32))).astype(x.dtype)
    return normed.astype(x.dtype) * scale


def decoder_layer(
    layer: DecoderLayer,
    x_BTD: Float[Array, "B T D"],
    past: LayerCache | MixedLayerCache | None,
    span: AttentionSpan,
    angles: Angles,
    config: DecoderConfig,
) -> tuple[Float[Array, "B T D"], tuple[Array, Array]]:
    """One layer for the new tokens; and what `attend_and_keep` keeps of them."""
    family, eps = config.family, config.norm_eps
    normed_BTD = rms_norm(layer.attention_norm, x_BTD, eps)
    query_BTNH, key_BTKH, value_BTKH = (_to_heads(one, normed_BTD) for one in (layer.query, layer.key, layer.value))
    if family.has_head_norms:
        query_BTNH = rms_norm(layer.query_norm, query_BTNH, eps)
        key_BTKH = rms_norm(layer.key_norm, key_BTKH, eps)
    scale = jnp.asarray((config.query_scalar or config.head_width) ** -0.5, query_BTNH.dtype)
    own = rotate(key_BTKH, angles), value_BTKH
    mixed_BTNH, kept = attend_and_keep(rotate(query_BTNH, angles) * scale, own, past, span)
    attended_BTD = _from_heads(layer.output, mixed_BTNH)
    if family.has_post_norms:
        attended_BTD = rms_norm(layer.attention_post_norm, attended_BTD, eps)
    x_BTD = x_BTD + attended_BTD
    normed_BTD = rms_norm(layer.ffn_norm, x_BTD, eps)
    gate_BTF = ACTIVATIONS[family.activation](_linear(layer.ffn_gate, normed_BTD))
    ffn_BTD = _linear(layer.ffn_out, gate_BTF * _linear(layer.ffn_up, normed_BTD))
    if family.has_post_norms:
        ffn_BTD = rms_norm(layer.ffn_post_norm, ffn_BTD, eps)
    return x_BTD + ffn_BTD, kept


def _linear(module: Kernel, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T F"]:
    return add_adapters(module, x_BTD, jnp.einsum("BTD,DF->BTF", x_BTD, module.kernel[...]))


def _to_heads(module: Kernel | Dense, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T N H"]:
    mapped_BTNH = jnp.einsum("BTD,DNH->BTNH", x_BTD, module.kernel[...])
    if isinstance(module, Dense):
        mapped_BTNH = mapped_BTNH + module.bias[...][None, None]
    return add_adapters(module, x_BTD, mapped_BTNH)


def _from_heads(module: Kernel, x_BTNH: Float[Array, "B T N H"]) -> Float[Array, "B T D"]:
    # joins heads and their widths by hand: einsum would contract them in an order that copies the kernel at every step
    kernel_NHD = module.kernel[...]
    joined_BTM = x_BTNH.reshape(*x_BTNH.shape[:2], -1)
    x_BTD = jnp.einsum("BTM,MD->BTD", joined_BTM, kernel_NHD.reshape(-1, kernel_NHD.shape[-1]))
    return add_adapters(module, x_BTNH, x_BTD)
