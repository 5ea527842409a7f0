"""Rotary positions (Su et al. 2021, *RoFormer*), in the half-split layout of Llama and Mistral."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from dyntok_jax.models.decoder_config import RopeScaling


def rotary_frequencies(head_width: int, theta: float, scaling: RopeScaling | None) -> Float32[np.ndarray, "H_half"]:
    """Radians a position, for each pair of a head's numbers: θ^(−2i/H), scaled by `scaling`.

    Llama-3's scaling (Grattafiori et al. 2024; formula from the released code): a wave longer than the pre-training
    context ÷ low factor is slowed by `factor`, one shorter than the context ÷ high factor is kept, and in between the
    two are mixed linearly in context ÷ wavelength.
    """
    frequency = 1.0 / theta ** (np.arange(0, head_width, 2) / head_width)
    if scaling is None:
        return frequency.astype(np.float32)
    slowed = frequency / scaling.factor
    if scaling.kind == "linear":
        return slowed.astype(np.float32)
    waves = scaling.original_positions * frequency / (2 * math.pi)  # how many fit into the pre-training context
    kept = (waves - scaling.low_frequency_factor) / (scaling.high_frequency_factor - scaling.low_frequency_factor)
    kept = np.clip(kept, 0, 1)
    return (kept * frequency + (1 - kept) * slowed).astype(np.float32)


def rotary_angles(
    position_BT: Int32[Array, "B T"], frequency: Float32[np.ndarray, "H_half"]
) -> tuple[Float32[Array, "B T H_half"], Float32[Array, "B T H_half"]]:
    """Cosine and sine of every position and pair, once for all layers."""
    angle = position_BT.astype(jnp.float32)[..., None] * jnp.asarray(frequency)[None, None]
    return jnp.cos(angle), jnp.sin(angle)


def rotate(
    x_BTNH: Float[Array, "B T N H"],
    angles: tuple[Float32[Array, "B T H_half"], Float32[Array, "B T H_half"]],
) -> Float[Array, "B T N H"]:
    """Turns each head's pairs (number i with number i + H/2) by the angles of its position, in float32."""
    cosine, sine = (angle[:, :, None, :] for angle in angles)
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.astype(x_BTNH.dtype)
