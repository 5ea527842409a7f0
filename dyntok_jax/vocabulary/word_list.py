"""Lists of words with weights: files of `word<TAB>weight`, or the lists of the package wordfreq.

wordfreq has no list of Thai or Swahili. Its code is Apache-2.0, its lists are
CC BY-SA 4.0 (Robyn Speer, https://github.com/rspeer/wordfreq): credit them if you train a model on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dyntok_jax.errors import InputError
from dyntok_jax.text import read_lines

WORDFREQ = "wordfreq:"
MAX_WORDS = 100_000
"""Words taken from wordfreq, the most frequent: the rest of its large lists is mostly typos and foreign names."""


@dataclass(frozen=True)
class WordList:
    """Words and how often each occurs.

    Attributes:
      words: W different words.
      weight_W: positive, in any unit.

    >>> WordList(("human", "being"), np.array([2.0, 1.0])).words
    ('human', 'being')
    """

    words: tuple[str, ...]
    weight_W: Float[np.ndarray, "W"]


def load_word_list(sources: Sequence[str]) -> WordList:
    r"""Reads and joins lists of words; the weights of a repeated word are added.

    Args:
      sources: files (UTF-8, `.gz` is unpacked, each line `word<TAB>weight` or just a word), or `wordfreq:ar`.

    Raises:
      InputError: a file cannot be read, a line is malformed, there are no words, wordfreq has no such list or is not
        installed.

    >>> _ = (folder / "words.txt").write_text("human\t2.5\nbeing\nhuman\t1")
    >>> load_word_list([str(folder / "words.txt")])
    WordList(words=('human', 'being'), weight_W=array([3.5, 1. ]))
    """
    weight_of: dict[str, float] = {}
    for source in sources:
        is_package = source.startswith(WORDFREQ)
        entries = wordfreq_words(source.removeprefix(WORDFREQ)) if is_package else read_word_file(source)
        for word, weight in entries.items():
            weight_of[word] = weight_of.get(word, 0.0) + weight
    if not weight_of:
        raise InputError(
            f"There are no words in {', '.join(sources) or 'an empty list of sources'}: name a list that has some."
        )
    return WordList(tuple(weight_of), np.fromiter(weight_of.values(), np.float64, len(weight_of)))


def read_word_file(file: str) -> dict[str, float]:
    """Words and weights of a file; a word without a weight has weight 1, empty lines are skipped."""
    weight_of: dict[str, float] = {}
    for number, line in enumerate(read_lines(file), start=1):
        word, tab, weight = line.strip().partition("\t")
        if not word:
            continue
        try:
            value = float(weight) if tab else 1.0
        except ValueError:
            value = np.nan
        if not (0 < value < np.inf):
            raise InputError(
                f"{file}, line {number}: the weight must be a positive number, got {weight!r}: correct it."
            )
        weight_of[word] = weight_of.get(word, 0.0) + value
    return weight_of


def wordfreq_words(code: str) -> dict[str, float]:
    """The most frequent words of a language with their frequencies, by wordfreq.

    Skips tokens with digits or without letters. Restores Greek's final sigma, which wordfreq writes like the others.
    """
    try:
        import wordfreq
    except ImportError:
        raise InputError(
            f"{WORDFREQ}{code} needs the package wordfreq: pip install 'dyntok_jax[words]', or give a file of words."
        ) from None
    available = wordfreq.available_languages("best")
    if code not in available:
        raise InputError(f"wordfreq has no list for {code!r}; it has {' '.join(sorted(available))}.")
    words = {
        word.removesuffix("σ") + "ς" if code == "el" and len(word) > 1 and word.endswith("σ") else word: frequency
        for word, frequency in wordfreq.get_frequency_dict(code, "best").items()
        if any(map(str.isalpha, word)) and not any(map(str.isdigit, word))
    }
    return dict(sorted(words.items(), key=lambda entry: -entry[1])[:MAX_WORDS])
