"""The order of a task's examples, and how far each batch is merged: functions of the seed and the batch's number."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Int, Int64

from dyntok_jax.options import FULL, Goal, Merges, Share
from dyntok_jax.tasks.config import TaskConfig

WINDOW = 16
"""The most batches in a window, within which texts of similar length are grouped. Small data have shorter windows, so
that no text is twice in one."""
DRAW_BINS, GAUSSIAN_MEAN, GAUSSIAN_DEVIATION = 30, 15, 5
"""The reference's bins of the reduction, and its normal distribution over them."""

MakeBatch = Callable[[Int64[np.ndarray, "rows"], Goal | None, Sequence[Merges | Share] | None], Any]
"""From the numbers of some examples, how far they are merged (None: static tokenization), and in place of that a goal
for each, to their batch."""


class DrawnBatches:
    """An endless stream of batches: which examples are in batch i, and how far they are merged, are functions of i.

    >>> from dyntok_jax.tasks import TaskConfig
    >>> config = TaskConfig("classify", draw="fixed", share=50.0, batch_size=2)
    >>> batches = DrawnBatches([3, 1, 2, 4], config, lambda rows, goal, goals: (sorted(rows.tolist()), goal))
    >>> next(batches), batches.get_state()
    (([1, 2], Share(percent=50.0)), {'next': 1})
    """

    def __init__(self, lengths: Sequence[int], config: TaskConfig, make_batch: MakeBatch):
        """Takes the length of each example, by which they are grouped, and what makes a batch of some."""
        self._length_N: Int[np.ndarray, "N"] = np.array(lengths)
        self._config, self._make_batch = config, make_batch
        self._batches_a_window = max(1, min(WINDOW, len(lengths) // config.batch_size))
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        self._window = lru_cache(maxsize=2)(self._make_window)
        self._next = 0

    def __next__(self) -> Any:
        """The next batch."""
        window, at = divmod(self._next, self._batches_a_window)
        config, rows = self._config, self._window(window)[at]
        random, goals = np.random.default_rng((config.seed, 1, self._next)), None
        if config.per == "sample":
            goals = [drawn_goal(config, random) for _ in rows]
        goal = None if config.draw == "static" else FULL if goals else drawn_goal(config, random)
        self._next += 1
        return self._make_batch(rows, goal, goals)

    def get_state(self) -> dict[str, Any]:
        """The number of the next batch."""
        return {"next": self._next}

    def set_state(self, state: dict[str, Any]) -> None:
        """Moves to such a position."""
        self._next = state["next"]

    def _make_epoch(self, epoch: int) -> Int64[np.ndarray, "N"]:
        return np.random.default_rng((self._config.seed, 2, epoch)).permutation(len(self._length_N))

    def _make_window(self, window: int) -> Int64[np.ndarray, "batches B"]:
        """Divides the next rows into batches of similar length, in random order; epochs follow one another."""
        size, n_texts = self._batches_a_window * self._config.batch_size, len(self._length_N)
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
