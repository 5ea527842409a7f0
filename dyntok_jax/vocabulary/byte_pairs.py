"""A vocabulary grown on text: byte-pair encoding that starts from a model's own subwords.

The most frequent pair of neighbours within segments becomes one entry, again and again (Gage 1994; Sennrich, Haddow,
Birch, *Neural Machine Translation of Rare Words with Subword Units*, ACL 2016), until there are as many as wanted.
All of the model's own entries stay; each new one is stored as the subwords that it consists of.
"""

import threading
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64

from dyntok_jax.errors import TokenizerError
from dyntok_jax.kernels import N_ENTRIES, NONE, STOP, as_kernel_arrays, grow
from dyntok_jax.options import whole_number
from dyntok_jax.text import ByteLevelTokenizer, piece_bytes
from dyntok_jax.vocabulary.segment_counts import SegmentCounts
from dyntok_jax.vocabulary.word_list import WordList

MIN_COUNT = 2
"""A pair seen once says little: the entry would be learnt from one place in the text."""
_POLL_SECONDS = 0.1
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""How the Unicode names of characters begin in scripts without spaces between words."""


@dataclass(frozen=True)
class GrownEntries:
    """E new entries in the order they were made, roughly the most frequent first.

    Attributes:
      constituents_ES: the model's subwords that each consists of, then `NONE`.
      count_E: how often the pair that made it was seen.
    """

    constituents_ES: Int32[np.ndarray, "E S"]
    count_E: Int64[np.ndarray, "E"]

    def __len__(self) -> int:
        return len(self.count_E)


def grow_entries(
    counts: SegmentCounts,
    tokenizer: ByteLevelTokenizer,
    n_entries: int,
    *,
    max_subwords: int | None = None,
    min_count: int = MIN_COUNT,
    progress: Callable[[int], None] = lambda _: None,
) -> GrownEntries:
    """Learns new entries; fewer than wanted if no pair is left that is frequent enough.

    An entry begins and ends between characters, and no two have the same string. Of equally frequent pairs the one with
    the lowest ids comes first, so the same text gives the same entries.

    Args:
      counts: segments of the text, as the tokenizer's subwords.
      tokenizer: of the model.
      n_entries: how many to learn.
      max_subwords: S, the most subwords of an entry; None for no limit.
      min_count: how often a pair must occur.
      progress: called several times with the number of entries made since the last call. Ctrl-C ends the loop.

    Raises:
      InputError: a number is out of range.
      TokenizerError: the tokenizer is WordPiece.

    >>> from dyntok_jax.vocabulary import GrownVocabulary, count_segments
    >>> counts = count_segments(["All human beings are born free.", "Human beings"], text_encoder)
    >>> entries = grow_entries(counts, tokenizer, 3)
    >>> GrownVocabulary.from_entries(tokenizer, entries, "pretoken").new_strings, entries.count_E
    (['ing', 'Ġbeing', 'uman'], array([2, 2, 2]))
    """
    if tokenizer.is_wordpiece:
        raise TokenizerError(
            "A WordPiece vocabulary cannot be grown: its pieces carry no spaces, so text cannot be written with them. "
            "Use a model whose tokenizer is BPE or Unigram."
        )
    named = {"n_entries": (n_entries, 0), "max_subwords": (max_subwords, 2), "min_count": (min_count, 1)}
    for name, (value, least) in named.items():
        if value is not None:
            whole_number(name, value, least=least)
    longest = int(np.diff(counts.offset).max(initial=0))
    if max_subwords is not None:
        longest = min(longest, max_subwords)
    text_N, text_offset, is_text_V = piece_bytes(tokenizer)
    arrays = as_kernel_arrays(counts.ids_N, counts.offset, counts.count_K, text_N, text_offset, is_text_V)
    state = np.zeros(2, np.int64)
    start_E, length_E, count_E = _run(lambda: grow(*arrays, n_entries, longest, min_count, state), state, progress)
    width = max(max_subwords or int(length_E.max(initial=1)), 1)
    is_subword_ES = np.arange(width) < length_E[:, None]
    at_ES = np.where(is_subword_ES, start_E[:, None] + np.arange(width), 0)
    constituents_ES = np.full(at_ES.shape, NONE, np.int32)
    constituents_ES[is_subword_ES] = counts.ids_N[at_ES[is_subword_ES]]
    return GrownEntries(constituents_ES, count_E)


def word_texts(words: WordList, tokenizer: ByteLevelTokenizer) -> Iterator[tuple[str, int]]:
    """Words as texts for `count_segments`, with a space before each word of a script that separates words by spaces.

    Whole-number weights are counts. Others are scaled so that the rarest word counts once.

    >>> words = WordList(("human", "human being"), np.array([0.5, 0.1]))
    >>> list(word_texts(words, decoder.tokenizer))
    [(' human', 5), (' human being', 1)]
    """
    weight_W = words.weight_W
    if not np.array_equal(weight_W, np.round(weight_W)):
        weight_W = weight_W / weight_W.min()
    for word, weight in zip(words.words, np.round(weight_W).astype(np.int64).tolist(), strict=True):
        is_spaced = not unicodedata.name(word[0], "").startswith(_UNSPACED)
        yield (" " + word if is_spaced and tokenizer.space == "none" else word), weight


def _run(loop: Callable[[], tuple], state: Int64[np.ndarray, "2"], progress: Callable[[int], None]) -> tuple:
    """Runs the compiled loop in its own thread, so that this one can report progress and handle Ctrl-C."""
    results: list[tuple] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(loop())
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    reported, is_running = 0, True
    try:
        while is_running:
            worker.join(_POLL_SECONDS)
            is_running = worker.is_alive()
            made = int(state[N_ENTRIES])
            progress(made - reported)
            reported = made
    except BaseException:
        state[STOP] = 1
        worker.join()
        raise
    if errors:
        raise errors[0]
    return results[0]
