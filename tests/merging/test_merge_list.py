"""Merge lists: learnt as merging itself does it, applied in order, kept in a file that says what is wrong with it."""

import json

import numpy as np
import pytest
from hypothesis import given, settings

from dyntok_jax.errors import InputError
from dyntok_jax.merging import (
    MergeList,
    learn_merges,
    load_merges,
    merge_batch_on_host,
)
from dyntok_jax.options import (
    Merges,
)
from dyntok_jax.types import SubwordBatch
from tests.support.merging_cases import WIDTH, golden_cases, limits, pad, rows, tokens_of
from tests.support.oracle import merge_row


def subword_batch(ids_BL, segment_BL, mask_BL):
    return SubwordBatch(
        ids_BL=ids_BL,
        segment_BL=segment_BL,
        pretoken_BL=segment_BL,
        mask_BL=mask_BL,
        type_BL=np.zeros_like(ids_BL),
        text_BL=np.zeros_like(ids_BL),
        span_BL2=np.zeros((*ids_BL.shape, 2), np.int32),
        word_BL=np.full_like(ids_BL, -1),
        is_counted_BL=mask_BL,
    )


def learn(batches, count, max_subwords=None):
    return learn_merges(
        (subword_batch(*arrays) for arrays in batches),
        count,
        tokenizer="t",
        boundary="word",
        max_subwords=max_subwords,
    )


@settings(max_examples=100, deadline=None)
@given(rows(), limits)
def test_applied_to_its_own_corpus_a_list_gives_what_merging_gave(batch, max_subwords):
    arrays = pad(*batch, width=WIDTH)
    halves = [[array[:2] for array in arrays], [array[2:] for array in arrays]]
    merges = learn(halves, 8, max_subwords)
    expected = merge_batch_on_host(*arrays, Merges(8), max_subwords=max_subwords)
    assert len(merges.pairs) == expected.n_merges
    assert tokens_of(arrays[0], merges.apply(*arrays)) == tokens_of(arrays[0], expected)


@settings(max_examples=100, deadline=None)
@given(rows(), rows())
def test_a_list_is_applied_in_the_order_learnt(corpus, batch):
    merges = learn([pad(*corpus, width=WIDTH)], 10)
    arrays = pad(*batch, width=WIDTH)
    expected = []
    for row, segment in zip(*batch, strict=True):
        tokens = [(subword,) for subword in row]
        for pair in merges.pairs:
            tokens, segment = merge_row(tokens, segment, pair)
        expected.append(tokens)
    assert tokens_of(arrays[0], merges.apply(*arrays)) == expected


@pytest.fixture
def saved(tmp_path):
    case = golden_cases("xlmr")[0]
    merges = learn([pad(case["ids"], case["segments"])], 20, max_subwords=7)
    path = tmp_path / "merges.jsonl"
    merges.save(path, case["strings"].__getitem__)
    return merges, path, case


def test_a_saved_list_comes_back_and_can_be_read(saved):
    merges, path, case = saved
    assert load_merges(path, tokenizer="t") == merges
    first = json.loads(path.read_text(encoding="utf-8").splitlines()[1])
    assert first["pieces"] == [case["strings"][subword] for [subword] in first["ids"]]
    assert [file.name for file in path.parent.iterdir()] == ["merges.jsonl"]


def test_an_empty_list_changes_nothing(tmp_path):
    merges = learn([], 5)
    merges.save(tmp_path / "none.jsonl", {})
    assert load_merges(tmp_path / "none.jsonl") == merges
    arrays = pad([[1, 1, 1]], [[0, 0, 0]])
    assert tokens_of(arrays[0], merges.apply(*arrays)) == [[(1,), (1,), (1,)]]


def test_a_failed_save_leaves_the_old_file(saved):
    merges, path, _ = saved
    before = path.read_bytes()
    with pytest.raises(KeyError):
        merges.save(path, {})
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: lines[:0], "line 1 is not readable JSON"),
        (lambda lines: ["[]", *lines[1:]], "line 1 holds a list"),
        (lambda lines: ["{}", *lines[1:]], "not a merge list"),
        (lambda lines: [lines[0].replace('"version": 1', '"version": 2'), *lines[1:]], "version 2, .* reads version 1"),
        (lambda lines: [lines[0].replace('"word"', "3"), *lines[1:]], "line 1: tokenizer, boundary or max_subwords"),
        (lambda lines: [*lines[:3], lines[3][:-5], *lines[4:]], "line 4 is not readable JSON"),
        (lambda lines: [*lines[:3], '{"ids": [[1], []]}', *lines[4:]], "line 4: 'ids' is not two lists"),
        (lambda lines: [*lines[:3], '{"ids": [[1], [true]]}', *lines[4:]], "line 4: 'ids' is not two lists"),
        (lambda lines: [lines[0], '{"ids": [[1, 2], [3]]}', *lines[1:]], r"line 2: no earlier line makes .*\[1, 2\]"),
        (lambda lines: lines[:-2], "is cut off: it has 18 merges of 20"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(saved, damage, message):
    _, path, _ = saved
    path.write_text("\n".join(damage(path.read_text(encoding="utf-8").splitlines())), encoding="utf-8")
    with pytest.raises(InputError, match=message + r".*\.$"):
        load_merges(path)


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"^The merge list .* cannot be read: .*\.$"):
        load_merges(tmp_path / "nothing.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        load_merges(tmp_path / "binary")


def test_another_tokenizers_list_is_refused(saved):
    with pytest.raises(InputError, match="another tokenizer"):
        load_merges(saved[1], tokenizer="other")


def test_a_list_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(InputError, match=r"^The merge list cannot be written to .*\.$"):
        MergeList((), "t", "word", None).save(tmp_path, {})
