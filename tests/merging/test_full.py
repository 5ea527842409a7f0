"""Full merging in few steps equals full merging step by step."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings

from dyntok_jax.merging import longest_token, merge_batch_on_host, merge_fully
from dyntok_jax.options import Share
from tests.support.merging_cases import WIDTH, golden_cases, limits, pad, rows, scopes, tokens_of

merge = jax.jit(merge_fully, static_argnames=("scope", "size"))


def on_host(arrays, max_subwords, scope="batch"):
    return tokens_of(arrays[0], merge_batch_on_host(*arrays, Share(100), max_subwords=max_subwords, scope=scope))


@settings(max_examples=200, deadline=None)
@given(rows(), limits, scopes)
def test_it_equals_merging_every_pair(batch, max_subwords, scope):
    arrays = pad(*batch, width=WIDTH)
    merged, n_looped = merge(*arrays, longest_token(max_subwords), scope=scope, size=4 * WIDTH)
    assert tokens_of(arrays[0], merged) == on_host(arrays, max_subwords, scope)
    assert n_looped.shape == ((1,) if scope == "batch" else (4,))
    assert not np.asarray(merged.length_BT)[~np.asarray(merged.mask_BT)].any()


@pytest.mark.parametrize("name", ["xlmr", "mistral"])
@pytest.mark.parametrize("max_subwords", [None, 2, 3, 7])
def test_it_equals_merging_every_pair_of_real_text(name, max_subwords):
    for case in golden_cases(name):
        arrays = pad(case["ids"], case["segments"], n_rows=32, width=128)
        merged, _ = merge(*arrays, longest_token(max_subwords), scope="batch", size=32 * 128)
        assert tokens_of(arrays[0], merged) == on_host(arrays, max_subwords)


def test_segments_count_that_share_neighbours_with_a_longer_one_even_through_others():
    # `1 2` occurs in no long segment; but that it merges first in `0 1 2` leaves `0 1` to the long one alone
    pieces = [[9, 8, 0, 1, 7], [0, 1, 2], [1, 2], [1, 2], [5, 6]]
    row = [subword for piece in pieces for subword in piece]
    arrays = pad([row], [[number for number, piece in enumerate(pieces) for _ in piece]], width=WIDTH)
    merged, n_looped = merge(*arrays, longest_token(3), scope="batch", size=WIDTH)
    assert n_looped.tolist() == [12]  # all but `5 6`
    assert tokens_of(arrays[0], merged) == on_host(arrays, 3)
    assert tokens_of(arrays[0], merged)[0][:2] == [(9, 8, 0), (1, 7)]


def test_too_little_room_is_told():
    arrays = pad([[1, 2, 3, 1, 2, 4, 5]], [[0, 0, 0, 1, 1, 2, 2]], width=WIDTH)
    assert merge(*arrays, longest_token(2), scope="batch", size=4)[1].tolist() == [5]
    assert merge(*arrays, longest_token(None), scope="batch", size=4)[1].tolist() == [0]
