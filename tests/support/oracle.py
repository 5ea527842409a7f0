"""The merging algorithm as one would write it down: the measure of `device.py` and `host.py`, in results and in time.

A token is the tuple of its subword ids. Each round counts all adjacent pairs and merges the most frequent one.
"""

from fractions import Fraction
from itertools import groupby
from math import ceil

from dyntok_jax.options import Budget, Goal, Merges, Share

Token = tuple[int, ...]


def merge(
    rows: list[list[int]],
    segments: list[list[int]],
    goal: Goal,
    max_subwords: int | None = None,
    scope: str = "batch",
    stage: tuple[list[list[int]], int] | None = None,
) -> tuple[list[list[Token]], list[int]]:
    """Merges rows of subword ids (no padding); segment -1 stands for special tokens.

    The first stage, if there is one, is the pretokens that it does not leave, and how many merges it has.

    Returns:
      The tokens of each row, and the number of merges: one for scope "batch", one a row for scope "example".
    """
    pretokens, n_first = stage or (segments, 0)
    if scope == "batch":
        tokens, n_merges = merge_together(rows, segments, goal, max_subwords, pretokens, n_first)
        return tokens, [n_merges]
    alone = [
        merge_together([row], [segment], goal, max_subwords, [pretoken], n_first)
        for row, segment, pretoken in zip(rows, segments, pretokens, strict=True)
    ]
    return [tokens[0] for tokens, _ in alone], [n_merges for _, n_merges in alone]


def merge_together(
    rows: list[list[int]],
    segments: list[list[int]],
    goal: Goal,
    max_subwords: int | None,
    pretokens: list[list[int]],
    n_first: int,
) -> tuple[list[list[Token]], int]:
    """Merges the rows as one batch; returns the tokens of each row and the number of merges."""
    tokens = [[(subword,) for subword in row] for row in rows]
    narrow = [
        [-1 if number == -1 else (number, part) for number, part in zip(*labels, strict=True)]
        for labels in zip(segments, pretokens, strict=True)
    ]
    n_static = count_tokens(segments)
    n_fewest = count_fewest_tokens(segments, max_subwords)
    n_merges, is_first = 0, True
    while not is_reached(goal, n_merges, labels_of(tokens, segments), n_static, n_fewest):
        is_first = is_first and n_merges < n_first
        labels = labels_of(tokens, narrow if is_first else segments)
        pair = most_frequent_pair(tokens, labels, max_subwords)
        if pair is not None:
            tokens = [merge_row(row, of_row, pair)[0] for row, of_row in zip(tokens, labels, strict=True)]
            n_merges += 1
        elif is_first:
            is_first = False
        else:
            break
    return tokens, n_merges


def labels_of(tokens: list[list[Token]], labels: list[list]) -> list[list]:
    """The label of each token: that of its first subword."""
    starts = [[sum(map(len, row[:i])) for i in range(len(row))] for row in tokens]
    return [[of_row[start] for start in at] for of_row, at in zip(labels, starts, strict=True)]


def most_frequent_pair(
    tokens: list[list[Token]], segments: list[list[int]], max_subwords: int | None
) -> tuple[Token, Token] | None:
    """The most frequent pair that may merge, the first in row-major order among equals; None if there is none."""
    counts: dict[tuple[Token, Token], int] = {}
    for row, segment in zip(tokens, segments, strict=True):
        for i in range(len(row) - 1):
            if segment[i] == segment[i + 1] != -1:
                pair = (row[i], row[i + 1])
                if max_subwords is None or len(pair[0]) + len(pair[1]) <= max_subwords:
                    counts[pair] = counts.get(pair, 0) + 1
    # A dict keeps the order of insertion and `max` returns the first of equals: the tie rule.
    return max(counts, key=counts.__getitem__) if counts else None


def merge_row(row: list[Token], segment: list[int], pair: tuple[Token, Token]) -> tuple[list[Token], list[int]]:
    """Joins the pair's occurrences in one row, left to right, not overlapping."""
    merged: list[Token] = []
    merged_segment: list[int] = []
    left, right = pair
    i = 0
    while i < len(row):
        merged_segment.append(segment[i])
        if (
            i + 1 < len(row)
            and row[i] == left
            and row[i + 1] == right
            and segment[i] == segment[i + 1]
            and segment[i] != -1
        ):
            merged.append(left + right)
            i += 2
        else:
            merged.append(row[i])
            i += 1
    return merged, merged_segment


def is_reached(goal: Goal, n_merges: int, segments: list[list[int]], n_static: int, n_fewest: int) -> bool:
    """Whether merging stops before the next round."""
    match goal:
        case Merges(count):
            return n_merges >= count
        case Share(percent):
            share = Fraction(str(percent)) / 100
            return count_tokens(segments) <= n_static - share * (n_static - n_fewest)
        case Budget(tokens):
            return all(len(row) <= tokens for row in segments)


def count_tokens(segments: list[list[int]]) -> int:
    """How many tokens there are, special ones not counted."""
    return sum(number != -1 for row in segments for number in row)


def count_fewest_tokens(segments: list[list[int]], max_subwords: int | None) -> int:
    """How many tokens would be left if each segment shrank as far as the limit allows."""
    sizes = [len(list(run)) for row in segments for number, run in groupby(row) if number != -1]
    return sum(1 if max_subwords is None else ceil(size / max_subwords) for size in sizes)
