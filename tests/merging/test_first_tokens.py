"""The first token of each word, whatever merging made of the words."""

import pytest

from dyntok_jax.errors import InputError
from dyntok_jax.merging import first_tokens, merge_texts, unmerged_tokens
from dyntok_jax.options import FULL, Merges, Merging
from dyntok_jax.text import ByteLevelTokenizer, TextEncoder
from tests.support.tiny import tiny_tokenizer

TEXTS = [["Freiheit", "und", "Gleichheit"], ["All", "", "human", "beings"], []]
COUNTS = [3, 4, 0]


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return TextEncoder(ByteLevelTokenizer.load(folder))


def slow(tokens, n_words):
    """Word by word and token by token."""
    found = []
    offsets = tokens.subwords.offsets
    for text, begin, end, n in zip(tokens, offsets[:-1], offsets[1:], n_words, strict=True):
        words = tokens.subwords.word_N[begin:end].tolist()
        spans = [range(start, start + length) for start, length in zip(text.start_T, text.length_T, strict=True)]
        firsts = [words.index(word) if word in words else None for word in range(n)]
        found.append([next((t for t, span in enumerate(spans) if first in span), -1) for first in firsts])
    return found


@pytest.mark.parametrize("boundary", ["pretoken", "word", "sentence"])
@pytest.mark.parametrize("goal", [None, Merges(3), FULL])
def test_the_first_token_of_a_word_holds_its_first_subword(text_encoder, boundary, goal):
    subwords = text_encoder.encode(TEXTS, boundary=boundary)
    merging = Merging(goal, boundary=boundary, scope="batch", max_subwords=None, merge_last=True)
    tokens = merge_texts(subwords, merging, batch_size=2, limit=64, truncate=None)
    assert [of_text.tolist() for of_text in first_tokens(tokens, COUNTS)] == slow(tokens, COUNTS)


def test_words_cut_off_and_empty_words_have_none(text_encoder):
    subwords = text_encoder.encode(TEXTS[:2])
    merging = Merging(FULL, scope="batch", max_subwords=None, merge_last=True)
    tokens = merge_texts(subwords, merging, batch_size=2, limit=4, truncate=True)
    assert [of_text.tolist() for of_text in first_tokens(tokens, COUNTS[:2])] == [[1, 2, -1], [1, -1, 2, -1]]


@pytest.mark.parametrize("texts", [["Freiheit und Gleichheit"], [["Freiheit", "und", "die", "Gleichheit"]]])
def test_numbers_of_words_that_do_not_fit_are_refused(text_encoder, texts):
    with pytest.raises(InputError, match=r"^Text 0 is said to have 3 words"):
        first_tokens(unmerged_tokens(text_encoder.encode(texts)), [3])
    with pytest.raises(InputError, match=r"^There are 1 texts and numbers of words for 2"):
        first_tokens(unmerged_tokens(text_encoder.encode(texts)), [3, 3])
