"""Subwords to tokens: the merging algorithm on the device and on the host, its goals, learnt merge lists."""

from dyntok_jax.merging.device import merge_batch
from dyntok_jax.merging.goals import Budget, Goal, MergeLimits, Merges, Scope, Share, limits_of
from dyntok_jax.merging.host import merge_batch_on_host
from dyntok_jax.merging.merge_list import MergeList, learn_merges, load_merges
from dyntok_jax.merging.segments import merge_segments
from dyntok_jax.merging.truncate import truncate_tokens

__all__ = [
    "Budget",
    "Goal",
    "MergeLimits",
    "MergeList",
    "Merges",
    "Scope",
    "Share",
    "learn_merges",
    "limits_of",
    "load_merges",
    "merge_batch",
    "merge_batch_on_host",
    "merge_segments",
    "truncate_tokens",
]
