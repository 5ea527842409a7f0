"""A vocabulary grown on text: byte-pair encoding that goes on from a model's own subwords.

The most frequent pair of neighbours within segments becomes one entry, again and again (Gage 1994; Sennrich, Haddow,
Birch, *Neural Machine Translation of Rare Words with Subword Units*, ACL 2016), until there are as many as wanted.
Every entry of the model's own stays, and each new one is known by the subwords that it is made of.
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
"""A pair that comes once teaches nothing: it would be learnt from one place in the text."""
_LOOK_SECONDS = 0.1
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""How the names of characters begin whose scripts put no spaces between words."""


@dataclass(frozen=True)
class GrownEntries:
    """New entries in the order they were made: the most frequent first, on the whole. E of them.

    Attributes:
      constituents_ES: subwords of the model's own that each is made of; `NONE` behind them.
      count_E: how often the pair was seen that made it.
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
    """Learns new entries; fewer than wanted where no pair is left that comes often enough.

    An entry begins and ends between characters, and no two have the same string. Of pairs that come equally often the
    one with the lowest ids is first, so the same text gives the same entries.

    Args:
      counts: segments of the text, written in the tokenizer's subwords.
      tokenizer: of the model.
      n_entries: how many are wanted.
      max_subwords: S, the most subwords of an entry; None for no limit.
      min_count: how often a pair must come.
      progress: called with the number of entries made since it was called last, several times. Ctrl-C ends the loop.

    Raises:
      InputError: a number out of range.
      TokenizerError: a WordPiece tokenizer.
    """
    if tokenizer.is_wordpiece:
        raise TokenizerError(
            "A WordPiece vocabulary cannot be grown: its pieces carry no spaces, so text cannot be written with them. "
            "Take a model whose tokenizer is BPE or Unigram."
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
    """Words as texts for `count_segments`, each with a space before it where its script has spaces between words.

    Weights that are whole numbers count as they are. Others are scaled so that the rarest word counts once.
    """
    weight_W = words.weight_W
    if not np.array_equal(weight_W, np.round(weight_W)):
        weight_W = weight_W / weight_W.min()
    for word, weight in zip(words.words, np.round(weight_W).astype(np.int64).tolist(), strict=True):
        is_spaced = not unicodedata.name(word[0], "").startswith(_UNSPACED)
        yield (" " + word if is_spaced and tokenizer.space == "none" else word), weight


def _run(loop: Callable[[], tuple], state: Int64[np.ndarray, "2"], progress: Callable[[int], None]) -> tuple:
    """Runs the compiled loop in a thread of its own, so that this one can tell how far it is and hear Ctrl-C."""
    results: list[tuple] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(loop())
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    told, is_running = 0, True
    try:
        while is_running:
            worker.join(_LOOK_SECONDS)
            is_running = worker.is_alive()
            made = int(state[N_ENTRIES])
            progress(made - told)
            told = made
    except BaseException:
        state[STOP] = 1
        worker.join()
        raise
    if errors:
        raise errors[0]
    return results[0]
