"""What adapters add to a linear map: values and gradients against the formula, multiplied out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyntok_jax.models.low_rank import LowRank, add_adapters

RANK = 2


class Map:
    """A linear map with one adapter beside it."""

    def __init__(self, a, b, scale):
        self.kernel, self.adapters = None, (LowRank(a, b, scale),)


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [((2, 3), (5,), (7,)), ((2, 3), (5,), (4, 2)), ((2, 3), (4, 2), (5,)), ((6,), (5,), (1,)), ((2, 1), (1,), (5,))],
)
def test_add_adapters_is_x_a_b_times_scale_with_its_gradients(rows, inputs, outputs):
    keys = jax.random.split(jax.random.key(0), 5)
    x, y = jax.random.normal(keys[0], (*rows, *inputs)), jax.random.normal(keys[1], (*rows, *outputs))
    a, b = jax.random.normal(keys[2], (*inputs, RANK)), jax.random.normal(keys[3], (RANK, *outputs))
    weight, scale = jax.random.normal(keys[4], y.shape), jnp.float32(0.5)

    def ours(x, a, b, scale, y):
        return (weight * add_adapters(Map(a, b, scale), x, y)).sum()

    def multiplied_out(x, a, b, scale, y):
        return (weight * (y + scale * jnp.tensordot(x, jnp.tensordot(a, b, 1), len(inputs)))).sum()

    arguments = (x, a, b, scale, y)
    np.testing.assert_allclose(ours(*arguments), multiplied_out(*arguments), rtol=1e-4)
    found = jax.jit(jax.grad(ours, argnums=range(5)))(*arguments)
    wanted = jax.grad(multiplied_out, argnums=range(5))(*arguments)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
