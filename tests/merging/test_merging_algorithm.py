"""Merging on the device and on the host: the reference's traces, the plain algorithm, and what both promise."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings

from dyntok_jax.errors import InputError, TooLongError
from dyntok_jax.merging import (
    FirstMerges,
    merge_batch,
    merge_batch_on_host,
)
from dyntok_jax.merging.segments import (
    merge_segments,
)
from dyntok_jax.options import (
    Budget,
    Merges,
    Share,
)
from tests.support.merging_cases import (
    EVERY_MERGE,
    WIDTH,
    assert_equal,
    goals,
    golden_cases,
    limits,
    pad,
    rows,
    scopes,
    staged_rows,
    tokens_of,
)
from tests.support.oracle import merge

SHAPE = {"n_rows": 32, "width": 128}
"""One shape for many tests, so that the device compiles once."""
GOLDEN_CASES = [(name, index) for name in ("xlmr", "mistral") for index in range(24)]


def merged_strings(case, tokens):
    return [["".join(case["strings"][subword] for subword in token) for token in row] for row in tokens]


@pytest.mark.parametrize(("name", "index"), GOLDEN_CASES)
def test_traces_of_the_reference_are_met(name, index):
    case = golden_cases(name)[index]
    tokens, [n_merges] = merge(case["ids"], case["segments"], case["goal"])
    assert merged_strings(case, tokens) == case["merged"]
    assert n_merges == case["merges_done"]

    batch = pad(case["ids"], case["segments"], **SHAPE)
    for function in (merge_batch, merge_batch_on_host):
        merged = function(*batch, case["goal"])
        assert merged_strings(case, tokens_of(batch[0], merged)[: len(case["ids"])]) == case["merged"]
        assert merged.n_merges == case["merges_done"]


@settings(max_examples=100, deadline=None)
@given(rows(), goals, limits, scopes)
def test_device_and_host_equal_the_plain_algorithm(batch, goal, max_subwords, scope):
    tokens, n_merges = merge(*batch, goal, max_subwords, scope)
    arrays = pad(*batch, width=WIDTH)
    on_device = merge_batch(*arrays, goal, max_subwords=max_subwords, scope=scope)
    on_host = merge_batch_on_host(
        *arrays, goal, max_subwords=max_subwords, scope=scope, count_merges=True, over_budget="keep"
    )
    for merged in (on_device, on_host):
        assert tokens_of(arrays[0], merged) == tokens
        assert np.atleast_1d(merged.n_merges).tolist() == n_merges
        assert not np.asarray(merged.start_BT)[~np.asarray(merged.mask_BT)].any()
        assert not np.asarray(merged.length_BT)[~np.asarray(merged.mask_BT)].any()


@settings(max_examples=100, deadline=None)
@given(staged_rows(), goals, limits, scopes)
def test_two_stages_on_device_and_host_equal_the_plain_algorithm(batch, goal, max_subwords, scope):
    ids, segments, stage = batch
    tokens, n_merges = merge(ids, segments, goal, max_subwords, scope, stage)
    arrays, (pretoken_BL, *_) = pad(ids, segments, width=WIDTH), pad(stage[0], segments, width=WIDTH)
    options = {"max_subwords": max_subwords, "scope": scope, "first": FirstMerges(pretoken_BL, stage[1])}
    on_device = merge_batch(*arrays, goal, **options)
    on_host = merge_batch_on_host(*arrays, goal, **options, count_merges=True, over_budget="keep")
    for merged in (on_device, on_host):
        assert tokens_of(arrays[0], merged) == tokens
        assert np.atleast_1d(merged.n_merges).tolist() == n_merges


def test_the_second_stage_crosses_pretokens_and_finds_the_first_ones_tokens_again():
    # "ab" within a pretoken, then twice across two; and "abab" of two tokens
    row, pretoken = [0, 1, 2, 0, 1, 3, 0, 1, 4], [0, 0, 0, 1, 2, 2, 3, 4, 4]
    batch, (pretoken_BL, *_) = pad([row], [[0] * 9], **SHAPE), pad([pretoken], [[0] * 9], **SHAPE)
    for function in (merge_batch, merge_batch_on_host):
        alone = function(*batch, Merges(1), first=FirstMerges(pretoken_BL, 1))
        assert tokens_of(batch[0], alone)[0] == [(0, 1), (2,), (0,), (1,), (3,), (0,), (1,), (4,)]
        both = function(*batch, Merges(2), first=FirstMerges(pretoken_BL, 1))
        assert tokens_of(batch[0], both)[0] == [(0, 1), (2,), (0, 1), (3,), (0, 1), (4,)]
        # a first stage without pairs ends at once
        apart_BL = np.broadcast_to(np.arange(batch[0].shape[1], dtype=np.int32), batch[0].shape)
        early = function(*batch, Merges(2), first=FirstMerges(apart_BL, 1_000))
        assert tokens_of(batch[0], early)[0] == [(0, 1, 2), (0, 1), (3,), (0, 1), (4,)]


@settings(max_examples=100, deadline=None)
@given(rows(), goals, limits, scopes)
def test_merging_loses_and_moves_no_subword_and_crosses_no_segment(batch, goal, max_subwords, scope):
    arrays = pad(*batch, width=WIDTH)
    merged = merge_batch_on_host(*arrays, goal, max_subwords=max_subwords, scope=scope, over_budget="keep")
    assert [[subword for token in row for subword in token] for row in tokens_of(arrays[0], merged)] == batch[0]
    for segments, starts, lengths in zip(batch[1], merged.start_BT, merged.length_BT, strict=True):
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            inside = segments[start : start + length]
            assert len(set(inside)) == min(length, 1)
            assert length == 1 or -1 not in inside
            assert max_subwords is None or length <= max_subwords


@settings(max_examples=50, deadline=None)
@given(rows())
def test_without_a_limit_full_merging_makes_each_segment_a_token(batch):
    arrays = pad(*batch, width=WIDTH)
    step_by_step = merge_batch_on_host(*arrays, EVERY_MERGE)
    at_once = [
        merge_segments(*arrays[1:]),
        merge_batch_on_host(*arrays, Share(100)),
        merge_batch(*arrays, Share(100)),
    ]
    for merged in at_once:
        np.testing.assert_array_equal(merged.start_BT, step_by_step.start_BT)
        np.testing.assert_array_equal(merged.length_BT, step_by_step.length_BT)
        np.testing.assert_array_equal(merged.mask_BT, step_by_step.mask_BT)
    assert at_once[0].n_merges is None
    assert at_once[1].n_merges is None


def test_a_token_is_its_subwords_however_it_came_about():
    # ab (4 times) and bc (3) come first; then abc (5) is made of ab + c in one place and of a + bc in another
    pieces = [[0, 1]] * 2 + [[1, 2]] * 3 + [[0, 1, 2, 5]] * 2 + [[0, 1, 2, 6]] * 2 + [[7, 1, 2]] * 4
    row = [subword for piece in pieces for subword in piece]
    segment = [number for number, piece in enumerate(pieces) for _ in piece]
    batch = pad([row], [segment], **SHAPE)
    for goal in [EVERY_MERGE, *map(Merges, range(1, 8))]:
        expected, _ = merge([row], [segment], goal)
        for function in (merge_batch, merge_batch_on_host):
            assert tokens_of(batch[0], function(*batch, goal))[:1] == expected


def test_many_occurrences_of_one_pair_merge_at_once():
    # more than the device merges in one go
    row, segment = [3, 4] * 60, [index // 2 for index in range(120)]
    batch = pad([row] * 5, [segment] * 5, **SHAPE)
    for function in (merge_batch, merge_batch_on_host):
        assert tokens_of(batch[0], function(*batch, Merges(1)))[:5] == [[(3, 4)] * 60] * 5


def test_a_long_run_of_one_subword_merges_from_the_left():
    batch = pad([[7] * 31], [[0] * 31], **SHAPE)
    for function in (merge_batch, merge_batch_on_host):
        assert tokens_of(batch[0], function(*batch, Merges(1)))[0] == [(7, 7)] * 15 + [(7,)]


@pytest.mark.parametrize("shape", [(2, 1), (0, 4), (2, 0)])
@pytest.mark.parametrize("scope", ["batch", "example"])
@pytest.mark.parametrize("is_text", [True, False])
def test_tiny_and_empty_batches_come_back_as_they_are(shape, scope, is_text):
    ids_BL, mask_BL = np.full(shape, 3, np.int32), np.full(shape, is_text)
    segment_BL = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    for goal in (Merges(5), Share(50), Budget(9)):
        for function in (merge_batch, merge_batch_on_host):
            merged = function(ids_BL, segment_BL, mask_BL, goal, scope=scope)
            np.testing.assert_array_equal(merged.mask_BT, mask_BL)
            np.testing.assert_array_equal(merged.length_BT, mask_BL.astype(np.int32))
            np.testing.assert_array_equal(merged.n_merges, np.zeros(() if scope == "batch" else shape[0]))


def test_large_ids_do_not_meet_the_numbers_of_new_tokens():
    top = np.iinfo(np.int32).max
    row, segment = [top, top - 1, top, top - 1, 0, top], [0] * 6
    batch = pad([row], [segment], **SHAPE)
    expected, _ = merge([row], [segment], Merges(3))
    for function in (merge_batch, merge_batch_on_host):
        assert tokens_of(batch[0], function(*batch, Merges(3)))[:1] == expected


def test_a_budget_that_cannot_be_met_names_sequence_length_and_budget():
    batch = pad([[1, 2], [1, 2, 3, 4]], [[0, 0], [0, 0, 1, 2]], **SHAPE)
    with pytest.raises(TooLongError, match=r"^Sequence 1 still has 3 tokens .* budget of 2.*\.$"):
        merge_batch_on_host(*batch, Budget(2))
    kept = merge_batch_on_host(*batch, Budget(2), over_budget="keep")
    assert_equal(merge_batch(*batch, Budget(2)), kept)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Merges(-1), r"^The number of merges must be 0 or more, got -1\.$"),
        (lambda: Share(100.5), r"^The share of .* from 0 to 100 %, got 100.5\.$"),
        (lambda: Share(float("nan")), "from 0 to 100 %, got nan"),
        (lambda: Budget(0), r"^The token budget must be 1 or more, got 0\.$"),
        (lambda: merge_batch(*pad([[1]], [[0]], **SHAPE), Merges(1), max_subwords=0), "max_subwords must be 1 or more"),
        (lambda: merge_batch_on_host(*pad([[1]], [[0]]), Merges(1), max_subwords=0), "max_subwords must be 1 or more"),
    ],
)
def test_impossible_goals_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


WITHOUT_TYPE_CHECKS = """
import numpy as np
from dyntok_jax.errors import InputError
from dyntok_jax import Merges
from dyntok_jax.merging import merge_batch, merge_batch_on_host

ids = np.zeros((1, 4), np.int32)
for merge in (merge_batch, merge_batch_on_host):
    for goal, scope in ((10, "batch"), ("static", "batch"), (Merges(1), "corpus")):
        try:
            merge(ids, ids, ids == 0, goal, scope=scope)
        except InputError as error:
            print(error)
"""


def test_what_is_no_goal_or_no_scope_is_refused_without_type_checks_too():
    said = subprocess.run([sys.executable, "-c", WITHOUT_TYPE_CHECKS], capture_output=True, text=True, check=True)
    expected = [
        "goal must be a Merges, Share or Budget, got 10.",
        "goal must be a Merges, Share or Budget, got 'static'.",
        "scope must be 'batch' or 'example', got 'corpus'.",
    ]
    assert said.stdout.splitlines() == expected * 2
