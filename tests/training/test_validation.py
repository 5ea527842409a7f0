"""Scores on held-out data: means over all of it however it is cut in batches, and retrieval of translations."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from dyntok_jax.errors import InputError
from dyntok_jax.training import (
    Objectives,
    validator,
)
from dyntok_jax.training.data import TextBatch, TrainingBatch
from dyntok_jax.training.objectives import total_loss
from dyntok_jax.training.validation import (
    dynamic_embeddings,
    held_out_scores,
    retrieval,
    static_embeddings,
)
from tests.support.tiny_training import (
    random_batch,
    random_hypernet,
    random_pieces,
    random_texts,
    tiny_frozen,
)

OF_TEXTS = ("static_BL", "static_mask_BL", "row_BT", "mask_BT", "aligned_BT", "is_masked_BT")


def rows_of(texts: TextBatch, rows: slice) -> TextBatch:
    """Some of a batch's texts, with the same forms."""
    return replace(texts, **{name: getattr(texts, name)[rows] for name in OF_TEXTS})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("encoder", Objectives(pieces=0.5, sentences=2.0, hidden=1.0, language_model=0.3)),
        ("decoder", Objectives(hidden=1.0, next_subword=2.0, language_model=0.3)),
    ],
)
def test_how_texts_are_cut_in_batches_changes_no_score(kind, weights):
    frozen, hypernet = tiny_frozen(kind), random_hypernet(kind)
    texts, pieces = random_texts(n_texts=5), random_pieces()
    whole = held_out_scores(hypernet, frozen, [TrainingBatch(texts, pieces)], weights)
    cut = [
        TrainingBatch(rows_of(texts, slice(0, 4)), jax.tree.map(lambda array_P: array_P[:2], pieces)),
        TrainingBatch(rows_of(texts, slice(4, 5)), jax.tree.map(lambda array_P: array_P[2:], pieces)),
    ]
    assert held_out_scores(hypernet, frozen, cut, weights) == pytest.approx(whole, rel=1e-4)
    _, at_once = jax.jit(total_loss, static_argnums=3)(hypernet, frozen, TrainingBatch(texts, pieces), weights)
    assert {name: whole[name] for name in at_once} == pytest.approx(jax.tree.map(float, at_once), rel=1e-4)


def test_retrieval_counts_the_texts_whose_nearest_is_their_translation():
    en = np.eye(4, dtype=np.float32)
    swapped = en[[1, 0, 2, 3]]
    assert retrieval({"de": swapped, "en": en, "fr": en}) == {"de": 50.0, "fr": 100.0}


@pytest.mark.slow
def test_embeddings_have_length_one_and_leave_padding_out():
    frozen, texts = tiny_frozen(), random_texts(n_texts=4)
    padded = replace(texts, **{name: np.pad(getattr(texts, name), ((0, 2), (0, 0))) for name in OF_TEXTS})
    for embed in (
        lambda batch: static_embeddings(frozen, [batch]),
        lambda batch: dynamic_embeddings(random_hypernet(), frozen, [batch]),
    ):
        found = embed(padded)
        np.testing.assert_allclose(found, embed(texts), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_each_collection_of_translations_is_searched_alone():
    """Collections of different sizes and languages, and one that a static search finds whole."""
    frozen, weights = tiny_frozen(), Objectives(sentences=1.0)
    three, five = random_texts(0, n_texts=3), random_texts(1, n_texts=5)
    other = random_texts(2, n_texts=5)
    validate = validator(
        frozen,
        weights,
        [TrainingBatch(three, None)],
        [{"en": [three], "de": [three]}, {"en": [five], "fr": [five], "el": [other]}],
    )
    hypernet = random_hypernet()
    scores = validate(hypernet)
    static = {code: static_embeddings(frozen, [texts]) for code, texts in (("en", five), ("el", other))}
    dynamic = {code: dynamic_embeddings(hypernet, frozen, [texts]) for code, texts in (("en", five), ("el", other))}
    for name, found in (("static_retrieval", static), ("retrieval", dynamic)):
        assert scores[name] == pytest.approx((100 + 100 + retrieval(found)["el"]) / 3)


def test_nothing_to_validate_on_is_told():
    with pytest.raises(InputError, match="no text to validate on"):
        validator(tiny_frozen(), Objectives(sentences=1.0), [])
    batch = random_batch()
    with pytest.raises(InputError, match="have no en: they are de fr"):
        validator(tiny_frozen(), Objectives(sentences=1.0), [batch], [{"de": [batch.texts], "fr": [batch.texts]}])
