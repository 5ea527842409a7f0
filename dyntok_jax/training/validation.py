"""Scores of a hypernetwork on held-out data: the objectives, and retrieval of translations where there are any.

Everything is tokenized once, with full merging; results under static tokenization are computed once, too.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float32

from dyntok_jax.embedding import Hypernet
from dyntok_jax.errors import InputError
from dyntok_jax.models import Decoder, l2_normalize, mean_pool
from dyntok_jax.training.data import PIVOT, TextBatch, TrainingBatch
from dyntok_jax.training.objectives import (
    FrozenModel,
    Objectives,
    hidden_states,
    static_states,
    token_rows,
    total_loss,
)


def held_out_scores(
    hypernet: Hypernet, frozen: FrozenModel, batches: Sequence[TrainingBatch], weights: Objectives
) -> dict[str, float]:
    """Means of the objectives over all batches, and their weighted sum, `loss`.

    If `sentences` has a weight, also `sentence_cosine`, the mean cosine of sentence embeddings to the static ones.
    """
    metrics_of = [jax.device_get(_objectives(hypernet, frozen, batch, weights)) for batch in batches]
    is_decoder = isinstance(frozen.body, Decoder)
    counts = [_counts(batch, is_decoder) for batch in batches]
    scores = {
        name: float(np.dot([metrics[name] for metrics in metrics_of], [count[name] for count in counts]))
        / max(sum(count[name] for count in counts), 1)
        for name in metrics_of[0]
        if name != "loss"
    }
    scores["loss"] = sum(weight * scores[name] for name, weight in vars(weights).items() if name in scores)
    return scores | ({"sentence_cosine": 1 - scores["sentences"]} if "sentences" in scores else {})


def retrieval(embeddings_by_language: Mapping[str, Float32[np.ndarray, "N D"]], pivot: str = PIVOT) -> dict[str, float]:
    """For each language, the percentage of texts whose nearest text in the pivot language is their translation."""
    pivot_ND = embeddings_by_language[pivot]
    own_N = np.arange(len(pivot_ND))
    return {
        language: 100 * float(np.mean((texts_ND @ pivot_ND.T).argmax(axis=1) == own_N))
        for language, texts_ND in embeddings_by_language.items()
        if language != pivot
    }


def static_embeddings(frozen: FrozenModel, batches: Sequence[TextBatch]) -> Float32[np.ndarray, "N D"]:
    """Sentence embeddings, of length 1, under static tokenization."""
    return _without_padding([_embed_static(frozen, batch) for batch in batches], batches)


def dynamic_embeddings(
    hypernet: Hypernet, frozen: FrozenModel, batches: Sequence[TextBatch]
) -> Float32[np.ndarray, "N D"]:
    """Sentence embeddings, of length 1, with dynamic tokens."""
    return _without_padding([_embed_dynamic(hypernet, frozen, batch) for batch in batches], batches)


def validator(
    frozen: FrozenModel,
    weights: Objectives,
    batches: Sequence[TrainingBatch],
    translations: Sequence[Mapping[str, Sequence[TextBatch]]] = (),
) -> Callable[[Hypernet], dict[str, float]]:
    """The validation function for `train`.

    Args:
      frozen: the model.
      weights: of the objectives.
      batches: held-out texts, pieces or both.
      translations: collections of language → the same texts in that language; one language is `PIVOT`.

    Returns:
      A function from a hypernetwork to `held_out_scores`; with translations also `retrieval`, the mean over the
      languages of all collections in %, and `static_retrieval`.

    Raises:
      InputError: there is nothing to validate on, or the pivot language is missing from translations.

    >>> validate = validator(frozen, Objectives(pieces=1.0), [training_batch])
    >>> sorted(validate(job.parameters))
    ['loss', 'piece_cosine', 'pieces']
    """
    if not batches:
        raise InputError("There is no text to validate on: give some text, or train without validation.")
    for collection in translations:
        if PIVOT not in collection:
            raise InputError(f"The translations to validate on have no {PIVOT}: they are {' '.join(collection)}.")
    static_retrieval = _mean_retrieval(partial(static_embeddings, frozen), translations) if translations else None

    def validate(hypernet: Hypernet) -> dict[str, float]:
        scores = held_out_scores(hypernet, frozen, batches, weights)
        if static_retrieval is not None:
            scores["retrieval"] = _mean_retrieval(partial(dynamic_embeddings, hypernet, frozen), translations)
            scores["static_retrieval"] = static_retrieval
        return scores

    return validate


def _mean_retrieval(
    embed: Callable[[Sequence[TextBatch]], Float32[np.ndarray, "N D"]],
    translations: Sequence[Mapping[str, Sequence[TextBatch]]],
) -> float:
    found = [retrieval({code: embed(texts) for code, texts in of_one.items()}) for of_one in translations]
    return float(np.mean([percent for of_one in found for percent in of_one.values()]))


def _counts(batch: TrainingBatch, is_decoder: bool) -> dict[str, int]:
    """The number of values that each objective averages in a batch."""
    counts = {}
    if batch.pieces is not None:
        counts["pieces"] = counts["piece_cosine"] = int(batch.pieces.forms.is_subword_PS.any(axis=1).sum())
    if batch.texts is not None:
        texts = batch.texts
        counts["sentences"] = int(texts.mask_BT.any(axis=1).sum())
        counts["hidden"] = counts["next_subword"] = int(((texts.aligned_BT >= 0) & texts.mask_BT).sum())
        asked_BT = texts.mask_BT[:, 1:] if is_decoder else texts.is_masked_BT & texts.mask_BT
        counts["language_model"] = int(asked_BT.sum())
    return counts


@partial(jax.jit, static_argnames="weights")
def _objectives(hypernet: Hypernet, frozen: FrozenModel, batch: TrainingBatch[Array], weights: Objectives):
    return total_loss(hypernet, frozen, batch, weights)[1]


@jax.jit
def _embed_static(frozen: FrozenModel, texts: TextBatch[Array]) -> Float32[Array, "B D"]:
    return l2_normalize(mean_pool(static_states(frozen, texts), texts.static_mask_BL))


@jax.jit
def _embed_dynamic(hypernet: Hypernet, frozen: FrozenModel, texts: TextBatch[Array]) -> Float32[Array, "B D"]:
    rows = token_rows(hypernet, frozen, texts)
    hidden_BTD = hidden_states(frozen.body, rows.input_RD[texts.row_BT], texts.mask_BT)
    return l2_normalize(mean_pool(hidden_BTD, texts.mask_BT))


def _without_padding(found: Sequence[Array], batches: Sequence[TextBatch]) -> Float32[np.ndarray, "N D"]:
    kept = [np.asarray(rows)[np.asarray(batch.mask_BT).any(axis=1)] for rows, batch in zip(found, batches, strict=True)]
    return np.concatenate(kept)
