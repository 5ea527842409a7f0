"""What follows from segments alone: how few tokens there can be, and full merging without a loop.

Each function works on numpy arrays on the host and on JAX arrays, traced or not, on the device.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Int, Int32

from dyntok_jax.types import NO_SEGMENT, AnyArray, ArrayT, MergedBatch


def merge_segments(segment_BL: Int32[ArrayT, "B L"], mask_BL: Bool[ArrayT, "B L"]) -> MergedBatch[ArrayT]:
    """Makes every segment one token: full merging without a limit, found without merging step by step.

    Args:
      segment_BL: segment of each subword; `NO_SEGMENT` stays a token of its own.
      mask_BL: False for padding, which is on the right.

    Returns:
      T = L tokens a sequence; `n_merges` is None.

    >>> merge_segments(batch.segment_BL, batch.mask_BL).mask_BT.sum(axis=1)
    array([5, 9, 3])
    """
    return _tokens(segment_starts(_without_padding(segment_BL, mask_BL)) & mask_BL, mask_BL, None)


def tokens_from_lengths(
    length_BL: Int32[ArrayT, "B L"],
    mask_BL: Bool[ArrayT, "B L"],
    n_merges: Int32[ArrayT, "*scope"] | None,
) -> MergedBatch[ArrayT]:
    """Moves tokens to the left of their rows, given lengths at each token's first subword (0 elsewhere)."""
    return _tokens((length_BL > 0) & mask_BL, mask_BL, n_merges)


def count_mergeable(segment_BL: Int32[ArrayT, "B L"], mask_BL: Bool[ArrayT, "B L"]) -> Int32[ArrayT, "B"]:
    """How many subwords of each sequence lie in segments: its static tokens without special tokens.

    >>> segment_BL = np.array([[0, 0, 0, 1]], np.int32)
    >>> count_mergeable(segment_BL, np.ones((1, 4), bool)).tolist()
    [4]
    """
    xp = _namespace(segment_BL)
    return (_without_padding(segment_BL, mask_BL) != NO_SEGMENT).sum(axis=1, dtype=xp.int32)


def count_fewest(
    segment_BL: Int32[ArrayT, "B L"],
    mask_BL: Bool[ArrayT, "B L"],
    longest: Int32[AnyArray, ""],
) -> Int32[ArrayT, "B"]:
    """The fewest tokens each sequence can have, without special tokens: ⌈n ÷ longest⌉ for a segment of n subwords.

    >>> segment_BL = np.array([[0, 0, 0, 1]], np.int32)
    >>> count_fewest(segment_BL, np.ones((1, 4), bool), np.array(2, np.int32)).tolist()  # ⌈3 ÷ 2⌉ + ⌈1 ÷ 2⌉
    [3]
    """
    xp = _namespace(segment_BL)
    segment_BL = _without_padding(segment_BL, mask_BL)
    position_1L = xp.arange(segment_BL.shape[1], dtype=xp.int32)[None]
    start_BL = xp.where(segment_starts(segment_BL), position_1L, 0)
    start_BL = np.maximum.accumulate(start_BL, axis=1) if xp is np else lax.cummax(start_BL, axis=1)
    begins_token_BL = (position_1L - start_BL) % longest == 0
    return (begins_token_BL & (segment_BL != NO_SEGMENT)).sum(axis=1, dtype=xp.int32)


def segment_starts(segment_BL: Int32[ArrayT, "B L"]) -> Bool[ArrayT, "B L"]:
    """True where a segment begins, and at each subword outside of segments."""
    xp = _namespace(segment_BL)
    differs_BL = segment_BL[:, 1:] != segment_BL[:, :-1]
    return xp.concatenate([xp.ones_like(segment_BL[:, :1], dtype=bool), differs_BL], axis=1) | (
        segment_BL == NO_SEGMENT
    )


def within_pretokens(
    segment: Int32[ArrayT, "*batch L"], pretoken: Int32[ArrayT, "*batch L"]
) -> Int32[ArrayT, "*batch L"]:
    """Segments cut at the borders of pretokens, for the first of two stages of merging.

    Args:
      segment: of each subword; `NO_SEGMENT` stays.
      pretoken: number of each subword's pretoken.

    Returns:
      Numbers that differ between neighbours where either of the two does.

    >>> within_pretokens(np.array([-1, 0, 0, 0, 1], np.int32), np.array([-1, 0, 0, 1, 2], np.int32))
    array([-1,  1,  1,  2,  3], dtype=int32)
    """
    xp = _namespace(segment)
    is_new = (segment[..., 1:] != segment[..., :-1]) | (pretoken[..., 1:] != pretoken[..., :-1])
    is_new = xp.concatenate([xp.zeros_like(segment[..., :1], dtype=bool), is_new], axis=-1)
    return xp.where(segment == NO_SEGMENT, NO_SEGMENT, xp.cumsum(is_new, axis=-1, dtype=xp.int32)).astype(xp.int32)


def number_apart(
    segment_N: Int32[np.ndarray, "N"], offsets: Int[np.ndarray, "sequences_and_one"]
) -> Int32[np.ndarray, "N"]:
    """Numbers the segments of sequences laid end to end so that no two share a number; `NO_SEGMENT` stays."""
    starts_N = np.diff(segment_N, prepend=NO_SEGMENT) != 0
    starts_N[offsets[:-1][np.diff(offsets) > 0]] = True
    return np.where(segment_N == NO_SEGMENT, NO_SEGMENT, np.cumsum(starts_N)).astype(np.int32)


def _tokens(is_start_BL, mask_BL, n_merges):
    xp = _namespace(is_start_BL)
    position_1L = xp.arange(is_start_BL.shape[1], dtype=xp.int32)[None]
    end_B1 = mask_BL.sum(axis=1, dtype=xp.int32)[:, None]
    # Sorting moves the starts to the left, in order; all other positions are set to the row's end and come after them.
    start_BT = xp.sort(xp.where(is_start_BL, position_1L, end_B1), axis=1)
    mask_BT = start_BT < end_B1
    next_BT = xp.concatenate([start_BT, end_B1], axis=1)[:, 1:]
    return MergedBatch(
        start_BT=xp.where(mask_BT, start_BT, 0),
        length_BT=xp.where(mask_BT, next_BT - start_BT, 0),
        mask_BT=mask_BT,
        n_merges=n_merges,
    )


def _without_padding(segment_BL, mask_BL):
    return _namespace(segment_BL).where(mask_BL, segment_BL, NO_SEGMENT)


def _namespace(array: AnyArray) -> Any:
    """Numpy or jax.numpy: what is called here has the same name in both."""
    return np if isinstance(array, np.ndarray) else jnp
