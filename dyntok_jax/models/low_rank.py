"""Low-rank maps beside kernels: what an adapter adds to a linear map, without ever multiplying it out."""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
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
        n_inputs, rank = low_rank.a.ndim - 1, low_rank.a.shape[-1]
        x_ND = x.reshape(math.prod(x.shape[: x.ndim - n_inputs]), -1)
        # the scale is put on the few numbers of the rank, not on the many outputs
        inner_NR = _product(x_ND, low_rank.a.reshape(-1, rank)) * low_rank.scale
        y = y + _product(inner_NR, low_rank.b.reshape(rank, -1)).reshape(y.shape)
    return y


@jax.custom_vjp
def _product(x_NI: Float[Array, "N I"], w_IO: Float[Array, "I O"]) -> Float[Array, "N O"]:
    """The product x · w, where I or O is a rank: its gradient transposes the smaller of two arrays, not the larger.

    JAX's own gradient, (dyᵀ · x)ᵀ, makes XLA copy dy transposed on a CPU: a third of a step of training.
    The price: reverse mode (`jax.grad`) alone, no `jax.jvp`.
    """
    return x_NI @ w_IO


def _forward(x_NI: Array, w_IO: Array) -> tuple[Array, tuple[Array, Array]]:
    return x_NI @ w_IO, (x_NI, w_IO)


def _backward(saved: tuple[Array, Array], dy_NO: Array) -> tuple[Array, Array]:
    x_NI, w_IO = saved
    is_inner = w_IO.shape[0] <= w_IO.shape[1]  # I is the smaller side, the rank
    return dy_NO @ w_IO.T, x_NI.T @ dy_NO if is_inner else (dy_NO.T @ x_NI).T


_product.defvjp(_forward, _backward)
