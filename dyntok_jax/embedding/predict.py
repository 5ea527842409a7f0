"""Rows for the tokens that have none in the model's table: predicted in padded buckets, kept in the cache.

This is only the host's part of the work: which rows are needed, which are cached, which bucket each goes to. The
device's part is a pure function of padded surface forms.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32

from dyntok_jax.embedding.cache import EmbeddingCache, token_keys
from dyntok_jax.errors import NotANumberError
from dyntok_jax.text import PREDICTED_ROW_BUCKETS, SURFACE_BUCKETS, buckets_up_to

Predict = Callable[
    [Int32[np.ndarray, "U S"], Bool[np.ndarray, "U S"], Int32[np.ndarray, "U"]],
    Float[Array, "U D"],
]
"""From surface forms, their masks and each row's language index to rows on the device."""


def predict_in_buckets(
    predict: Predict,
    surface_US: Int32[np.ndarray, "U S"],
    is_subword_US: Bool[np.ndarray, "U S"],
    language_U: Int32[np.ndarray, "U"],
    *,
    row_buckets: Sequence[int] = PREDICTED_ROW_BUCKETS,
) -> list[tuple[np.ndarray, Float[Array, "_ D"]]]:
    """Predicts rows in a few padded shapes, with short forms and long ones in different batches.

    Returns:
      Pairs: positions in `surface_US`, and a device array whose first rows are theirs. It does not wait for the device.

    >>> surface_US, is_subword_US = np.full((3, 2), 300, np.int32), np.ones((3, 2), bool)
    >>> def lengths(surface_US, is_subword_US, language_U):
    ...     return jnp.asarray(is_subword_US.sum(axis=1, keepdims=True), jnp.float32)
    >>> ((rows, predicted),) = predict_in_buckets(lengths, surface_US, is_subword_US, np.zeros(3, np.int32))
    >>> rows, predicted[:4, 0].tolist()  # three rows and the first of padding
    (array([0, 1, 2]), [2.0, 2.0, 2.0, 0.0])
    """
    lengths_U = is_subword_US.sum(axis=1)
    pending, shorter = [], 0
    for width in buckets_up_to(surface_US.shape[1], SURFACE_BUCKETS):
        members = np.flatnonzero((lengths_U <= width) & (lengths_U >= shorter))
        shorter = width + 1
        # the rest goes into small buckets as long as that computes fewer rows than a large one
        at = 0
        while at < len(members):
            left = len(members) - at
            size = next((s for s in row_buckets[:-1] if left <= 3 * s), row_buckets[-1])
            rows = members[at : at + size]
            at += size
            padding = ((0, size - len(rows)), (0, 0))
            predicted = predict(
                np.pad(surface_US[rows, :width], padding),
                np.pad(is_subword_US[rows, :width], padding),
                np.pad(language_U[rows], padding[0]),
            )
            pending.append((rows, predicted))
    return pending


def collect(
    pending: Sequence[tuple[np.ndarray, Float[Array, "_ D"]]], n_rows: int, width: int
) -> Float32[np.ndarray, "U D"]:
    """Waits for the predictions and puts every row in its place.

    >>> collect([(np.array([2, 0]), jnp.array([[2.0], [1.0], [9.0]]))], n_rows=3, width=1).tolist()
    [[1.0], [0.0], [2.0]]
    """
    rows_UD = np.zeros((n_rows, width), np.float32)
    for positions, predicted in pending:
        rows_UD[positions] = np.asarray(predicted, np.float32)[: len(positions)]
    return rows_UD


def fetch_rows(
    predict: Predict,
    surface_US: Int32[np.ndarray, "U S"],
    is_subword_US: Bool[np.ndarray, "U S"],
    language_U: Int32[np.ndarray, "U"],
    *,
    width: int,
    cache: EmbeddingCache | None = None,
    namespaces: Sequence[bytes] = (),
    rewrite: Callable[..., tuple] | None = None,
) -> Float32[np.ndarray, "U D"]:
    """The rows of distinct tokens, predicting only what the cache does not hold.

    Args:
      predict: the device function.
      surface_US: constituents of each token.
      is_subword_US: which entries are subwords.
      language_U: each token's language index.
      width: D.
      cache: stores the rows; without one, all are predicted.
      namespaces: the cache namespace of each token.
      rewrite: turns constituents into another surface form (`retokenized`) before prediction; the cache's keys are
        constituents.

    Raises:
      NotANumberError: a predicted row is NaN or infinite; none of them is cached.
    """

    def predict_rows(positions: np.ndarray) -> Float32[np.ndarray, "rows D"]:
        forms, masks = surface_US[positions], is_subword_US[positions]
        if rewrite is not None:
            forms, masks = rewrite(forms, masks)
        pending = predict_in_buckets(predict, forms, masks, language_U[positions])
        rows_UD = collect(pending, len(positions), width)
        if not np.isfinite(rows_UD).all():
            bad = int(positions[~np.isfinite(rows_UD).all(axis=1)][0])
            raise NotANumberError(
                f"The embedding predicted for the token of subwords {surface_US[bad][is_subword_US[bad]].tolist()} is "
                "NaN or infinite: the model's table or the hypernetwork may be damaged, or the numbers too large for "
                "their dtype (try float32)."
            )
        return rows_UD

    if cache is None:
        return predict_rows(np.arange(len(surface_US)))
    return cache.fetch(token_keys(namespaces, surface_US, is_subword_US), predict_rows)
