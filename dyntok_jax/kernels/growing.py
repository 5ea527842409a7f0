"""The compiled loop of `vocabulary/byte_pairs.py`: byte-pair encoding over distinct segments with counts.

The string of a token determines its kind, whatever its subwords; a string that the vocabulary already has is that
entry. So new kinds are numbered from the end of the vocabulary's ids. A token starts at a position of the segments,
which are concatenated; the pair of a token and the next one is stored at its position, in the doubly linked list of
that pair.
"""

from typing import no_type_check

import numpy as np

from dyntok_jax.kernels.hash_tables import NONE, compiled, find_pair, find_sequence, pair_key, table_size

N_ENTRIES, STOP = 0, 1
"""Indices into the state that is shared with the waiting thread."""


@compiled
@no_type_check
def grow(ids_N, offset, count_K, byte_N, byte_offset, is_text_V, wanted, longest, min_count, state):
    """Merges the most frequent pair repeatedly; of equals the one with the lowest left, then right kind.

    Args:
      ids_N: subwords of the segments.
      offset: where each begins, and the end.
      count_K: how often each occurs.
      byte_N: the strings of the vocabulary's entries, concatenated.
      byte_offset: where each begins, and the end.
      is_text_V: which of them occur in texts.
      wanted: how many new entries.
      longest: how many subwords an entry may have.
      min_count: how often a pair must occur.
      state: two numbers: the loop writes the number of entries so far to the first, and ends if the second is not 0.

    Returns:
      Of each new entry, in the order made: the index of its first subword in `ids_N`, how many it has, and how often
      it occurred. Tokens that are not complete characters are merged like others, but are not entries.
    """
    n_positions, n_old = ids_N.size, is_text_V.size
    kind = ids_N.copy()
    length = np.ones(n_positions, np.int32)
    before = np.full(n_positions, NONE, np.int32)
    segment_of = np.empty(n_positions, np.int32)
    for segment in range(count_K.size):
        for at in range(offset[segment], offset[segment + 1]):
            segment_of[at] = segment
            if at > offset[segment]:
                before[at] = at - 1

    # Strings: all known ones, concatenated, and the kind of each.
    strings = np.empty(2 * byte_N.size + 1024, np.uint8)
    strings[: byte_N.size] = byte_N
    string_start = np.empty(2 * n_old + 1024, np.int64)
    string_length = np.zeros(2 * n_old + 1024, np.int32)
    string_table = np.full(table_size(string_start.size), NONE, np.int32)
    for entry in range(n_old):
        string_start[entry] = byte_offset[entry]
        string_length[entry] = byte_offset[entry + 1] - byte_offset[entry]
        if is_text_V[entry]:
            slot = find_sequence(
                string_table, string_start, string_length, strings, string_start[entry], string_length[entry]
            )
            if string_table[slot] == NONE:
                string_table[slot] = entry
    n_kinds, end_of_strings = n_old, byte_N.size

    # Pairs: key, count, the first position of the list; and the lists.
    pair_of = np.full(n_positions, NONE, np.int32)
    next_place = np.full(n_positions, NONE, np.int32)
    last_place = np.full(n_positions, NONE, np.int32)
    pair_key_P = np.empty(1 << 16, np.uint64)
    pair_count = np.zeros(1 << 16, np.int64)
    pair_head = np.empty(1 << 16, np.int32)
    pair_touched = np.empty(1 << 16, np.int32)
    pair_table = np.full(table_size(pair_key_P.size), NONE, np.int32)
    n_pairs = 0
    # The heap may rank a pair too high, never too low: entries are checked again when they reach the top.
    heap_count = np.empty(1 << 16, np.int64)
    heap_key = np.empty(1 << 16, np.uint64)
    heap_size = 0

    entry_start = np.empty(1 << 16, np.int64)
    entry_length = np.empty(1 << 16, np.int32)
    entry_count = np.empty(1 << 16, np.int64)
    n_entries = 0

    places = np.empty(1 << 10, np.int32)
    starts = np.arange(n_positions, dtype=np.int32)  # where pairs may begin: everywhere at first
    n_starts, n_rounds = n_positions, 0
    touched = np.empty(1 << 10, np.int32)
    while True:
        # Add the new pairs.
        n_touched = 0
        for index in range(n_starts):
            start = starts[index]
            right = start + length[start]
            if right >= n_positions or segment_of[right] != segment_of[start]:
                continue
            if length[start] + length[right] > longest:
                continue
            if string_length[kind[start]] == 0 or string_length[kind[right]] == 0:
                continue  # the unknown token has no string of its own
            key = pair_key(kind[start], kind[right])
            slot = find_pair(pair_table, pair_key_P, key)
            pair = pair_table[slot]
            if pair == NONE:
                if n_pairs == pair_key_P.size:
                    pair_key_P, pair_head = _doubled(pair_key_P), _doubled(pair_head)
                    pair_count, pair_touched = _doubled(pair_count), _doubled(pair_touched)
                    pair_table = np.full(table_size(pair_key_P.size), NONE, np.int32)
                    for known in range(n_pairs):
                        pair_table[find_pair(pair_table, pair_key_P, pair_key_P[known])] = known
                    slot = find_pair(pair_table, pair_key_P, key)
                pair = np.int32(n_pairs)
                n_pairs += 1
                pair_table[slot] = pair
                pair_key_P[pair] = key
                pair_count[pair] = 0
                pair_head[pair] = NONE
                pair_touched[pair] = NONE
            pair_of[start] = pair
            last_place[start] = NONE
            next_place[start] = pair_head[pair]
            if pair_head[pair] != NONE:
                last_place[pair_head[pair]] = start
            pair_head[pair] = start
            pair_count[pair] += count_K[segment_of[start]]
            if pair_touched[pair] != n_rounds:
                pair_touched[pair] = n_rounds
                if n_touched == touched.size:
                    touched = _doubled(touched)
                touched[n_touched] = pair
                n_touched += 1
        for index in range(n_touched):
            if pair_count[touched[index]] >= min_count:
                if heap_size == heap_count.size:
                    heap_count, heap_key = _doubled(heap_count), _doubled(heap_key)
                heap_count[heap_size] = pair_count[touched[index]]
                heap_key[heap_size] = pair_key_P[touched[index]]
                heap_size += 1
                _rise(heap_count, heap_key, heap_size - 1)
        n_starts, n_rounds = 0, n_rounds + 1

        # The most frequent pair.
        pair = NONE
        while heap_size > 0 and n_entries < wanted and state[STOP] == 0:
            top = pair_table[find_pair(pair_table, pair_key_P, heap_key[0])]
            if pair_count[top] == heap_count[0]:
                pair = top
                break
            if pair_count[top] < min_count:
                heap_size -= 1
                heap_count[0], heap_key[0] = heap_count[heap_size], heap_key[heap_size]
            else:
                heap_count[0] = pair_count[top]
            _sink(heap_count, heap_key, heap_size)
        if pair == NONE:
            break

        # Its positions, from left to right, so that `a a a` becomes `aa a`.
        n_places = 0
        place = pair_head[pair]
        while place != NONE:
            if n_places == places.size:
                places = _doubled(places)
            places[n_places] = place
            n_places += 1
            place = next_place[place]
        places[:n_places].sort()

        # The string: a new kind, or one that exists.
        first = places[0]
        left_kind, right_kind = kind[first], kind[first + length[first]]
        if n_kinds == string_start.size:
            string_start, string_length = _doubled(string_start), _doubled(string_length)
            string_table = np.full(table_size(string_start.size), NONE, np.int32)
            for known in range(n_kinds):
                if known >= n_old or is_text_V[known]:
                    slot = find_sequence(
                        string_table, string_start, string_length, strings, string_start[known], string_length[known]
                    )
                    if string_table[slot] == NONE:
                        string_table[slot] = known
        n_bytes = string_length[left_kind] + string_length[right_kind]
        while end_of_strings + n_bytes > strings.size:
            strings = _doubled(strings)
        at = end_of_strings
        for part in (left_kind, right_kind):
            for index in range(string_length[part]):
                strings[at] = strings[string_start[part] + index]
                at += 1
        slot = find_sequence(string_table, string_start, string_length, strings, end_of_strings, n_bytes)
        if string_table[slot] == NONE:
            string_table[slot] = n_kinds
            string_start[n_kinds] = end_of_strings
            string_length[n_kinds] = n_bytes
            n_kinds += 1
            if _is_whole(strings, end_of_strings, n_bytes):
                if n_entries == entry_start.size:
                    entry_start, entry_length = _doubled(entry_start), _doubled(entry_length)
                    entry_count = _doubled(entry_count)
                entry_start[n_entries] = first
                entry_length[n_entries] = length[first] + length[first + length[first]]
                entry_count[n_entries] = pair_count[pair]
                n_entries += 1
                state[N_ENTRIES] = n_entries
            end_of_strings += n_bytes
        new_kind = string_table[slot]

        # Merge them. The pairs with the tokens on either side end, and new ones begin.
        if starts.size < 2 * n_places:
            starts = np.empty(2 * starts.size + 2 * n_places, np.int32)
        for index in range(n_places):
            left = places[index]
            if pair_of[left] != pair:  # an overlapping occurrence was merged first
                continue
            right = np.int32(left + length[left])
            previous = before[left]
            for gone in (previous, left, right):
                if gone != NONE and pair_of[gone] != NONE:
                    _unlink(gone, pair_of, next_place, last_place, pair_head, pair_count, count_K[segment_of[gone]])
            length[left] += length[right]
            kind[left] = new_kind
            after = left + length[left]
            if after < n_positions and segment_of[after] == segment_of[left]:
                before[after] = left
            # the token just made on the left has already added this position
            if previous != NONE and (n_starts == 0 or starts[n_starts - 1] != previous):
                starts[n_starts] = previous
                n_starts += 1
            starts[n_starts] = left
            n_starts += 1
    return entry_start[:n_entries].copy(), entry_length[:n_entries].copy(), entry_count[:n_entries].copy()


@compiled
@no_type_check
def _unlink(place, pair_of, next_place, last_place, pair_head, pair_count, count):
    """Removes a position from its pair's list."""
    pair = pair_of[place]
    pair_of[place] = NONE
    pair_count[pair] -= count
    if next_place[place] != NONE:
        last_place[next_place[place]] = last_place[place]
    if last_place[place] != NONE:
        next_place[last_place[place]] = next_place[place]
    else:
        pair_head[pair] = next_place[place]


@compiled
@no_type_check
def _is_whole(strings, start, n_bytes):
    """Whether bytes cut from UTF-8 text begin and end between characters."""
    if strings[start] & 0xC0 == 0x80:
        return False
    last = start + n_bytes - 1
    lead = last
    while strings[lead] & 0xC0 == 0x80:
        lead -= 1
    byte = strings[lead]
    size = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
    return lead + size - 1 == last


@compiled
@no_type_check
def _doubled(array):
    grown = np.empty(2 * array.size, array.dtype)
    grown[: array.size] = array
    return grown


@compiled
@no_type_check
def _is_before(heap_count, heap_key, one, other):
    if heap_count[one] != heap_count[other]:
        return heap_count[one] > heap_count[other]
    return heap_key[one] < heap_key[other]


@compiled
@no_type_check
def _swap(heap_count, heap_key, one, other):
    heap_count[one], heap_count[other] = heap_count[other], heap_count[one]
    heap_key[one], heap_key[other] = heap_key[other], heap_key[one]


@compiled
@no_type_check
def _sink(heap_count, heap_key, heap_size):
    place, child = 0, 1
    while child < heap_size:
        if child + 1 < heap_size and _is_before(heap_count, heap_key, child + 1, child):
            child += 1
        if not _is_before(heap_count, heap_key, child, place):
            break
        _swap(heap_count, heap_key, child, place)
        place, child = child, 2 * child + 1


@compiled
@no_type_check
def _rise(heap_count, heap_key, place):
    while place > 0 and _is_before(heap_count, heap_key, place, (place - 1) // 2):
        _swap(heap_count, heap_key, place, (place - 1) // 2)
        place = (place - 1) // 2
