"""Merging as a jitted pure function of arrays: under `jit`, `vmap` and sharding, without leaving the device.

Returns exactly what `host.py` returns. Sequences are laid end to end; a token is kept at the position of its first
subword. Every pair has a slot in a table of counts, so that a merge looks once at all positions (which of them hold the
most frequent pair?) and then, in chunks, only at the pair's own occurrences and their neighbours. Nothing is allocated:
the right half of a merged token is no longer a token, so its position gives the new pairs slot numbers of their own.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int32

from dyntok_jax.merging.goals import (
    NO_LIMIT,
    FirstMerges,
    MergeLimits,
    check_scope,
    limits_of,
    longest_token,
    target_tokens,
)
from dyntok_jax.merging.segments import tokens_from_lengths, within_pretokens
from dyntok_jax.options import (
    Goal,
    Scope,
)
from dyntok_jax.types import NO_SEGMENT, AnyArray, MergedBatch

_BLOCK = 32
"""Positions in a block of the search."""

_CHUNK = 32
"""Occurrences merged at once."""

_UNKNOWN = NO_LIMIT
"""A slot that is not assigned yet."""


def merge_batch(
    ids_BL: Int32[AnyArray, "B L"],
    segment_BL: Int32[AnyArray, "B L"],
    mask_BL: Bool[AnyArray, "B L"],
    goal: Goal | MergeLimits,
    *,
    max_subwords: int | Int32[AnyArray, ""] | None = None,
    scope: Scope = "batch",
    first: FirstMerges | None = None,
) -> MergedBatch[Array]:
    """Merges the most frequent pairs until the goal is reached or no pair is left.

    There is one compiled program for each shape, scope and number of stages: neither the goal, nor `max_subwords`, nor
    the number of first merges is compiled in. Arrays sharded over B on Explicit mesh axes stay so; in scope `batch`
    every device does the same merges, since each depends on all sequences.

    Args:
      ids_BL: subword ids, 0 or more.
      segment_BL: segment of each subword; merging crosses none, and `NO_SEGMENT` never merges.
      mask_BL: False for padding, which is on the right.
      goal: when to stop, or its limits (`limits_of`) where the numbers are traced. A `Budget` that cannot be met is not
        an error here: merging ends when nothing is left to merge.
      max_subwords: the longest token there may be, in subwords; None for no limit, `longest_token` of it where traced.
      scope: whether pairs are counted over the batch or in each sequence alone.
      first: the first of two stages; None for one stage.

    Returns:
      T = L tokens a sequence.

    Raises:
      InputError: `max_subwords` is less than 1, or `goal` or `scope` is not one.

    >>> from dyntok_jax.options import Share
    >>> merged = merge_batch(batch.ids_BL, batch.segment_BL, batch.mask_BL, Share(100))
    >>> merged.mask_BT.sum(axis=1)  # a token for each pretoken and each special token
    Array([5, 9, 3], dtype=int32)
    """
    check_scope(scope)
    limits = goal if isinstance(goal, MergeLimits) else limits_of(goal)
    if first is not None:
        count = min(first.count, NO_LIMIT) if isinstance(first.count, int) else first.count
        first = FirstMerges(first.pretoken, jnp.asarray(count, jnp.int32))
    return _merge(ids_BL, segment_BL, mask_BL, limits, longest_token(max_subwords), first, scope=scope)


@partial(jax.jit, static_argnames="scope")
def _merge(ids_BL, segment_BL, mask_BL, limits, longest, first=None, *, scope):
    segment_BL = jnp.where(mask_BL, segment_BL, NO_SEGMENT)
    merge = _merge_together if scope == "batch" else _merge_alone
    return merge(ids_BL, segment_BL, mask_BL, limits, longest, first)


def _merge_together(ids_BL, segment_BL, mask_BL, limits, longest, first):
    sharding = jax.typeof(ids_BL).sharding
    is_explicit = AxisType.Explicit in sharding.mesh.axis_types
    is_auto = set(sharding.mesh.axis_types) == {AxisType.Auto}
    if is_explicit or is_auto:
        # Each merge depends on all sequences: a copy on every device costs less than communication at every merge.
        replicate = jax.sharding.reshard if is_explicit else lax.with_sharding_constraint
        everywhere = NamedSharding(sharding.mesh, PartitionSpec())
        ids_BL, segment_BL, mask_BL, first = replicate((ids_BL, segment_BL, mask_BL, first), everywhere)
    length_BL, n_merges = merge_group(ids_BL, segment_BL, mask_BL, limits, longest, first)
    if is_explicit:
        length_BL, mask_BL = jax.sharding.reshard((length_BL, mask_BL), sharding)
    return tokens_from_lengths(length_BL, mask_BL, n_merges)


def _merge_alone(ids_BL, segment_BL, mask_BL, limits, longest, first):
    def one(ids_L, segment_L, mask_L, pretoken_L):
        alone = None if first is None else FirstMerges(pretoken_L[None], first.count)
        length_1L, n_merges = merge_group(ids_L[None], segment_L[None], mask_L[None], limits, longest, alone)
        return length_1L[0], n_merges

    rows = jax.vmap(one)
    sharding = jax.typeof(ids_BL).sharding
    if AxisType.Explicit in sharding.mesh.axis_types:
        # On Explicit axes every gather would have to name its sharding; local arrays need no sharding.
        spec = PartitionSpec(sharding.spec[0])
        rows = jax.shard_map(rows, mesh=sharding.mesh, in_specs=spec, out_specs=spec, check_vma=False)
    length_BL, n_merges_B = rows(ids_BL, segment_BL, mask_BL, None if first is None else first.pretoken)
    return tokens_from_lengths(length_BL, mask_BL, n_merges_B)


class _State(NamedTuple):
    """The tokens and pairs of a group of sequences laid end to end: P positions, padded to whole blocks.

    Position P, kind 2 P and slot 3 P mean none: reads there give a neutral value, writes there are dropped.
    """

    kind_P: Int32[Array, "P"]  # number of the token that begins here; below P subwords, above merged ones
    length_P: Int32[Array, "P"]  # its subwords; 0 where no token begins
    after_P: Int32[Array, "P"]  # position of the next token in the segment
    before_P: Int32[Array, "P"]  # position of the previous one
    slot_P: Int32[Array, "P"]  # slot of the pair that begins here
    count_Q: Int32[Array, "Q"]  # occurrences of the pair in a slot
    tokens_B: Int32[Array, "B"]  # tokens of each sequence
    removed: Int32[Array, ""]
    n_merges: Int32[Array, ""]
    best: Int32[Array, ""]  # occurrences of the most frequent pair
    at: Int32[Array, ""]  # where it begins first


def merge_group(ids_BL, segment_BL, mask_BL, limits, longest, first):
    """Merges sequences that are counted together; returns lengths at the tokens' first subwords, and the merges."""
    n = ids_BL.size
    if n == 0:
        return jnp.zeros_like(ids_BL), jnp.zeros((), jnp.int32)
    is_staged = first is not None
    ids_P = _end_to_end(ids_BL)
    n_mergeable = (segment_BL != NO_SEGMENT).sum(dtype=jnp.int32)
    target = target_tokens(limits, segment_BL, mask_BL, longest)
    merge_pair = partial(_merge_pair, ids_P, longest, ids_BL.shape[1], is_staged)

    def run_stage(state, stage):
        linked_P, max_merges = stage
        state = _find_pairs(state, linked_P, longest, is_staged)

        def goes_on(state):
            return (
                (state.best > 0)
                & (state.n_merges < max_merges)
                & (n_mergeable - state.removed > target)
                & ((limits.budget < 0) | (state.tokens_B > limits.budget).any())
            )

        return lax.while_loop(goes_on, merge_pair, state), None

    state = _unmerged(ids_P, _end_to_end(mask_BL), mask_BL.sum(axis=1, dtype=jnp.int32))
    whole = _linked(segment_BL), limits.max_merges
    if first is None:
        state, _ = run_stage(state, whole)
    else:  # as a scan, what a stage does is compiled once
        narrow = _linked(within_pretokens(segment_BL, first.pretoken)), jnp.minimum(first.count, limits.max_merges)
        state, _ = lax.scan(run_stage, state, jax.tree.map(lambda *of_stages: jnp.stack(of_stages), narrow, whole))
    return state.length_P[:n].reshape(ids_BL.shape), state.n_merges


def _end_to_end(values_BL):
    """Sequences as one row of whole blocks."""
    return jnp.pad(values_BL.reshape(-1), (0, -values_BL.size % _BLOCK))


def _linked(segment_BL):
    """Which positions lie in the segment of the next one."""
    is_linked_BL = (segment_BL[:, 1:] == segment_BL[:, :-1]) & (segment_BL[:, 1:] != NO_SEGMENT)
    return _end_to_end(jnp.pad(is_linked_BL, ((0, 0), (0, 1))))


def _unmerged(ids_P, mask_P, tokens_B):
    """Every subword as a token; pairs are still to be found."""
    n = ids_P.size
    none_P, zero = jnp.full(n, n, jnp.int32), jnp.zeros((), jnp.int32)
    return _State(
        kind_P=_number(ids_P.astype(jnp.uint32)).astype(jnp.int32),
        length_P=mask_P.astype(jnp.int32),
        after_P=none_P,
        before_P=none_P,
        slot_P=none_P,
        count_Q=jnp.zeros(3 * n, jnp.int32),
        tokens_B=tokens_B,
        removed=zero,
        n_merges=zero,
        best=zero,
        at=zero,
    )


def _find_pairs(state, linked_P, longest, is_staged):
    """Finds the pairs of the tokens that there are."""
    n = linked_P.size
    position_P = jnp.arange(n, dtype=jnp.int32)
    if is_staged:
        last_P = position_P + jnp.maximum(state.length_P, 1) - 1
        is_left_P = (state.length_P > 0) & linked_P[last_P]
        after_P = jnp.where(is_left_P, last_P + 1, n)
        before_P = jnp.full(n, n, jnp.int32).at[after_P].set(position_P, mode="drop")
        right_P = jnp.minimum(after_P, n - 1)
        number_P = _number(state.kind_P.astype(jnp.uint32))
        right_number_P = number_P[right_P]
        is_short_P = state.length_P + state.length_P[right_P] <= longest
    else:  # every token is a subword
        is_left_P, is_short_P = linked_P, longest >= 2
        after_P = jnp.where(linked_P, position_P + 1, n)
        before_P = jnp.where(jnp.concatenate([jnp.zeros(1, bool), linked_P[:-1]]), position_P - 1, n)
        number_P = state.kind_P.astype(jnp.uint32)
        right_number_P = jnp.roll(number_P, -1)
    slot_P = _number_pairs(number_P, right_number_P).astype(jnp.int32)
    slot_P = jnp.where(is_left_P & is_short_P, slot_P, 3 * n)
    count_Q = jnp.zeros(3 * n, jnp.int32).at[slot_P].add(1, mode="drop")
    best, at = _most_frequent(slot_P, count_Q)
    return state._replace(after_P=after_P, before_P=before_P, slot_P=slot_P, count_Q=count_Q, best=best, at=at)


def _number(key_P):
    """A number below P for each distinct key (uint32)."""
    # Sorting one array and looking its entries up is several times as fast on CPU as sorting positions along with it.
    return jnp.searchsorted(jnp.sort(key_P), key_P).astype(jnp.uint32)


def _number_pairs(left_P, right_P):
    """A number below P for each distinct pair of numbers below P."""
    n_bits = (left_P.size - 1).bit_length()
    step = 32 - n_bits
    number_P = left_P
    for shift in reversed(range(0, n_bits, step)):  # once up to 65,536 positions
        number_P = _number((number_P << step) | ((right_P >> shift) & ((1 << step) - 1)))
    return number_P


def _most_frequent(slot_P, count_Q):
    """How often the most frequent pair occurs, and the first position of the first of them in row-major order."""
    count_P = count_Q.at[slot_P].get(mode="fill", fill_value=0)
    best = count_P.max()
    position_P = jnp.arange(slot_P.size, dtype=jnp.int32)
    return best, jnp.where(count_P == best, position_P, slot_P.size).min()


def _merge_pair(ids_P, longest, width, is_staged, state):
    """Merges the pair at `state.at` everywhere."""
    n = ids_P.size
    left_length = state.length_P[state.at]
    left, right = state.kind_P[state.at], state.kind_P[state.after_P[state.at]]
    new_length = left_length + state.length_P[state.after_P[state.at]]
    chosen_P = state.slot_P == state.slot_P[state.at]
    chosen_P = _when(left == right, partial(_without_overlap, left_length), chosen_P)

    # ab + c and a + bc are the same token: look for one with these subwords before making a new kind.
    # In one stage, two subwords are joined in one way only, and everywhere at once: then there is nothing to look for.
    looks_P = (state.length_P == new_length) & (is_staged | (new_length > 2))
    known_kind = jnp.where(_tokens_like(ids_P, looks_P, state.at, new_length), state.kind_P, -1).max()
    new_kind = jnp.where(known_kind >= 0, known_kind, n + state.after_P[state.at])

    # Slots of the pairs (x, new), by kind x, then of (new, y), by kind y. (new, new) is one of the latter.
    slot_K = jnp.full(4 * n, _UNKNOWN, jnp.int32)
    slot_K = _when(known_kind >= 0, partial(_add_existing_slots, state, new_kind), slot_K)
    state = state._replace(
        kind_P=jnp.where(chosen_P, new_kind, state.kind_P),
        length_P=jnp.where(chosen_P, new_length, state.length_P),
    )

    chosen_by_block = jnp.cumsum(chosen_P.reshape(-1, _BLOCK).sum(axis=1, dtype=jnp.int32), dtype=jnp.int32)
    n_chosen = chosen_by_block[-1]
    rank_C = jnp.arange(min(_CHUNK, n), dtype=jnp.int32)

    def merge_chunk(carry):
        done, state, slot_K = carry
        at_C = _find_ranked(chosen_P, chosen_by_block, done + rank_C)
        state, slot_K = _merge_occurrences(state, slot_K, chosen_P, at_C, new_kind, new_length, longest, width)
        return done + rank_C.size, state, slot_K

    carry = (jnp.zeros((), jnp.int32), state, slot_K)
    _, state, _ = lax.while_loop(lambda carry: carry[0] < n_chosen, merge_chunk, carry)
    best, at = _most_frequent(state.slot_P, state.count_Q)
    return state._replace(best=best, at=at, n_merges=state.n_merges + 1, removed=state.removed + n_chosen)


def _without_overlap(left_length, chosen_P):
    """Keeps every second occurrence of a run of equal tokens (a a a), beginning with its first."""
    position_P = jnp.arange(chosen_P.size, dtype=jnp.int32)
    continues_P = jnp.roll(chosen_P, left_length) & (position_P >= left_length)
    run_start_P = lax.cummax(jnp.where(chosen_P & ~continues_P, position_P, -1))
    return chosen_P & ((position_P - run_start_P) // left_length % 2 == 0)


def _tokens_like(ids_P, same_P, at, length):
    """Which of the tokens at `same_P` consist of the same subwords as the `length` ones from `at` on."""

    def compare(carry):
        offset, same_P = carry
        return offset + 1, same_P & (jnp.roll(ids_P, -offset) == ids_P[at + offset])

    carry = (jnp.zeros((), jnp.int32), same_P)
    return lax.while_loop(lambda carry: (carry[0] < length) & carry[1].any(), compare, carry)[1]


def _add_existing_slots(state, kind, slot_K):
    """Records the slots of pairs with a kind that exists already."""
    n = state.kind_P.size
    right_P = state.kind_P.at[state.after_P].get(mode="fill", fill_value=2 * n)
    is_pair_P = state.slot_P < 3 * n
    as_right_P = jnp.where(is_pair_P & (right_P == kind), state.kind_P, 4 * n)
    as_left_P = jnp.where(is_pair_P & (state.kind_P == kind), 2 * n + right_P, 4 * n)
    return slot_K.at[as_right_P].set(state.slot_P, mode="drop").at[as_left_P].set(state.slot_P, mode="drop")


def _find_ranked(chosen_P, chosen_by_block, rank_C):
    """Positions of the chosen ones by rank, counted from 0; P for ranks past the last."""
    block_C = jnp.searchsorted(chosen_by_block, rank_C, side="right").astype(jnp.int32)
    before_block_C = chosen_by_block.at[block_C - 1].get(mode="fill", fill_value=0, wrap_negative_indices=False)
    chosen_CW = chosen_P.reshape(-1, _BLOCK).at[block_C].get(mode="fill", fill_value=False)
    nth_CW = jnp.cumsum(chosen_CW, axis=1, dtype=jnp.int32) == (rank_C - before_block_C + 1)[:, None]
    at_C = block_C * _BLOCK + jnp.argmax(nth_CW, axis=1).astype(jnp.int32)
    return jnp.where(block_C < chosen_by_block.size, at_C, chosen_P.size)


def _merge_occurrences(state, slot_K, chosen_P, at_C, kind, length, longest, width):
    """Merges the tokens at `at_C` with the next ones; `kind_P` and `length_P` have the new tokens already."""
    n = chosen_P.size
    right_C = state.after_P.at[at_C].get(mode="fill", fill_value=n)
    next_C = state.after_P.at[right_C].get(mode="fill", fill_value=n)
    after_P = state.after_P.at[at_C].set(next_C, mode="drop")
    before_P = state.before_P.at[next_C].set(at_C, mode="drop")
    previous_C = before_P.at[at_C].get(mode="fill", fill_value=n)
    # A new token on the left counts the pair as its own with its right neighbour.
    previous_is_new_C = chosen_P.at[previous_C].get(mode="fill", fill_value=True)
    previous_C = jnp.where(previous_is_new_C, n, previous_C)

    slots_gone = state.slot_P.at[jnp.concatenate([previous_C, at_C, right_C])].get(mode="fill", fill_value=3 * n)
    count_Q = state.count_Q.at[slots_gone].add(-1, mode="drop")

    neighbour_N = jnp.concatenate([previous_C, next_C])
    neighbour_kind_N = state.kind_P.at[neighbour_N].get(mode="fill", fill_value=0)
    neighbour_length_N = state.length_P.at[neighbour_N].get(mode="fill", fill_value=0)
    is_pair_N = (neighbour_N < n) & (neighbour_length_N + length <= longest)
    is_next_N = jnp.arange(neighbour_N.size) >= at_C.size
    key_N = jnp.where(is_next_N | (neighbour_kind_N == kind), 2 * n, 0) + neighbour_kind_N
    key_N = jnp.where(is_pair_N, key_N, 4 * n)
    known_slot_N = slot_K.at[key_N].get(mode="fill", fill_value=3 * n)
    own_slot_N = jnp.concatenate([right_C + n, right_C + 2 * n])
    slot_K = slot_K.at[key_N].min(jnp.where(known_slot_N == _UNKNOWN, own_slot_N, known_slot_N), mode="drop")
    slot_N = slot_K.at[key_N].get(mode="fill", fill_value=3 * n)

    slot_P = state.slot_P.at[right_C].set(3 * n, mode="drop")
    state = state._replace(
        length_P=state.length_P.at[right_C].set(0, mode="drop"),
        after_P=after_P,
        before_P=before_P,
        slot_P=slot_P.at[jnp.concatenate([previous_C, at_C])].set(slot_N, mode="drop"),
        count_Q=count_Q.at[slot_N].add(1, mode="drop"),
        tokens_B=state.tokens_B.at[at_C // width].add(-1, mode="drop"),
    )
    return state, slot_K


def _when(predicate, function, value):
    """`function(value)` if the predicate holds, else `value`: a `lax.cond` that vmap can skip.

    Under vmap `lax.cond` always runs both branches, but a loop runs only while some member needs it.
    """
    return lax.while_loop(
        lambda carry: carry[0], lambda carry: (jnp.zeros_like(carry[0]), function(carry[1])), (predicate, value)
    )[1]
