"""Rotary positions (Su et al. 2021, *RoFormer*), in the half-split layout of Hugging Face's decoders."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int32

from dyntok_jax.models.rotary_config import LinearScaling, Llama3Scaling, Rope, YarnScaling

Angles = tuple[Float32[Array, "B T R"], Float32[Array, "B T R"]]
"""Cosine and sine of R pairs of each token's numbers."""


def rotary_frequencies(head_width: int, rope: Rope) -> Float32[np.ndarray, "R"]:
    """Radians a position, for each of the R pairs of a head's numbers that are turned: θ^(−2i/2R), scaled.

    >>> rotary_frequencies(4, Rope(theta=100.0)).round(3).tolist()
    [1.0, 0.10000000149011612]
    """
    turned = rope.turned(head_width)
    frequency = 1.0 / rope.theta ** (np.arange(0, turned, 2) / turned)
    match rope.scaling:
        case LinearScaling(factor):
            frequency = frequency / factor
        case Llama3Scaling() as scaling:
            frequency = _llama3(frequency, scaling)
        case YarnScaling() as scaling:
            frequency = _yarn(frequency, rope.theta, scaling)
    return frequency.astype(np.float32)


def _llama3(frequency: Float64[np.ndarray, "R"], scaling: Llama3Scaling) -> Float64[np.ndarray, "R"]:
    """Slowed by the factor below the low number of waves, kept above the high one, mixed linearly in between.

    The formula is that of the code that Llama 3 was released with.
    """
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    waves = scaling.original_max_position_embeddings * frequency / (2 * math.pi)  # that fit into the pre-training
    kept = np.clip((waves - low) / (high - low), 0, 1)
    return kept * frequency + (1 - kept) * frequency / scaling.factor


def _yarn(frequency: Float64[np.ndarray, "R"], theta: float, scaling: YarnScaling) -> Float64[np.ndarray, "R"]:
    """Peng et al. 2023, eq. 23: kept, then a ramp over the pairs, then slowed by the factor."""
    turned = 2 * len(frequency)

    def pair_that_turns(times: float) -> float:
        waves = scaling.original_max_position_embeddings / (times * 2 * math.pi)
        return turned * math.log(waves) / (2 * math.log(theta))

    low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, turned - 1)
    high += 0.001 if low == high else 0  # as in transformers: no division by zero
    slowed = np.clip((np.arange(len(frequency)) - low) / (high - low), 0, 1)
    return (1 - slowed) * frequency + slowed * frequency / scaling.factor


def attention_factor(rope: Rope) -> float:
    """What turned queries and keys are multiplied by: YaRN's temperature (Peng et al. 2023, eq. 25), otherwise 1.

    >>> attention_factor(Rope()), round(attention_factor(Rope(scaling=YarnScaling(4.0, 32768))), 4)
    (1.0, 1.1386)
    """
    scaling = rope.scaling
    if not isinstance(scaling, YarnScaling):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor

    def root(mscale: float) -> float:
        return 0.1 * mscale * math.log(scaling.factor) + 1

    return (
        root(scaling.mscale) / root(scaling.mscale_all_dim) if scaling.mscale and scaling.mscale_all_dim else root(1.0)
    )


def rotary_angles(position_BT: Int32[Array, "B T"], head_width: int, rope: Rope) -> Angles:
    """Cosine and sine of every position and pair, times the attention factor; the same for all layers of a kind."""
    frequency = jnp.asarray(rotary_frequencies(head_width, rope))
    angle = position_BT.astype(jnp.float32)[..., None] * frequency[None, None]
    cosine, sine, factor = jnp.cos(angle), jnp.sin(angle), attention_factor(rope)
    return (cosine, sine) if factor == 1 else (cosine * factor, sine * factor)


def rotate(x_BTNH: Float[Array, "B T N H"], angles: Angles) -> Float[Array, "B T N H"]:
    """Turns the first R pairs of each head (number i with number i + R) by the angles of its position, in float32."""
    cosine, sine = (angle[:, :, None, :] for angle in angles)
    pairs = cosine.shape[-1]
    first, second = (x_BTNH[..., at : at + pairs].astype(jnp.float32) for at in (0, pairs))
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    turned = turned.astype(x_BTNH.dtype)
    return jnp.concatenate([turned, x_BTNH[..., 2 * pairs :]], axis=-1) if 2 * pairs < x_BTNH.shape[-1] else turned
