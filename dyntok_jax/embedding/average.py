"""FVT: a token's embedding is the mean of its subwords' rows. The baseline that needs no hypernetwork.

Gee et al., "Fast Vocabulary Transfer for Language Model Compression", EMNLP 2022 (industry track).
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dyntok_jax.text import ByteLevelTokenizer


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

    >>> average_embeddings(jnp.array([[0, 1]]), jnp.array([[True, True]]), jnp.array([[1.0, 3.0], [2.0, 5.0]])).tolist()
    [[1.5, 4.0]]
    """
    return _mean(source_VD.at[surface_US].get(mode="fill", fill_value=0), is_subword_US)


def filler_row(tokenizer: ByteLevelTokenizer, source_VD: Float[Array, "V D"]) -> Float[Array, " D"]:
    """FVT's row for bytes that the byte-level form appended, for which the model has no trained row.

    It is the row of the unknown token, which the model reads in their place; without an unknown token, the mean of all
    rows.

    >>> source_VD = encoder.encoder.word_embeddings[...]
    >>> row = tokenizer.pieces.index("<unk>")
    >>> bool((filler_row(tokenizer, source_VD) == source_VD[row]).all())
    True
    """
    if tokenizer.unknown_id is not None:
        return source_VD[tokenizer.unknown_id]
    return source_VD.mean(axis=0) if tokenizer.vocab_size > tokenizer.n_own else jnp.zeros_like(source_VD[0])


def average_with_filler(
    surface_US: Int[Array, "U S"],
    is_subword_US: Bool[Array, "U S"],
    source_VD: Float[Array, "V D"],
    filler_D: Float[Array, " D"],
    n_own: Int[Array, ""] | int,
) -> Float[Array, "U D"]:
    """`average_embeddings` for tokens that may have appended bytes among their subwords.

    Args:
      surface_US: subword ids; those from `n_own` on are appended bytes.
      is_subword_US: which entries are subwords, not padding.
      source_VD: a table of the model, which may have more than `n_own` rows.
      filler_D: the row of every appended byte, from `filler_row`.
      n_own: entries of the model's own vocabulary.

    >>> source_VD, filler_D = jnp.array([[1.0, 3.0], [2.0, 5.0]]), jnp.zeros(2)
    >>> average_with_filler(jnp.array([[1, 2]]), jnp.ones((1, 2), bool), source_VD, filler_D, 2).tolist()
    [[1.0, 2.5]]
    """
    rows_USD = source_VD.at[surface_US].get(mode="fill", fill_value=0)
    return _mean(jnp.where((surface_US >= n_own)[..., None], filler_D[None, None], rows_USD), is_subword_US)


def _mean(rows_USD: Float[Array, "U S D"], is_subword_US: Bool[Array, "U S"]) -> Float[Array, "U D"]:
    weight_US = is_subword_US.astype(rows_USD.dtype)
    count_U1 = jnp.maximum(weight_US.sum(axis=1, keepdims=True), 1)
    return jnp.einsum("USD,US->UD", rows_USD, weight_US) / count_U1
