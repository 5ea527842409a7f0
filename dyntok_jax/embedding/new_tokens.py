"""Which tokens of a batch need a new row, and the distinct forms of those: for embedding and for training."""

import numpy as np
from jaxtyping import Bool, Int32

from dyntok_jax.embedding.surface import constituents, unique_tokens_on_host
from dyntok_jax.text import ByteLevelTokenizer
from dyntok_jax.types import MergedBatch, UniqueTokens


def wants_row(
    tokenizer: ByteLevelTokenizer,
    ids_BL: Int32[np.ndarray, "B L"],
    merged: MergedBatch[np.ndarray],
    *,
    predict_all: bool = False,
) -> Bool[np.ndarray, "B T"]:
    """Which tokens need a new row: merged ones, and bytes that the byte-level form appended.

    Args:
      tokenizer: of the model.
      ids_BL: subword ids.
      merged: the tokens, on the host.
      predict_all: single subwords too, as the paper does; never special or other added tokens.

    >>> wants_row(tokenizer, batch.ids_BL, merged)[0, :6]  # `<s>| Freiheit| und| Gleichhe|it|</s>`
    array([False, False, False,  True,  True, False])
    """
    first_BT = np.take_along_axis(ids_BL, merged.start_BT, axis=1)
    wanted_BT = (merged.length_BT > 1) | (first_BT >= tokenizer.n_own)
    if predict_all:
        wanted_BT |= ~np.isin(first_BT, list(tokenizer.added_ids))
    return wanted_BT & merged.mask_BT


def distinct_forms(
    ids_BL: Int32[np.ndarray, "B L"],
    merged: MergedBatch[np.ndarray],
    wanted_BT: Bool[np.ndarray, "B T"],
    language_BT: Int32[np.ndarray, "B #T"],
    *,
    width: int,
) -> tuple[UniqueTokens[np.ndarray], Int32[np.ndarray, "U"]]:
    """The distinct surface forms of the wanted tokens; the same form in two languages counts as two.

    Args:
      ids_BL: subword ids.
      merged: the tokens, on the host.
      wanted_BT: which tokens count; the others get row 0.
      language_BT: the language index of each token, or of each text (T = 1).
      width: S; longer forms are cut.

    Returns:
      The forms, without padding rows, and the language of each.

    >>> wanted_BT = wants_row(tokenizer, batch.ids_BL, merged, predict_all=True)
    >>> forms, language_U = distinct_forms(batch.ids_BL, merged, wanted_BT, np.zeros((3, 1), np.int32), width=7)
    >>> int(wanted_BT.sum()), int(forms.count)  # ` Freiheit` is in two texts
    (12, 11)
    """
    surface_BTS, is_subword_BTS = constituents(ids_BL, merged, width=width)
    # the language is part of what makes two tokens the same
    language_BT1 = np.broadcast_to(language_BT[..., None], (*wanted_BT.shape, 1))
    unique = unique_tokens_on_host(
        np.concatenate([language_BT1, surface_BTS], axis=2),
        np.concatenate([wanted_BT[..., None], is_subword_BTS], axis=2),
        wanted_BT,
    )
    forms = UniqueTokens(
        surface_US=np.ascontiguousarray(unique.surface_US[:, 1:]),
        is_subword_US=np.ascontiguousarray(unique.is_subword_US[:, 1:]),
        inverse_BT=unique.inverse_BT,
        count=unique.count,
    )
    return forms, unique.surface_US[:, 0]
