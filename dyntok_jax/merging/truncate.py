"""Cutting sequences that are still too long after merging."""

import numpy as np
from jaxtyping import Bool, Int, Int32

from dyntok_jax.errors import InputError, TooLongError
from dyntok_jax.types import MergedBatch


def truncate_tokens(
    merged: MergedBatch[np.ndarray],
    text_BL: Int32[np.ndarray, "B L"],
    limit: int | Int[np.ndarray, "B"],
) -> MergedBatch[np.ndarray]:
    """Cuts every sequence to at most `limit` tokens: the last tokens of its text are dropped, special tokens kept.

    In a pair, the longer text is cut first, until both are equally long; of an odd number of tokens the longer one
    keeps more, the second if they were equally long (`longest_first` of Hugging Face's tokenizers).

    Args:
      merged: the tokens, as numpy arrays.
      text_BL: 0 in the first text, 1 in the second, -1 for special tokens.
      limit: how many tokens a sequence may have, special tokens included; one for all, or one each.

    Returns:
      The tokens that are kept; T and `n_merges` as before.

    Raises:
      InputError: `limit` is less than 1.
      TooLongError: a sequence has more special tokens than `limit`.

    >>> truncate_tokens(merged, batch.text_BL, limit=4).mask_BT.sum(axis=1)
    array([4, 4, 3])
    """
    limit_B = np.broadcast_to(limit, len(merged.mask_BT))
    if (limit_B < 1).any():
        raise InputError(f"The limit must be 1 token or more, got {limit}.")
    text_BT = np.take_along_axis(text_BL, merged.start_BT, axis=1)
    is_first_BT, is_second_BT = merged.mask_BT & (text_BT == 0), merged.mask_BT & (text_BT == 1)
    n_first_B, n_second_B = is_first_BT.sum(axis=1), is_second_BT.sum(axis=1)
    n_special_B = merged.mask_BT.sum(axis=1) - n_first_B - n_second_B
    if (n_special_B > limit_B).any():
        row = int(np.argmax(n_special_B > limit_B))
        raise TooLongError(
            f"Sequence {row} cannot be cut to {limit_B[row]} tokens: it has {n_special_B[row]} special tokens, which "
            "are kept."
        )
    room_B = limit_B - n_special_B
    # the shorter text gets half the room, or what it needs, and the longer one the rest
    shorter_B = np.minimum(np.minimum(n_first_B, n_second_B), room_B // 2)
    first_kept_B = np.where(n_first_B > n_second_B, room_B - shorter_B, shorter_B)
    first_kept_B = np.where(n_first_B + n_second_B <= room_B, n_first_B, first_kept_B)
    second_kept_B = room_B - first_kept_B
    keep_BT = merged.mask_BT & ~is_first_BT & ~is_second_BT
    keep_BT |= is_first_BT & (np.cumsum(is_first_BT, axis=1) <= first_kept_B[:, None])
    keep_BT |= is_second_BT & (np.cumsum(is_second_BT, axis=1) <= second_kept_B[:, None])
    return MergedBatch(
        start_BT=_to_the_left(merged.start_BT, keep_BT),
        length_BT=_to_the_left(merged.length_BT, keep_BT),
        mask_BT=_to_the_left(merged.mask_BT, keep_BT),
        n_merges=merged.n_merges,
    )


def _to_the_left(values_BT: np.ndarray, keep_BT: Bool[np.ndarray, "B T"]) -> np.ndarray:
    """Moves the values to keep to the left, in order; zeros after them."""
    order_BT = np.argsort(~keep_BT, axis=1, kind="stable")
    return np.where(np.sort(~keep_BT, axis=1), values_BT.dtype.type(0), np.take_along_axis(values_BT, order_BT, axis=1))
