"""How tensors of several fine-tunings become one: pure functions of a stack of tensors and their weights.

All have one signature: the stacked tensors, a weight each, the options, and a key that only DARE uses. TIES: Yadav et
al. 2023; DARE: Yu et al. 2024; Task Arithmetic: Ilharco et al. 2023; PCB-Merging: Du et al. 2024; TALL masks: Wang et
al. 2024. The first three follow peft's `merge_utils`, PCB-Merging its authors' code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from dyntok_jax.errors import InputError

Name = Literal["linear", "magnitude", "ties", "dare_linear", "dare_ties", "pcb", "consensus"]
Sign = Literal["total", "frequency"]
Stack = Float[Array, "n *shape"]
Weights = Float[Array, "n"]
PCB_CLIPPED = 1e-4
"""Share of the smallest and of the largest values that PCB-Merging clips."""


@dataclass(frozen=True)
class MergeMethod:
    """How tensors are merged, one by one.

    Attributes:
      name: `linear` (the weighted sum: Task Arithmetic), `magnitude` (of each only the largest values), `ties` (those
        of the majority's sign), `dare_linear` and `dare_ties` (values taken at random and scaled up), `pcb`, or
        `consensus` (the sum where several agree that it matters: TALL masks).
      density: share of each tensor's values that is kept, 0 to 1; all methods use it but `linear` and `consensus`.
      sign: the majority's sign is that of the sum (`total`), or that of most values (`frequency`).
      threshold: λ of TALL masks: a value matters to a task where it is at least λ times what the others add to it.
      agreement: how many tasks a value must matter to.

    >>> MergeMethod("ties", density=0.5).sign
    'total'
    """

    name: Name = "linear"
    density: float = 1.0
    sign: Sign = "total"
    threshold: float = 0.4
    agreement: int = 2

    def __post_init__(self):
        for field, value, known in (("name", self.name, get_args(Name)), ("sign", self.sign, get_args(Sign))):
            if value not in known:
                raise InputError(f"The {field} of a merge method must be one of {', '.join(known)}, got {value!r}.")
        if not 0 <= self.density <= 1:
            raise InputError(f"The density of a merge must be from 0 to 1, got {self.density}.")
        if self.density == 0 and self.name in ("dare_linear", "dare_ties", "pcb"):
            raise InputError(f"{self.name} needs a density above 0: it divides by what is kept.")
        if not self.threshold >= 0 or self.agreement < 1:
            raise InputError(
                f"threshold must be 0 or more and agreement 1 or more, got {self.threshold} and {self.agreement}."
            )


def linear(stack: Stack, weights: Weights, method: MergeMethod, key: Key[Array, ""] | None) -> Float[Array, "*shape"]:
    """The weighted sum."""
    del method, key
    return jnp.tensordot(weights, stack, axes=1)


def magnitude(
    stack: Stack, weights: Weights, method: MergeMethod, key: Key[Array, ""] | None
) -> Float[Array, "*shape"]:
    """The weighted sum of the largest values of each."""
    return linear(_largest(stack, method.density), weights, method, key)


def ties(stack: Stack, weights: Weights, method: MergeMethod, key: Key[Array, ""] | None) -> Float[Array, "*shape"]:
    """Of the largest values of each the weighted mean of those that have the majority's sign."""
    del key
    return _of_majority(_largest(stack, method.density), weights, method)


def dare_linear(
    stack: Stack, weights: Weights, method: MergeMethod, key: Key[Array, ""] | None
) -> Float[Array, "*shape"]:
    """The weighted sum of random values of each, divided by the density."""
    return linear(_random(stack, method.density, key), weights, method, key)


def dare_ties(
    stack: Stack, weights: Weights, method: MergeMethod, key: Key[Array, ""] | None
) -> Float[Array, "*shape"]:
    """The same with TIES' vote on the sign."""
    return _of_majority(_random(stack, method.density, key), weights, method)


def pcb(stack: Stack, weights: Weights, method: MergeMethod, key: Key[Array, ""] | None) -> Float[Array, "*shape"]:
    """A mean in which values count by how large they are in their tensor, and how much the others go their way."""
    del key
    flat_ND = stack.reshape(len(stack), -1)
    size_ND = _clipped(jnp.abs(flat_ND), PCB_CLIPPED, PCB_CLIPPED)
    own_ND = jnp.exp(len(stack) * jnp.square(_normalized(size_ND)))
    shared_ND = jnp.tanh(flat_ND * flat_ND.sum(axis=0, keepdims=True))
    score_ND = _normalized(_clipped(own_ND * shared_ND, 1 - method.density, 0.0))
    weighted_ND = weights[:, None] * jnp.sign(flat_ND) * size_ND
    merged_D = (weighted_ND * score_ND).sum(axis=0) / jnp.maximum(score_ND.sum(axis=0), 1e-12)
    return merged_D.reshape(stack.shape[1:])


def consensus(
    stack: Stack, weights: Weights, method: MergeMethod, key: Key[Array, ""] | None
) -> Float[Array, "*shape"]:
    """The weighted sum where it matters to at least `agreement` tensors, and 0 elsewhere."""
    weighted = stack * weights.reshape(-1, *[1] * (stack.ndim - 1))
    total = linear(stack, weights, method, key)
    matters = jnp.abs(weighted) >= method.threshold * jnp.abs(total[None] - weighted)
    return jnp.where(matters.sum(axis=0) >= method.agreement, total, 0)


METHODS: dict[str, Callable[[Stack, Weights, MergeMethod, Key[Array, ""] | None], Array]] = {
    function.__name__: function for function in (linear, magnitude, ties, dare_linear, dare_ties, pcb, consensus)
}


def _largest(stack: Stack, density: float) -> Stack:
    """Keeps the largest values of each tensor, as many as the density says, rounded down."""
    flat_ND = stack.reshape(len(stack), -1)
    count = int(density * flat_ND.shape[1])
    kept_NK = jax.lax.top_k(jnp.abs(flat_ND), count)[1]
    is_kept_ND = jnp.zeros(flat_ND.shape, bool).at[jnp.arange(len(stack))[:, None], kept_NK].set(True)
    return jnp.where(is_kept_ND, flat_ND, 0).reshape(stack.shape)


def _random(stack: Stack, density: float, key: Key[Array, ""] | None) -> Stack:
    if key is None:
        raise InputError("DARE drops values at random: give it a key, such as jax.random.key(0).")
    is_kept: Bool[Array, "n *shape"] = jax.random.bernoulli(key, density, stack.shape)
    return jnp.where(is_kept, stack / density, 0)


def _of_majority(stack: Stack, weights: Weights, method: MergeMethod) -> Float[Array, "*shape"]:
    vote = (stack if method.sign == "total" else jnp.sign(stack)).sum(axis=0)
    has_sign = jnp.sign(stack) == jnp.where(vote >= 0, 1.0, -1.0).astype(stack.dtype)[None]
    weighted = stack * weights.reshape(-1, *[1] * (stack.ndim - 1))
    return jnp.where(has_sign, weighted, 0).sum(axis=0) / jnp.maximum(has_sign.sum(axis=0), 1).astype(stack.dtype)


def _normalized(x_ND: Float[Array, "n D"]) -> Float[Array, "n D"]:
    low_N1, high_N1 = x_ND.min(axis=1, keepdims=True), x_ND.max(axis=1, keepdims=True)
    return (x_ND - low_N1) / jnp.maximum(high_N1 - low_N1, 1e-12)


def _clipped(x_ND: Float[Array, "n D"], low: float, high: float) -> Float[Array, "n D"]:
    """Clips each row to all but its `low` share of smallest and `high` share of largest values."""
    width, sorted_ND = x_ND.shape[1], jnp.sort(x_ND, axis=1)
    first, last = min(int(width * low), width - 1), max(int(width * (1 - high) - 1), 0)
    return jnp.clip(x_ND, sorted_ND[:, first, None], sorted_ND[:, last, None])
