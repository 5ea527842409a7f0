"""Hash tables and a heap on plain arrays, compiled for the host, for the other files of this folder.

numba's cache on disk notices changes in a function's own file, not in the files of functions it calls: after a change
here during development, touch the files that use it.
"""

from typing import TypeVarTuple, cast, no_type_check

import numba
import numpy as np

Arrays = TypeVarTuple("Arrays")

NONE = -1
"""No position, no pair, no occurrence: the end of a linked list."""


def compiled(function):
    """Compiles for the host, and caches the result on disk for the next process if a folder can be written."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba found no folder for its cache
        return numba.njit(nogil=True)(function)


def as_kernel_arrays(*arrays: *Arrays) -> tuple[*Arrays]:
    """Contiguous and writable arrays: for any others numba would compile its functions once more."""
    return cast(tuple[*Arrays], tuple(np.require(array, requirements=("C", "W")) for array in arrays))


# `no_type_check`: numba compiles the functions themselves, without the checks that tests wrap around all others.


@compiled
@no_type_check
def table_size(n_entries):
    """A power of two that leaves a third of the table empty."""
    size = 16
    while 2 * size < 3 * n_entries:
        size *= 2
    return size


@compiled
@no_type_check
def pair_key(left, right):
    """Two kinds (int32) as one number."""
    return (np.uint64(np.uint32(left)) << np.uint64(32)) | np.uint64(np.uint32(right))


@compiled
@no_type_check
def find_pair(table, key_of, key):
    """The slot of a hash table that holds the pair, or the empty one where it belongs."""
    slot = _slot_of(key, table.size)
    while table[slot] != NONE and key_of[table[slot]] != key:
        slot = (slot + 1) & (table.size - 1)
    return slot


@compiled
@no_type_check
def find_sequence(table, kind_position, kind_length, ids, position, length):
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
def rank_of(count, position):
    """The order of pairs in the heap: the most frequent first, then the one that occurs first."""
    return ((np.int64(1) << np.int64(31)) - np.int64(count)) << np.int64(32) | np.int64(position)


@compiled
@no_type_check
def sink(heap_rank, heap_pair, heap_size, place):
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
def rise(heap_rank, heap_pair, place):
    """Moves an entry up to where it belongs."""
    rank, pair = heap_rank[place], heap_pair[place]
    while place > 0 and heap_rank[(place - 1) // 2] > rank:
        parent = (place - 1) // 2
        heap_rank[place], heap_pair[place] = heap_rank[parent], heap_pair[parent]
        place = parent
    heap_rank[place], heap_pair[place] = rank, pair
