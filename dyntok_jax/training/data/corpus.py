"""Texts to train on: read from files by language, cut and joined to suitable lengths, stored as one block.

A corpus is in memory as UTF-8, so it takes about as many bytes as its uncompressed files.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int32, Int64

from dyntok_jax.errors import InputError
from dyntok_jax.text import TextEncoder
from dyntok_jax.training.data.sources import read_paragraphs

SHORTEST = 16
"""Subwords (estimated): shorter lines, such as titles and labels, are joined with the lines after them."""
_SAMPLE = 256
_HELD_OUT_BYTES = 48
"""Shorter paragraphs, such as titles and labels, are not used for validation."""
_BREAK = re.compile(r"(?<=[.!?;:。！？；।])\s*|\s+")


@dataclass(frozen=True)
class Corpus:
    """Texts of several languages, N in all, grouped by language.

    Attributes:
      languages: the codes, in order.
      block: all texts in UTF-8, end to end.
      offset: where in the block each text begins, and the block's end.
      first_row: the first text of each language, and N.
      length_N: the estimated number of the model's own subwords in each text.
    """

    languages: tuple[str, ...]
    block: bytes
    offset: Int64[np.ndarray, "texts_and_one"]
    first_row: Int64[np.ndarray, "languages_and_one"]
    length_N: Int32[np.ndarray, "N"]

    def __len__(self) -> int:
        return len(self.length_N)

    def text(self, row: int) -> str:
        """One text."""
        return self.block[self.offset[row] : self.offset[row + 1]].decode()

    def language(self, row: int) -> str:
        """The code of a text's language."""
        return self.languages[int(np.searchsorted(self.first_row, row, side="right")) - 1]

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all texts and their order."""
        digest = hashlib.blake2b(repr(self.languages).encode(), digest_size=8)
        for part in (self.first_row.data, self.offset.data, self.block):
            digest.update(part)
        return digest.hexdigest()


def load_corpus(
    sources: Mapping[str, Sequence[str]], text_encoder: TextEncoder, *, longest: int, n_held_out: int = 0
) -> Corpus:
    """Reads the texts of each language.

    Args:
      sources: language code → files or data sets, see `sources.py`.
      text_encoder: measures how many subwords there are per character.
      longest: roughly the most subwords of a text; longer ones are split.
      n_held_out: paragraphs of each language to leave out, see `held_out_paragraphs`.

    Raises:
      InputError: a language has no text, or only short lines besides the paragraphs held out; a file cannot be read or
        is not UTF-8.
    """
    parts, offsets, lengths, first_row = [], [np.zeros(1, np.int64)], [], [0]
    for code, files in sources.items():
        lines, _ = read_language(code, files, n_held_out)
        density = subwords_per_character(lines, text_encoder)
        texts = list(fit_lengths(lines, shortest=SHORTEST / density, longest=longest / density))
        encoded = [text.encode() for text in texts]
        parts.append(b"".join(encoded))
        offsets.append(offsets[-1][-1] + np.cumsum([len(text) for text in encoded]))
        lengths.append(np.array([len(text) for text in texts]) * density)
        first_row.append(first_row[-1] + len(texts))
    return Corpus(
        languages=tuple(sources),
        block=b"".join(parts),
        offset=np.concatenate(offsets),
        first_row=np.array(first_row),
        length_N=np.concatenate(lengths).astype(np.int32),
    )


def held_out_paragraphs(sources: Mapping[str, Sequence[str]], n_held_out: int) -> dict[str, list[str]]:
    """The paragraphs of each language that `load_corpus` leaves out, for validation.

    They are those with the lowest hashes, so they depend neither on the order of texts nor on a seed. A paragraph that
    occurs twice is either held out or trained on, never both.

    Args:
      sources: language code → files or data sets.
      n_held_out: paragraphs of each language; none where all lines are short.

    Raises:
      InputError: a language has no more paragraphs than the number to hold out.
    """
    return {code: read_language(code, files, n_held_out)[1] for code, files in sources.items()}


def read_language(code: str, sources: Sequence[str], n_held_out: int) -> tuple[list[str], list[str]]:
    """The paragraphs of a language to train on, and those held out.

    Raises:
      InputError: it has no text, or no more paragraphs than the number to hold out.
    """
    lines = [line for source in sources for line in read_paragraphs(source)]
    if not lines:
        named = ", ".join(sources) or "no file"
        raise InputError(f"There is no text in language {code} ({named}): give a file that has some, or leave it out.")
    if not n_held_out:
        return lines, []
    long_enough = {line for line in lines if len(line.encode()) >= _HELD_OUT_BYTES}
    held_out = sorted(long_enough, key=lambda line: hashlib.blake2b(line.encode()).digest())[:n_held_out]
    if held_out and len(held_out) == len(long_enough):
        raise InputError(
            f"Language {code} has {len(held_out)} paragraphs that are long enough to hold out, and held_out is "
            f"{n_held_out}: only short lines would be left to train on. Give more text, or hold out fewer than "
            f"{len(held_out)}."
        )
    is_held_out = set(held_out)
    return [line for line in lines if line not in is_held_out], held_out


def subwords_per_character(lines: Sequence[str], text_encoder: TextEncoder) -> float:
    """The model's own subwords per character, measured on some lines."""
    sample = [line[:1000] for line in lines[:: -(-len(lines) // _SAMPLE)]]
    return max(int(text_encoder.encode_static(sample).counts.sum()), 1) / sum(map(len, sample))


def fit_lengths(lines: Iterable[str], *, shortest: float, longest: float) -> Iterator[str]:
    """Joins short lines with those after them, and cuts long ones into parts of similar length, in characters.

    Args:
      lines: without white space around them.
      shortest: no text is shorter, except perhaps the last.
      longest: no text is longer, except for what cannot be cut.
    """
    waiting = ""
    for line in lines:
        if waiting and len(waiting) + len(line) >= longest:
            yield waiting
            waiting = ""
        waiting = f"{waiting} {line}" if waiting else line
        if len(waiting) >= shortest:
            yield from cut(waiting, longest)
            waiting = ""
    if waiting:
        yield waiting


def cut(text: str, longest: float) -> list[str]:
    """Cuts a text into parts of at most `longest` characters, after sentences or words if possible."""
    n_parts = max(1, int(np.ceil(len(text) / longest)))
    if n_parts == 1:
        return [text]
    size = len(text) / n_parts
    parts, start = [], 0
    while len(text) - start > longest:
        stop = start + max(1, int(size))
        earliest = start + max(1, int(size / 2))
        breaks = [match.end() for match in _BREAK.finditer(text, earliest, stop)]
        stop = breaks[-1] if breaks else stop
        parts.append(text[start:stop].strip())
        start = stop
    parts.append(text[start:].strip())
    return [part for part in parts if part]
