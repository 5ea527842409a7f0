"""Text that is protected keeps its own subwords, whatever the boundary; the text around it merges as ever."""

import re

import numpy as np
import pytest

from dyntok_jax import DynamicDecoder, DynamicEncoder, Merging, Share
from dyntok_jax.errors import InputError
from tests.support.tiny import write_tiny_decoder, write_tiny_encoder

TEXT = "There are 1234567 articles and 42 declarations, ٤٥ in all"
BOUNDARIES = ["pretoken", "word", "word_hyphen", "sentence"]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    write_tiny_decoder(folder)
    return DynamicDecoder.load(folder)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    write_tiny_encoder(folder)
    return DynamicEncoder.load(folder)


def lengths(tokens, pattern):
    """Subwords of the tokens that touch a match, and of the others."""
    matches = [match.span() for match in re.finditer(pattern, TEXT)]
    touches = [any(a < end and start < b for a, b in matches) for start, end in tokens.span_T2.tolist()]
    return tokens.length_T[np.array(touches)], tokens.length_T[~np.array(touches)]


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_14_5_decoders_never_merge_digits_by_default(decoder, boundary):
    digits, others = lengths(decoder.read([TEXT], merging=Merging(boundary=boundary, merge_last=True)).tokens[0], r"\d")
    assert digits.max() == 1
    assert others.max() > 1


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("protect", [None, "digits", r"decl\w+", r"[A-Z]\w+ \w+"])
def test_14_5_what_is_protected_keeps_its_subwords(decoder, encoder, boundary, protect):
    merging = Merging(boundary=boundary, merge_last=True, protect=protect)
    pattern = {None: r"(?!)", "digits": r"\d+"}.get(protect, protect)
    for tokens in (
        decoder.read([TEXT], merging=merging).tokens[0],
        encoder.encode([TEXT], merging=merging, prefix="query 7: ").tokens[0],
        encoder.encode([TEXT], merging=merging).tokens[0],
    ):
        touching, others = lengths(tokens, pattern)
        assert touching.max(initial=1) == 1
        assert others.max() > 1


def test_14_5_without_protection_digits_merge(decoder, encoder):
    for tokens in (
        decoder.read([TEXT], merging=Merging(protect=None)).tokens[0],
        encoder.encode([TEXT]).tokens[0],
    ):
        assert lengths(tokens, r"\d")[0].max() > 1


def test_14_5_both_texts_of_a_pair_are_looked_at(text_encoder):
    subwords = text_encoder.encode([("a 123 b", "1234 c"), ("a b", "c")], protect="digits")
    texts = [text_encoder.tokenizer.token_text([index]) for index in subwords.ids_N.tolist()]
    pairs = zip(subwords.segment_N.tolist(), texts, strict=True)
    alone = [segment for segment, text in pairs if text.strip().isdigit()]
    assert len(alone) >= 2
    assert len(set(alone)) == len(alone)


def test_14_5_a_share_counts_what_may_merge(decoder):
    half, full = (decoder.read([TEXT], goal=Share(percent)).n_tokens[0] for percent in (50, 100))
    static = decoder.read([TEXT], merging=Merging(Share(0))).n_tokens[0]
    assert half == static - -(-(static - full) // 2)


def test_14_5_what_is_no_regular_expression_is_told():
    with pytest.raises(InputError, match=r"protect must be a regular expression, or digits, got '\[' \("):
        Merging(protect="[")
