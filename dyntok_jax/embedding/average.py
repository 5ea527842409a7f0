"""FVT: a token's embedding is the mean of its subwords' rows. The baseline that needs no hypernetwork.

Gee et al., "Fast Vocabulary Transfer for Language Model Compression", EMNLP 2022 (industry track).
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def average_embeddings(
    surface_US: Int[Array, "U S"],
    is_subword_US: Bool[Array, "U S"],
    source_VD: Float[Array, "V D"],
) -> Float[Array, "U D"]:
    """Embeds each token as the mean of the source rows of its subwords.

    Args:
      surface_US: subword ids of each token; ids under a False mask do not matter.
      is_subword_US: which entries are subwords, not padding.
      source_VD: the model's input embedding table.

    Returns:
      One row a token, in the dtype of `source_VD`; zeros for a row that is all padding. An id outside the table counts
      as a row of zeros.
    """
    rows_USD = source_VD.at[surface_US].get(mode="fill", fill_value=0)
    weight_US = is_subword_US.astype(source_VD.dtype)
    count_U1 = jnp.maximum(weight_US.sum(axis=1, keepdims=True), 1)
    return jnp.einsum("USD,US->UD", rows_USD, weight_US) / count_U1
