"""Compiled loops for `merging/host.py`: merging by lists of occurrences, on plain arrays.

The algorithm of `merging/device.py` for one core: every pair has a linked list of its occurrences, a heap gives the
most frequent pair, and a merge visits only its own occurrences. Positions run through all sequences, row after row.
"""

from typing import no_type_check

import numpy as np

from dyntok_jax.kernels.hash_tables import (
    NONE,
    compiled,
    find_pair,
    find_sequence,
    pair_key,
    rank_of,
    rise,
    sink,
    table_size,
)


@compiled
@no_type_check
def merge_rows(ids_N, segment_N, length_N, offset_R, together, longest, max_merges_G, target_G, budget, learnt_M3):
    """Merges all rows as one batch, or each row alone.

    Args:
      ids_N: subword ids, all rows concatenated (like the next two, C-contiguous).
      segment_N: segment of each subword; below 0 nothing merges, and a segment ends with its row.
      length_N: length of the token that begins at a position, 0 where none does; ones to begin with subwords. Changed
        in place.
      offset_R: where each row begins, and the end.
      together: whether the rows are one batch; otherwise each is merged separately.
      longest: how many subwords a token may have.
      max_merges_G: stop after this number of merges. One number per batch or per row.
      target_G: stop at this number of tokens, without special ones; -1 never stops. One number per batch or per row.
      budget: stop once all rows have at most this number of tokens, with special ones; -1 never stops.
      learnt_M3: for each merge in order, position, length of the left and of the right token; may be shorter.

    Returns:
      The number of merges of each group.
    """
    n_rows = offset_R.size - 1
    if together:
        n_merges_G = np.zeros(1, np.int32)
        n_merges_G[0] = _merge_group(
            ids_N, segment_N, length_N, offset_R, longest, max_merges_G[0], target_G[0], budget, learnt_M3
        )
        return n_merges_G
    n_merges_G = np.zeros(n_rows, np.int32)
    alone_R = np.zeros(2, offset_R.dtype)
    for row in range(n_rows):
        begin, end = offset_R[row], offset_R[row + 1]
        alone_R[1] = end - begin
        n_merges_G[row] = _merge_group(
            ids_N[begin:end],
            segment_N[begin:end],
            length_N[begin:end],
            alone_R,
            longest,
            max_merges_G[row],
            target_G[row],
            budget,
            learnt_M3,
        )
    return n_merges_G


@compiled
@no_type_check
def _merge_group(ids, segment, length, offset_R, longest, max_merges, target, budget, learnt_M3):
    n_positions = ids.size
    n_rows = offset_R.size - 1

    # Tokens: kind (a subword's id, or below -1 for merged ones), length, and neighbours in the same segment.
    kind = ids.copy()
    after = np.full(n_positions, NONE, np.int32)
    before = np.full(n_positions, NONE, np.int32)
    row_of = np.empty(n_positions, np.int32)
    row_tokens = np.zeros(n_rows, np.int32)
    n_tokens = 0
    n_links = 0
    n_merged = 0
    for row in range(n_rows):
        previous = NONE
        for position in range(offset_R[row], offset_R[row + 1]):
            row_of[position] = row
            if length[position] > 0:
                row_tokens[row] += 1
                n_merged += length[position] > 1
                if segment[position] >= 0:
                    n_tokens += 1
                    if previous != NONE and segment[previous] == segment[position]:
                        after[previous] = position
                        before[position] = previous
                        n_links += 1
                previous = position
    n_over_budget = 0
    for row in range(n_rows):
        if row_tokens[row] > budget:
            n_over_budget += 1

    # Merged kinds, by their subwords: ab + c and a + bc are the same token.
    max_kinds = n_links + n_merged + 1
    kind_table = np.full(table_size(max_kinds), NONE, np.int32)
    kind_position = np.empty(max_kinds, np.int32)
    kind_length = np.empty(max_kinds, np.int32)
    n_kinds = 0
    for position in range(n_positions):
        if length[position] > 1:
            slot = find_sequence(kind_table, kind_position, kind_length, ids, position, length[position])
            if kind_table[slot] == NONE:
                kind_table[slot] = n_kinds
                kind_position[n_kinds] = position
                kind_length[n_kinds] = length[position]
                n_kinds += 1
            kind[position] = np.int32(-2 - kind_table[slot])

    # Pairs: key, count, and a linked list of occurrences. A merge removes one link and makes at most two occurrences.
    max_pairs = 3 * n_links + 1
    table = np.full(table_size(max_pairs), NONE, np.int32)
    key_of = np.empty(max_pairs, np.uint64)
    pair_count = np.zeros(max_pairs, np.int32)
    pair_head = np.empty(max_pairs, np.int32)
    pair_tail = np.empty(max_pairs, np.int32)
    pair_in_order = np.empty(max_pairs, np.bool_)
    pair_touched = np.empty(max_pairs, np.int32)
    n_pairs = 0
    # Occurrences: an occurrence is alive while `occurrence_at` of its position is still it.
    occurrence_at = np.full(n_positions, NONE, np.int32)
    max_occurrences = 3 * n_links + 1
    position_of = np.empty(max_occurrences, np.int32)
    pair_of = np.empty(max_occurrences, np.int32)
    following = np.empty(max_occurrences, np.int32)
    n_occurrences = 0
    for position in range(n_positions):
        if after[position] != NONE and length[position] + length[after[position]] <= longest:
            key = pair_key(kind[position], kind[after[position]])
            slot = find_pair(table, key_of, key)
            pair = table[slot]
            if pair == NONE:
                pair = n_pairs
                n_pairs += 1
                table[slot] = pair
                key_of[pair] = key
                pair_head[pair] = n_occurrences
                pair_in_order[pair] = True
                pair_touched[pair] = NONE
            else:
                following[pair_tail[pair]] = n_occurrences
            pair_tail[pair] = n_occurrences
            following[n_occurrences] = NONE
            pair_count[pair] += 1
            position_of[n_occurrences] = position
            pair_of[n_occurrences] = pair
            occurrence_at[position] = n_occurrences
            n_occurrences += 1

    # The heap may rank a pair too high, never too low: entries are checked, and corrected, when they reach the top.
    heap_rank = np.empty(max_pairs, np.int64)
    heap_pair = np.empty(max_pairs, np.int32)
    for pair in range(n_pairs):
        heap_rank[pair] = rank_of(pair_count[pair], position_of[pair_head[pair]])
        heap_pair[pair] = pair
    heap_size = n_pairs
    for place in range(heap_size // 2 - 1, -1, -1):
        sink(heap_rank, heap_pair, heap_size, place)

    touched = np.empty(max_pairs, np.int32)
    n_merges = 0
    while n_merges < max_merges and n_tokens > target and (budget < 0 or n_over_budget > 0) and heap_size > 0:
        pair = heap_pair[0]
        if pair_count[pair] == 0:
            heap_size -= 1
            heap_rank[0], heap_pair[0] = heap_rank[heap_size], heap_pair[heap_size]
            sink(heap_rank, heap_pair, heap_size, 0)
            continue
        if not pair_in_order[pair]:
            _sort_occurrences(pair, pair_head, pair_tail, following, position_of, occurrence_at)
            pair_in_order[pair] = True
        head = pair_head[pair]
        while occurrence_at[position_of[head]] != head:
            head = following[head]
        pair_head[pair] = head
        rank = rank_of(pair_count[pair], position_of[head])
        if heap_rank[0] != rank:
            heap_rank[0] = rank
            sink(heap_rank, heap_pair, heap_size, 0)
            continue

        first = position_of[head]
        new_length = length[first] + length[after[first]]
        if n_merges < learnt_M3.shape[0]:
            learnt_M3[n_merges, 0] = first
            learnt_M3[n_merges, 1] = length[first]
            learnt_M3[n_merges, 2] = length[after[first]]
        slot = find_sequence(kind_table, kind_position, kind_length, ids, first, new_length)
        if kind_table[slot] == NONE:
            kind_table[slot] = n_kinds
            kind_position[n_kinds] = first
            kind_length[n_kinds] = new_length
            n_kinds += 1
        new_kind = np.int32(-2 - kind_table[slot])

        n_touched = 0
        occurrence = head
        while occurrence != NONE:
            left = position_of[occurrence]
            if occurrence_at[left] == occurrence:
                right = after[left]
                previous, following_token = before[left], after[right]
                # Remove occurrences: of the pair itself, and of the pairs with the tokens on either side.
                for gone in (previous, left, right):
                    if gone != NONE and occurrence_at[gone] != NONE:
                        pair_count[pair_of[occurrence_at[gone]]] -= 1
                        occurrence_at[gone] = NONE
                kind[left] = new_kind
                length[left] = new_length
                length[right] = 0
                after[left] = following_token
                if following_token != NONE:
                    before[following_token] = left
                n_tokens -= 1
                row = row_of[left]
                row_tokens[row] -= 1
                if row_tokens[row] == budget:
                    n_over_budget -= 1
                # Add the new ones.
                for start in (previous, left):
                    if start != NONE and after[start] != NONE and length[start] + length[after[start]] <= longest:
                        key = pair_key(kind[start], kind[after[start]])
                        slot = find_pair(table, key_of, key)
                        new_pair = table[slot]
                        if new_pair == NONE:
                            new_pair = n_pairs
                            n_pairs += 1
                            table[slot] = new_pair
                            key_of[new_pair] = key
                            pair_in_order[new_pair] = True
                            pair_touched[new_pair] = NONE
                            pair_head[new_pair] = n_occurrences
                        elif pair_count[new_pair] == 0:
                            # All its occurrences are dead: start a new list.
                            pair_in_order[new_pair] = True
                            pair_head[new_pair] = n_occurrences
                        else:
                            if start < position_of[pair_tail[new_pair]]:
                                pair_in_order[new_pair] = False
                            following[pair_tail[new_pair]] = n_occurrences
                        pair_tail[new_pair] = n_occurrences
                        following[n_occurrences] = NONE
                        pair_count[new_pair] += 1
                        position_of[n_occurrences] = start
                        pair_of[n_occurrences] = new_pair
                        occurrence_at[start] = n_occurrences
                        n_occurrences += 1
                        if pair_touched[new_pair] != n_merges:
                            pair_touched[new_pair] = n_merges
                            touched[n_touched] = new_pair
                            n_touched += 1
            occurrence = following[occurrence]
        n_merges += 1

        for index in range(n_touched):
            pair = touched[index]
            if pair_count[pair] > 0:
                # The first position of an unsorted list is unknown: rank it as high as possible.
                position = 0
                if pair_in_order[pair]:
                    head = pair_head[pair]
                    while occurrence_at[position_of[head]] != head:
                        head = following[head]
                    pair_head[pair] = head
                    position = position_of[head]
                heap_rank[heap_size] = rank_of(pair_count[pair], position)
                heap_pair[heap_size] = pair
                heap_size += 1
                rise(heap_rank, heap_pair, heap_size - 1)
    return n_merges


@compiled
@no_type_check
def _sort_occurrences(pair, pair_head, pair_tail, following, position_of, occurrence_at):
    """Removes a pair's dead occurrences and sorts the others by position."""
    n_alive = 0
    occurrence = pair_head[pair]
    while occurrence != NONE:
        n_alive += occurrence_at[position_of[occurrence]] == occurrence
        occurrence = following[occurrence]
    positions = np.empty(n_alive, np.int32)
    n_alive = 0
    occurrence = pair_head[pair]
    while occurrence != NONE:
        if occurrence_at[position_of[occurrence]] == occurrence:
            positions[n_alive] = position_of[occurrence]
            n_alive += 1
        occurrence = following[occurrence]
    positions.sort()
    previous = NONE
    for position in positions:
        occurrence = occurrence_at[position]
        if previous == NONE:
            pair_head[pair] = occurrence
        else:
            following[previous] = occurrence
        previous = occurrence
    following[previous] = NONE
    pair_tail[pair] = previous
