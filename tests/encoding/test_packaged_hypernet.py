"""The hypernetworks that come with models do what their cards say, on text that had no part in their training."""

from importlib.resources import files

import numpy as np
import pytest

from dyntok_jax import DynamicDecoder, DynamicEncoder
from dyntok_jax.assets import load_sample
from dyntok_jax.encoding import EncodedTexts
from dyntok_jax.options import Share

FOLDERS = sorted(path for path in files("dyntok_jax.assets").joinpath("hypernets").iterdir() if path.is_dir())
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


@pytest.mark.slow
def test_it_is_taken_by_itself_and_keeps_what_fvt_loses(encoder, static):
    fvt = DynamicEncoder.load("e5-small", None)
    assert fvt.cache is None
    predicted, averaged = (one.encode(texts()) for one in (encoder, fvt))
    assert predicted.n_tokens.sum() == averaged.n_tokens.sum() < 0.75 * static.n_tokens.sum()
    lost, lost_by_fvt = (1 - cosines(one, static).mean() for one in (predicted, averaged))
    assert lost < 0.5 * lost_by_fvt
    assert lost < 0.02


@pytest.mark.slow
def test_static_tokenization_does_not_see_it(static):
    fvt = DynamicEncoder.load("e5-small", None)
    found = fvt.encode(texts()[:4], goal=None).embeddings_ND
    np.testing.assert_allclose(found, static.embeddings_ND[:4], atol=1e-5)


def test_they_are_small_and_have_a_card():
    sizes = [(folder / "model.safetensors").stat().st_size for folder in FOLDERS]
    assert len(sizes) == 2
    assert max(sizes) <= 20e6
    assert sum(sizes) <= 40e6
    assert all((folder / "README.md").is_file() for folder in FOLDERS)


@pytest.mark.slow
def test_smollm2_s_keeps_more_of_a_context_than_fvt():
    """Second halves of German and French texts behind their first ones, merged to half of what is possible."""
    halves = [(text[: len(text) // 2], text[len(text) // 2 :]) for code in ("de", "fr") for text in long_texts(code)]
    bits = {}
    for hypernet in ("auto", None):
        decoder = DynamicDecoder.load("smollm2", hypernet)
        bits[hypernet] = np.mean(
            [one.bits_per_byte for one in decoder.score(*zip(*halves, strict=True), goal=Share(50))]
        )
    static = np.mean([one.bits_per_byte for one in decoder.score(*zip(*halves, strict=True), goal=None)])
    assert bits["auto"] - static < 0.8 * (bits[None] - static)


def long_texts(code: str) -> list[str]:
    """A few texts of three paragraphs each."""
    sample = load_sample()[code]
    return [" ".join(sample[at : at + 3]) for at in (6, 15, 24, 33)]
