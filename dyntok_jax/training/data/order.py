"""Which texts and which vocabulary pieces are in batch i: a function of the config, the data and i."""

from functools import lru_cache

import grain
import numpy as np
from jaxtyping import Int64

from dyntok_jax.training.data.data_config import DataConfig
from dyntok_jax.training.data.samples import Samples

ORDER = 2
"""Increased when a change makes other batches from the same config, so that no run resumes with other batches."""
WINDOW = 16
"""Batches a window: texts of similar length are grouped within a window."""


class TextRows:
    """The rows of `Samples` in each batch, by the batch's number."""

    def __init__(self, samples: Samples, config: DataConfig):
        """Takes the texts, and how to draw from them."""
        self._samples, self._config = samples, config
        self._mixed = mixed_rows(samples, config)
        self._window = lru_cache(maxsize=4)(self._make_window)  # threads are at most a few windows apart

    def __call__(self, number: int) -> Int64[np.ndarray, "B"]:
        """The rows of one batch."""
        window, at = divmod(number, WINDOW)
        return self._window(window)[at]

    def _make_window(self, window: int) -> Int64[np.ndarray, "batches B"]:
        """Divides the next rows into batches of similar length, in random order."""
        size = WINDOW * self._config.batch_size
        rows = np.array([self._mixed[at] for at in range(window * size, (window + 1) * size)], np.int64)
        by_length = rows[np.argsort(self._samples.lengths(rows), kind="stable")]
        batches = by_length.reshape(WINDOW, self._config.batch_size)
        return np.random.default_rng((self._config.seed, window)).permutation(batches)


def mixed_rows(samples: Samples, config: DataConfig) -> grain.MapDataset[int]:
    """Endless rows, all mixed: each language's texts, shuffled again in every epoch, and pseudo-texts, always new."""
    parts, weights = [], []
    for number, code in enumerate(samples.languages):
        texts, words = samples.text_rows(code), samples.word_rows(code)
        words_share = (config.words_share_of(code) if len(texts) else 1.0) if len(words) else 0.0
        weight = samples.weight(code) ** config.language_exponent * config.weight_of(code)
        if words_share < 1:
            parts.append(_dataset(texts).seed(config.seed + number).shuffle().repeat())
            weights.append(weight * (1 - words_share))
        if words_share > 0:
            parts.append(_dataset(words))
            weights.append(weight * words_share)
    return grain.MapDataset.mix(parts, (np.array(weights) / sum(weights)).tolist())


def piece_rows(n_pieces: int, config: DataConfig) -> grain.MapDataset[np.ndarray]:
    """The rows of `VocabularyPieces` in each batch: all pieces, shuffled again in every epoch."""
    rows = grain.MapDataset.range(n_pieces).seed(config.seed).shuffle().repeat()
    return rows.batch(config.pieces_per_batch, drop_remainder=True, batch_fn=np.array)


def _dataset(rows: range) -> grain.MapDataset[int]:
    return grain.MapDataset.range(rows.start, rows.stop, rows.step)
