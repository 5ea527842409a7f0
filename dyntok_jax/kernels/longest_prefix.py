"""Compiled loops for `vocabulary/grown_vocabulary.py`: tokenizing segments by the longest entries, from the left."""

from typing import no_type_check

import numpy as np

from dyntok_jax.kernels.hash_tables import NONE, compiled
from dyntok_jax.kernels.trie import FIRST, step

_SPACE = 0x20


@compiled
@no_type_check
def join_texts(part_ES, text_N, text_offset):
    """The concatenated texts of the entries, and where each begins, and the end.

    Args:
      part_ES: the subwords of each, then NONE.
      text_N: texts of all subwords.
      text_offset: where each begins, and the end.
    """
    offset = np.zeros(part_ES.shape[0] + 1, np.int64)
    for row in range(part_ES.shape[0]):
        offset[row + 1] = offset[row]
        for part in part_ES[row]:
            if part != NONE:
                offset[row + 1] += text_offset[part + 1] - text_offset[part]
    joined_N = np.empty(offset[-1], np.uint8)
    at = 0
    for row in range(part_ES.shape[0]):
        for part in part_ES[row]:
            if part != NONE:
                for index in range(text_offset[part], text_offset[part + 1]):
                    joined_N[at] = text_N[index]
                    at += 1
    return joined_N, offset


@compiled
@no_type_check
def split_segments(ids_N, segment_N, span_N2, offset_R, text_N, text_offset, is_text_V, table, key_E, entry_E):
    """Tokenizes each segment by the longest entries, from the left; subwords without a text are kept.

    Args:
      ids_N: subwords, all rows concatenated.
      segment_N: segment of each, below 0 for none.
      span_N2: characters of each.
      offset_R: where each row begins, and the end.
      text_N: texts of all subwords.
      text_offset: where each begins, and the end.
      is_text_V: which subwords occur in texts.
      table: the trie's three arrays, over all entries; every byte of a text is one.
      key_E: see `table`.
      entry_E: see `table`.

    Returns:
      Of each token its entry, its first subword and its span; and where each row begins, and the end.
    """
    n_most = ids_N.size
    for index in ids_N:
        n_most += text_offset[index + 1] - text_offset[index]
    token_T, first_T = np.empty(n_most, np.int32), np.empty(n_most, np.int32)
    token_span_T2 = np.empty((n_most, 2), np.int32)
    new_offset = np.zeros(offset_R.size, np.int64)
    n_tokens = 0
    byte_N, owner_N = np.empty(n_most, np.int32), np.empty(n_most, np.int32)
    byte_span_N2 = np.empty((n_most, 2), np.int32)
    for row in range(offset_R.size - 1):
        start = offset_R[row]
        while start < offset_R[row + 1]:
            if segment_N[start] < 0 or not is_text_V[ids_N[start]]:
                token_T[n_tokens], first_T[n_tokens], token_span_T2[n_tokens] = ids_N[start], start, span_N2[start]
                n_tokens += 1
                start += 1
                continue
            n_bytes, end = 0, start
            while end < offset_R[row + 1] and segment_N[end] == segment_N[start] and is_text_V[ids_N[end]]:
                begin, stop = text_offset[ids_N[end]], text_offset[ids_N[end] + 1]
                _spans_of_bytes(text_N[begin:stop], span_N2[end], byte_span_N2[n_bytes : n_bytes + stop - begin])
                for at in range(begin, stop):
                    byte_N[n_bytes], owner_N[n_bytes] = text_N[at], end
                    n_bytes += 1
                end += 1
            at = 0
            while at < n_bytes:
                node, entry, after = FIRST, NONE, at + 1
                for index in range(at, n_bytes):
                    node = step(table, key_E, node, byte_N[index])
                    if node == NONE:
                        break
                    if entry_E[node] != NONE:
                        entry, after = entry_E[node], index + 1
                token_T[n_tokens], first_T[n_tokens] = entry, owner_N[at]
                token_span_T2[n_tokens] = _cover(byte_span_N2[at:after])
                n_tokens += 1
                at = after
            start = end
        new_offset[row + 1] = n_tokens
    return token_T[:n_tokens].copy(), first_T[:n_tokens].copy(), token_span_T2[:n_tokens].copy(), new_offset


@compiled
@no_type_check
def _spans_of_bytes(text_n, span, span_n2):
    """The character of each byte of a subword; if their numbers do not match, each byte gets the subword's whole span.

    The space that a tokenizer puts before a text does not belong to its characters.
    """
    n_characters = 0
    for at in range(text_n.size):
        n_characters += at == 0 or text_n[at] & 0xC0 != 0x80
    n_in_span = span[1] - span[0]
    has_added_space = n_characters == n_in_span + 1 and text_n.size > 0 and text_n[0] == _SPACE
    if n_characters != n_in_span and not has_added_space:
        for at in range(text_n.size):
            span_n2[at] = span
        return
    character = span[0] - (2 if has_added_space else 1)
    for at in range(text_n.size):
        character += at == 0 or text_n[at] & 0xC0 != 0x80
        span_n2[at, 0], span_n2[at, 1] = max(character, span[0]), max(character + 1, span[0])


@compiled
@no_type_check
def _cover(span_n2):
    """The smallest range that holds all that are not empty."""
    start, end = span_n2[0]
    for at in range(1, span_n2.shape[0]):
        if span_n2[at, 0] < span_n2[at, 1]:
            if start == end:
                start = span_n2[at, 0]
            start, end = min(start, span_n2[at, 0]), max(end, span_n2[at, 1])
    return np.array([start, end], np.int32)
