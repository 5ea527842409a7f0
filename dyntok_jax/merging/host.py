"""Merging on the host: for input pipelines, and for feeding an accelerator while it computes.

Gives exactly what `device.py` gives. It follows the lists of a pair's occurrences instead of looking at every token,
compiled by numba (`kernels.py`), and lets go of Python's lock while it runs.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Int32

from dyntok_jax.errors import TooLongError
from dyntok_jax.kernels import as_kernel_arrays, merge_rows
from dyntok_jax.merging.goals import (
    check_scope,
    limits_of,
    longest_token,
    target_tokens,
)
from dyntok_jax.merging.segments import merge_segments, tokens_from_lengths
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
      count_merges: full merging (`Share(100)`) without a limit needs no loop unless the number of merges is asked for;
        every other goal counts them anyway.
      over_budget: what to do with a sequence that stays longer than a `Budget`: raise, or keep it as short as it got
        (to be cut by `truncate_tokens`).

    Returns:
      T = L tokens a sequence, as numpy arrays.

    Raises:
      InputError: `max_subwords` is less than 1, or `goal` or `scope` is none.
      TooLongError: a sequence cannot be brought down to the budget.
    """
    check_scope(scope)
    longest = longest_token(max_subwords)
    if goal == Share(100) and max_subwords is None and not count_merges:
        return merge_segments(segment_BL, mask_BL)
    n_groups = 1 if scope == "batch" else ids_BL.shape[0]
    limits = limits_of(goal)
    target_G = np.full(n_groups, -1, np.int32)
    if isinstance(goal, Share):
        for group in range(n_groups):
            rows = slice(None) if scope == "batch" else slice(group, group + 1)
            target_G[group] = target_tokens(limits, segment_BL[rows], mask_BL[rows], longest)
    length_BL, n_merges_G = merge_rows(
        *as_kernel_arrays(ids_BL, segment_BL, mask_BL),
        scope == "batch",
        int(longest),
        int(limits.max_merges),
        target_G,
        int(limits.budget),
        _NOT_LEARNING,
    )
    merged = tokens_from_lengths(length_BL, mask_BL, n_merges_G.reshape(()) if scope == "batch" else n_merges_G)
    if isinstance(goal, Budget) and over_budget == "error":
        _check_budget(merged, goal)
    return merged


def _check_budget(merged: MergedBatch[np.ndarray], goal: Budget) -> None:
    tokens_B = merged.mask_BT.sum(axis=1)
    over_B = np.flatnonzero(tokens_B > goal.tokens)
    if over_B.size:
        others = f", and {over_B.size - 1} more are too long" if over_B.size > 1 else ""
        raise TooLongError(
            f"Sequence {over_B[0]} still has {tokens_B[over_B[0]]} tokens when nothing is left to merge, more than the "
            f"budget of {goal.tokens}{others}: allow more tokens, longer tokens (max_subwords), or truncate."
        )
