"""Boundaries: what merging may not cross. A segment is a run of subwords between two of them.

pretoken      one match of ZeTT's regular expression: a word with its space, a number, a run of punctuation
word          between ASCII white space
word_hyphen   as word, and punctuation other than `-` is separated from what is next to it
sentence      the whole text: merges may cross spaces
"""

import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import get_args

import numpy as np
from jaxtyping import Bool, Int32

from dyntok_jax.errors import InputError
from dyntok_jax.options import Boundary
from dyntok_jax.text.byte_characters import BYTE_CHARACTERS, for_all, to_byte_level, to_bytes
from dyntok_jax.text.byte_level import ByteLevelTokenizer
from dyntok_jax.types import NO_SEGMENT

_WHITE_SPACE = to_byte_level(" \t\n")


@dataclass(frozen=True)
class PieceClasses:
    """What the boundaries need to know of each piece of a vocabulary.

    Attributes:
      starts_with_space_V: its first character is space, tab or newline.
      is_space_V: all of its characters are.
      starts_with_punctuation_V: its first non-space character is punctuation or a symbol other than `-`.
      ends_with_punctuation_V: its last one is. A piece that starts or ends inside a character counts as neither.
    """

    starts_with_space_V: Bool[np.ndarray, "V"]
    is_space_V: Bool[np.ndarray, "V"]
    starts_with_punctuation_V: Bool[np.ndarray, "V"]
    ends_with_punctuation_V: Bool[np.ndarray, "V"]


def classify_pieces(tokenizer: ByteLevelTokenizer) -> PieceClasses:
    """Looks at every piece of a vocabulary once, so that segmenting a text is array work."""
    pieces = ["" if index in tokenizer.added_ids else piece for index, piece in enumerate(tokenizer.pieces)]
    if tokenizer.is_wordpiece:
        pieces = [piece.removeprefix("##") for piece in pieces]
    texts = for_all(lambda piece: to_bytes(piece).decode(errors="replace"), pieces, BYTE_CHARACTERS[0], "\0")
    stripped = [text.strip() for text in texts]
    return PieceClasses(
        starts_with_space_V=np.array([piece[:1] in _WHITE_SPACE and piece != "" for piece in pieces]),
        is_space_V=np.array([piece != "" and not piece.strip(_WHITE_SPACE) for piece in pieces]),
        starts_with_punctuation_V=np.array([text != "" and _is_punctuation(text[0]) for text in stripped]),
        ends_with_punctuation_V=np.array([text != "" and _is_punctuation(text[-1]) for text in stripped]),
    )


@cache
def _is_punctuation(character: str) -> bool:
    # U+FFFD stands for part of a character, which is not punctuation
    return character not in "-\ufffd" and unicodedata.category(character)[0] in "PS"


def number_segments(
    boundary: Boundary,
    ids_N: Int32[np.ndarray, "N"],
    classes: PieceClasses,
    *,
    can_merge_N: Bool[np.ndarray, "N"],
    is_sequence_start_N: Bool[np.ndarray, "N"],
    is_text_start_N: Bool[np.ndarray, "N"],
    pretoken_N: Int32[np.ndarray, "N"],
    follows_space_N: Bool[np.ndarray, "N"] | None = None,
) -> Int32[np.ndarray, "N"]:
    """Numbers the segments of many sequences laid end to end (N subwords in all).

    Args:
      boundary: what ends a segment.
      ids_N: subword ids.
      classes: from `classify_pieces` of the same vocabulary.
      can_merge_N: False for special tokens and all else that must not merge.
      is_sequence_start_N: where a sequence begins; numbers start from 0 there.
      is_text_start_N: where a segment begins with every boundary: each text of a pair, each pre-split word.
      pretoken_N: number of the pretoken within its text.
      follows_space_N: for vocabularies whose pieces carry no spaces (WordPiece), which subwords follow a space.

    Returns:
      Segment numbers, `NO_SEGMENT` where nothing merges.

    Raises:
      InputError: `boundary` is not a `Boundary`.

    >>> ids_N = subwords.ids_N[:4]  # `<s> Freiheit und `, split into pretokens
    >>> first_N = np.arange(4) == 0
    >>> number_segments("pretoken", ids_N, text_encoder.classes, can_merge_N=~first_N, is_sequence_start_N=first_N,
    ...     is_text_start_N=first_N, pretoken_N=np.array([-1, 0, 1, 2], np.int32)).tolist()
    [-1, 0, 1, 2]
    """
    if len(ids_N) == 0:
        return np.zeros(0, np.int32)
    before_N = np.roll(ids_N, 1)
    match boundary:
        case "pretoken":
            starts_N = pretoken_N != np.roll(pretoken_N, 1)
        case "word" | "word_hyphen":
            if follows_space_N is None:
                both_space_N = classes.is_space_V[ids_N] & classes.is_space_V[before_N]
                starts_N = classes.starts_with_space_V[ids_N] & ~both_space_N
            else:
                starts_N = follows_space_N.copy()
            if boundary == "word_hyphen":
                starts_N |= classes.starts_with_punctuation_V[ids_N] != classes.ends_with_punctuation_V[before_N]
        case "sentence":
            starts_N = np.zeros(len(ids_N), dtype=bool)
        case _:
            raise InputError(f"boundary must be one of {', '.join(get_args(Boundary))}, got {boundary!r}.")
    starts_N |= is_sequence_start_N | is_text_start_N | ~np.roll(can_merge_N, 1)
    number_N = np.cumsum(starts_N & can_merge_N, dtype=np.int32)
    before_sequence_N = (number_N - (starts_N & can_merge_N))[is_sequence_start_N]
    number_N -= np.repeat(before_sequence_N, np.diff(np.flatnonzero(np.append(is_sequence_start_N, True)))) + 1
    return np.where(can_merge_N, number_N, NO_SEGMENT).astype(np.int32)
