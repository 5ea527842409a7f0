"""Sequences of different lengths, and the padded batches they are cut into.

Sequences of like length share a batch, so that little of it is padding; `buckets.py` says how far it is padded.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, fields
from itertools import chain

import numpy as np
from jaxtyping import Bool, Int, Int32

from dyntok_jax.types import NO_SEGMENT, MergedBatch, SubwordBatch


@dataclass(frozen=True)
class RaggedSubwords:
    """Sequences of subwords laid end to end, N in all; the fields are those of `SubwordBatch` before padding.

    Attributes:
      ids_N: subword ids.
      segment_N: segment numbers, `NO_SEGMENT` for what never merges.
      pretoken_N: pretoken numbers, -1 for special tokens around texts.
      type_N: the model's token types.
      text_N: which text of a pair, -1 for special tokens around texts.
      span_N2: character ranges.
      word_N: indices of pre-split words, or -1.
      is_counted_N: False for special tokens and prefixes.
      offsets: first subword of each sequence, and N at the end.

    >>> len(subwords), subwords.ids_N.size == subwords.offsets[-1]
    (3, np.True_)
    >>> (subwords.lengths - subwords.counts).tolist()  # special tokens
    [2, 2, 2]
    """

    ids_N: Int32[np.ndarray, "N"]
    segment_N: Int32[np.ndarray, "N"]
    pretoken_N: Int32[np.ndarray, "N"]
    type_N: Int32[np.ndarray, "N"]
    text_N: Int32[np.ndarray, "N"]
    span_N2: Int32[np.ndarray, "N 2"]
    word_N: Int32[np.ndarray, "N"]
    is_counted_N: Bool[np.ndarray, "N"]
    offsets: Int[np.ndarray, "sequences_and_one"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int[np.ndarray, "sequences"]:
        """Subwords of each sequence, special tokens included."""
        return np.diff(self.offsets)

    @property
    def counts(self) -> Int[np.ndarray, "sequences"]:
        """Subwords of each sequence, special tokens and prefixes left out."""
        return np.diff(np.append(0, np.cumsum(self.is_counted_N))[self.offsets])


def subwords_of_ids(ids: Sequence[Sequence[int]], special_ids: Set[int]) -> RaggedSubwords:
    """Sequences that are given as ids, special tokens and all: nothing of them merges, and they have no spans.

    Args:
      ids: of each sequence.
      special_ids: those of special tokens, which are not counted.

    >>> subwords_of_ids([[0, 7, 8, 2], [9]], special_ids={0, 2}).counts
    array([2, 1])
    """
    offsets = np.append(0, np.cumsum([len(of_one) for of_one in ids], dtype=np.int64))
    ids_N = np.fromiter(chain.from_iterable(ids), np.int32, offsets[-1])
    zero_N = np.zeros_like(ids_N)
    return RaggedSubwords(
        ids_N=ids_N,
        segment_N=np.full_like(ids_N, NO_SEGMENT),
        pretoken_N=np.full_like(ids_N, -1),
        type_N=zero_N,
        text_N=zero_N,
        span_N2=np.zeros((len(ids_N), 2), np.int32),
        word_N=np.full_like(ids_N, -1),
        is_counted_N=~np.isin(ids_N, np.fromiter(special_ids, np.int32, len(special_ids))),
        offsets=offsets,
    )


def group_by_length(lengths: Int[np.ndarray, "n"], batch_size: int) -> Iterator[Int[np.ndarray, "rows"]]:
    """Yields the rows of each batch: `batch_size` sequences of neighbouring lengths, the longest first.

    The longest come first so that running out of memory shows at once, not at the end.

    >>> list(group_by_length(np.array([3, 9, 5]), batch_size=2))
    [array([1, 2]), array([0])]
    """
    order = np.argsort(-lengths, kind="stable")
    for at in range(0, len(order), batch_size):
        yield order[at : at + batch_size]


def pad_batch(
    subwords: RaggedSubwords,
    rows: Int[np.ndarray, "rows"],
    *,
    pad_id: int,
    length: int | None = None,
    n_batch: int | None = None,
) -> SubwordBatch[np.ndarray]:
    """Pads the chosen sequences to one batch.

    Args:
      subwords: all sequences.
      rows: which of them, in which order.
      pad_id: what to write under a False mask.
      length: L; by default the longest of the rows (at least 1).
      n_batch: B; by default no more than the rows, else rows of padding follow.

    >>> padded = pad_batch(subwords, np.array([2, 0]), pad_id=tokenizer.pad_id, length=16)
    >>> padded.ids_BL.shape, padded.mask_BL[0].sum()
    ((2, 16), np.int64(3))
    """
    n_batch = len(rows) if n_batch is None else n_batch
    lengths_B = np.pad(subwords.lengths[rows], (0, n_batch - len(rows)))
    length = max(int(lengths_B.max(initial=1)) if length is None else length, 1)
    index_M, offsets = rows_end_to_end(subwords.offsets, rows)

    def lay_out(values_N, padding):
        return pad_ragged(values_N[index_M], offsets, n_batch, length, padding=padding)

    return SubwordBatch(
        ids_BL=lay_out(subwords.ids_N, pad_id),
        segment_BL=lay_out(subwords.segment_N, NO_SEGMENT),
        pretoken_BL=lay_out(subwords.pretoken_N, -1),
        mask_BL=np.arange(length)[None, :] < lengths_B[:, None],
        type_BL=lay_out(subwords.type_N, 0),
        text_BL=lay_out(subwords.text_N, -1),
        span_BL2=lay_out(subwords.span_N2, 0),
        word_BL=lay_out(subwords.word_N, -1),
        is_counted_BL=lay_out(subwords.is_counted_N, False),
    )


def rows_end_to_end(
    offsets: Int[np.ndarray, "sequences_and_one"], rows: Int[np.ndarray, "rows"]
) -> tuple[Int[np.ndarray, "M"], Int[np.ndarray, "rows_and_one"]]:
    """Indices of the items of some sequences, row after row, and where each row then begins, and the end.

    >>> rows_end_to_end(np.array([0, 2, 5]), np.array([1, 0]))
    (array([2, 3, 4, 0, 1]), array([0, 3, 5]))
    """
    lengths = np.diff(offsets)[rows]
    taken = np.append(0, np.cumsum(lengths))
    return np.arange(taken[-1]) + np.repeat(offsets[:-1][rows] - taken[:-1], lengths), taken


def pad_ragged(
    values_M: np.ndarray, offsets: Int[np.ndarray, "rows_and_one"], n_batch: int, length: int, *, padding: int | bool
) -> np.ndarray:
    """Pads sequences that lie end to end to rows of one length, with rows of padding at the end.

    Args:
      values_M: of all items; further axes are kept.
      offsets: where each sequence begins, and the end.
      n_batch: rows, at least as many as sequences.
      length: columns; what is longer is cut.
      padding: the value of padding.

    >>> pad_ragged(np.array([7, 8, 9]), np.array([0, 1, 3]), 3, 2, padding=0)
    array([[7, 0],
           [8, 9],
           [0, 0]])
    """
    lengths = np.diff(offsets)
    row_M = np.repeat(np.arange(len(lengths)), lengths)
    column_M = np.arange(len(values_M)) - np.repeat(offsets[:-1], lengths)
    padded = np.full((n_batch, length, *values_M.shape[1:]), padding, values_M.dtype)
    fits_M = column_M < length
    padded[row_M[fits_M], column_M[fits_M]] = values_M[fits_M]
    return padded


def token_spans(batch: SubwordBatch[np.ndarray], merged: MergedBatch[np.ndarray]) -> Int32[np.ndarray, "B T 2"]:
    """The character range of each token: from the first character that its subwords touch to the last.

    >>> token_spans(batch, merged)[0, 1:3].tolist()  # ` Freiheit`, ` und`
    [[0, 8], [8, 12]]
    """
    first_BT = merged.start_BT
    last_BT = np.where(merged.mask_BT, first_BT + merged.length_BT - 1, 0)
    start_BT = np.take_along_axis(batch.span_BL2[..., 0], first_BT, axis=1)
    # ends never go back within a text: bytes of one character share its range
    end_BT = np.take_along_axis(batch.span_BL2[..., 1], last_BT, axis=1)
    spans_BT2 = np.stack([start_BT, end_BT], axis=-1)
    return np.where(merged.mask_BT[..., None], spans_BT2, 0).astype(np.int32)


def cut_padding(merged: MergedBatch[np.ndarray], length: int) -> MergedBatch[np.ndarray]:
    """Pads the tokens to another length, which must hold them all.

    >>> merged.mask_BT.sum(axis=1).max()
    np.int64(9)
    >>> cut_padding(merged, 16).mask_BT.shape
    (3, 16)
    """
    n_batch = len(merged.mask_BT)
    names = [field.name for field in fields(merged) if field.name != "n_merges"]
    arrays = {name: pad_to(getattr(merged, name), n_batch, length) for name in names}
    return MergedBatch(**arrays, n_merges=merged.n_merges)


def pad_to(values_BT: np.ndarray, n_batch: int, length: int) -> np.ndarray:
    """Pads rows and columns with zeros on the right and below; columns past `length` are cut.

    >>> pad_to(np.array([[1, 2, 3]]), n_batch=2, length=2)
    array([[1, 2],
           [0, 0]])
    """
    cut_BT = values_BT[:, :length]
    return np.pad(cut_BT, ((0, n_batch - cut_BT.shape[0]), (0, length - cut_BT.shape[1])))
