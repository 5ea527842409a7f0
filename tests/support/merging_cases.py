"""Batches for the merging tests: golden traces, generated ones, and the way to and from padded arrays."""

import gzip
import json
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from dyntok_jax.options import Budget, Merges, Share
from dyntok_jax.types import MergedBatch

GOLDEN = Path(__file__).parents[1] / "golden"
EVERY_MERGE = Merges(1_000_000)
WIDTH = 16


@cache
def golden_cases(name: str) -> list[dict]:
    with gzip.open(GOLDEN / f"merge_{name}.json.gz") as file:
        cases = json.load(file)
    for case in cases:
        number: dict[str, int] = {}
        case["ids"] = [[number.setdefault(subword, len(number)) for subword in row] for row in case["subwords"]]
        case["strings"] = list(number)
        case["goal"] = EVERY_MERGE if case["max_merges"] is None else Merges(case["max_merges"])
    return cases


def pad(rows, segments, n_rows=None, width=None):
    """ids_BL, segment_BL and mask_BL of rows of different lengths."""
    shape = (n_rows or len(rows), width or max(map(len, rows)))
    ids_BL, segment_BL, mask_BL = np.zeros(shape, np.int32), np.full(shape, -1, np.int32), np.zeros(shape, bool)
    for i, (row, segment) in enumerate(zip(rows, segments, strict=True)):
        ids_BL[i, : len(row)] = row
        segment_BL[i, : len(row)] = segment
        mask_BL[i, : len(row)] = True
    return ids_BL, segment_BL, mask_BL


def tokens_of(ids_BL, merged: MergedBatch) -> list[list[tuple[int, ...]]]:
    """The tokens of each row as tuples of subword ids."""
    rows = []
    for ids, starts, lengths, mask in zip(ids_BL, merged.start_BT, merged.length_BT, merged.mask_BT, strict=True):
        spans = zip(np.asarray(starts)[mask].tolist(), np.asarray(lengths)[mask].tolist(), strict=True)
        rows.append([tuple(ids[start : start + length].tolist()) for start, length in spans])
    return rows


def assert_equal(actual: MergedBatch, expected: MergedBatch):
    for field in ("start_BT", "length_BT", "mask_BT", "n_merges"):
        np.testing.assert_array_equal(getattr(actual, field), getattr(expected, field), err_msg=field)


@st.composite
def rows(draw, n_rows=4):
    """Rows and segments over so few ids that ties, runs (a a a) and many ways to one token are common."""
    n_kinds = draw(st.integers(1, 3))
    all_rows, all_segments = [], []
    for _ in range(n_rows):
        row = draw(st.lists(st.integers(0, n_kinds - 1), max_size=WIDTH))
        number, segments = 0, []
        for step in draw(st.lists(st.sampled_from("sssssssns"), min_size=len(row), max_size=len(row))):
            number += step == "n"
            segments.append(number)
        for special in draw(st.sets(st.integers(0, WIDTH - 1), max_size=2)):
            if special < len(row):
                segments[special] = -1
        all_rows.append(row)
        all_segments.append(segments)
    return all_rows, all_segments


@st.composite
def staged_rows(draw):
    """Rows and segments, and a first stage: pretokens, also across segments, and the number of its merges."""
    of_batch = draw(rows())
    pretokens = []
    for row in of_batch[0]:
        is_new = draw(st.lists(st.booleans(), min_size=len(row), max_size=len(row)))
        pretokens.append(np.cumsum(is_new, dtype=int).tolist())
    return *of_batch, (pretokens, draw(st.integers(0, 8)))


goals = st.one_of(
    st.builds(Merges, st.integers(0, 12)),
    st.just(EVERY_MERGE),
    st.builds(Share, st.sampled_from([0, 12.5, 33.3333, 50, 66.6667, 99.9999, 100])),
    st.builds(Budget, st.integers(1, WIDTH)),
)
limits = st.sampled_from([None, 1, 2, 3, 4, 7])
scopes = st.sampled_from(["batch", "example"])
