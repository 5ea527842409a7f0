"""The hypernetwork that comes with e5-small does what its card says, on text that had no part in its training."""

import numpy as np
import pytest

from dyntok_jax import DynamicEncoder
from dyntok_jax.assets import load_sample
from dyntok_jax.encoded import EncodedTexts

LANGUAGES = ("el", "tr", "de")
N_TEXTS = 16


@pytest.fixture(scope="module")
def encoder() -> DynamicEncoder:
    return DynamicEncoder.load("e5-small")


@pytest.fixture(scope="module")
def static(encoder) -> EncodedTexts:
    return encoder.encode(texts(), goal=None)


def texts() -> list[str]:
    """Paragraphs of the Universal Declaration, the shortest, which merging changes most."""
    sample = load_sample()
    return [text for code in LANGUAGES for text in sorted(sample[code], key=len)[:N_TEXTS]]


def cosines(one: EncodedTexts, other: EncodedTexts) -> np.ndarray:
    return (one.embeddings_ND * other.embeddings_ND).sum(axis=1)


def test_it_is_taken_by_itself_and_keeps_what_fvt_loses(encoder, static):
    fvt = DynamicEncoder.load("e5-small", None)
    assert fvt.cache is None
    predicted, averaged = (one.encode(texts()) for one in (encoder, fvt))
    assert predicted.n_tokens.sum() == averaged.n_tokens.sum() < 0.75 * static.n_tokens.sum()
    lost, lost_by_fvt = (1 - cosines(one, static).mean() for one in (predicted, averaged))
    assert lost < 0.5 * lost_by_fvt
    assert lost < 0.02


def test_static_tokenization_does_not_see_it(static):
    fvt = DynamicEncoder.load("e5-small", None)
    found = fvt.encode(texts()[:4], goal=None).embeddings_ND
    np.testing.assert_allclose(found, static.embeddings_ND[:4], atol=1e-5)
