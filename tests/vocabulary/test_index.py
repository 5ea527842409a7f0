"""The index: the true best rows, whatever is probed exactly, sharded or saved; and how much fewer blocks still find."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyntok_jax.errors import CheckpointError, InputError
from dyntok_jax.sharding import make_mesh, shard_batch
from dyntok_jax.types import EXCLUDED
from dyntok_jax.vocabulary.index import (
    BLOCK_ROWS,
    best,
    build_index,
    exact_search,
    load_index,
    measure_recall,
    place_index,
    recall_of,
    rescore,
    save_index,
    search,
)
from dyntok_jax.vocabulary.index.index_folder import (
    read_about,
)
from dyntok_jax.vocabulary.index.inner_products import (
    GROUP,
    NO_ROW,
    top_k,
)

WIDTH, N_ROWS, SPECIAL = 16, 3000, (2, 7)
ALL_BLOCKS = 100


def table_and_queries(n_rows=N_ROWS, n_queries=128, width=WIDTH, seed=0):
    """Rows around centres, norms from small to large; queries with a preferred direction, as hidden states have."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(24, width))
    rows = centre[rng.integers(0, 24, n_rows)] + 0.4 * rng.normal(size=(n_rows, width))
    rows *= np.exp(0.5 * rng.normal(size=(n_rows, 1)))
    queries = rng.normal(size=(n_queries, width)) * np.linspace(0.3, 2, width) + 1
    return rows.astype(np.float32), queries.astype(np.float32)


def true_best(table, queries, k):
    scores = queries.astype(np.float64) @ table.T.astype(np.float64)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k], -np.sort(-scores, axis=1)[:, :k]


@pytest.fixture(scope="module")
def case():
    table, queries = table_and_queries()
    return table, queries, built_of(table, queries)


def built_of(table, queries):
    built = build_index(table, queries[:96], special_ids=SPECIAL, n_cells=4)
    return measure_recall(built, table, queries[96:], probes=(1, 2, 4, 99))


@pytest.mark.slow
@pytest.mark.parametrize("n_batch", [1, 5])
def test_all_blocks_find_the_true_best_rows(case, n_batch):
    table, queries, built = case
    ids, logits = search(built.index, queries[:n_batch], 20, len(built.index.blocks))
    true_ids, true_logits = true_best(table, queries[:n_batch], 20)
    assert ids.tolist() == true_ids.tolist()
    np.testing.assert_allclose(logits, true_logits, rtol=1e-5)


@pytest.mark.parametrize("n_batch", [1, 6])
def test_a_few_blocks_find_the_best_rows_that_they_hold(case, n_batch):
    table, queries, built = case
    index, n_probe = built.index, 3
    ids, logits = jax.jit(partial(search, k=10, n_probe=n_probe))(index, queries[:n_batch])
    for row, query in enumerate(queries[:n_batch]):
        predicted = index.blocks.rank_weight @ query + index.blocks.rank_bias
        blocks = np.argsort(-predicted, kind="stable")[:n_probe]
        held = np.concatenate([index.blocks.ids[blocks].ravel(), SPECIAL])
        held = np.sort(held[held != NO_ROW])
        expected = held[np.argsort(-(table[held] @ query), kind="stable")[:10]]
        assert ids[row].tolist() == expected.tolist()
        np.testing.assert_allclose(logits[row], table[expected] @ query, rtol=1e-5)


@pytest.mark.slow
def test_jitted_search_is_eager_search(case):
    _, queries, built = case
    eager = search(built.index, jnp.asarray(queries[:4]), 8, 2)
    jitted = jax.jit(partial(search, k=8, n_probe=2))(built.index, queries[:4])
    np.testing.assert_array_equal(eager[0], jitted[0])
    np.testing.assert_allclose(eager[1], jitted[1], rtol=1e-5)


def test_every_row_is_in_one_place_and_special_ones_in_none(case):
    _, _, built = case
    ids = built.index.blocks.ids[built.index.blocks.ids != NO_ROW]
    assert sorted([*ids.tolist(), *SPECIAL]) == list(range(N_ROWS))
    assert built.index.blocks.count.tolist() == (built.index.blocks.ids != NO_ROW).sum(axis=1).tolist()
    assert built.index.blocks.count.max() <= BLOCK_ROWS


def test_special_rows_are_scored_whatever_is_probed(case):
    table, _, built = case
    query = table[[2]] * 100
    ids, logits = search(built.index, query, built.index.blocks.rows.shape[1] + len(SPECIAL), 1)
    assert set(SPECIAL) <= set(ids[0].tolist())
    assert float(logits[0, ids[0].tolist().index(2)]) == pytest.approx(float(table[2] @ query[0]), rel=1e-5)


@pytest.mark.slow
def test_the_same_seed_builds_the_same_index_and_its_recall_is_measured(case):
    table, queries, built = case
    again = built_of(table, queries)
    for one, other in zip(jax.tree.leaves(built.index), jax.tree.leaves(again.index), strict=True):
        np.testing.assert_array_equal(one, other)
    assert list(built.recall) == [1, 2, 4, len(built.index.blocks)]
    assert built.recall[len(built.index.blocks)] == 1
    assert built.recall[1] < built.recall[2] < built.recall[4]
    assert built.recall[4] > 0.8
    held_out = queries[96:]
    found = search(built.index, held_out, 20, 2)[0]
    true, found = true_best(table, held_out, 20)[0], np.asarray(found)
    assert recall_of(found, true) == pytest.approx(built.recall[2])
    assert (found[:, 0] == true[:, 0]).mean() == pytest.approx(built.best_found[2])
    assert built.recall[2] < built.best_found[2] < 1  # the best row lies in the best block more often than the others
    assert built.n_held_out == len(held_out)


def test_without_queries_to_measure_nothing_is_measured():
    table, queries = table_and_queries(600)
    built = build_index(table, queries)
    assert (built.recall, built.best_found, built.n_held_out) == ({}, {}, 0)


@pytest.mark.slow
def test_equal_rows_come_in_the_order_of_their_ids():
    table, queries = table_and_queries(600)
    table[300:] = table[:300]
    built = build_index(table, queries)
    ids, _ = search(built.index, queries[:3], 4, len(built.index.blocks))
    assert (ids[:, 1] == ids[:, 0] + 300).all()
    assert (ids[:, 3] == ids[:, 2] + 300).all()


@pytest.mark.slow
def test_rows_of_8_bits_are_scored_exactly_in_the_end(case):
    table, queries, _ = case
    built = build_index(table, queries[:96], special_ids=SPECIAL, n_cells=4, is_8_bit=True)
    built = measure_recall(built, table, queries[96:], probes=(99,))
    assert built.index.blocks.rows.dtype == np.int8
    assert built.recall[len(built.index.blocks)] > 0.99
    ids, logits = search(built.index, queries[:5], 20, 4, table_VD=jnp.asarray(table))
    np.testing.assert_allclose(logits, np.einsum("BD,BKD->BK", queries[:5], table[np.asarray(ids)]), rtol=1e-5)


@pytest.mark.slow
def test_where_blocks_hold_fewer_rows_than_wanted_the_rest_is_none():
    table, queries = table_and_queries(10)
    built = build_index(table, queries, special_ids=(0,))
    ids, logits = search(built.index, queries[:2], 15, 1)
    assert sorted(ids[0, :10].tolist()) == list(range(10))
    assert (ids[:, 10:] == NO_ROW).all()
    assert (logits[:, 10:] == EXCLUDED).all()


def test_one_row_is_a_table_too():
    built = build_index(np.ones((1, 4), np.float32), np.ones((2, 4), np.float32))
    assert search(built.index, np.ones((1, 4), np.float32), 1, 1)[0].tolist() == [[0]]


def test_rows_that_are_all_alike_are_laid_out_too():
    table = np.ones((BLOCK_ROWS * 3 + 5, 4), np.float32)
    built = build_index(table, np.ones((2, 4), np.float32))
    assert len(built.index.blocks) == 4


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 8), (2, 4), (4, 2)])
def test_sharded_search_is_unsharded_search_when_all_is_probed(case, shape):
    _, queries, built = case
    mesh = make_mesh(*shape)
    placed = place_index(built.index, mesh)
    assert len(placed.blocks) % shape[1] == 0
    found = jax.jit(partial(search, k=20, n_probe=len(placed.blocks), mesh=mesh))(
        placed, shard_batch(queries[:8], mesh)
    )
    expected = search(built.index, queries[:8], 20, len(built.index.blocks))
    assert found[0].tolist() == expected[0].tolist()
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)


def test_sharded_search_of_a_few_blocks_finds_about_as_much(case):
    table, queries, built = case
    mesh = make_mesh(4, 2)
    find = jax.jit(partial(search, k=20, n_probe=4, mesh=mesh))
    found = find(place_index(built.index, mesh), shard_batch(queries[96:], mesh))[0]
    assert recall_of(np.asarray(found), true_best(table, queries[96:], 20)[0]) > built.recall[4] - 0.1


@pytest.mark.parametrize("n_rows", [1, 40, 2500])
def test_exact_search_is_sorting_all_scores(monkeypatch, n_rows):
    monkeypatch.setattr("dyntok_jax.vocabulary.index.inner_products.SCORES", 5000)
    table, queries = table_and_queries(n_rows)
    k = min(5, n_rows)
    ids, logits = exact_search(jnp.asarray(table), jnp.asarray(queries[:3]), k)
    true_ids, true_logits = true_best(table, queries[:3], k)
    assert ids.tolist() == true_ids.tolist()
    np.testing.assert_allclose(logits, true_logits, rtol=1e-5)
    assert (
        exact_search(jnp.asarray(table), jnp.asarray(queries[:3]), k, is_approximate=True)[0].tolist() == ids.tolist()
    )


@pytest.mark.parametrize("n_scores", [3, 2 * GROUP * 3, 2 * GROUP * 3 + 1, 1000])
def test_top_k_by_groups_is_top_k(n_scores):
    scores = np.random.default_rng(n_scores).permutation(2 * n_scores).astype(np.float32).reshape(2, -1)
    found, place = top_k(jnp.asarray(scores), 3)
    expected, expected_place = jax.lax.top_k(scores, 3)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(place, expected_place)


def test_candidates_are_ranked_by_logit_then_id():
    ids, logits = best(jnp.array([[9, 4, 3]], jnp.int32), jnp.array([[1.0, 2.0, 1.0]]), 2)
    assert (ids.tolist(), logits.tolist()) == ([[4, 3]], [[2.0, 1.0]])


@pytest.mark.parametrize("wrap", [lambda function: function, jax.jit], ids=["eager", "jit"])
def test_a_row_has_one_logit_whatever_is_found_beside_it(wrap):
    table, queries = table_and_queries(600)
    queries, ids = jnp.asarray(queries[:2]), jnp.array([[5, 7, NO_ROW, 599], [0, 5, 5, 300]], jnp.int32)
    found = np.asarray(wrap(rescore)(table, queries, ids))
    assert found[0, 2] == EXCLUDED
    expected = np.einsum("BD,BKD->BK", queries, table[ids])
    np.testing.assert_allclose(found[ids >= 0], expected[ids >= 0], rtol=1e-4, atol=1e-4)
    alone = [
        [float(wrap(rescore)(table, queries[row : row + 1], ids[row : row + 1, at : at + 1])[0, 0]) for at in range(4)]
        for row in range(2)
    ]
    assert found.tolist() == alone


@pytest.mark.slow
def test_a_query_that_is_no_number_has_logits_that_are_none(case):
    _, queries, built = case
    both = np.concatenate([queries[:1], np.full((1, WIDTH), np.nan, np.float32)])
    ids, logits = search(built.index, both, 5, 2)
    assert not np.isfinite(logits[1]).any()
    assert ids[0].tolist() == search(built.index, queries[:1], 5, 2)[0][0].tolist()


@pytest.mark.parametrize("is_8_bit", [False, True])
def test_a_saved_index_comes_back(tmp_path, is_8_bit):
    table, queries = table_and_queries(700)
    built = build_index(table, queries, special_ids=(3,), is_8_bit=is_8_bit)
    built = measure_recall(built, table, queries[96:], probes=(2,))
    save_index(tmp_path / "a" / "index", built, table="this one", about={"model": "tiny"})
    loaded = load_index(tmp_path / "a" / "index", table="this one")
    for one, other in zip(jax.tree.leaves(built.index), jax.tree.leaves(loaded), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    about = read_about(tmp_path / "a" / "index")
    assert (about["model"], about["rows"], about["recall_at_20"]["2"]) == ("tiny", 700, built.recall[2])
    assert about["best_row_found"]["2"] == built.best_found[2]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["index"]


def test_an_index_of_another_table_or_a_damaged_one_is_refused(tmp_path):
    table, queries = table_and_queries(300)
    save_index(tmp_path / "index", build_index(table, queries), table="this one")
    with pytest.raises(InputError, match="another table"):
        load_index(tmp_path / "index", table="another")
    with pytest.raises(InputError, match="no index in"):
        load_index(tmp_path, table=None)
    arrays = tmp_path / "index" / "index.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_index(tmp_path / "index", table=None)
    config = tmp_path / "index" / "config.json"
    config.write_text(json.dumps({"format": "other"}))
    with pytest.raises(CheckpointError, match="of this version"):
        load_index(tmp_path / "index", table=None)


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        ((5, np.nan), {}, "Rows 5 of the table hold NaN"),
        ((9, 0), {}, "Rows 9 of the table are zero"),
        (None, {"n_cells": 301}, "300 rows do not fill 301 cells"),
        (None, {"special_ids": (300,)}, "has 300 rows"),
    ],
)
def test_tables_that_cannot_be_indexed_are_told(change, options, match):
    table, queries = table_and_queries(300)
    if change:
        table[change[0]] = change[1]
    with pytest.raises(InputError, match=match):
        build_index(table, queries, **options)


@pytest.mark.slow
@pytest.mark.parametrize("is_8_bit", [False, True])
def test_15_zero_rows_of_the_models_own_are_never_found_and_no_error(is_8_bit):
    table, queries = table_and_queries(600)
    table[[0, 7, 299]] = 0  # special ones and others, as transformers initialises a padding row
    queries = -np.abs(queries) * table.sum(axis=0).clip(-1, 1)  # a logit of 0 is among the best
    built = build_index(table, queries, special_ids=(2, 7), n_own=300, is_8_bit=is_8_bit)
    assert built.index.special_E.tolist() == [2]
    assert not {0, 7, 299} & set(built.index.blocks.ids.reshape(-1).tolist())
    ids, _ = search(built.index, queries, 597, ALL_BLOCKS, table_VD=table)
    assert sorted(set(np.asarray(ids)[0].tolist())) == sorted({*range(600)} - {0, 7, 299})
    assert measure_recall(built, table, queries, probes=(ALL_BLOCKS,)).recall == {len(built.index.blocks): 1.0}
    with pytest.raises(InputError, match="Rows 299 of the table are zero"):
        build_index(table, queries, n_own=299)


def test_searches_that_cannot_be_done_are_told(case):
    table, queries, built = case
    with pytest.raises(InputError, match="16 wide and the queries 3"):
        search(built.index, queries[:1, :3], 5, 1)
    with pytest.raises(InputError, match="best 259 rows are requested, but 1 blocks of the index hold 258"):
        search(built.index, queries[:1], 259, 1)
    with pytest.raises(InputError, match="n_probe must be 1 or more"):
        search(built.index, queries[:1], 5, 0)
    with pytest.raises(InputError, match="the table has 3000"):
        exact_search(jnp.asarray(table), jnp.asarray(queries[:1]), 3001)
    with pytest.raises(InputError, match="0 are given"):
        build_index(table, queries[:0])
    with pytest.raises(InputError, match="all must be finite"):
        measure_recall(built, table, np.full_like(queries, np.nan))
    with pytest.raises(InputError, match=r"16 wide and the queries \(3,\)"):
        build_index(table, queries[:, :3])
