"""The compiled loops behind `host.py` and `merge_list.py`: merging by lists of occurrences, on plain arrays.

The algorithm of `device.py` for one core: every pair has a linked list of the places where it occurs, a heap gives the
most frequent pair, and a merge visits only its own occurrences. Positions run through all sequences, row after row.
"""

from typing import no_type_check

import numba
import numpy as np

NONE = -1
"""No position, no pair, no occurrence: the end of a linked list."""


def compiled(function):
    """Compiles for the host, and keeps the result on disk for the next process wherever a folder can be written."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba found no folder for its cache
        return numba.njit(nogil=True)(function)


# `no_type_check`: numba compiles the functions themselves, not the checks that the tests wrap around every other one.


@compiled
@no_type_check
def merge_rows(ids_BL, segment_BL, mask_BL, together, longest, max_merges, target_G, budget, learnt_M3):
    """Merges all rows as one batch, or each row alone.

    Args:
      ids_BL: subword ids (like the next two, C-contiguous).
      segment_BL: segment of each subword; below 0 nothing merges.
      mask_BL: False for padding.
      together: whether the rows are one batch; otherwise each is merged alone.
      longest: how many subwords a token may have.
      max_merges: stop after so many merges.
      target_G: stop at so many tokens, special ones not counted; -1 never stops. One number a batch or one a row.
      budget: stop once all rows have at most so many tokens, special ones counted; -1 never stops.
      learnt_M3: for each merge in order, position, length of the left and of the right token; may be shorter.

    Returns:
      Length of the token that begins at a position (0 where none does), and the number of merges of each group.
    """
    n_rows, width = ids_BL.shape
    length_BL = np.zeros((n_rows, width), np.int32)
    if together:
        n_merges_G = np.zeros(1, np.int32)
        n_merges_G[0] = _merge_group(
            ids_BL, segment_BL, mask_BL, longest, max_merges, target_G[0], budget, length_BL, learnt_M3
        )
        return length_BL, n_merges_G
    n_merges_G = np.zeros(n_rows, np.int32)
    for row in range(n_rows):
        n_merges_G[row] = _merge_group(
            ids_BL[row : row + 1],
            segment_BL[row : row + 1],
            mask_BL[row : row + 1],
            longest,
            max_merges,
            target_G[row],
            budget,
            length_BL[row : row + 1],
            learnt_M3,
        )
    return length_BL, n_merges_G


@compiled
@no_type_check
def _merge_group(ids_BL, segment_BL, mask_BL, longest, max_merges, target, budget, length_BL, learnt_M3):
    n_rows, width = ids_BL.shape
    n_positions = n_rows * width
    ids = ids_BL.reshape(-1)
    length = length_BL.reshape(-1)

    # Tokens: kind (a subword's id, or below -1 for merged ones), length, and neighbours in the same segment.
    kind = ids.copy()
    after = np.full(n_positions, NONE, np.int32)
    before = np.full(n_positions, NONE, np.int32)
    row_tokens = np.zeros(n_rows, np.int32)
    n_tokens = 0
    n_links = 0
    for row in range(n_rows):
        for column in range(width):
            if mask_BL[row, column]:
                position = row * width + column
                length[position] = 1
                row_tokens[row] += 1
                if segment_BL[row, column] >= 0:
                    n_tokens += 1
                    if column > 0 and segment_BL[row, column - 1] == segment_BL[row, column]:
                        after[position - 1] = position
                        before[position] = position - 1
                        n_links += 1
    n_over_budget = 0
    for row in range(n_rows):
        if row_tokens[row] > budget:
            n_over_budget += 1

    # Pairs: key, count, and a linked list of occurrences. A merge kills one link and makes two occurrences at most.
    max_pairs = 3 * n_links + 1
    table = np.full(_table_size(max_pairs), NONE, np.int32)
    pair_key = np.empty(max_pairs, np.uint64)
    pair_count = np.zeros(max_pairs, np.int32)
    pair_head = np.empty(max_pairs, np.int32)
    pair_tail = np.empty(max_pairs, np.int32)
    pair_in_order = np.empty(max_pairs, np.bool_)
    pair_touched = np.empty(max_pairs, np.int32)
    n_pairs = 0
    # Occurrences: one that has begun at a position of its own, or a later one; alive if its position still names it.
    occurrence_at = np.full(n_positions, NONE, np.int32)
    max_occurrences = 3 * n_links + 1
    position_of = np.empty(max_occurrences, np.int32)
    pair_of = np.empty(max_occurrences, np.int32)
    following = np.empty(max_occurrences, np.int32)
    n_occurrences = 0
    if longest >= 2:
        for position in range(n_positions):
            if after[position] != NONE:
                key = _pair_key(kind[position], kind[after[position]])
                slot = _find_pair(table, pair_key, key)
                pair = table[slot]
                if pair == NONE:
                    pair = n_pairs
                    n_pairs += 1
                    table[slot] = pair
                    pair_key[pair] = key
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
        heap_rank[pair] = _rank(pair_count[pair], position_of[pair_head[pair]])
        heap_pair[pair] = pair
    heap_size = n_pairs
    for place in range(heap_size // 2 - 1, -1, -1):
        _sink(heap_rank, heap_pair, heap_size, place)

    # Merged kinds, by their subwords: ab + c and a + bc are the same token.
    kind_table = np.full(_table_size(n_links + 1), NONE, np.int32)
    kind_position = np.empty(n_links + 1, np.int32)
    kind_length = np.empty(n_links + 1, np.int32)
    n_kinds = 0

    touched = np.empty(max_pairs, np.int32)
    n_merges = 0
    while n_merges < max_merges and n_tokens > target and (budget < 0 or n_over_budget > 0) and heap_size > 0:
        pair = heap_pair[0]
        if pair_count[pair] == 0:
            heap_size -= 1
            heap_rank[0], heap_pair[0] = heap_rank[heap_size], heap_pair[heap_size]
            _sink(heap_rank, heap_pair, heap_size, 0)
            continue
        if not pair_in_order[pair]:
            _sort_occurrences(pair, pair_head, pair_tail, following, position_of, occurrence_at)
            pair_in_order[pair] = True
        head = pair_head[pair]
        while occurrence_at[position_of[head]] != head:
            head = following[head]
        pair_head[pair] = head
        rank = _rank(pair_count[pair], position_of[head])
        if heap_rank[0] != rank:
            heap_rank[0] = rank
            _sink(heap_rank, heap_pair, heap_size, 0)
            continue

        first = position_of[head]
        new_length = length[first] + length[after[first]]
        if n_merges < learnt_M3.shape[0]:
            learnt_M3[n_merges, 0] = first
            learnt_M3[n_merges, 1] = length[first]
            learnt_M3[n_merges, 2] = length[after[first]]
        slot = _find_sequence(kind_table, kind_position, kind_length, ids, first, new_length)
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
                # The occurrences that end: the pair itself, and those with the tokens on either side.
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
                row = left // width
                row_tokens[row] -= 1
                if row_tokens[row] == budget:
                    n_over_budget -= 1
                # Those that begin.
                for start in (previous, left):
                    if start != NONE and after[start] != NONE and length[start] + length[after[start]] <= longest:
                        key = _pair_key(kind[start], kind[after[start]])
                        slot = _find_pair(table, pair_key, key)
                        new_pair = table[slot]
                        if new_pair == NONE:
                            new_pair = n_pairs
                            n_pairs += 1
                            table[slot] = new_pair
                            pair_key[new_pair] = key
                            pair_in_order[new_pair] = True
                            pair_touched[new_pair] = NONE
                            pair_head[new_pair] = n_occurrences
                        elif pair_count[new_pair] == 0:
                            # All its occurrences are dead: the list starts afresh.
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
                # An unsorted list does not know its first position yet: rank it as high as it can be.
                position = 0
                if pair_in_order[pair]:
                    head = pair_head[pair]
                    while occurrence_at[position_of[head]] != head:
                        head = following[head]
                    pair_head[pair] = head
                    position = position_of[head]
                heap_rank[heap_size] = _rank(pair_count[pair], position)
                heap_pair[heap_size] = pair
                heap_size += 1
                _rise(heap_rank, heap_pair, heap_size - 1)
    return n_merges


@compiled
@no_type_check
def index_pairs(left_M, right_M):
    """Makes a list of pairs of kinds searchable.

    Returns:
      The keys of the pairs, a hash table of the first place where each stands in the list, and the next place after
      each place where the same pair stands again (M if none does).
    """
    n_pairs = left_M.size
    key_M = np.empty(n_pairs, np.uint64)
    table = np.full(_table_size(n_pairs), NONE, np.int32)
    again_M = np.full(n_pairs, n_pairs, np.int32)
    for place in range(n_pairs - 1, -1, -1):
        key_M[place] = _pair_key(left_M[place], right_M[place])
        slot = _find_pair(table, key_M, key_M[place])
        if table[slot] != NONE:
            again_M[place] = table[slot]
        table[slot] = place
    return key_M, table, again_M


@compiled
@no_type_check
def apply_pairs(ids_BL, segment_BL, mask_BL, key_M, table, again_M, joined_M):
    """Merges the pairs of a list in its order, each wherever it stands when its turn comes.

    Segments do not touch each other, so each is taken through the whole list alone. It jumps to the next place in the
    list at which one of its own pairs stands.

    Args:
      ids_BL: subword ids.
      segment_BL: segment of each subword; below 0 nothing merges.
      mask_BL: False for padding.
      key_M: the three arrays of `index_pairs`.
      table: see `key_M`.
      again_M: see `key_M`.
      joined_M: kind of the token that each pair makes.

    Returns:
      Length of the token that begins at a position (0 where none does).
    """
    n_rows, width = ids_BL.shape
    n_pairs = key_M.size
    length_BL = np.zeros((n_rows, width), np.int32)
    kind = np.empty(width, np.int32)
    length = np.empty(width, np.int32)
    place = np.empty(width, np.int32)  # where the pair with the next token stands in the list
    for row in range(n_rows):
        start = 0
        while start < width and mask_BL[row, start]:
            end = start + 1
            if segment_BL[row, start] >= 0:
                while end < width and mask_BL[row, end] and segment_BL[row, end] == segment_BL[row, start]:
                    end += 1
            n_tokens = end - start
            for index in range(n_tokens):
                kind[index] = ids_BL[row, start + index]
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
                length_BL[row, position] = length[index]
                position += length[index]
            start = end
    return length_BL


@compiled
@no_type_check
def _next_place(table, key_M, again_M, left, right, earliest):
    """The first place in the list, from `earliest` on, at which the pair stands; M if there is none."""
    place = table[_find_pair(table, key_M, _pair_key(left, right))]
    if place == NONE:
        return key_M.size
    while place < earliest:
        place = again_M[place]
    return np.int64(place)


@compiled
@no_type_check
def _sort_occurrences(pair, pair_head, pair_tail, following, position_of, occurrence_at):
    """Drops a pair's dead occurrences and brings the others in order of position."""
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


@compiled
@no_type_check
def _table_size(n_entries):
    """A power of two that leaves a third of the table empty."""
    size = 16
    while 2 * size < 3 * n_entries:
        size *= 2
    return size


@compiled
@no_type_check
def _pair_key(left, right):
    return (np.uint64(np.uint32(left)) << np.uint64(32)) | np.uint64(np.uint32(right))


@compiled
@no_type_check
def _find_pair(table, pair_key, key):
    """The slot of a hash table that holds the pair, or the empty one where it belongs."""
    slot = _slot_of(key, table.size)
    while table[slot] != NONE and pair_key[table[slot]] != key:
        slot = (slot + 1) & (table.size - 1)
    return slot


@compiled
@no_type_check
def _find_sequence(table, kind_position, kind_length, ids, position, length):
    """The slot that holds the kind with these subwords, or the empty one where it belongs."""
    code = np.uint64(length)
    for offset in range(length):
        code = code * np.uint64(0x9E3779B97F4A7C15) + np.uint64(np.uint32(ids[position + offset]))
    slot = _slot_of(code, table.size)
    while table[slot] != NONE:
        kind = table[slot]
        if kind_length[kind] == length:
            offset = 0
            while offset < length and ids[kind_position[kind] + offset] == ids[position + offset]:
                offset += 1
            if offset == length:
                break
        slot = (slot + 1) & (table.size - 1)
    return slot


@compiled
@no_type_check
def _slot_of(code, size):
    mixed = code * np.uint64(0x9E3779B97F4A7C15)
    return np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(size - 1))


@compiled
@no_type_check
def _rank(count, position):
    """The order of pairs in the heap: the most frequent first, then the one that occurs first."""
    return ((np.int64(1) << np.int64(31)) - np.int64(count)) << np.int64(32) | np.int64(position)


@compiled
@no_type_check
def _sink(heap_rank, heap_pair, heap_size, place):
    """Moves an entry down to where it belongs."""
    rank, pair = heap_rank[place], heap_pair[place]
    child = 2 * place + 1
    while child < heap_size:
        if child + 1 < heap_size and heap_rank[child + 1] < heap_rank[child]:
            child += 1
        if heap_rank[child] >= rank:
            break
        heap_rank[place], heap_pair[place] = heap_rank[child], heap_pair[child]
        place = child
        child = 2 * place + 1
    heap_rank[place], heap_pair[place] = rank, pair


@compiled
@no_type_check
def _rise(heap_rank, heap_pair, place):
    """Moves an entry up to where it belongs."""
    rank, pair = heap_rank[place], heap_pair[place]
    while place > 0 and heap_rank[(place - 1) // 2] > rank:
        parent = (place - 1) // 2
        heap_rank[place], heap_pair[place] = heap_rank[parent], heap_pair[parent]
        place = parent
    heap_rank[place], heap_pair[place] = rank, pair
