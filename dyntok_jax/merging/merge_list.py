"""Merges learnt on a corpus once and applied, in the order learnt, to any later batch.

A readable file keeps them: JSON lines, a header and then one merge a line.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeGuard, get_args

import numpy as np
from jaxtyping import Bool, Int, Int32

from dyntok_jax.errors import InputError
from dyntok_jax.kernels import apply_pairs, as_kernel_arrays, index_pairs, merge_rows
from dyntok_jax.merging.goals import longest_token
from dyntok_jax.merging.segments import number_apart, tokens_from_lengths
from dyntok_jax.options import Boundary, whole_number
from dyntok_jax.storage import check_not_lfs_pointer, parse_json, written
from dyntok_jax.types import MergedBatch, SubwordBatch

_FORMAT = "dyntok merges"
_VERSION = 1

SubwordIds = tuple[int, ...]
"""A token as the ids of its subwords."""


@dataclass(frozen=True)
class MergeList:
    """Merges in the order learnt.

    Attributes:
      pairs: left and right token of each merge. A pair may come twice, as later merges can make it again.
      tokenizer: fingerprint of the tokenizer whose ids these are.
      boundary: the boundary option that the segments were made with.
      max_subwords: the longest token there may be, in subwords; None for no limit.

    >>> merges = learn_merges([batch], 5, tokenizer=tokenizer.fingerprint, boundary="pretoken")
    >>> merges.save(folder / "merges.jsonl", tokenizer.pieces.__getitem__)
    >>> merges.apply(batch.ids_BL, batch.segment_BL, batch.mask_BL).mask_BT.sum() < batch.mask_BL.sum()
    np.True_
    """

    pairs: tuple[tuple[SubwordIds, SubwordIds], ...]
    tokenizer: str
    boundary: Boundary
    max_subwords: int | None

    def apply(
        self,
        ids_BL: Int32[np.ndarray, "B L"],
        segment_BL: Int32[np.ndarray, "B L"],
        mask_BL: Bool[np.ndarray, "B L"],
    ) -> MergedBatch[np.ndarray]:
        """Merges a batch of the same tokenizer and boundary: pair after pair, each wherever it occurs at its turn.

        Args:
          ids_BL: subword ids.
          segment_BL: segment of each subword; merging crosses none, and `NO_SEGMENT` never merges.
          mask_BL: False for padding, which is on the right.

        Returns:
          T = L tokens a sequence, as numpy arrays; `n_merges` is None.
        """
        length_BL = np.zeros(ids_BL.shape, np.int32)
        offsets = np.append(0, np.cumsum(mask_BL.sum(axis=1)))
        length_BL[mask_BL] = self.apply_ragged(ids_BL[mask_BL], segment_BL[mask_BL], offsets)
        return tokens_from_lengths(length_BL, mask_BL, None)

    def apply_ragged(
        self,
        ids_N: Int32[np.ndarray, "N"],
        segment_N: Int32[np.ndarray, "N"],
        offsets: Int[np.ndarray, "sequences_and_one"],
    ) -> Int32[np.ndarray, "N"]:
        """The same on sequences laid end to end: the length of the token that begins at each subword, 0 elsewhere."""
        return apply_pairs(*as_kernel_arrays(ids_N, segment_N, offsets.astype(np.int64)), *self._index)

    @cached_property
    def _index(self) -> tuple[np.ndarray, ...]:
        """What `apply_pairs` needs: the pairs by their kinds, and the kind each makes. Merged kinds are below -1."""
        merged: dict[SubwordIds, int] = {}

        def kind(token: SubwordIds) -> int:
            return token[0] if len(token) == 1 else merged.setdefault(token, -2 - len(merged))

        kinds = [(kind(left), kind(right), kind(left + right)) for left, right in self.pairs]
        left_M, right_M, joined_M = np.array(kinds, np.int32).reshape(-1, 3).T.copy()
        return *index_pairs(left_M, right_M), joined_M

    def save(self, path: str | os.PathLike, piece_of: Callable[[int], str] | Mapping[int, str]) -> None:
        """Writes the list; a file of that name is replaced when the new one is complete.

        Args:
          path: the file.
          piece_of: the byte-level string of each subword id, for readers; only the ids are read back.

        Raises:
          InputError: the file cannot be written.
        """
        look_up = piece_of if callable(piece_of) else piece_of.__getitem__
        header = {
            "format": _FORMAT,
            "version": _VERSION,
            "tokenizer": self.tokenizer,
            "boundary": self.boundary,
            "max_subwords": self.max_subwords,
            "merges": len(self.pairs),
        }
        try:
            with written(path) as part, part.open("w", encoding="utf-8") as file:
                file.write(json.dumps(header) + "\n")
                for left, right in self.pairs:
                    pieces = ("".join(look_up(subword) for subword in token) for token in (left, right))
                    line = {"pieces": list(pieces), "ids": [list(left), list(right)]}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise InputError(f"The merge list cannot be written to {path}: {error.strerror or error}.") from error


def learn_merges(
    batches: Iterable[SubwordBatch[np.ndarray]],
    count: int,
    *,
    tokenizer: str,
    boundary: Boundary,
    max_subwords: int | None = None,
) -> MergeList:
    """Learns merges on a corpus, counted over all of it as if it were one batch.

    Args:
      batches: the corpus, as numpy arrays; it is held in memory, some 100 bytes a subword.
      count: how many merges to learn; fewer if no pair is left to merge.
      tokenizer: fingerprint of the tokenizer that made the batches.
      boundary: the boundary option that made their segments.
      max_subwords: the longest token there may be, in subwords; None for no limit.

    Returns:
      The merges in order.

    Raises:
      InputError: `count` is negative or `max_subwords` less than 1.

    >>> merges = learn_merges([batch], 5, tokenizer=tokenizer.fingerprint, boundary="pretoken")
    >>> len(merges.pairs)
    5
    """
    count = whole_number("The number of merges", count, least=0)
    longest = longest_token(max_subwords)
    ids_N, segment_N = _as_one_sequence(batches)
    learnt_M3 = np.zeros((min(count, ids_N.size), 3), np.int32)
    length_N, whole = np.ones(ids_N.size, np.int32), np.array([0, ids_N.size])
    stops = np.array([len(learnt_M3)], np.int32), np.array([-1], np.int32), -1
    n_merges = merge_rows(ids_N, segment_N, length_N, whole, True, int(longest), *stops, learnt_M3)
    ids = ids_N.tolist()
    pairs = []
    for start, left, right in learnt_M3[: n_merges[0]].tolist():
        pairs.append((tuple(ids[start : start + left]), tuple(ids[start + left : start + left + right])))
    return MergeList(tuple(pairs), tokenizer, boundary, max_subwords)


def load_merges(path: str | os.PathLike, *, tokenizer: str | None = None) -> MergeList:
    """Reads a merge list.

    Args:
      path: a file that `MergeList.save` wrote.
      tokenizer: fingerprint of the tokenizer in use; the list must have been learnt with it. None for no such check.

    Raises:
      InputError: there is no such file, it is damaged (the message names the line), of another version, or learnt with
        another tokenizer.

    >>> merges = learn_merges([batch], 5, tokenizer=tokenizer.fingerprint, boundary="pretoken")
    >>> merges.save(folder / "merges.jsonl", tokenizer.pieces.__getitem__)
    >>> load_merges(folder / "merges.jsonl", tokenizer=tokenizer.fingerprint) == merges
    True
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"The merge list {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a merge list: it is not UTF-8 text.") from error
    check_not_lfs_pointer(path, InputError)
    header = _read_object(path, 1, lines[0] if lines else "")
    if header.get("format") != _FORMAT:
        raise InputError(f"{path} is not a merge list: its first line does not say {_FORMAT!r}.")
    if header.get("version") != _VERSION:
        raise InputError(f"{path} has version {header.get('version')}, this program reads version {_VERSION}.")
    name, boundary, max_subwords = (header.get(key) for key in ("tokenizer", "boundary", "max_subwords"))
    is_limit = max_subwords is None or (_is_whole_number(max_subwords) and max_subwords >= 1)
    if not (isinstance(name, str) and _is_boundary(boundary) and is_limit):
        raise InputError(f"{path}, line 1: tokenizer, boundary or max_subwords is missing or of the wrong type.")
    if tokenizer is not None and name != tokenizer:
        raise InputError(
            f"{path} was learnt with another tokenizer (fingerprint {name}, the one in use has {tokenizer}): "
            "its ids mean other subwords. Learn it again with this tokenizer."
        )
    pairs = []
    made: set[SubwordIds] = set()
    for number, line in enumerate(lines[1:], start=2):
        left, right = _read_pair(path, number, line)
        for token in (left, right):
            if len(token) > 1 and token not in made:
                raise InputError(f"{path}, line {number}: no earlier line makes the token {list(token)}.")
        if max_subwords is not None and len(left) + len(right) > max_subwords:
            raise InputError(f"{path}, line {number}: the token is longer than max_subwords, {max_subwords}.")
        made.add(left + right)
        pairs.append((left, right))
    if len(pairs) != header.get("merges"):
        raise InputError(f"{path} is cut off: it has {len(pairs)} merges of {header.get('merges')}.")
    return MergeList(tuple(pairs), name, boundary, max_subwords)


def _as_one_sequence(batches: Iterable[SubwordBatch[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """All subwords in one row, with new segment numbers, so that no two sequences share one."""
    ids, segments, lengths = [], [], [np.zeros(1, np.int64)]
    for batch in batches:
        ids.append(batch.ids_BL[batch.mask_BL])
        segments.append(batch.segment_BL[batch.mask_BL])
        lengths.append(batch.mask_BL.sum(axis=1))
    if not ids:
        return np.zeros(0, np.int32), np.zeros(0, np.int32)
    return np.concatenate(ids), number_apart(np.concatenate(segments), np.cumsum(np.concatenate(lengths)))


def _read_object(path: Path, number: int, line: str) -> dict:
    return parse_json(
        line.encode(), f"{path}, line {number}", InputError, "name a file that `dyntok learn-merges` wrote"
    )


def _read_pair(path: Path, number: int, line: str) -> tuple[SubwordIds, SubwordIds]:
    tokens = _read_object(path, number, line).get("ids")
    match tokens:
        case [[_, *_] as left, [_, *_] as right] if all(_is_whole_number(subword) for subword in (*left, *right)):
            return tuple(left), tuple(right)
    raise InputError(f"{path}, line {number}: 'ids' is not two lists of subword ids.")


def _is_boundary(value: object) -> TypeGuard[Boundary]:
    return value in get_args(Boundary)


def _is_whole_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= np.iinfo(np.int32).max
