"""Real queries for an index: the hidden states that a decoder has at every place of some texts."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from dyntok_jax.errors import InputError
from dyntok_jax.models.mistral import Decoder, embed_ids, forward

MAX_TOKENS = 128
"""Tokens that a text is cut at."""
BATCH = 8
_forward = jax.jit(forward)


def hidden_queries(
    model: Decoder, texts: Sequence[Sequence[int]], *, max_tokens: int = MAX_TOKENS
) -> Float32[np.ndarray, "Q D"]:
    """The last hidden state at every token of every text, in their order.

    Args:
      model: the decoder.
      texts: ids of the model's own vocabulary.
      max_tokens: longer texts are cut.

    Raises:
      InputError: no text has a token.
    """
    cut = [list(ids[:max_tokens]) for ids in texts if len(ids)]
    if not cut:
        raise InputError("There is no text to take hidden states of: give at least one that is not empty.")
    found = []
    for start in range(0, len(cut), BATCH):
        some = cut[start : start + BATCH]
        ids_BT, mask_BT = np.zeros((BATCH, max_tokens), np.int32), np.zeros((BATCH, max_tokens), bool)
        for row, ids in enumerate(some):
            ids_BT[row, : len(ids)], mask_BT[row, : len(ids)] = ids, True
        hidden_BTD = _forward(model, embed_ids(model, jnp.asarray(ids_BT)), jnp.asarray(mask_BT))
        found.append(np.asarray(hidden_BTD.astype(jnp.float32))[mask_BT])
    return np.concatenate(found)
