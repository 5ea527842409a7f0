"""What the segments alone say: how few tokens there can be, and full merging without a loop.

Each function works on numpy arrays on the host and on JAX arrays, traced or not, on the device.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Int32

from dyntok_jax.types import NO_SEGMENT, AnyArray, MergedBatch


def merge_segments(segment_BL: Int32[AnyArray, "*batch B L"], mask_BL: Bool[AnyArray, "*batch B L"]) -> MergedBatch:
    """Makes every segment one token: full merging without a limit, found without merging step by step.

    Args:
      segment_BL: segment of each subword; `NO_SEGMENT` stays a token of its own.
      mask_BL: False for padding, which is on the right.

    Returns:
      T = L tokens a sequence; `n_merges` is None.
    """
    return _tokens(_is_segment_start(_without_padding(segment_BL, mask_BL)) & mask_BL, mask_BL, None)


def tokens_from_lengths(
    length_BL: Int32[AnyArray, "*batch B L"],
    mask_BL: Bool[AnyArray, "*batch B L"],
    n_merges: Int32[AnyArray, "*scope"] | None,
) -> MergedBatch:
    """Moves tokens to the left of their rows, from lengths noted at each token's first subword (0 elsewhere)."""
    return _tokens((length_BL > 0) & mask_BL, mask_BL, n_merges)


def count_mergeable(
    segment_BL: Int32[AnyArray, "*batch B L"], mask_BL: Bool[AnyArray, "*batch B L"]
) -> Int32[AnyArray, "*batch B"]:
    """How many subwords of each sequence lie in segments: its static tokens, special tokens not counted."""
    xp = _namespace(segment_BL)
    return (_without_padding(segment_BL, mask_BL) != NO_SEGMENT).sum(axis=-1, dtype=xp.int32)


def count_fewest(
    segment_BL: Int32[AnyArray, "*batch B L"],
    mask_BL: Bool[AnyArray, "*batch B L"],
    longest: Int32[AnyArray, ""],
) -> Int32[AnyArray, "*batch B"]:
    """How few tokens each sequence can have, special tokens not counted: a segment of n subwords ⌈n ÷ longest⌉."""
    xp = _namespace(segment_BL)
    segment_BL = _without_padding(segment_BL, mask_BL)
    position_BL = xp.broadcast_to(xp.arange(segment_BL.shape[-1], dtype=xp.int32), segment_BL.shape)
    start_BL = xp.where(_is_segment_start(segment_BL), position_BL, xp.zeros_like(position_BL))
    start_BL = np.maximum.accumulate(start_BL, axis=-1) if xp is np else lax.cummax(start_BL, axis=start_BL.ndim - 1)
    begins_token_BL = (position_BL - start_BL) % longest == 0
    return (begins_token_BL & (segment_BL != NO_SEGMENT)).sum(axis=-1, dtype=xp.int32)


def _is_segment_start(segment_BL):
    """True where a segment begins, and at each subword that lies in none."""
    xp = _namespace(segment_BL)
    differs_BL = segment_BL[..., 1:] != segment_BL[..., :-1]
    first_B1 = xp.ones_like(segment_BL[..., :1], dtype=bool)
    return xp.concatenate([first_B1, differs_BL], axis=-1) | (segment_BL == NO_SEGMENT)


def _tokens(is_start_BL, mask_BL, n_merges):
    xp = _namespace(is_start_BL)
    width = is_start_BL.shape[-1]
    position_BL = xp.broadcast_to(xp.arange(width, dtype=xp.int32), is_start_BL.shape)
    # Sorted, the starts stand at the left in order and everything else, marked by the row's end, behind them.
    end_BL = xp.broadcast_to(mask_BL.sum(axis=-1, dtype=xp.int32)[..., None], is_start_BL.shape)
    start_BT = xp.sort(xp.where(is_start_BL, position_BL, end_BL), axis=-1)
    mask_BT = start_BT < end_BL
    next_BT = xp.concatenate([start_BT[..., 1:], end_BL[..., :1]], axis=-1)
    nothing_BT = xp.zeros_like(start_BT)
    return MergedBatch(
        start_BT=xp.where(mask_BT, start_BT, nothing_BT),
        length_BT=xp.where(mask_BT, next_BT - start_BT, nothing_BT),
        mask_BT=mask_BT,
        n_merges=n_merges,
    )


def _without_padding(segment_BL, mask_BL):
    xp = _namespace(segment_BL)
    return xp.where(mask_BL, segment_BL, xp.full_like(segment_BL, NO_SEGMENT))


def _namespace(array):
    return np if isinstance(array, np.ndarray) else jnp
