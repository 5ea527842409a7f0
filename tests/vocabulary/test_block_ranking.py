"""What blocks are ranked by: their centroids, and what these miss of the best inner products as far as queries tell."""

import numpy as np
import pytest

from dyntok_jax.vocabulary.index import build_index
from dyntok_jax.vocabulary.index.block_ranking import SHRINKAGE, rank_among_each_other, rank_blocks, rank_fit


def case(n_queries=400, n_blocks=6, size=8, width=5, seed=0):
    rng = np.random.default_rng(seed)
    count = rng.integers(1, size + 1, n_blocks).astype(np.int32)
    rows = rng.normal(size=(n_blocks, size, width)).astype(np.float32) + rng.normal(size=(n_blocks, 1, width)) * 2
    rows[np.arange(size)[None] >= count[:, None]] = 99  # what is behind a block's count must not matter
    centroid = np.stack([rows[block, : count[block]].mean(axis=0) for block in range(n_blocks)])
    queries = rng.normal(size=(n_queries, width)) + 1
    queries, rows, centroid = (array.astype(np.float32) for array in (queries, rows, centroid))
    return queries, rows, centroid, count


def best_products(queries, rows, count):
    return np.stack([(queries @ rows[block, :n].T).max(axis=1) for block, n in enumerate(count)], axis=1)


def test_weights_and_bias_are_those_of_ridge_regression():
    queries, rows, centroid, count = case()
    weight, bias, _ = rank_blocks(rank_fit(queries), rows, count, centroid)
    centered = queries.astype(np.float64) - queries.mean(axis=0)
    missed = best_products(queries, rows, count) - queries @ centroid.T
    least = np.sqrt(SHRINKAGE * np.mean(np.square(centered)) * len(queries))
    # ridge regression as ordinary least squares with a row more for each direction
    more = np.linalg.lstsq(
        np.concatenate([centered, least * np.eye(queries.shape[1])]),
        np.concatenate([missed - missed.mean(axis=0), np.zeros(centroid.shape[::-1])]),
        rcond=None,
    )[0].T
    np.testing.assert_allclose(weight, centroid + more, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(bias, missed.mean(axis=0) - more @ queries.mean(axis=0), rtol=1e-3, atol=1e-4)


def test_new_queries_are_predicted_better_than_by_the_mean_and_a_bias():
    queries, rows, centroid, count = case(n_queries=800)
    weight, bias, _ = rank_blocks(rank_fit(queries[:400]), rows, count, centroid)
    best = best_products(queries, rows, count)
    error = best[400:] - queries[400:] @ weight.T - bias
    of_centroid = best - queries @ centroid.T
    with_bias = of_centroid[400:] - of_centroid[:400].mean(axis=0)
    assert np.abs(error).mean() < 0.8 * np.abs(with_bias).mean()
    assert np.abs(error.mean(axis=0)).max() < 0.3


@pytest.mark.parametrize("n_queries", [1, 3])
def test_without_queries_that_differ_the_centroid_is_left(n_queries):
    queries, rows, centroid, count = case()
    alike = np.repeat(queries[:1], n_queries, axis=0)
    weight, bias, _ = rank_blocks(rank_fit(alike), rows, count, centroid)
    np.testing.assert_allclose(weight, centroid, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(alike[0] @ weight.T + bias, best_products(alike[:1], rows, count)[0], rtol=1e-3)


def test_training_among_each_other_puts_the_best_block_first_more_often():
    queries, rows, centroid, count = case(n_queries=4000, n_blocks=40)
    weight, bias, best = rank_blocks(rank_fit(queries[:3000]), rows, count, centroid)
    np.testing.assert_allclose(best, best_products(queries[:3000], rows, count), rtol=1e-4, atol=1e-4)
    trained = rank_among_each_other(queries[:3000], best, weight, bias)
    again = rank_among_each_other(queries[:3000], best, weight, bias)
    true = best_products(queries[3000:], rows, count)
    probability = np.exp(2 * true) / np.exp(2 * true).sum(axis=1, keepdims=True)

    def cross_entropy(weight, bias):
        score = 2 * (queries[3000:] @ weight.T + bias)
        log_z = np.log(np.exp(score - score.max(axis=1, keepdims=True)).sum(axis=1)) + score.max(axis=1)
        return -(probability * (score - log_z[:, None])).sum(axis=1).mean()

    assert cross_entropy(*trained) < cross_entropy(weight, bias) < cross_entropy(centroid, 0)
    for one, other in zip(trained, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_own_rows_share_no_block_with_others():
    rng = np.random.default_rng(1)
    table = rng.normal(size=(1500, 8)).astype(np.float32)
    queries = rng.normal(size=(64, 8)).astype(np.float32)
    ids = build_index(table, queries, special_ids=(3,), n_own=400).index.blocks.ids
    is_own, is_new = ((ids >= 0) & (ids < 400)).any(axis=1), (ids >= 400).any(axis=1)
    assert not (is_own & is_new).any()
    assert sorted(ids[ids >= 0].tolist()) == [index for index in range(1500) if index != 3]
