"""How often each segment occurs in a corpus: the input for growing a vocabulary, in one pass and bounded memory."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64

from dyntok_jax.errors import InputError
from dyntok_jax.kernels import as_kernel_arrays, count_rows, index_segments, take_segments
from dyntok_jax.options import Boundary
from dyntok_jax.text import TextEncoder

BATCH_CHARACTERS = 1 << 20
CAPACITY = 1 << 26
"""Subwords of distinct segments kept before rare ones are dropped: 0.5 GB while counting, 2.5 GB while growing."""
_SMALLEST = 1 << 16


@dataclass(frozen=True)
class SegmentCounts:
    """Distinct segments of two or more subwords and how often each occurs, the most frequent first.

    Attributes:
      ids_N: subwords of all segments, concatenated.
      offset: where each begins, and the end.
      count_K: how often each was seen.
      boundary: what ended them.
      pruned: the highest count of a segment that was dropped to save memory, 0 if none was; a count may be too low by
        as much.
    """

    ids_N: Int32[np.ndarray, "N"]
    offset: Int64[np.ndarray, "segments_and_one"]
    count_K: Int64[np.ndarray, "K"]
    boundary: Boundary
    pruned: int

    def __len__(self) -> int:
        return len(self.count_K)


def count_segments(
    texts: Iterable[str | tuple[str, int]],
    encoder: TextEncoder,
    *,
    boundary: Boundary = "pretoken",
    capacity: int = CAPACITY,
    progress: Callable[[int], None] = lambda _: None,
) -> SegmentCounts:
    """Counts the segments of texts, as the model's own subwords.

    Args:
      texts: read once, one by one; a text may come as a pair with how often it counts.
      encoder: of the model.
      boundary: what ends a segment.
      capacity: with more subwords of distinct segments than this, the rarest are dropped until half is left.
      progress: called several times with the bytes of text read.

    Raises:
      InputError: no segment has two subwords, or so few segments occur twice that none can be kept.

    >>> counts = count_segments(["human beings", ("human", 10)], text_encoder)
    >>> len(counts), counts.count_K
    (2, array([11,  1]))
    """
    table = _Table(capacity)
    for batch in _batches(texts):
        subwords = encoder.encode([text for text, _ in batch], boundary=boundary, add_special_tokens=False)
        weight_R = np.array([weight for _, weight in batch], np.int64)
        table.add(subwords.ids_N, subwords.segment_N, subwords.offsets, weight_R)
        progress(sum(len(text.encode()) for text, _ in batch))
    if not table.n_known:
        raise InputError(
            "No segment of the text has two subwords, so there is nothing to merge: give more text or a wider boundary."
        )
    return table.counts(boundary)


def _batches(texts: Iterable[str | tuple[str, int]]) -> Iterator[list[tuple[str, int]]]:
    batch, n_characters = [], 0
    for text in texts:
        batch.append((text, 1) if isinstance(text, str) else text)
        n_characters += len(batch[-1][0])
        if n_characters >= BATCH_CHARACTERS:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch


class _Table:
    """The distinct segments so far, in arrays that grow."""

    def __init__(self, capacity: int):
        self.capacity, self.n_known, self.pruned = capacity, 0, 0
        self.ids_N, self.offset = np.empty(_SMALLEST, np.int32), np.zeros(_SMALLEST + 1, np.int64)
        self.length_K, self.count_K = np.zeros(_SMALLEST, np.int64), np.zeros(_SMALLEST, np.int64)
        self._index()

    @property
    def n_subwords(self) -> int:
        return int(self.offset[self.n_known])

    def add(self, ids_N: np.ndarray, segment_N: np.ndarray, offset_R: np.ndarray, weight_R: np.ndarray) -> None:
        """Counts the segments of a batch."""
        self._make_room(len(ids_N), len(ids_N) // 2)
        self.n_known = count_rows(
            *as_kernel_arrays(ids_N, segment_N, np.asarray(offset_R, np.int64), weight_R),
            self.hash,
            self.ids_N,
            self.offset,
            self.length_K,
            self.count_K,
            self.n_known,
        )
        if self.n_subwords > self.capacity:
            self._prune()

    def counts(self, boundary: Boundary) -> SegmentCounts:
        """All segments, the most frequent first; of equally frequent ones, those seen first."""
        order = np.argsort(-self.count_K[: self.n_known], kind="stable")
        ids_N, offset = take_segments(self.ids_N, self.offset, order)
        return SegmentCounts(ids_N, offset, self.count_K[order], boundary, self.pruned)

    def _make_room(self, n_subwords: int, n_segments: int) -> None:
        self.ids_N = _at_least(self.ids_N, self.n_subwords + n_subwords)
        self.count_K = _at_least(self.count_K, self.n_known + n_segments)
        self.length_K = _at_least(self.length_K, len(self.count_K))
        self.offset = _at_least(self.offset, len(self.count_K) + 1)
        if 2 * len(self.hash) < 3 * (self.n_known + n_segments):
            self._index()

    def _index(self) -> None:
        self.hash = index_segments(self.ids_N, self.offset, self.length_K, self.n_known, len(self.count_K))

    def _prune(self) -> None:
        """Drops the lowest counts until half of the space is free."""
        count_K, length_K = self.count_K[: self.n_known], self.length_K[: self.n_known]
        order = np.argsort(count_K, kind="stable")
        n_gone = np.cumsum(length_K[order])  # if all up to here go
        last = int(np.searchsorted(n_gone, self.n_subwords - self.capacity // 2))
        threshold = int(count_K[order[last]])
        kept = np.flatnonzero(count_K > threshold)
        if not len(kept):
            raise InputError(
                f"The text has more than {self.n_known:,} different segments, and none occurs more than {threshold} "
                "times, so none can be preferred to the others: use a narrower boundary, or allow more memory."
            )
        self.pruned = max(self.pruned, threshold)
        ids_N, offset = take_segments(self.ids_N, self.offset, kept)
        self.ids_N[: len(ids_N)], self.offset[: len(offset)] = ids_N, offset
        self.count_K[: len(kept)], self.length_K[: len(kept)] = count_K[kept], length_K[kept]
        self.n_known = len(kept)
        self._index()


def _at_least(array: np.ndarray, size: int) -> np.ndarray:
    """The array with room for `size` entries: twice as large where it is too small."""
    if len(array) >= size:
        return array
    grown = np.zeros(max(size, 2 * len(array)), array.dtype)
    grown[: len(array)] = array
    return grown
