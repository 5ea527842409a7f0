"""Tries over strings of bytes, in hash tables: compiled, for `longest_prefix.py` and `covering.py`.

M strings are concatenated in `bytes_N`, string m from `offset[m]` to `offset[m + 1]`. The trie's nodes are numbered:
`FIRST` and `REST` are the roots for pieces that begin a text and for pieces inside it; they differ for WordPiece only,
whose pieces are marked. Every other node stands for the edge that leads to it.
"""

from typing import no_type_check

import numpy as np

from dyntok_jax.kernels.hash_tables import NONE, compiled, find_pair, pair_key, table_size

FIRST, REST = 0, 1
_N_ROOTS = 2


@compiled
@no_type_check
def build_trie(bytes_N, offset, id_M, root_M):
    """Makes strings searchable by their bytes.

    Args:
      bytes_N: the strings.
      offset: where each begins, and the end.
      id_M: their ids.
      root_M: the root of each.

    Returns:
      A hash table of edges, the key of each edge (its node before and its byte), and for each node the id of the string
      that ends there (of equal ones the last), or NONE.
    """
    key_E = np.empty(bytes_N.size, np.uint64)
    string_E = np.full(bytes_N.size + _N_ROOTS, NONE, np.int32)
    table = np.full(table_size(bytes_N.size), NONE, np.int32)
    n_edges = 0
    for row in range(id_M.size):
        node = root_M[row]
        for at in range(offset[row], offset[row + 1]):
            key = pair_key(node, bytes_N[at])
            slot = find_pair(table, key_E, key)
            if table[slot] == NONE:
                table[slot] = n_edges
                key_E[n_edges] = key
                n_edges += 1
            node = table[slot] + _N_ROOTS
        string_E[node] = id_M[row]
    return table, key_E[:n_edges].copy(), string_E[: n_edges + _N_ROOTS].copy()


@compiled
@no_type_check
def step(table, key_E, node, byte):
    """The node that the edge of a byte leads to; NONE if there is none."""
    edge = table[find_pair(table, key_E, pair_key(node, byte))]
    return NONE if edge == NONE else edge + _N_ROOTS
