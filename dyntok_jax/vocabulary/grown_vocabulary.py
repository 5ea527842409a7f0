"""A grown vocabulary: a model's own entries with their ids, then new entries; texts are tokenized by longest prefix.

A new entry is a sequence of the model's own subwords. The model's byte-level tokenizer segments a text, and each
segment is tokenized from the left, always by the longest entry that fits, so that no token crosses segments.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int32

from dyntok_jax.errors import InputError, TokenizerError
from dyntok_jax.kernels import FIRST, NONE, as_kernel_arrays, build_trie, join_texts, split_segments
from dyntok_jax.options import Boundary
from dyntok_jax.text import (
    CHARACTER_BYTES,
    ByteLevelTokenizer,
    RaggedSubwords,
    Text,
    TextEncoder,
    piece_bytes,
    spell_bytes,
    to_bytes,
)
from dyntok_jax.vocabulary.byte_pairs import GrownEntries

_NEVER_IN_TEXT = {0xC0, 0xC1, *range(0xF5, 0x100)}
"""Bytes that never occur in UTF-8."""


@dataclass(frozen=True)
class GrownVocabulary:
    """A model's vocabulary followed by E new entries; new entry e has the id `n_own + e`.

    Attributes:
      tokenizer: of the model.
      constituents_ES: the model's subwords that each new entry consists of, two or more, then `NONE`.
      boundary: what no token crosses.

    >>> ids = grown.encode(["Freiheit und Gleichheit"]).ids_N.tolist()
    >>> [grown.string(index) for index in ids]
    ['Freiheit', 'Ġund', 'ĠG', 'leich', 'heit']
    >>> grown.decode(ids)
    'Freiheit und Gleichheit'
    """

    tokenizer: ByteLevelTokenizer
    constituents_ES: Int32[np.ndarray, "E S"]
    boundary: Boundary

    def __post_init__(self):
        """Raises InputError if an entry does not consist of the model's subwords, or two have the same string."""
        if self.tokenizer.is_wordpiece:
            raise TokenizerError(
                "A WordPiece vocabulary cannot be grown: its pieces carry no spaces, so text cannot be written with "
                "them. Use a model whose tokenizer is BPE or Unigram."
            )
        _check_constituents(self.constituents_ES, self._own_texts[2])
        _check_strings(self.new_strings, self.tokenizer.pieces)

    @classmethod
    def from_entries(
        cls, tokenizer: ByteLevelTokenizer, entries: GrownEntries, boundary: Boundary
    ) -> "GrownVocabulary":
        """The vocabulary with the entries that `grow_entries` made.

        An entry whose string is the name of one of the model's entries (`<unused 7>`, `<0xFF>`) is left out.
        """
        own_texts, names = piece_bytes(tokenizer), set(tokenizer.pieces)
        _check_constituents(entries.constituents_ES, own_texts[2])
        strings = _join_strings(entries.constituents_ES, own_texts)
        kept_E = np.array([string not in names for string in strings], bool)
        return cls(tokenizer, np.ascontiguousarray(entries.constituents_ES[kept_E]), boundary)

    @property
    def n_own(self) -> int:
        """The number of the model's own byte-level entries, which come first."""
        return self.tokenizer.vocab_size

    @property
    def size(self) -> int:
        """The number of all entries."""
        return self.n_own + len(self.constituents_ES)

    def __len__(self) -> int:
        return self.size

    @cached_property
    def new_strings(self) -> list[str]:
        """The byte-level string of each new entry."""
        return _join_strings(self.constituents_ES, self._own_texts)

    @cached_property
    def fingerprint(self) -> str:
        """A digest; it differs between vocabularies that could give a text different ids."""
        digest = hashlib.sha256(f"{self.tokenizer.fingerprint} {self.boundary}".encode())
        is_subword_ES = self.constituents_ES != NONE
        for numbers in (is_subword_ES.sum(axis=1), self.constituents_ES[is_subword_ES]):
            digest.update(numbers.astype("<i4").data)
        return digest.hexdigest()[:16]

    def string(self, index: int) -> str:
        """The byte-level string of an entry."""
        return self.tokenizer.pieces[index] if index < self.n_own else self.new_strings[index - self.n_own]

    def surface_forms(self, start: int, stop: int) -> tuple[Int32[np.ndarray, "U S"], Bool[np.ndarray, "U S"]]:
        """Entries as the model's own subwords; each of the model's entries is its own surface form.

        Args:
          start: the first id.
          stop: one past the last.

        Returns:
          Subword ids, 0 for padding; and which are subwords.
        """
        forms_US = np.full((stop - start, max(self.constituents_ES.shape[1], 1)), NONE, np.int32)
        n_own = min(max(self.n_own - start, 0), stop - start)
        forms_US[:n_own, 0] = np.arange(start, start + n_own)
        first = start + n_own - self.n_own
        forms_US[n_own:, : self.constituents_ES.shape[1]] = self.constituents_ES[first : stop - self.n_own]
        return np.maximum(forms_US, 0), forms_US != NONE

    def encode(self, texts: Sequence[Text], *, prefix: str = "", add_special_tokens: bool = True) -> RaggedSubwords:
        """Tokenizes texts from the left, always by the longest entry that fits, within segments.

        Args:
          texts: as for `TextEncoder.encode`.
          prefix: as for `TextEncoder.encode`.
          add_special_tokens: as for `TextEncoder.encode`; special and other added tokens are unchanged.

        Returns:
          The same fields for tokens: `ids_N` are ids of this vocabulary. A span is the smallest range of characters
          that the token's bytes touch; if the normaliser changed a subword's number of characters, the whole subword.

        Raises:
          InputError: as for `TextEncoder.encode`.
        """
        return self.split(
            self._text_encoder.encode(
                texts, boundary=self.boundary, prefix=prefix, add_special_tokens=add_special_tokens
            )
        )

    def split(self, subwords: RaggedSubwords) -> RaggedSubwords:
        """Tokenizes texts that `TextEncoder` encoded with this boundary."""
        text_N, text_offset, is_text_V = self._own_texts
        arrays = as_kernel_arrays(
            subwords.ids_N,
            subwords.segment_N,
            subwords.span_N2,
            np.asarray(subwords.offsets, np.int64),
            text_N,
            text_offset,
            is_text_V,
        )
        ids_N, first_N, span_N2, offsets = split_segments(*arrays, *self._trie)
        return RaggedSubwords(
            ids_N=ids_N,
            segment_N=subwords.segment_N[first_N],
            pretoken_N=subwords.pretoken_N[first_N],
            type_N=subwords.type_N[first_N],
            text_N=subwords.text_N[first_N],
            span_N2=span_N2,
            word_N=subwords.word_N[first_N],
            is_counted_N=subwords.is_counted_N[first_N],
            offsets=offsets,
        )

    def token_bytes(self, index: int, *, skip_special_tokens: bool = True) -> bytes:
        """The text of one token, which may be part of a character.

        Raises:
          InputError: the id is out of range.
        """
        if not 0 <= index < self.size:
            raise InputError(f"There is no entry {index}: ids must be 0 to {self.size - 1:,}.")
        if index in self.tokenizer.added_ids or index == self.tokenizer.unknown_id:
            is_special = index in self.tokenizer.special_ids or index == self.tokenizer.unknown_id
            return b"" if is_special and skip_special_tokens else self.tokenizer.pieces[index].encode()
        return to_bytes(self.tokenizer.token_string([index]) if index < self.n_own else self.string(index))

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of tokens; bytes that are not a complete character become U+FFFD.

        Removes the space that the model's tokenizer puts before a text.

        Raises:
          InputError: an id is out of range.
        """
        joined = b"".join(self.token_bytes(index, skip_special_tokens=skip_special_tokens) for index in ids)
        text = joined.decode(errors="replace")
        return text if self.tokenizer.space == "none" else text.removeprefix(" ")

    @cached_property
    def _text_encoder(self) -> TextEncoder:
        return TextEncoder(self.tokenizer)

    @cached_property
    def _own_texts(self) -> tuple:
        return piece_bytes(self.tokenizer)

    @cached_property
    def _trie(self) -> tuple:
        """Of all entries that can be tokens of a text."""
        text_N, text_offset, is_text_V = self._own_texts
        new_N, new_offset = join_texts(*as_kernel_arrays(self.constituents_ES, text_N, text_offset))
        length_V = np.concatenate([np.diff(text_offset), np.diff(new_offset)])
        is_text_V = np.concatenate([is_text_V, np.ones(len(self.constituents_ES), bool)])
        offset = np.cumsum([0, *length_V[is_text_V].tolist()], dtype=np.int64)
        id_M = np.flatnonzero(is_text_V).astype(np.int32)
        trie = build_trie(np.concatenate([text_N, new_N]), offset, id_M, np.full(len(id_M), FIRST, np.int32))
        bytes_there = {CHARACTER_BYTES[piece] for piece in self.tokenizer.pieces if piece in CHARACTER_BYTES}
        if missing := {*range(256)} - _NEVER_IN_TEXT - bytes_there:
            raise TokenizerError(
                f"The tokenizer has no entry for the bytes {' '.join(f'{byte:02X}' for byte in sorted(missing))}, so "
                "it cannot encode every text: save the model's tokenizer again."
            )
        return trie


def readable(string: str) -> str:
    """The text of an entry's byte-level string, for messages; names are unchanged.

    >>> readable("Ġbeing"), readable("GrÃ¶ÃŁe")
    (' being', 'Größe')
    """
    return to_bytes(string).decode(errors="replace") if CHARACTER_BYTES.keys() >= set(string) else string


def _join_strings(constituents_ES: np.ndarray, own_texts: tuple) -> list[str]:
    """The byte-level string of each row of subwords."""
    text_N, text_offset, _ = own_texts
    joined_N, offset = join_texts(*as_kernel_arrays(constituents_ES, text_N, text_offset))
    joined = spell_bytes(joined_N.tobytes())  # a character a byte
    return [joined[start:end] for start, end in pairwise(offset.tolist())]


def _check_constituents(constituents_ES: np.ndarray, is_text_V: np.ndarray) -> None:
    """Raises InputError unless each row is two or more subwords that occur in texts, then `NONE`."""
    is_subword_ES = constituents_ES != NONE
    has_hole_E = (is_subword_ES[:, 1:] & ~is_subword_ES[:, :-1]).any(axis=1)
    is_short_E = is_subword_ES.sum(axis=1) < 2
    is_known_ES = (constituents_ES >= 0) & (constituents_ES < len(is_text_V))
    is_foreign_E = (is_subword_ES & ~(is_known_ES & is_text_V[np.where(is_known_ES, constituents_ES, 0)])).any(axis=1)
    faults = {
        "consists of fewer than two subwords": is_short_E,
        "has padding before its end": has_hole_E,
        f"does not consist of the model's {len(is_text_V):,} own subwords": is_foreign_E,
    }
    for fault, is_faulty_E in faults.items():
        if is_faulty_E.any():
            row = int(is_faulty_E.argmax())
            raise InputError(
                f"New entry {row} {fault} ({constituents_ES[row].tolist()}), a fault of {int(is_faulty_E.sum()):,} of "
                f"{len(constituents_ES):,} entries: build the vocabulary again for this model."
            )


def _check_strings(new_strings: Sequence[str], pieces: Sequence[str]) -> None:
    """Raises InputError if a new entry has the string of an earlier one."""
    id_of = {piece: index for index, piece in enumerate(pieces)}
    for index, string in enumerate(new_strings, start=len(pieces)):
        there = id_of.setdefault(string, index)
        if there != index:
            raise InputError(
                f"Entry {index} is a duplicate: {readable(string)!r} is entry {there} already. Remove one of them."
            )
