"""The tokens of many texts: two stages, the last segment of a prompt, slices of texts, and what texts begin with."""

import numpy as np
import pytest

from dyntok_jax.errors import InputError
from dyntok_jax.merging import common_beginning, learn_merges, merge_texts, resolve_merging
from dyntok_jax.options import Merges, Merging, Share
from dyntok_jax.text import ByteLevelTokenizer, TextEncoder, pad_batch
from tests.support.tiny import tiny_tokenizer

TEXT = "Freiheit und Gleichheit sind frei"


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder(ByteLevelTokenizer.convert(tiny_tokenizer()))


def merged(encoder, texts, merging, *, merge_last=True):
    subwords = encoder.encode(texts, boundary=merging.boundary, add_special_tokens=False)
    named = {"tokenizer": encoder.tokenizer.fingerprint, "longest": 7, "is_longest_strict": False}
    resolved = resolve_merging(merging, scope="example", merge_last=merge_last, **named)
    return merge_texts(subwords, resolved, batch_size=8, limit=1000, truncate=None)


def strings(encoder, tokens):
    return [text.strings(encoder.tokenizer) for text in tokens]


def test_later_merges_cross_words_and_the_first_do_not(encoder):
    def found(goal, **options):
        (tokens,) = strings(encoder, merged(encoder, [text], Merging(goal, max_subwords=None, **options)))
        return tokens

    text = "Alle haben Recht"  # no pair occurs twice
    words = found(Share(100))
    assert [word.strip() for word in words] == text.split()
    n_first = len(encoder.encode([text], add_special_tokens=False).ids_N) - len(words)
    assert n_first > 1
    two_words = ["".join(words[:2]), words[2]]
    assert found(Merges(n_first + 1), boundary="sentence", pretoken_merges=n_first) == two_words
    assert found(Merges(n_first), boundary="sentence", pretoken_merges=n_first) == words
    assert found(Merges(n_first), boundary="sentence") != words
    # a first stage that has no pair left is over
    assert found(Merges(n_first + 1), boundary="sentence", pretoken_merges=999) == two_words
    assert found(Share(100), boundary="sentence", pretoken_merges=999) == ["".join(words)]


def test_an_unfinished_text_of_one_segment_keeps_its_last_pretoken_apart(encoder):
    last = encoder.encode([" frei"], boundary="pretoken", add_special_tokens=False).ids_N.tolist()
    found = merged(encoder, [TEXT], Merging(Share(100), boundary="sentence", max_subwords=None), merge_last=False)[0]
    assert [len(ids) for ids in found.ids()[1:]] == [1] * (len(found) - 1)
    assert "".join(found.strings(encoder.tokenizer)[1:]).strip() == "frei"
    assert len(found) - 1 == len(last)
    assert found.strings(encoder.tokenizer)[0].strip() == "Freiheit und Gleichheit sind"


def test_a_merge_list_has_no_stages(encoder):
    batch = pad_batch(encoder.encode([TEXT]), np.arange(1), pad_id=1)
    learnt = learn_merges([batch], 3, tokenizer=encoder.tokenizer.fingerprint, boundary="pretoken")
    with pytest.raises(InputError, match="give it without pretoken_merges"):
        Merging(merge_list=learnt, pretoken_merges=5)
    with pytest.raises(InputError, match="pretoken_merges must be 0 or more, got -1"):
        Merging(pretoken_merges=-1)


def test_slices_of_texts_together_are_the_texts(encoder):
    tokens = merged(encoder, [TEXT, "Recht", "und frei sind sie"], Merging(Share(50)))
    rows = np.array([2, 0])
    begun, rest = tokens.take(rows, end=2), tokens.take(rows, begin=2)
    whole = tokens.take(rows)
    assert (begun.lengths + rest.lengths).tolist() == whole.lengths.tolist()
    for row in range(2):
        parts = [part.start_M[slice(*part.offsets[row : row + 2])] for part in (begun, rest)]
        assert np.concatenate(parts).tolist() == whole.start_M[slice(*whole.offsets[row : row + 2])].tolist()


def test_texts_begin_alike_as_far_as_their_tokens_do(encoder):
    def common(*texts):
        return common_beginning(merged(encoder, texts, Merging(Share(100))))

    words = "Freiheit und Gleichheit"
    n_words = merged(encoder, [words], Merging()).lengths[0]
    assert common(f"{words} sind", f"{words} als", f"{words} frei sind") == n_words
    assert common(words, words) == n_words - 1
    assert common(words, "und") == 0
    assert common(words) == n_words - 1
    # the same subwords in other tokens are not alike
    tokens = merged(encoder, [f"{words} sind", f"{words} sind frei"], Merging(Merges(1)))
    assert common_beginning(tokens) <= int(tokens.lengths.min()) - 1
