"""Lists of words with weights: files of `word<TAB>weight`, or the lists of the package wordfreq.

wordfreq has no list of Thai or Swahili. Its code is Apache-2.0, its lists are
CC BY-SA 4.0 (Robyn Speer, https://github.com/rspeer/wordfreq): name them where a model was trained on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dyntok_jax.errors import InputError
from dyntok_jax.text import read_lines

WORDFREQ = "wordfreq:"
MOST_WORDS = 100_000
"""Words taken from wordfreq, the most frequent: behind them its large lists hold mostly slips and foreign names."""


@dataclass(frozen=True)
class WordList:
    """Words and how often each comes.

    Attributes:
      words: each once, W in all.
      weight_W: positive, in any unit.
    """

    words: tuple[str, ...]
    weight_W: Float[np.ndarray, "W"]


def load_word_list(sources: Sequence[str]) -> WordList:
    """Reads lists of words and joins them; the weights of a word that comes again are added.

    Args:
      sources: files (UTF-8, `.gz` is unpacked, a line `word<TAB>weight` or just a word), or `wordfreq:ar`.

    Raises:
      InputError: a file that cannot be read, a line that is none, no words, no such list, wordfreq is not installed.
    """
    weight_of: dict[str, float] = {}
    for source in sources:
        is_package = source.startswith(WORDFREQ)
        entries = wordfreq_words(source.removeprefix(WORDFREQ)) if is_package else read_word_file(source)
        for word, weight in entries.items():
            weight_of[word] = weight_of.get(word, 0.0) + weight
    if not weight_of:
        raise InputError(f"There are no words in {', '.join(sources) or 'an empty list of sources'}: give some.")
    return WordList(tuple(weight_of), np.fromiter(weight_of.values(), np.float64, len(weight_of)))


def read_word_file(file: str) -> dict[str, float]:
    """Words and weights of a file; a word without a weight has weight 1, empty lines are passed over."""
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
                f"{file}, line {number}: {weight!r} is no weight. Write a word, a tab and a positive number."
            )
        weight_of[word] = weight_of.get(word, 0.0) + value
    return weight_of


def wordfreq_words(code: str) -> dict[str, float]:
    """The most frequent words of a language and how often each comes, by wordfreq.

    Its tokens with digits or without letters are left out. It writes Greek's final sigma as it writes the others;
    that is undone.
    """
    try:
        import wordfreq
    except ImportError:
        raise InputError(
            f"{WORDFREQ}{code} needs the package wordfreq: pip install 'dyntok_jax[words]', or give a file of words."
        ) from None
    available = wordfreq.available_languages("best")
    if code not in available:
        raise InputError(f"wordfreq has no words of {code!r}; it knows {' '.join(sorted(available))}.")
    words = {
        word.removesuffix("σ") + "ς" if code == "el" and len(word) > 1 and word.endswith("σ") else word: frequency
        for word, frequency in wordfreq.get_frequency_dict(code, "best").items()
        if any(map(str.isalpha, word)) and not any(map(str.isdigit, word))
    }
    return dict(sorted(words.items(), key=lambda entry: -entry[1])[:MOST_WORDS])
