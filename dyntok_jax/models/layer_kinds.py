"""Layers of two kinds, full and sliding attention: what each attends to, how it turns positions, where its cache is."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from dyntok_jax.models.attention import AttentionSpan
from dyntok_jax.models.config_numbers import LARGEST
from dyntok_jax.models.decoder_config import DecoderConfig
from dyntok_jax.models.kv_cache import ByKind, KeyValueCache, LayerCache, MixedLayerCache
from dyntok_jax.models.rotary import Angles, rotary_angles

Reading = tuple[AttentionSpan, Angles]
"""Who attends to whom in a layer, and the angles that positions are turned by."""


def scaled_embeddings(embeddings_BTD: Float[Array, "B T D"], config: DecoderConfig) -> Float[Array, "B T D"]:
    """Word embeddings as the first layer reads them: Gemma's times the root of the width, rounded to their dtype."""
    if not config.family.scales_embeddings:
        return embeddings_BTD
    return embeddings_BTD * jnp.asarray(config.width**0.5, embeddings_BTD.dtype)


def readings_of(config: DecoderConfig, span: AttentionSpan) -> ByKind:
    """How layers of each kind read tokens, as a `Reading`; the same twice where there is one kind.

    Args:
      config: of the decoder.
      span: positions and lengths; its window is not read.
    """
    position_BT = span.position_BT if span.rotary_BT is None else span.rotary_BT
    full = replace(span, window=None), rotary_angles(position_BT, config.head_width, config.rope)
    if config.sliding_window is None:
        return ByKind(full, full)
    angles = full[1]
    if config.sliding_rope is not None:
        angles = rotary_angles(position_BT, config.head_width, config.sliding_rope)
    return ByKind(full, (replace(span, window=config.sliding_window), angles))


def reading_of_layer(config: DecoderConfig, readings: ByKind, number: int) -> Reading:
    """How one layer reads tokens."""
    return readings.full if config.is_full(number) else readings.sliding


def chosen_reading(readings: ByKind, is_full: Bool[Array, ""]) -> Reading:
    """How a layer reads tokens whose kind is known only when the program runs."""
    (span, full_angles), (sliding_span, sliding_angles) = readings
    window = jnp.where(is_full, jnp.int32(LARGEST), jnp.int32(sliding_span.window))
    return replace(span, window=window), jax.tree.map(partial(jnp.where, is_full), full_angles, sliding_angles)


def chosen_cache(
    cache: KeyValueCache | None, number: Int32[Array, ""], is_full: Bool[Array, ""]
) -> MixedLayerCache | None:
    """The cache of such a layer, the `number`-th of its kind."""
    if cache is None:
        return None
    full, sliding = (LayerCache(key, value, number) for key, value in zip(cache.key, cache.value, strict=True))
    return MixedLayerCache(full, sliding, is_full)


def kinds_of_layers(config: DecoderConfig) -> tuple[Bool[np.ndarray, "layers"], Int32[np.ndarray, "layers"]]:
    """Which layers have full attention, and the number of each among those of its kind."""
    is_full = np.array([config.is_full(number) for number in range(config.n_layers)])
    return is_full, (np.where(is_full, np.cumsum(is_full), np.cumsum(~is_full)) - 1).astype(np.int32)
