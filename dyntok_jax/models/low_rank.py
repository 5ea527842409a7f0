"""Low-rank maps beside kernels: what an adapter adds to a linear map, without ever multiplying it out."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowRank:
    """Adds (x · a · b) · scale to a linear map (Hu et al. 2022, *LoRA*, eq. 3). Stacked layers add a leading axis.

    Attributes:
      a: [inputs…, R], from the inputs of the kernel, which may be several axes, to rank R.
      b: [R, outputs…], from there to its outputs.
      scale: a number.

    >>> LowRank(jnp.ones((4, 2)), jnp.ones((2, 3, 5)), jnp.ones(())).b.shape
    (2, 3, 5)
    """

    a: Any
    b: Any
    scale: Any


@runtime_checkable
class LinearMap(Protocol):
    """A module with a kernel, and maps beside it: none unless an adapter has been applied."""

    kernel: nnx.Param
    adapters: tuple[LowRank, ...]


def add_adapters(module: LinearMap, x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, "..."]:
    """The result `y` of a linear map of `x`, plus what the adapters beside the map add to it."""
    for low_rank in module.adapters:
        n_rows = x.ndim - (low_rank.a.ndim - 1)
        rank = low_rank.a.shape[-1]
        x_RM = x.reshape(*x.shape[:n_rows], -1)
        added = jnp.matmul(jnp.matmul(x_RM, low_rank.a.reshape(-1, rank)), low_rank.b.reshape(rank, -1))
        y = y + (added * low_rank.scale).reshape(y.shape)
    return y
