"""Full merging on the device, step by step only where the order of merges matters.

A segment of at most `max_subwords` subwords ends as one token in any order. What a longer one becomes depends on the
order, so on counts, which other segments share: a pair of tokens occurs only where its two middle subwords are
neighbours, so a segment has a say if it shares two neighbouring subwords with a longer one, or with another that has a
say. These segments alone are merged step by step; on most text in languages with spaces there are none.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int32

from dyntok_jax.merging.device import merge_group
from dyntok_jax.merging.goals import NO_LIMIT, MergeLimits
from dyntok_jax.merging.segments import segment_starts, tokens_from_lengths
from dyntok_jax.options import Scope
from dyntok_jax.types import NO_SEGMENT, MergedBatch


def merge_fully(
    ids_BL: Int32[Array, "B L"],
    segment_BL: Int32[Array, "B L"],
    mask_BL: Bool[Array, "B L"],
    longest: Int32[Array, ""],
    *,
    scope: Scope,
    size: int,
) -> tuple[MergedBatch[Array], Int32[Array, " groups"]]:
    """The tokens of `merge_batch` with the goal `Share(100)`, found in fewer steps.

    Args:
      ids_BL: subword ids, 0 or more.
      segment_BL: segment of each subword; merging crosses none, and `NO_SEGMENT` never merges.
      mask_BL: False for padding, which is on the right.
      longest: the longest token there may be, from `longest_token`.
      scope: whether pairs are counted over the batch or in each sequence alone.
      size: room for so many subwords to merge step by step, in the batch or in each sequence.

    Returns:
      The tokens, without a number of merges, and how many subwords had to be merged step by step: one number for the
      batch (scope `batch`), one a sequence (scope `example`). Where that is more than `size`, the tokens are wrong.

    >>> from dyntok_jax.merging.goals import longest_token
    >>> arrays = jax.tree.map(jnp.asarray, (batch.ids_BL, batch.segment_BL, batch.mask_BL, longest_token(7)))
    >>> merged, n_looped = merge_fully(*arrays, scope="batch", size=32)
    >>> merged.mask_BT.sum(axis=1), n_looped  # ` Gleichheit` has more than 7 subwords
    (Array([6, 9, 3], dtype=int32), Array([9], dtype=int32))
    """
    segment_BL = jnp.where(mask_BL, segment_BL, NO_SEGMENT)
    merge = partial(_merge_group_fully, longest=longest, size=size)
    if scope == "batch":
        is_start_BL, n_looped = merge(ids_BL, segment_BL)
        n_looped = n_looped[None]
    else:
        is_start_B1L, n_looped = jax.vmap(merge)(ids_BL[:, None], segment_BL[:, None])
        is_start_BL = is_start_B1L[:, 0]
    return tokens_from_lengths(is_start_BL.astype(jnp.int32), mask_BL, None), n_looped


def _merge_group_fully(ids_BL, segment_BL, longest, size):
    """Where tokens begin in sequences that are counted together, and how many subwords were merged step by step."""
    n = ids_BL.size
    if n == 0:
        return jnp.ones_like(ids_BL, bool), jnp.zeros((), jnp.int32)
    ids_P, position_P = ids_BL.reshape(-1), jnp.arange(n, dtype=jnp.int32)
    is_start_P = segment_starts(segment_BL).reshape(-1)
    first_P = lax.cummax(jnp.where(is_start_P, position_P, 0))
    end_P = lax.cummin(jnp.where(_next(is_start_P, True), position_P + 1, n), reverse=True)
    with jax.named_scope("find_segments"):
        is_looped_P = _counted_with(end_P - first_P > longest, ids_P, is_start_P)

    # the subwords of these segments, moved together
    where_P, ids_P, first_P = lax.sort((jnp.where(is_looped_P, position_P, n), ids_P, first_P), num_keys=1)
    at_M, ids_1M, first_1M = where_P[:size], ids_P[None, :size], first_P[None, :size]
    is_looped_1M = at_M[None] < n
    limits = MergeLimits(*(jnp.asarray(number, jnp.int32) for number in (NO_LIMIT, -1, -1)))
    segment_1M = jnp.where(is_looped_1M, first_1M, NO_SEGMENT)
    with jax.named_scope("merge_pairs"):
        length_1M, _ = merge_group(ids_1M, segment_1M, is_looped_1M, limits, longest, None)
    is_start_P = (is_start_P & ~is_looped_P).at[at_M].set(length_1M[0] > 0, mode="drop")
    return is_start_P.reshape(ids_BL.shape), is_looped_P.sum(dtype=jnp.int32)


def _counted_with(chosen_P, ids_P, is_start_P):
    """The chosen segments, and all whose counts have a say in how those merge."""
    position_P = jnp.arange(ids_P.size, dtype=jnp.int32)
    is_pair_P = ~_next(is_start_P, True)
    pair = jnp.where(is_pair_P, ids_P, -1), jnp.where(is_pair_P, _next(ids_P, -1), -1)

    def spread(carry):
        _, chosen_P = carry
        # to all places with the same two neighbouring subwords
        flag_P = (chosen_P & is_pair_P).astype(jnp.int32)
        left_P, right_P, flagged_P = lax.sort((*pair, 2 * position_P + flag_P), num_keys=2)
        is_new_P = (left_P != _previous(left_P, -2)) | (right_P != _previous(right_P, -2))
        flag_P = _any_in_run(is_new_P, flagged_P % 2 == 1).astype(jnp.int32)
        is_shared_P = lax.sort(flagged_P // 2 * 2 + flag_P) % 2 == 1
        # to their whole segments
        spread_P = chosen_P | _any_in_run(is_start_P, is_shared_P & is_pair_P)
        return (spread_P != chosen_P).any(), spread_P

    return lax.while_loop(lambda carry: carry[0], spread, (chosen_P.any(), chosen_P))[1]


def _any_in_run(begins_P, flag_P):
    """Whether a run of positions has a flag, for each of its positions; runs begin where `begins_P` says."""
    n = flag_P.size
    position_P = jnp.arange(n, dtype=jnp.int32)
    first_P = lax.cummax(jnp.where(begins_P, position_P, 0))
    end_P = lax.cummin(jnp.where(_next(begins_P, True), position_P, n - 1), reverse=True)
    last_flag_P = lax.cummax(jnp.where(flag_P, position_P, -1))
    next_flag_P = lax.cummin(jnp.where(flag_P, position_P, n), reverse=True)
    return (last_flag_P >= first_P) | (next_flag_P <= end_P)


def _next(values_P, last):
    return jnp.append(values_P[1:], jnp.asarray(last, values_P.dtype))


def _previous(values_P, first):
    return jnp.append(jnp.asarray(first, values_P.dtype), values_P[:-1])
