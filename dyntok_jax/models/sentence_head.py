"""From hidden states to a sentence embedding: pooling, dense layers, length 1, as sentence-transformers chains them."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from dyntok_jax.errors import InputError
from dyntok_jax.models.heads import l2_normalize, mean_pool
from dyntok_jax.types import AnyArray

DENSE_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "Identity": lambda x: x,
    "Tanh": jnp.tanh,
    "ReLU": jax.nn.relu,
    "GELU": lambda x: jax.nn.gelu(x, approximate=False),
    "SiLU": jax.nn.silu,
    "Sigmoid": jax.nn.sigmoid,
}
"""PyTorch's names of the activations that a dense layer may have."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SentenceDense:
    """A dense layer on a sentence embedding.

    Attributes:
      kernel_DE: from width D to width E.
      bias_E: added before the activation; None for none.
      activation: a key of `DENSE_ACTIVATIONS`.

    >>> SentenceDense(jnp.ones((2, 3)), None, activation="Tanh").kernel_DE.shape
    (2, 3)
    """

    kernel_DE: Float32[AnyArray, "D E"]
    bias_E: Float32[AnyArray, "E"] | None
    activation: str = field(default="Identity", metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SentenceHead:
    """What is done to hidden states to make a sentence embedding, in this order.

    Attributes:
      poolings: how tokens become one row (see `options.Pooling`); the rows of several are laid end to end.
      dense: layers that follow.
      dim: keep only so many leading dimensions; None for all.
      normalize: scale the result to length 1.

    >>> SentenceHead(poolings=("first", "mean")).width(32)
    64
    """

    poolings: tuple[str, ...] = field(default=("mean",), metadata={"static": True})
    dense: tuple[SentenceDense, ...] = ()
    dim: int | None = field(default=None, metadata={"static": True})
    normalize: bool = field(default=True, metadata={"static": True})

    def width(self, model_width: int) -> int:
        """The width of the embeddings of a model of this width."""
        full = self.dense[-1].kernel_DE.shape[1] if self.dense else len(self.poolings) * model_width
        return full if self.dim is None else min(full, self.dim)


def embed_sentences(
    head: SentenceHead, hidden_BTD: Float[Array, "B T D"], mask_BT: Bool[Array, "B T"]
) -> Float32[Array, "B E"]:
    """One embedding a row of hidden states, in float32 whatever their dtype.

    >>> hidden_BTD, mask_BT = jnp.array([[[1.0, 2.0], [3.0, 0.0], [9.0, 9.0]]]), jnp.array([[True, True, False]])
    >>> embed_sentences(SentenceHead(("first", "max"), normalize=False), hidden_BTD, mask_BT)
    Array([[1., 2., 3., 2.]], dtype=float32)
    """
    x_BE = jnp.concatenate([_pool(pooling, hidden_BTD, mask_BT) for pooling in head.poolings], axis=1)
    for layer in head.dense:
        x_BE = jnp.einsum("BD,DE->BE", x_BE, jnp.asarray(layer.kernel_DE))
        if layer.bias_E is not None:
            x_BE = x_BE + jnp.asarray(layer.bias_E)[None]
        x_BE = DENSE_ACTIVATIONS[layer.activation](x_BE)
    x_BE = x_BE[:, : head.dim]
    return l2_normalize(x_BE) if head.normalize else x_BE


def _pool(pooling: str, hidden_BTD: Float[Array, "B T D"], mask_BT: Bool[Array, "B T"]) -> Float32[Array, "B D"]:
    """Padding is on the right; a row that is all padding gives zeros, but for its `first`."""
    hidden_BTD = hidden_BTD.astype(jnp.float32)
    count_B = mask_BT.sum(axis=1, dtype=jnp.int32)
    match pooling:
        case "mean":
            return mean_pool(hidden_BTD, mask_BT)
        case "mean_sqrt":
            return mean_pool(hidden_BTD, mask_BT) * jnp.sqrt(count_B.astype(jnp.float32))[:, None]
        case "weighted_mean":
            weight_BT = jnp.where(mask_BT, jnp.arange(1, mask_BT.shape[1] + 1, dtype=jnp.float32)[None], 0)
            sum_BD = jnp.einsum("BTD,BT->BD", hidden_BTD, weight_BT)
            return sum_BD / jnp.maximum(weight_BT.sum(axis=1), 1)[:, None]
        case "max":
            largest_BD = hidden_BTD.max(axis=1, where=mask_BT[:, :, None], initial=-jnp.inf)
            return jnp.where((count_B > 0)[:, None], largest_BD, 0)
        case "first":
            return hidden_BTD[:, 0]
        case "last":
            last_BD = jnp.take_along_axis(hidden_BTD, jnp.maximum(count_B - 1, 0)[:, None, None], axis=1)[:, 0]
            return jnp.where((count_B > 0)[:, None], last_BD, 0)
        case _:
            raise InputError(f"There is no pooling {pooling!r}: take one of `options.Pooling`.")
