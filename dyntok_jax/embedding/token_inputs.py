"""What a model reads in place of ids: each token's source row, or a new row."""

from dataclasses import dataclass
from typing import Generic

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Float32, Int32

from dyntok_jax.sharding import shard_batch
from dyntok_jax.types import ArrayT


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TokenInputs(Generic[ArrayT]):
    """A padded batch of tokens for a model.

    Attributes:
      ids_BT: row of the model's table, for tokens that keep their source row.
      row_BT: index in `rows_RD` of new tokens, -1 for the others; None where there are none.
      rows_RD: rows of new tokens, then zeros; None where `row_BT` is.
      mask_BT: False for padding, on the right.
      step_BT: subwords of each token, where the model's positions count subwords; None where they count tokens.

    >>> inputs = encoder.embedder.inputs(tokens, np.zeros(3, np.int32), n_batch=4, length=12)
    >>> inputs.mask_BT.sum(axis=1), inputs.row_BT[0, :6] >= 0  # `<s>| Freiheit| und| Gleichhe|it|</s>`
    (array([6, 9, 3, 0]), array([False, False, False,  True,  True, False]))
    """

    ids_BT: Int32[ArrayT, "B T"]
    row_BT: Int32[ArrayT, "B T"] | None
    rows_RD: Float32[ArrayT, "R D"] | None
    mask_BT: Bool[ArrayT, "B T"]
    step_BT: Int32[ArrayT, "B T"] | None = None

    def shard(self, mesh: Mesh | None) -> "TokenInputs":
        """Shards the batch over the mesh axis `data` and replicates the rows; without a mesh nothing changes."""
        if mesh is None:
            return self
        rows_RD = self.rows_RD
        if rows_RD is not None:
            rows_RD = jax.device_put(rows_RD, NamedSharding(mesh, PartitionSpec()))
        return TokenInputs(
            ids_BT=shard_batch(self.ids_BT, mesh),
            row_BT=None if self.row_BT is None else shard_batch(self.row_BT, mesh),
            rows_RD=rows_RD,
            mask_BT=shard_batch(self.mask_BT, mesh),
            step_BT=None if self.step_BT is None else shard_batch(self.step_BT, mesh),
        )


def embed_tokens(source_VD: Float[Array, "V D"], inputs: TokenInputs) -> Float[Array, "B T D"]:
    """Source rows or new ones, in the dtype of the table; zeros for ids past it.

    >>> inputs = encoder.embedder.inputs(tokens, np.zeros(3, np.int32), n_batch=4, length=12)
    >>> embed_tokens(encoder.encoder.word_embeddings[...], inputs).shape
    (4, 12, 32)
    """
    embeddings_BTD = source_VD.at[inputs.ids_BT].get(mode="fill", fill_value=0)
    if inputs.row_BT is None or inputs.rows_RD is None:
        return embeddings_BTD
    new_BTD = inputs.rows_RD[jnp.maximum(inputs.row_BT, 0)].astype(embeddings_BTD.dtype)
    return jnp.where((inputs.row_BT >= 0)[..., None], new_BTD, embeddings_BTD)
