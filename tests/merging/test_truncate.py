"""Truncation: the limit holds, special tokens stay, the longer text gives first."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dyntok_jax.errors import InputError, TooLongError
from dyntok_jax.merging import merge_texts
from dyntok_jax.merging.segments import merge_segments
from dyntok_jax.merging.truncate import truncate_tokens
from dyntok_jax.options import STATIC
from tests.support.merging_cases import pad


def pair_of_texts(n_first, n_second):
    """<s> first </s> </s> second </s>, as the columns of one row: segment and text."""
    first, second = list(range(n_first)), list(range(n_first, n_first + n_second))
    segment = [-1, *first, -1, -1, *second, -1]
    return segment, [-1, *([0] * n_first), -1, -1, *([1] * n_second), -1]


def truncate(sizes, limit):
    segments, texts = zip(*(pair_of_texts(*size) for size in sizes), strict=True)
    text_BL, segment_BL, mask_BL = pad(texts, segments)
    merged = truncate_tokens(merge_segments(segment_BL, mask_BL), text_BL, limit)
    kept = [start[mask].tolist() for start, mask in zip(merged.start_BT, merged.mask_BT, strict=True)]
    assert not merged.length_BT[~merged.mask_BT].any()
    assert not merged.start_BT[~merged.mask_BT].any()
    return kept


def expected(n_first, n_second, limit):
    """The rule, one token at a time."""
    a, b = n_first, n_second
    while a + b + 4 > limit:
        if a > b or (a == b and n_first <= n_second):
            a -= 1
        else:
            b -= 1
    after = n_first + 3
    return [0, *range(1, a + 1), n_first + 1, n_first + 2, *range(after, after + b), after + n_second]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4), st.integers(4, 24))
def test_the_longer_text_gives_its_last_tokens_first(sizes, limit):
    assert truncate(sizes, limit) == [expected(*size, limit) for size in sizes]


def test_special_tokens_alone_may_be_too_many():
    with pytest.raises(
        TooLongError, match=r"^Sequence 0 cannot be cut to 3 tokens: it has 4 special tokens, which are kept\.$"
    ):
        truncate([(2, 2)], 3)


def test_a_limit_below_one_is_refused():
    with pytest.raises(InputError, match=r"^The limit must be 1 token or more, got 0\.$"):
        truncate([(2, 2)], 0)


def test_long_tokens_keep_their_lengths():
    segment_BL = np.array([[-1, 0, 0, 0, 1, 1, -1]], np.int32)
    merged = merge_segments(segment_BL, np.ones((1, 7), bool))
    cut = truncate_tokens(merged, np.minimum(segment_BL, 0), 3)
    assert cut.start_BT[0].tolist() == [0, 1, 6, 0, 0, 0, 0]
    assert cut.length_BT[0].tolist() == [1, 3, 1, 0, 0, 0, 0]


def words(count):
    return " ".join(["a"] * count)


@pytest.mark.parametrize("sizes", [(3, 3), (9, 3), (3, 9), (9, 9), (9, 8), (8, 9), (1, 20), (20, 1), (20, 0)])
@pytest.mark.parametrize("limit", [10, 11, 16])
@pytest.mark.parametrize("is_static", [False, True])
def test_14_12_a_pair_is_cut_as_the_tokenizer_cuts_longest_first(text_encoder, sizes, limit, is_static):
    """On a model without token types, where both texts have type 0."""
    own = copy.deepcopy(text_encoder.tokenizer.own)
    own.enable_truncation(limit, strategy="longest_first")
    pair = tuple(map(words, sizes))
    subwords = text_encoder.encode_static([pair]) if is_static else text_encoder.encode([pair])
    assert not subwords.type_N.any()
    tokens = merge_texts(subwords, STATIC, batch_size=1, limit=limit, truncate=True)
    assert [ids for (ids,) in tokens[0].ids()] == own.encode(*pair).ids
    assert tokens[0].text_T.tolist() == [-1 if text is None else text for text in own.encode(*pair).sequence_ids]
