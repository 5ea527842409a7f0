"""Compiled loops for `training/data/pieces.py`: splits of a vocabulary's pieces into shorter pieces.

A piece is a string of bytes. Below, M pieces are concatenated in `bytes_N`, piece m from `offset[m]` to `offset[m +
1]`; `build_trie` makes a trie over them. The piece itself does not count as a split.
"""

from typing import no_type_check

import numpy as np

from dyntok_jax.kernels.hash_tables import NONE, compiled, find_pair, pair_key
from dyntok_jax.kernels.trie import step


@compiled
@no_type_check
def split_by_score(bytes_N, offset, root_M, rest, table, key_E, piece_E, score_V, width):
    """Unigram: the parts whose scores have the highest sum; among equals earlier starts win, as in `tokenizers`.

    Args:
      bytes_N: the pieces.
      offset: where each begins, and the end.
      root_M: the root for each one's first part.
      rest: the root for all other parts.
      table: the trie's three arrays.
      key_E: see `table`.
      piece_E: see `table`.
      score_V: of each id.
      width: S, the most parts.

    Returns:
      The parts of each piece, then NONE; all NONE if S parts are not enough or there is no split.
    """
    n_pieces = offset.size - 1
    part_MS = np.full((n_pieces, width), NONE, np.int32)
    longest = 0
    for row in range(n_pieces):
        longest = max(longest, offset[row + 1] - offset[row])
    best = np.empty(longest + 1, np.float64)
    came_from = np.empty(longest + 1, np.int32)
    part = np.empty(longest + 1, np.int32)
    for row in range(n_pieces):
        begin, length = offset[row], offset[row + 1] - offset[row]
        best[: length + 1] = -np.inf
        best[0] = 0
        for start in range(length):
            if best[start] == -np.inf:
                continue
            node = root_M[row] if start == 0 else rest
            for end in range(start + 1, length + 1):
                node = step(table, key_E, node, bytes_N[begin + end - 1])
                if node == NONE:
                    break
                if piece_E[node] == NONE or end - start == length:
                    continue
                score = best[start] + score_V[piece_E[node]]
                if score > best[end]:
                    best[end], came_from[end], part[end] = score, start, piece_E[node]
        if best[length] == -np.inf:
            continue
        n_parts, at = 0, length
        while at > 0:
            n_parts += 1
            at = came_from[at]
        if n_parts <= width:
            at = length
            while at > 0:
                n_parts -= 1
                part_MS[row, n_parts] = part[at]
                at = came_from[at]
    return part_MS


@compiled
@no_type_check
def split_by_merges(bytes_N, offset, byte_id, key_M, table, joined_M, width):
    """BPE: the earliest merge of the list that applies, the leftmost first, again and again, but never to one part.

    Args:
      bytes_N: the pieces.
      offset: where each begins, and the end.
      byte_id: the id of each byte.
      key_M: the merges' pairs, from `index_pairs`.
      table: see `key_M`.
      joined_M: the id that each merge makes.
      width: S, the most parts.

    Returns:
      As `split_by_score`.
    """
    n_pieces = offset.size - 1
    part_MS = np.full((n_pieces, width), NONE, np.int32)
    for row in range(n_pieces):
        n_parts = offset[row + 1] - offset[row]
        part = np.empty(n_parts, np.int32)
        for index in range(n_parts):
            part[index] = byte_id[bytes_N[offset[row] + index]]
        while n_parts > 2:
            now, where = joined_M.size, NONE
            for index in range(n_parts - 1):
                merge = table[find_pair(table, key_M, pair_key(part[index], part[index + 1]))]
                if merge != NONE and merge < now:
                    now, where = merge, index
            if where == NONE:
                break
            part[where] = joined_M[now]
            n_parts -= 1
            for index in range(where + 1, n_parts):
                part[index] = part[index + 1]
        if 2 <= n_parts <= width:
            part_MS[row, :n_parts] = part[:n_parts]
    return part_MS


@compiled
@no_type_check
def split_by_longest(bytes_N, offset, root_M, rest, table, key_E, piece_E, width):
    """WordPiece: the longest part that fits, from the left.

    Args:
      bytes_N: the pieces.
      offset: where each begins, and the end.
      root_M: the root for each one's first part.
      rest: the root for all other parts.
      table: the trie's three arrays.
      key_E: see `table`.
      piece_E: see `table`.
      width: S, the most parts.

    Returns:
      As `split_by_score`.
    """
    n_pieces = offset.size - 1
    part_MS = np.full((n_pieces, width), NONE, np.int32)
    for row in range(n_pieces):
        begin, length = offset[row], offset[row + 1] - offset[row]
        start, n_parts = 0, 0
        while start < length and n_parts < width:
            node = root_M[row] if start == 0 else rest
            found, found_end = NONE, start
            for end in range(start + 1, length + 1):
                node = step(table, key_E, node, bytes_N[begin + end - 1])
                if node == NONE:
                    break
                if piece_E[node] != NONE and end - start < length:
                    found, found_end = piece_E[node], end
            if found == NONE:
                break
            part_MS[row, n_parts] = found
            n_parts += 1
            start = found_end
        if start < length:
            part_MS[row] = NONE
    return part_MS


@compiled
@no_type_check
def split_at_random(bytes_N, offset, root_M, rest, table, key_E, piece_E, uniform_MC):
    """Splits each piece randomly: draws a possible number of parts, then one of the splits with that number.

    Args:
      bytes_N: the pieces.
      offset: where each begins, and the end.
      root_M: the root for each one's first part.
      rest: the root for all other parts.
      table: the trie's three arrays.
      key_E: see `table`.
      piece_E: see `table`.
      uniform_MC: random numbers from 0 to 1: one for the number of parts, then one for the start of each; C = S + 1.

    Returns:
      As `split_by_score`.
    """
    n_pieces, width = uniform_MC.shape[0], uniform_MC.shape[1] - 1
    part_MS = np.full((n_pieces, width), NONE, np.int32)
    for row in range(n_pieces):
        begin, length = offset[row], offset[row + 1] - offset[row]
        # the part from each start to each end, and the number of splits into n parts that reach each end
        part = np.full((length, length + 1), NONE, np.int32)
        ways = np.zeros((width + 1, length + 1), np.float64)
        ways[0, 0] = 1
        for start in range(length):
            node = root_M[row] if start == 0 else rest
            for end in range(start + 1, length + 1):
                node = step(table, key_E, node, bytes_N[begin + end - 1])
                if node == NONE:
                    break
                if piece_E[node] != NONE and end - start < length:
                    part[start, end] = piece_E[node]
                    for n_parts in range(width):
                        ways[n_parts + 1, end] += ways[n_parts, start]
        n_choices = np.count_nonzero(ways[:, length])
        if n_choices == 0:
            continue
        choice = int(uniform_MC[row, 0] * n_choices)
        n_parts = 0
        while ways[n_parts, length] == 0 or choice > 0:
            choice -= ways[n_parts, length] > 0
            n_parts += 1
        end = length
        while n_parts > 0:
            left = ways[n_parts, end] * uniform_MC[row, n_parts]
            n_parts -= 1
            chosen = NONE
            for start in range(end):
                if part[start, end] != NONE and ways[n_parts, start] > 0:
                    chosen = start
                    left -= ways[n_parts, start]
                    if left < 0:
                        break
            part_MS[row, n_parts] = part[chosen, end]
            end = chosen
    return part_MS
