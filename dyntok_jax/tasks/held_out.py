"""Validation on held-out examples, static and fully merged."""

from typing import Any

import jax
import numpy as np

from dyntok_jax.options import FULL
from dyntok_jax.tasks.drawn_batches import MakeBatch
from dyntok_jax.training import LossFunction, Validate

GOALS = {"static": None, "full": FULL}
"""What is validated, by the name in metrics."""


def held_out_validator(
    loss: LossFunction, frozen: Any, make_batch: MakeBatch, *, n_examples: int, batch_size: int
) -> Validate:
    """Means of what a loss measures, such as `static_loss` and `full_loss`; `loss` is the mean of these two.

    Batches are made anew each time: all of them together, with the rows of their tokens, might fill the memory.

    Args:
      loss: its metrics are means over a batch's labels, of which `loss` is one.
      frozen: the model.
      make_batch: makes a batch, which counts its labels as `n_labels`, of some examples.
      n_examples: held out.
      batch_size: the most examples of a batch.
    """
    terms = jax.jit(loss)

    def validate(parameters: Any) -> dict[str, float]:
        scores: dict[str, float] = {}
        for name, goal in GOALS.items():
            found = []
            for first in range(0, n_examples, batch_size):
                batch = make_batch(np.arange(first, min(first + batch_size, n_examples)), goal, None)
                found.append((terms(parameters, frozen, batch)[1], batch.n_labels))
            total = max(sum(count for _, count in found), 1)
            for metric in found[0][0]:
                mean = sum(float(metrics[metric]) * count for metrics, count in found) / total
                scores[f"{name}_{metric}"] = mean
        return {"loss": float(np.mean([scores["static_loss"], scores["full_loss"]])), **scores}

    return validate
