"""Rotary positions turn pairs by their angles, and nothing else."""

import jax.numpy as jnp
import numpy as np
import pytest

from dyntok_jax.errors import ConfigError
from dyntok_jax.models import LinearScaling, Rope, YarnScaling
from dyntok_jax.models.rotary import rotary_angles, rotary_frequencies, rotate

POSITIONS = jnp.array([[0, 3, 7]])


def turned(x_BTNH, rope):
    return rotate(x_BTNH, rotary_angles(POSITIONS, x_BTNH.shape[-1], rope))


def test_scores_depend_on_the_distance_alone():
    rng = np.random.default_rng(0)
    query, key = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))
    scores = []
    for first in (0, 5):
        at = [rotary_angles(jnp.array([[first + distance]]), 8, Rope()) for distance in (0, 4)]
        scores.append(float((rotate(query, at[1]) * rotate(key, at[0])).sum()))
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_a_share_leaves_the_rest_of_each_head_as_it_is():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 2, 8)), jnp.float32)
    half = turned(x, Rope(share=0.5))
    np.testing.assert_array_equal(half[..., 4:], x[..., 4:])
    np.testing.assert_array_equal(half[..., :4], turned(x[..., :4], Rope()))


def test_linear_scaling_is_positions_divided():
    plain = rotary_frequencies(8, Rope())
    np.testing.assert_allclose(rotary_frequencies(8, Rope(scaling=LinearScaling(4.0))), plain / 4, rtol=1e-7)


def test_the_attention_factor_scales_what_is_turned():
    x = jnp.ones((1, 3, 1, 8))
    scaled = turned(x, Rope(scaling=YarnScaling(4.0, 64, attention_factor=2.0)))
    plain = turned(x, Rope(scaling=YarnScaling(4.0, 64, attention_factor=1.0)))
    np.testing.assert_allclose(scaled, 2 * plain, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rope(theta=0.0), "rope_theta is 0.0"),
        (lambda: Rope(theta=1.0, scaling=YarnScaling(4.0, 64)), "with yarn it must be more than 1"),
        (lambda: Rope(share=0.0), "partial_rotary_factor is 0.0"),
        (lambda: LinearScaling(0.5), "factor of the rope scaling is 0.5"),
        (lambda: YarnScaling(4.0, 64, attention_factor=-1.0), "attention_factor"),
        (lambda: Rope().turned(7), "odd"),
        (lambda: Rope(share=0.1).turned(8), "of which 0 are turned"),
    ],
)
def test_impossible_positions_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
