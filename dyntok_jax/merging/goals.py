"""When merging stops: after a number of merges, at a share of the maximum reduction, or at a token budget."""

from dataclasses import dataclass
from typing import Generic, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int32

from dyntok_jax.errors import InputError
from dyntok_jax.merging.segments import count_fewest, count_mergeable
from dyntok_jax.options import Budget, Goal, Merges, Scope, Share, whole_number
from dyntok_jax.types import AnyArray, ArrayT

NO_LIMIT = int(np.iinfo(np.int32).max)
"""No limit, where a number is needed."""

_NEVER = -1


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MergeLimits(Generic[ArrayT]):
    """A goal as numbers, so that one compiled program serves every goal. Merging stops at the first limit reached.

    Attributes:
      max_merges: how many merges there may be.
      share: millionths of the maximum reduction to reach; -1 for no such limit.
      budget: how many tokens a sequence may have, special tokens included; -1 for no such limit.

    >>> from dyntok_jax.options import Merges
    >>> limits = limits_of(Merges(50))
    >>> int(limits.max_merges), int(limits.share), int(limits.budget)
    (50, -1, -1)
    """

    max_merges: Int32[ArrayT, "*batch"]
    share: Int32[ArrayT, "*batch"]
    budget: Int32[ArrayT, "*batch"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FirstMerges(Generic[ArrayT]):
    """The first stage of merging in two stages: so many merges stay within pretokens.

    The second stage begins after these merges, or where pretokens have no pair left: it goes on from the tokens of the
    first, within the segments. In scope `example` each sequence has its own stages. The goal, and so the maximum that
    a `Share` is part of, is that of the segments. (SuperBPE, Liu et al. 2025, learns a vocabulary in such stages.)

    Attributes:
      pretoken: number of each subword's pretoken; the first stage crosses neither pretokens nor segments.
      count: how many merges there may be; an array where it is traced.

    >>> from dyntok_jax.merging import merge_batch_on_host
    >>> from dyntok_jax.options import Share
    >>> rows = batch.ids_BL, np.minimum(batch.segment_BL, 0), batch.mask_BL  # a text is one segment
    >>> first = FirstMerges(batch.pretoken_BL, 1_000)
    >>> merge_batch_on_host(*rows, Share(20), first=first).length_BT[0, :5]
    array([1, 1, 1, 7, 1], dtype=int32)
    """

    pretoken: Int32[ArrayT, "*batch L"]
    count: int | Int32[AnyArray, ""]


def limits_of(goal: Goal) -> MergeLimits[np.ndarray]:
    """The goal as numbers (numpy scalars).

    Raises:
      InputError: `goal` is not a Merges, Share or Budget.

    >>> from dyntok_jax.options import Share
    >>> int(limits_of(Share(12.5)).share)
    125000
    """
    max_merges, share, budget = NO_LIMIT, _NEVER, _NEVER
    match goal:
        case Merges(count):
            max_merges = count
        case Share(percent):
            share = round(percent * 10_000)
        case Budget(tokens):
            budget = tokens
        case _:
            raise InputError(f"goal must be a Merges, Share or Budget, got {goal!r}.")
    return MergeLimits(*(np.asarray(min(number, NO_LIMIT), np.int32) for number in (max_merges, share, budget)))


def target_tokens(
    limits: MergeLimits,
    segment_BL: Int32[AnyArray, "B L"],
    mask_BL: Bool[AnyArray, "B L"],
    longest: Int32[AnyArray, ""],
) -> Int32[AnyArray, ""]:
    """The number of tokens, without special ones, at which the sequences together reach `limits.share`.

    Exact in int32, on the host and on the device: both must stop at the same merge.

    Returns:
      L₀ − ⌈share · (L₀ − fewest)⌉, or -1 if the share never stops merging.
    """
    n_static = count_mergeable(segment_BL, mask_BL).sum(dtype=np.int32)
    reducible = n_static - count_fewest(segment_BL, mask_BL, longest).sum(dtype=np.int32)
    # share · reducible overflows int32, so both are split into thousands and the product is taken digit by digit.
    share_high, share_low = limits.share // 1000, limits.share % 1000
    high, low = reducible // 1000, reducible % 1000
    middle = share_high * low + share_low * high
    rest = (middle % 1000) * 1000 + share_low * low
    target = n_static - (share_high * high + middle // 1000 + (rest + 999_999) // 1_000_000)
    xp = np if isinstance(segment_BL, np.ndarray) else jnp
    return xp.where(limits.share < 0, xp.full_like(target, _NEVER), target)


def check_scope(scope: str) -> None:
    """Raises InputError if `scope` is not a `Scope`."""
    if scope not in get_args(Scope):
        raise InputError(f"scope must be {' or '.join(map(repr, get_args(Scope)))}, got {scope!r}.")


def longest_token(max_subwords: int | Int32[AnyArray, ""] | None) -> Int32[AnyArray, ""]:
    """`max_subwords` as a number that needs no special case (a numpy scalar); what is such a number already stays.

    Raises:
      InputError: `max_subwords` is less than 1.

    >>> int(longest_token(4))
    4
    """
    if max_subwords is None:
        return np.asarray(NO_LIMIT, np.int32)
    if isinstance(max_subwords, AnyArray):
        return max_subwords
    limit = whole_number("max_subwords", max_subwords, or_else="or None for no limit")
    return np.asarray(min(limit, NO_LIMIT), np.int32)
