"""Compiled loops for `vocabulary/segment_counts.py`: distinct sequences in a hash table."""

from typing import no_type_check

import numpy as np

from dyntok_jax.kernels.hash_tables import NONE, compiled, find_sequence, table_size


@compiled
@no_type_check
def index_segments(ids_N, offset, length_K, n_segments, n_slots):
    """A hash table of the first `n_segments` segments, which differ, with room for `n_slots`."""
    table = np.full(table_size(n_slots), NONE, np.int32)
    for segment in range(n_segments):
        table[find_sequence(table, offset, length_K, ids_N, offset[segment], length_K[segment])] = segment
    return table


@compiled
@no_type_check
def take_segments(ids_N, offset, rows):
    """Some of the segments, in a new order: their subwords and where each begins, and the end."""
    new_offset = np.zeros(rows.size + 1, np.int64)
    for index in range(rows.size):
        new_offset[index + 1] = new_offset[index] + offset[rows[index] + 1] - offset[rows[index]]
    taken_N = np.empty(new_offset[-1], np.int32)
    for index in range(rows.size):
        for at in range(new_offset[index + 1] - new_offset[index]):
            taken_N[new_offset[index] + at] = ids_N[offset[rows[index]] + at]
    return taken_N, new_offset


@compiled
@no_type_check
def count_rows(ids_N, segment_N, offset_R, weight_R, table, known_N, known_offset, length_K, count_K, n_known):
    """Adds the segments of a batch to the known ones; skips segments of one subword, and subwords outside of segments.

    Args:
      ids_N: subword ids, all rows concatenated.
      segment_N: segment of each, below 0 for none.
      offset_R: where each row begins, and the end.
      weight_R: how often each row counts.
      table: from `index_segments`, with room for all new ones.
      known_N: subwords of the known segments, with room for all of `ids_N` after them.
      known_offset: where each begins, and the end; room for more.
      length_K: subwords of each; room for more.
      count_K: how often each was seen; room for more.
      n_known: how many are known.

    Returns:
      How many are known now.
    """
    for row in range(weight_R.size):
        start = offset_R[row]
        while start < offset_R[row + 1]:
            end = start + 1
            while end < offset_R[row + 1] and segment_N[end] == segment_N[start]:
                end += 1
            if segment_N[start] >= 0 and end - start > 1:
                # the candidate is written after the known ones, so that it can be compared with them and kept
                end_of_known = known_offset[n_known]
                for index in range(end - start):
                    known_N[end_of_known + index] = ids_N[start + index]
                slot = find_sequence(table, known_offset, length_K, known_N, end_of_known, end - start)
                if table[slot] == NONE:
                    table[slot] = n_known
                    length_K[n_known] = end - start
                    count_K[n_known] = 0
                    n_known += 1
                    known_offset[n_known] = end_of_known + end - start
                count_K[table[slot]] += weight_R[row]
            start = end
    return n_known
