"""Texts, text pairs and pre-split words to subwords with segments and character spans."""

import re
from collections.abc import Sequence
from functools import cached_property
from itertools import chain, takewhile
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32
from tokenizers import Encoding
from tokenizers.normalizers import Normalizer

from dyntok_jax.errors import InputError
from dyntok_jax.options import Boundary, protected_pattern
from dyntok_jax.text.batches import RaggedSubwords
from dyntok_jax.text.boundaries import (
    PieceClasses,
    classify_pieces,
    number_segments,
)
from dyntok_jax.text.byte_characters import SPACE
from dyntok_jax.text.byte_level import ByteLevelTokenizer, refused_by_rust
from dyntok_jax.text.special_tokens import SpecialNames
from dyntok_jax.types import NO_SEGMENT

CANNOT_WRITE = "The tokenizer cannot write these texts: a character has no piece, and there is no unknown token"
Text = str | tuple[str, str] | Sequence[str]
"""A text, a pair of texts (a tuple), or pre-split words (a list)."""


class TextEncoder:
    """Turns texts into subwords with one tokenizer: byte-level and segmented, or static.

    Attributes:
      tokenizer: the tokenizer and its byte-level form.
      classes: what the boundaries need to know of its pieces.

    >>> encoded = TextEncoder(tokenizer).encode(["Freiheit und"])
    >>> tokenizer.token_text(encoded.ids_N[1:-1].tolist()), encoded.segment_N.tolist()
    (' Freiheit und', [-1, 0, 1, -1])
    """

    tokenizer: ByteLevelTokenizer
    classes: PieceClasses

    def __init__(self, tokenizer: ByteLevelTokenizer, classes: PieceClasses | None = None):
        self.tokenizer = tokenizer
        self.classes = classify_pieces(tokenizer) if classes is None else classes

    @cached_property
    def special_names(self) -> SpecialNames:
        """The special tokens, and the disguises that the twin knows them by."""
        return SpecialNames.of(self.tokenizer)

    @cached_property
    def twin(self) -> "TextEncoder":
        """The same, but special tokens that are written in a text are text; those meant as such are in disguise."""
        return TextEncoder(self.special_names.twin(self.tokenizer), self.classes)

    def encode(
        self,
        texts: Sequence[Text],
        *,
        boundary: Boundary = "pretoken",
        prefix: str = "",
        add_special_tokens: bool = True,
        protect: str | None = None,
    ) -> RaggedSubwords:
        """Splits texts into byte-level subwords. Special tokens written in a text are read as such and never merge.

        Args:
          texts: all of one kind: strings; tuples of two strings; or lists of words, which are joined by single spaces
            and never merge with one another.
          boundary: what merging may not cross.
          prefix: put before each (first) text, as an encoder's instruction (`query: `). It merges like text, and so
            takes part in shares and merge counts, but never together with the text. Counts of tokens leave it out, and
            spans are those of the text without it.
          add_special_tokens: put special tokens around each text as the model's own tokenizer does.
          protect: a regular expression, or `digits`: every subword that touches a match is a segment of its own.

        Raises:
          TokenizerError: the tokenizer has no piece for a character, and none that stands for unknown ones.
          InputError: a text is not a `Text`, has a lone surrogate or is of another kind than the others; `boundary` is
            not a `Boundary`, or `protect` is not a regular expression.
        """
        inputs, word_starts = _as_inputs(texts, prefix)
        has_space = None
        if self.tokenizer.space == "first":
            inputs, has_space = self._with_first_space(inputs)
        with refused_by_rust(CANNOT_WRITE):
            encodings = self.tokenizer.byte_level.encode_batch(inputs, add_special_tokens=add_special_tokens)
        flat = _Flat(encodings, inputs, self.tokenizer.special_ids)
        space = self.tokenizer.byte_level.token_to_id(SPACE)
        if self.tokenizer.space in ("always", "unless_there") and space is not None:
            flat.empty_leading_spaces(space, self.tokenizer.added_ids.union(self.tokenizer.stand_ins))
        if self.tokenizer.byte_level.normalizer is not None:
            flat.cover_composed_characters(self.tokenizer.byte_level.normalizer)
        flat.ids_N = self.tokenizer.entries(flat.ids_N)
        # what is protected, and an added token that stands for text, is its own segment
        stands_alone_N = _is_in(flat.ids_N, self.tokenizer.added_ids)
        if protect is not None:
            stands_alone_N |= flat.touches(protected_pattern(protect))
        if has_space is not None:
            flat.take_off_first_space(has_space)
        follows_space_N = flat.follows_space() if self.tokenizer.is_wordpiece else None
        is_prefix_N = flat.take_off_prefix(len(prefix))
        word_N = flat.words(word_starts, is_prefix_N)
        segment_N = number_segments(
            boundary,
            flat.ids_N,
            self.classes,
            can_merge_N=~flat.is_special_N,
            is_sequence_start_N=flat.is_sequence_start_N,
            is_text_start_N=(
                flat.is_text_start_N
                | (word_N != np.roll(word_N, 1))
                | (is_prefix_N != np.roll(is_prefix_N, 1))
                | stands_alone_N
                | np.roll(stands_alone_N, 1)
            ),
            pretoken_N=flat.pretoken_N,
            follows_space_N=follows_space_N,
        )
        return flat.subwords(segment_N, word_N, is_prefix_N)

    def encode_static(
        self, texts: Sequence[Text], *, prefix: str = "", add_special_tokens: bool = True
    ) -> RaggedSubwords:
        """The same with the model's own tokenizer and ids; each subword of the text is its own segment."""
        inputs, word_starts = _as_inputs(texts, prefix)
        with refused_by_rust(CANNOT_WRITE):
            encodings = self.tokenizer.own.encode_batch(inputs, add_special_tokens=add_special_tokens)
        flat = _Flat(encodings, inputs, self.tokenizer.special_ids)
        if self.tokenizer.own.normalizer is not None:
            flat.cover_composed_characters(self.tokenizer.own.normalizer)
        is_prefix_N = flat.take_off_prefix(len(prefix))
        position_N = np.arange(len(flat.ids_N)) - np.repeat(flat.offsets[:-1], np.diff(flat.offsets))
        segment_N = np.where(flat.is_special_N, NO_SEGMENT, position_N).astype(np.int32)
        return flat.subwords(segment_N, flat.words(word_starts, is_prefix_N), is_prefix_N)

    def _with_first_space(self, inputs: list[Any]) -> tuple[list[Any], Bool[np.ndarray, "texts 2"]]:
        """Puts a space before each text (both of a pair) that does not begin with one or with an added token.

        Returns:
          The texts, and which of them got one.
        """
        added = tuple(token.content for token in self.tokenizer.own.get_added_tokens_decoder().values())

        def gets_space(text: str) -> bool:
            return text != "" and not text.startswith((" ", *added))

        pairs = [text if isinstance(text, tuple) else (text, "") for text in inputs]
        has_space = np.array([[gets_space(a), gets_space(b)] for a, b in pairs], bool).reshape(-1, 2)
        spaced = [tuple(" " + t if gets_space(t) else t for t in pair) for pair in pairs]
        return [new if isinstance(old, tuple) else new[0] for new, old in zip(spaced, inputs, strict=True)], has_space


def _as_inputs(texts: Sequence[Text], prefix: str) -> tuple[list[str] | list[tuple[str, str]], list[np.ndarray] | None]:
    """What the backend tokenizes, and for pre-split words the position where each word starts in its text."""
    if isinstance(texts, str):
        raise InputError("This is one text, not a sequence of texts: put it in a list.")
    kinds = {next((kind for kind in (str, tuple, list) if isinstance(text, kind)), type(text)) for text in texts}
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise InputError(f"Texts of different kinds in one call ({names}): encode each kind in a call of its own.")
    kind = kinds.pop() if kinds else str
    if kind is str:
        return [prefix + _checked(text, row) for row, text in enumerate(texts)], None
    if kind is tuple:
        if any(len(pair) != 2 for pair in texts):
            raise InputError("A pair of texts must be a tuple of two strings.")
        return [(prefix + _checked(a, row), _checked(b, row)) for row, (a, b) in enumerate(texts)], None
    if kind is list:
        inputs = [prefix + " ".join(_checked(word, row) for word in words) for row, words in enumerate(texts)]
        # the space before a word belongs to it
        return inputs, [np.cumsum([0, *(len(word) + 1 for word in words[:-1])]) - 1 for words in texts]
    raise InputError(f"Texts must be strings, tuples of two strings, or lists of words, got {kind.__name__}.")


def _checked(text: object, row: int) -> str:
    return check_text(text, f"Text {row}")


def check_text(text: object, what: str) -> str:
    """The text, checked to be a string that can be encoded as UTF-8.

    Args:
      text: what a caller gave.
      what: which it is, for the error.

    Raises:
      InputError: it is no string, or has a lone surrogate.

    >>> check_text("Grüße", "Text 0")
    'Grüße'
    """
    if not isinstance(text, str):
        raise InputError(f"{what} must be a string, got {type(text).__name__}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} has a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}, so it is "
            "not valid Unicode. Decode its source as UTF-8, or replace it: text.encode('utf-8', 'replace').decode()."
        ) from None
    return text


def _is_in(ids_N: Int32[np.ndarray, "N"], ids: frozenset[int]) -> Bool[np.ndarray, "N"]:
    return np.isin(ids_N, np.fromiter(ids, np.int32, len(ids)))


class _Flat:
    """Encodings of many sequences laid end to end as arrays of N subwords."""

    def __init__(self, encodings: Sequence[Encoding], inputs: Sequence[str | tuple[str, str]], special: frozenset[int]):
        self.inputs = inputs
        self.offsets = np.cumsum([0, *(len(encoding) for encoding in encodings)])
        count = int(self.offsets[-1])

        def gather(rows) -> Int32[np.ndarray, "N"]:
            return np.fromiter(chain.from_iterable(rows), np.int32, count)

        self.ids_N = gather(encoding.ids for encoding in encodings)
        self.type_N = gather(encoding.type_ids for encoding in encodings)
        self.span_N2 = np.array(list(chain.from_iterable(e.offsets for e in encodings)), np.int32).reshape(count, 2)
        self.pretoken_N = gather([-1 if w is None else w for w in encoding.word_ids] for encoding in encodings)
        # which text of a pair, -1 for what the template adds
        self.text_N = gather([-1 if s is None else s for s in encoding.sequence_ids] for encoding in encodings)
        self.is_special_N = (self.text_N == -1) | _is_in(self.ids_N, special)
        self.sequence_N = np.repeat(np.arange(len(encodings)), np.diff(self.offsets))
        self.is_sequence_start_N = np.diff(self.sequence_N, prepend=-1) != 0
        self.is_text_start_N = self.is_sequence_start_N | (np.diff(self.text_N, prepend=-1) != 0)

    def text_of(self, at: int) -> str:
        """The whole text that subword `at` was taken from."""
        text = self.inputs[int(self.sequence_N[at])]
        return text if isinstance(text, str) else text[int(self.text_N[at])]

    def take_off_prefix(self, length: int) -> Bool[np.ndarray, "N"]:
        """Shifts the spans of first texts to those of the text without its first `length` characters.

        Returns:
          Which subwords lie in those characters.
        """
        is_prefix_N = (self.text_N == 0) & (self.span_N2[:, 1] <= length) & (length > 0)
        shifted_N2 = np.maximum(self.span_N2 - np.int32(length), 0)
        self.span_N2 = np.where((self.text_N == 0)[:, None], shifted_N2, self.span_N2)
        return is_prefix_N

    def take_off_first_space(self, has_space: Bool[np.ndarray, "texts 2"]) -> None:
        """Shifts spans to those of the texts without the space that was put before them."""
        shift_N = np.where(self.text_N >= 0, has_space[self.sequence_N, np.maximum(self.text_N, 0)], False)
        self.span_N2 = np.maximum(self.span_N2 - shift_N[:, None].astype(np.int32), 0)

    def empty_leading_spaces(self, space: int, cut_out: frozenset[int]) -> None:
        """Empties the spans of subwords that are only the space put before a text, or a part of it after `cut_out`."""
        is_apart_N = self.is_special_N | _is_in(self.ids_N, cut_out)
        is_added_N = (self.ids_N == space) & (np.roll(is_apart_N, 1) | self.is_text_start_N)
        self.span_N2[is_added_N, 1] = self.span_N2[is_added_N, 0]

    def cover_composed_characters(self, normalizer: Normalizer) -> None:
        """Widens spans over characters that the normaliser joined to the one before (e + U+0301 = é).

        The backend counts only the first of them. Characters that normalise to nothing do not belong to any subword.
        """
        is_last_N = np.append(self.is_text_start_N[1:], True)
        next_start_N = np.append(self.span_N2[1:, 0], 0)
        has_gap_N = (self.text_N >= 0) & (is_last_N | (next_start_N > self.span_N2[:, 1]))
        for at in np.flatnonzero(has_gap_N).tolist():
            text, end = self.text_of(at), self.span_N2[at, 1]
            gap = text[end:] if is_last_N[at] else text[end : next_start_N[at]]
            joined = sum(1 for _ in takewhile(lambda c: not c.isspace() and normalizer.normalize_str(c) != "", gap))
            before = at
            while joined and before >= self.offsets[self.sequence_N[at]] and self.span_N2[before, 1] == end:
                self.span_N2[before, 1] += joined
                before -= 1

    def touches(self, pattern: re.Pattern[str]) -> Bool[np.ndarray, "N"]:
        """Which subwords touch a match of a pattern in the text that they are taken from."""
        touches_N = np.zeros(len(self.ids_N), bool)
        for row, texts in enumerate(self.inputs):
            begin, end = self.offsets[row : row + 2]
            for number, text in enumerate((texts,) if isinstance(texts, str) else texts):
                is_match = np.zeros(len(text), bool)
                for match in pattern.finditer(text):
                    is_match[match.start() : match.end()] = True
                if is_match.any():
                    here = begin + np.flatnonzero(self.text_N[begin:end] == number)
                    n_before = np.append(0, np.cumsum(is_match))[self.span_N2[here]]
                    touches_N[here] = n_before[:, 1] > n_before[:, 0]
        return touches_N

    def follows_space(self) -> Bool[np.ndarray, "N"]:
        """Where the text has white space between a subword and the one before it."""
        follows_N = np.zeros(len(self.ids_N), dtype=bool)
        end_N = np.roll(self.span_N2[:, 1], 1)
        has_gap_N = (self.text_N >= 0) & ~self.is_text_start_N & (self.span_N2[:, 0] > end_N)
        for at in np.flatnonzero(has_gap_N).tolist():
            follows_N[at] = any(c.isspace() for c in self.text_of(at)[end_N[at] : self.span_N2[at, 0]])
        return follows_N

    def words(self, word_starts: list[np.ndarray] | None, is_prefix_N: Bool[np.ndarray, "N"]) -> Int32[np.ndarray, "N"]:
        """The pre-split word of each subword, -1 for special tokens, prefixes and unsplit text."""
        word_N = np.full(len(self.ids_N), -1, np.int32)
        for starts, begin, end in zip(word_starts or (), self.offsets[:-1], self.offsets[1:], strict=False):
            last_character = self.span_N2[begin:end, 1] - 1
            word_N[begin:end] = np.searchsorted(starts, last_character, side="right") - 1
        word_N[self.is_special_N | is_prefix_N] = -1
        return word_N

    def subwords(
        self, segment_N: Int32[np.ndarray, "N"], word_N: Int32[np.ndarray, "N"], is_prefix_N: Bool[np.ndarray, "N"]
    ) -> RaggedSubwords:
        """The sequences, given their segments and words."""
        is_counted_N = ~self.is_special_N & ~is_prefix_N
        return RaggedSubwords(
            ids_N=self.ids_N,
            segment_N=segment_N,
            pretoken_N=self.pretoken_N,
            type_N=self.type_N,
            text_N=self.text_N,
            span_N2=self.span_N2,
            word_N=word_N,
            is_counted_N=is_counted_N,
            offsets=self.offsets,
        )
