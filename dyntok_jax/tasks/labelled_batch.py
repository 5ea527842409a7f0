"""Batches of labelled texts: tokenized, merged, and laid out for the encoder, with a label a text or a token."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic

import jax
import numpy as np
from jaxtyping import Int32, Int64

from dyntok_jax.embedding import TokenEmbedder, TokenInputs
from dyntok_jax.merging import first_tokens, merge_texts
from dyntok_jax.options import FULL, Merges, Merging, Share
from dyntok_jax.tasks.config import TaskConfig
from dyntok_jax.text import Text, TextEncoder, bucket, pad_ragged
from dyntok_jax.types import ArrayT

NO_LABEL = -1
"""Where a token has no label: all but the first of a word."""
WINDOW = 16
"""The most batches in a window, within which texts of similar length are grouped. Small data have shorter windows, so
that no text is twice in one."""
DRAW_BINS, GAUSSIAN_MEAN, GAUSSIAN_DEVIATION = 30, 15, 5
"""The reference's bins of the reduction, and its normal distribution over them."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LabelledBatch(Generic[ArrayT]):
    """What a step of training on a task reads.

    Attributes:
      inputs: the tokens.
      type_BT: which text of a pair each is in.
      label_BW: number of each label, `NO_LABEL` where there is none; W is 1 for labels of texts, T for those of tokens.

    >>> from dyntok_jax.options import FULL, Merging
    >>> merging = encoder.embedder.resolve(Merging(FULL), scope="batch", merge_last=True)
    >>> batch = labelled_batch(["Freiheit"], [[1]], encoder.embedder, merging, n_batch=2, max_length=32)
    >>> batch.label_BW.tolist(), batch.inputs.mask_BT.shape
    ([[1], [-1]], (2, 16))
    """

    inputs: TokenInputs[ArrayT]
    type_BT: Int32[ArrayT, "B T"]
    label_BW: Int32[ArrayT, "B W"]


def labelled_batch(
    texts: Sequence[Text],
    numbers: Sequence[Sequence[int]],
    embedder: TokenEmbedder,
    merging: Merging,
    *,
    n_batch: int,
    max_length: int,
    prefix: str = "",
    goals: Sequence[Merges | Share] | None = None,
) -> LabelledBatch[np.ndarray]:
    """Tokenizes, merges and pads texts, and gives labels of words to their first tokens.

    Args:
      texts: one a row; lists of words if the labels are those of words.
      numbers: of the labels: one a text, or one a word.
      embedder: with the tokenizer, and the rows of new tokens.
      merging: how texts are merged, resolved.
      n_batch: rows, padding included.
      max_length: the most tokens a text; longer ones are cut, and labels of words that were cut off are left out.
      prefix: put before each text.
      goals: one for each text, which is then merged alone, in place of the goal of `merging`.

    >>> from dyntok_jax.options import FULL, Merging
    >>> merging = encoder.embedder.resolve(Merging(FULL), scope="batch", merge_last=True)
    >>> words = [["Freiheit", "und"]]
    >>> batch = labelled_batch(words, [[2, 0]], encoder.embedder, merging, n_batch=1, max_length=32)
    >>> [label for label in batch.label_BW[0].tolist() if label != NO_LABEL]
    [2, 0]
    """
    encoder = TextEncoder(embedder.tokenizer)
    if merging.is_static:
        subwords = encoder.encode_static(texts, prefix=prefix)
    else:
        subwords = encoder.encode(texts, boundary=merging.boundary, prefix=prefix, protect=merging.protect)
    tokens = merge_texts(subwords, merging, batch_size=len(texts), limit=max_length, truncate=True, goals=goals)
    length = min(bucket(max(1, int(tokens.lengths.max()))), max_length)
    language_B = np.zeros(len(texts), np.int32)
    inputs = embedder.inputs(tokens, language_B, n_batch=n_batch, length=length, is_static=merging.is_static)
    type_BT = pad_ragged(tokens.subwords.type_N[tokens.start_M], tokens.offsets, n_batch, length, padding=0)
    is_of_words = isinstance(texts[0], list)
    label_BW = np.full((n_batch, length if is_of_words else 1), NO_LABEL, np.int32)
    if is_of_words:
        places = first_tokens(tokens, [len(row) for row in numbers])
        for row, (place, labels) in enumerate(zip(places, numbers, strict=True)):
            # a token of several words has the label of the first
            for at, label in reversed(list(zip(place.tolist(), labels, strict=True))):
                if at >= 0:
                    label_BW[row, at] = label
    else:
        label_BW[: len(numbers), 0] = [row[0] for row in numbers]
    return LabelledBatch(inputs, type_BT, label_BW)


class LabelledBatches:
    """An endless stream of batches: which texts are in batch i, and how far they are merged, are functions of i.

    >>> from dyntok_jax.tasks import TaskConfig
    >>> config = TaskConfig("classify", batch_size=2, max_length=32)
    >>> batches = LabelledBatches(["Freiheit", "Recht"], [[0], [1]], encoder.embedder, config)
    >>> sorted(next(batches).label_BW[:, 0].tolist()), batches.get_state()
    ([0, 1], {'next': 1})
    """

    def __init__(
        self, texts: list[Text], numbers: Sequence[Sequence[int]], embedder: TokenEmbedder, config: TaskConfig
    ):
        self._texts, self._numbers, self._embedder, self._config = texts, numbers, embedder, config
        self._length_N = np.array([_characters(text) for text in texts])
        self._batches_a_window = max(1, min(WINDOW, len(texts) // config.batch_size))
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        self._window = lru_cache(maxsize=2)(self._make_window)
        self._next = 0

    def __next__(self) -> LabelledBatch[np.ndarray]:
        """The next batch."""
        window, at = divmod(self._next, self._batches_a_window)
        config, rows = self._config, self._window(window)[at]
        random, goals = np.random.default_rng((config.seed, 1, self._next)), None
        if config.per == "sample":
            goals = [drawn_goal(config, random) for _ in rows]
        goal = None if config.draw == "static" else FULL if goals else drawn_goal(config, random)
        merging = self._embedder.resolve(Merging(goal, boundary=config.boundary), scope="batch", merge_last=True)
        self._next += 1
        return labelled_batch(
            [self._texts[row] for row in rows],
            [self._numbers[row] for row in rows],
            self._embedder,
            merging,
            n_batch=config.batch_size,
            max_length=config.max_length,
            prefix=config.prefix,
            goals=goals,
        )

    def get_state(self) -> dict[str, Any]:
        """The number of the next batch."""
        return {"next": self._next}

    def set_state(self, state: dict[str, Any]) -> None:
        """Moves to such a position."""
        self._next = state["next"]

    def _make_epoch(self, epoch: int) -> Int64[np.ndarray, "N"]:
        return np.random.default_rng((self._config.seed, 2, epoch)).permutation(len(self._texts))

    def _make_window(self, window: int) -> Int64[np.ndarray, "batches B"]:
        """Divides the next rows into batches of similar length, in random order; epochs follow one another."""
        size, n_texts = self._batches_a_window * self._config.batch_size, len(self._texts)
        places = [divmod(at, n_texts) for at in range(window * size, (window + 1) * size)]
        rows = np.array([self._epoch(epoch)[at] for epoch, at in places])
        batches = rows[np.argsort(self._length_N[rows], kind="stable")].reshape(-1, self._config.batch_size)
        return np.random.default_rng((self._config.seed, 3, window)).permutation(batches)


def drawn_goal(config: TaskConfig, random: np.random.Generator) -> Merges | Share:
    """How far a batch or a text is merged, where it is merged at all."""
    match config.draw:
        case "merges":
            assert config.merges is not None, "checked with the options"
            return Merges(config.merges)
        case "fixed":
            return Share(config.share)
        case "uniform":
            at = int(random.integers(DRAW_BINS))
        case _:
            at = round(float(np.clip(random.normal(GAUSSIAN_MEAN, GAUSSIAN_DEVIATION), 0, DRAW_BINS - 1)))
    return Share(100 * at / (DRAW_BINS - 1))


def _characters(text: Text) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text))
