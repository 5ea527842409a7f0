"""Merging on the host: for input pipelines, and for feeding an accelerator while it computes.

Returns exactly what `device.py` returns. It follows the lists of a pair's occurrences instead of looking at every
token, is compiled by numba (`dyntok_jax/kernels`), and releases Python's lock while it runs.
"""

from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, Int32

from dyntok_jax.errors import TooLongError
from dyntok_jax.kernels import as_kernel_arrays, merge_rows
from dyntok_jax.merging.goals import (
    NO_LIMIT,
    FirstMerges,
    check_scope,
    limits_of,
    longest_token,
    target_tokens,
)
from dyntok_jax.merging.segments import merge_segments, number_apart, tokens_from_lengths, within_pretokens
from dyntok_jax.options import (
    Budget,
    Goal,
    Scope,
    Share,
)
from dyntok_jax.types import MergedBatch

_NOT_LEARNING = np.empty((0, 3), np.int32)


def merge_batch_on_host(
    ids_BL: Int32[np.ndarray, "B L"],
    segment_BL: Int32[np.ndarray, "B L"],
    mask_BL: Bool[np.ndarray, "B L"],
    goal: Goal,
    *,
    max_subwords: int | None = None,
    scope: Scope = "batch",
    first: FirstMerges[np.ndarray] | None = None,
    count_merges: bool = False,
    over_budget: Literal["error", "keep"] = "error",
) -> MergedBatch[np.ndarray]:
    """Merges the most frequent pairs until the goal is reached or no pair is left.

    Args:
      ids_BL: subword ids, 0 or more.
      segment_BL: segment of each subword; merging crosses none, and `NO_SEGMENT` never merges.
      mask_BL: False for padding, which is on the right.
      goal: when to stop.
      max_subwords: the longest token there may be, in subwords; None for no limit.
      scope: whether pairs are counted over the batch or in each sequence alone.
      first: the first of two stages; None for one stage.
      count_merges: full merging (`Share(100)`) without a limit needs no loop unless the number of merges is asked for;
        every other goal counts them anyway.
      over_budget: what to do with a sequence that stays longer than a `Budget`: raise, or keep it (to be cut by
        `truncate_tokens`).

    Returns:
      T = L tokens a sequence, as numpy arrays.

    Raises:
      InputError: `max_subwords` is less than 1, or `goal` or `scope` is not one.
      TooLongError: a sequence cannot be brought down to the budget.

    >>> from dyntok_jax.options import Budget
    >>> rows = batch.ids_BL, batch.segment_BL, batch.mask_BL
    >>> merge_batch_on_host(*rows, Budget(9)).mask_BT.sum(axis=1).max()
    np.int64(9)
    """
    check_scope(scope)
    if goal == Share(100) and max_subwords is None and not count_merges:
        return merge_segments(segment_BL, mask_BL)
    offsets = np.append(0, np.cumsum(mask_BL.sum(axis=1)))
    if first is not None:
        first = FirstMerges(first.pretoken[mask_BL], first.count)
    length_N, n_merges_G = merge_ragged(
        ids_BL[mask_BL], segment_BL[mask_BL], offsets, goal, max_subwords=max_subwords, scope=scope, first=first
    )
    length_BL = np.zeros(ids_BL.shape, np.int32)
    length_BL[mask_BL] = length_N
    merged = tokens_from_lengths(length_BL, mask_BL, n_merges_G.reshape(()) if scope == "batch" else n_merges_G)
    if isinstance(goal, Budget) and over_budget == "error":
        _check_budget(merged, goal)
    return merged


def merge_ragged(
    ids_N: Int32[np.ndarray, "N"],
    segment_N: Int32[np.ndarray, "N"],
    offsets: Int[np.ndarray, "sequences_and_one"],
    goal: Goal,
    *,
    max_subwords: int | None,
    scope: Scope,
    first: FirstMerges[np.ndarray] | None = None,
) -> tuple[Int32[np.ndarray, "N"], Int32[np.ndarray, "groups"]]:
    """The same on sequences laid end to end, without padding; sequences that stay over a budget are kept.

    Args:
      ids_N: subword ids, 0 or more.
      segment_N: segment of each subword within its sequence; `NO_SEGMENT` never merges.
      offsets: where each sequence begins, and the end.
      goal: when to stop.
      max_subwords: the longest token there may be, in subwords; None for no limit.
      scope: whether pairs are counted over all sequences or in each alone.
      first: the first of two stages; None for one stage.

    Returns:
      Length of the token that begins at each subword (0 where none does); and the merges done, one number in scope
      `batch`, one a sequence in scope `example`.

    Raises:
      InputError: `max_subwords` is less than 1, or `goal` is not one.
    """
    longest, limits = longest_token(max_subwords), limits_of(goal)
    bounds = offsets[[0, -1]] if scope == "batch" else offsets
    target_G = np.full(len(bounds) - 1, -1, np.int32)
    if isinstance(goal, Share):
        number_N = number_apart(segment_N, offsets)
        everything_N = np.ones(len(ids_N), bool)
        for group, (begin, end) in enumerate(pairwise(bounds)):
            target_G[group] = target_tokens(limits, number_N[None, begin:end], everything_N[None, begin:end], longest)
    ids_N, segment_N, offsets = as_kernel_arrays(ids_N, segment_N, offsets.astype(np.int64))
    length_N, n_merges_G = np.ones(len(ids_N), np.int32), np.zeros(len(target_G), np.int32)

    def merge(segment_N: Int32[np.ndarray, "N"], count_G: Int32[np.ndarray, "groups"]) -> None:
        """Merges further, in place."""
        stops = count_G, target_G, int(limits.budget)
        n_merges_G[:] += merge_rows(
            ids_N, segment_N, length_N, offsets, scope == "batch", int(longest), *stops, _NOT_LEARNING
        )

    most_G = np.full(len(target_G), limits.max_merges, np.int32)
    if first is not None:
        narrow_N = np.asarray(within_pretokens(segment_N, first.pretoken))
        merge(narrow_N, np.minimum(most_G, min(int(first.count), NO_LIMIT)))
    merge(segment_N, most_G - n_merges_G)
    return length_N, n_merges_G


def _check_budget(merged: MergedBatch[np.ndarray], goal: Budget) -> None:
    tokens_B = merged.mask_BT.sum(axis=1)
    over_B = np.flatnonzero(tokens_B > goal.tokens)
    if over_B.size:
        others = f", and {over_B.size - 1} more are too long" if over_B.size > 1 else ""
        raise TooLongError(
            f"Sequence {over_B[0]} still has {tokens_B[over_B[0]]} tokens when nothing is left to merge, more than the "
            f"budget of {goal.tokens}{others}: allow more tokens, longer tokens (max_subwords), or truncate."
        )
