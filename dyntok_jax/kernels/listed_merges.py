"""Compiled loops for `merging/merge_list.py`."""

from typing import no_type_check

import numpy as np

from dyntok_jax.kernels.hash_tables import NONE, compiled, find_pair, pair_key, table_size


@compiled
@no_type_check
def index_pairs(left_M, right_M):
    """Makes a list of pairs of kinds searchable.

    Returns:
      The keys of the pairs, a hash table of each pair's first index in the list, and for each index the next one with
      the same pair (M if there is none).
    """
    n_pairs = left_M.size
    key_M = np.empty(n_pairs, np.uint64)
    table = np.full(table_size(n_pairs), NONE, np.int32)
    again_M = np.full(n_pairs, n_pairs, np.int32)
    for place in range(n_pairs - 1, -1, -1):
        key_M[place] = pair_key(left_M[place], right_M[place])
        slot = find_pair(table, key_M, key_M[place])
        if table[slot] != NONE:
            again_M[place] = table[slot]
        table[slot] = place
    return key_M, table, again_M


@compiled
@no_type_check
def apply_pairs(ids_N, segment_N, offset_R, key_M, table, again_M, joined_M):
    """Merges the pairs of a list in order, each wherever it occurs by then.

    Segments do not depend on each other, so each goes through the whole list by itself. It jumps to the next index
    in the list that has one of its own pairs.

    Args:
      ids_N: subword ids, all rows concatenated.
      segment_N: segment of each subword; below 0 nothing merges.
      offset_R: where each row begins, and the end.
      key_M: the three arrays of `index_pairs`.
      table: see `key_M`.
      again_M: see `key_M`.
      joined_M: kind of the token that each pair makes.

    Returns:
      Length of the token that begins at a position (0 where none does).
    """
    n_rows = offset_R.size - 1
    n_pairs = key_M.size
    length_N = np.zeros(ids_N.size, np.int32)
    width = 0
    for row in range(n_rows):
        width = max(width, offset_R[row + 1] - offset_R[row])
    kind = np.empty(width, np.int32)
    length = np.empty(width, np.int32)
    place = np.empty(width, np.int32)  # index in the list of the pair with the next token
    for row in range(n_rows):
        start = offset_R[row]
        while start < offset_R[row + 1]:
            end = start + 1
            if segment_N[start] >= 0:
                while end < offset_R[row + 1] and segment_N[end] == segment_N[start]:
                    end += 1
            n_tokens = end - start
            for index in range(n_tokens):
                kind[index] = ids_N[start + index]
                length[index] = 1
            for index in range(n_tokens - 1):
                place[index] = _next_place(table, key_M, again_M, kind[index], kind[index + 1], 0)
            while n_tokens > 1:
                now = n_pairs
                for index in range(n_tokens - 1):
                    now = min(now, place[index])
                if now == n_pairs:
                    break
                n_kept = 0
                index = 0
                while index < n_tokens:
                    joins = index + 1 < n_tokens and place[index] == now
                    kind[n_kept] = joined_M[now] if joins else kind[index]
                    length[n_kept] = length[index] + length[index + 1] if joins else length[index]
                    index += 2 if joins else 1
                    place[n_kept] = place[index - 1]
                    n_kept += 1
                n_tokens = n_kept
                for index in range(n_tokens - 1):
                    if kind[index] == joined_M[now] or kind[index + 1] == joined_M[now]:
                        place[index] = _next_place(table, key_M, again_M, kind[index], kind[index + 1], now + 1)
            position = start
            for index in range(n_tokens):
                length_N[position] = length[index]
                position += length[index]
            start = end
    return length_N


@compiled
@no_type_check
def _next_place(table, key_M, again_M, left, right, earliest):
    """The first index of the pair in the list, from `earliest` on; M if there is none."""
    place = table[find_pair(table, key_M, pair_key(left, right))]
    if place == NONE:
        return key_M.size
    while place < earliest:
        place = again_M[place]
    return np.int64(place)
