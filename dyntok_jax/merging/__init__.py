"""Subwords to tokens: the merging algorithm on the device and on the host, its goals, learnt merge lists."""

from dyntok_jax.merging.goals import Budget, Goal, MergeLimits, Merges, Scope, Share, limits_of
from dyntok_jax.merging.host import merge_batch_on_host
from dyntok_jax.merging.segments import merge_segments

__all__ = [
    "Budget",
    "Goal",
    "MergeLimits",
    "Merges",
    "Scope",
    "Share",
    "limits_of",
    "merge_batch_on_host",
    "merge_segments",
]
