"""Building an index: rows that match the same queries share a block, and the blocks' ranking is trained.

Blocks should be small in the directions of queries. The error of scoring rows x of a block by its centroid c is, over
queries q, E[(q·(x − c))²] = (x − c)ᵀ E[qqᵀ] (x − c): rows are clustered in the metric of the queries' second moment
(Guo et al. 2016, *Quantization based fast inner product search*, §3), which is Euclidean after a product with its
square root. There rows are augmented to one norm (Bachrach et al. 2014, §3) and clustered by spherical k-means, so that
inner products rank like angles. A cell of several blocks is halved along its principal direction until every part fits.
A model's own rows and those of new tokens are clustered separately: their norms differ, and most best rows are own.

Clusterings, ranked by centroids (`block_ranking.py` has what learning the ranking adds), measured on 100,000 rows
(SmolLM2's own and means of its subwords, norms 1.3 to 7.5) in 120 cells or some 450 blocks, with real hidden states,
recall@20 of 32, 64 and 128 blocks: .943, .977 and .992; without the queries' metric .867, .925 and .959; Euclidean
k-means in that metric .940, .977 and .991; score-aware assignment (Guo et al. 2020, η = 4) of raw rows .810, .868 and
.928; FAISS IVF-Flat with cells of 250 rows .572, .909 and .959.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from dyntok_jax.errors import InputError
from dyntok_jax.options import whole_number
from dyntok_jax.types import EXCLUDED
from dyntok_jax.vocabulary.index.block_ranking import rank_among_each_other, rank_blocks, rank_fit
from dyntok_jax.vocabulary.index.inner_products import (
    BLOCK_ROWS,
    NO_ROW,
    MipsIndex,
    RowBlocks,
    best,
    exact_search,
    rescore,
    search,
)

BLOCKS_PER_CELL = 4
"""Blocks per cell of k-means on average: more leave fewer slots empty, fewer raise recall."""
TRAINING_ROWS = 256
"""Rows of the training sample per cell."""
ROUNDS = 10
"""Rounds of k-means."""
CHUNK = 8192
"""Rows assigned at a time."""
SHRINKAGE = 0.1
"""Share of the queries' mean power added in every direction, so that unseen directions count too."""
POWER_ROUNDS = 8
"""Rounds of the power iteration for a principal direction."""
RANKED_AT_ONCE = 16
"""Blocks whose rows are multiplied with the queries at a time."""
RECALL_AT = 20
HELD_OUT_BATCH = 32


@dataclass(frozen=True)
class Built:
    """An index and what `measure_recall` measured of it.

    Attributes:
      index: in host memory.
      recall: for each number of probed blocks, the share of the true `RECALL_AT` best rows (fewer of a smaller table)
        found for held-out queries.
      best_found: for each number of probed blocks, the share of these queries whose best row is found.
      n_held_out: the number of held-out queries.
    """

    index: MipsIndex
    recall: dict[int, float] = field(default_factory=dict)
    best_found: dict[int, float] = field(default_factory=dict)
    n_held_out: int = 0


def build_index(
    table_VD: Float[np.ndarray, "V D"],
    queries_QD: Float[np.ndarray, "Q _"],
    *,
    special_ids: Sequence[int] = (),
    n_own: int = 0,
    n_cells: int | None = None,
    is_8_bit: bool = False,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
) -> Built:
    """Builds an index.

    Args:
      table_VD: the rows; may be memory-mapped, is read in chunks.
      queries_QD: real queries, such as hidden states, which shape the blocks and their ranking.
      special_ids: rows that every search scores.
      n_own: number of the model's own rows, the first ones, which share no block with the others. Those that are zero,
        such as the padding token's, are left out: no search finds them.
      n_cells: of k-means; None for one per `BLOCKS_PER_CELL` blocks.
      is_8_bit: store rows as int8 with a scale each, in a quarter of the memory; searches then need the table too.
      seed: of the training sample; the same seed builds the same index.
      progress: called with the share done, 0 to 1.

    Raises:
      InputError: rows are NaN, or those of new tokens zero; there are fewer rows than cells; queries are missing, not
        finite or of another width; or special ids are out of range.

    >>> rows_VD = table.rows(0, table.config.rows, "output")
    >>> built = build_index(rows_VD, queries, n_own=600)
    >>> built.index.blocks.count  # blocks of own rows, then one of new rows
    array([200, 200, 200,  12], dtype=int32)
    """
    n_rows, width = table_VD.shape
    zero_Z = zero_rows(table_VD[:n_own])
    special_E = np.setdiff1d(_checked_special(special_ids, n_rows), zero_Z)
    row_R = np.setdiff1d(np.arange(n_rows, dtype=np.int32), np.union1d(special_E, zero_Z))
    fitting = max(1, len(row_R) // (BLOCKS_PER_CELL * BLOCK_ROWS))
    n_cells = fitting if n_cells is None else whole_number("n_cells", n_cells)
    if len(row_R) < n_cells:
        raise InputError(f"{len(row_R)} rows do not fill {n_cells} cells: ask for 1 to {max(1, len(row_R))} cells.")
    shaping = _checked_queries(queries_QD, width)
    metric_DD, back_DD = _metric(shaping)
    top_norm = _largest_norm(table_VD, metric_DD, n_own)
    lifted = partial(_lifted_rows, table_VD, metric_DD, top_norm)

    rng = np.random.default_rng(whole_number("seed", seed, least=0))
    parts, n_done = [], 0
    for group_R in (row_R[row_R < n_own], row_R[row_R >= n_own]):
        if len(group_R):
            n_of_group = max(1, round(n_cells * len(group_R) / len(row_R)))
            parts += _clustered(group_R, n_of_group, lifted, rng)
            n_done += len(group_R)
            progress(0.6 * n_done / len(row_R))
    index = _lay_out(table_VD, parts, special_E, lifted, back_DD, shaping, is_8_bit=is_8_bit, progress=progress)
    progress(1.0)
    return Built(index)


def measure_recall(
    built: Built,
    table_VD: Float[np.ndarray, "V D"],
    held_out_QD: Float[np.ndarray, "H _"],
    probes: Sequence[int] = (16, 32, 64, 128),
) -> Built:
    """Measures how many of the true best rows searches find.

    Args:
      built: the index.
      table_VD: the rows that it was built from.
      held_out_QD: queries that it was not built with.
      probes: numbers of blocks to measure at; at most all blocks are probed.

    Raises:
      InputError: queries are missing, not finite or of another width.

    >>> rows_VD = table.rows(0, table.config.rows, "output")
    >>> built = build_index(rows_VD, queries[:32], n_own=600)
    >>> measured = measure_recall(built, rows_VD, queries[32:], probes=(1, 4))
    >>> measured.recall[4], measured.recall[1] < 1
    (1.0, True)
    """
    held_out = _checked_queries(held_out_QD, table_VD.shape[1])
    n_probes = sorted({min(probe, len(built.index.blocks)) for probe in probes})
    recall, best_found = _measured(built.index, table_VD, held_out, n_probes)
    return Built(built.index, recall, best_found, len(held_out))


def _checked_queries(queries_QD, width) -> Float32[np.ndarray, "Q D"]:
    if queries_QD.ndim != 2 or queries_QD.shape[1] != width:
        raise InputError(
            f"The rows are {width} wide and the queries {queries_QD.shape[1:]}: they come from different models."
        )
    if not len(queries_QD) or not np.isfinite(queries_QD).all():
        raise InputError(f"There must be at least one query, and all must be finite: {len(queries_QD)} are given.")
    return np.asarray(queries_QD, np.float32)


def _checked_special(special_ids: Sequence[int], n_rows: int) -> Int32[np.ndarray, "E"]:
    special_E = np.unique(np.array(special_ids, np.int64))
    if len(special_E) and not 0 <= special_E[0] <= special_E[-1] < n_rows:
        raise InputError(f"The special ids {special_E.tolist()} must be rows of the table, which has {n_rows} rows.")
    return special_E.astype(np.int32)


def _metric(queries_QD: Float32[np.ndarray, "Q D"]) -> tuple[Float32[np.ndarray, "D D"], Float32[np.ndarray, "D D"]]:
    """The square root of the queries' second moment, shrunk towards the identity, and its inverse."""
    power_D, direction_DD = np.linalg.eigh(queries_QD.T.astype(np.float64) @ queries_QD / len(queries_QD))
    power_D = np.maximum(power_D, 0)
    root_D = np.sqrt(power_D + SHRINKAGE * max(power_D.mean(), np.finfo(np.float32).tiny))
    root_D /= root_D.max()  # a factor changes no rank
    metric_DD, back_DD = (direction_DD * root_D) @ direction_DD.T, (direction_DD / root_D) @ direction_DD.T
    return metric_DD.astype(np.float32), back_DD.astype(np.float32)


def zero_rows(rows_RD: Float[np.ndarray, "R D"]) -> Int32[np.ndarray, "Z"]:
    """Which rows are zero, such as the padding token's in many models: their logit would be 0, whatever is asked.

    >>> zero_rows(np.array([[1.0, 0.0], [0.0, 0.0]]))
    array([1], dtype=int32)
    """
    starts = range(0, len(rows_RD), CHUNK)
    chunks = (np.asarray(rows_RD[start : start + CHUNK], np.float32) for start in starts)
    found = [start + np.flatnonzero(~rows.any(axis=1)) for start, rows in zip(starts, chunks, strict=True)]
    return np.concatenate([np.zeros(0, np.int32), *found]).astype(np.int32)


def _largest_norm(table_VD, metric_DD, n_own) -> float:
    """The largest norm in the metric.

    Raises:
      InputError: rows of new tokens are zero, or any row is not finite.
    """
    largest = 0.0
    for start in range(0, len(table_VD), CHUNK):
        rows_RD = np.asarray(table_VD[start : start + CHUNK], np.float32)
        for is_bad_R, what in (
            (~np.isfinite(rows_RD).all(axis=1), "hold NaN or infinity"),
            (~rows_RD.any(1) & (np.arange(start, start + len(rows_RD)) >= n_own), "are zero"),
        ):
            if is_bad_R.any():
                bad = (start + np.flatnonzero(is_bad_R)).tolist()
                more = ", …" if len(bad) > 5 else ""
                raise InputError(
                    f"Rows {', '.join(map(str, bad[:5]))}{more} of the table {what}: no search could find them. Embed "
                    "the vocabulary again, or correct these rows."
                )
        largest = max(largest, float(np.linalg.norm(rows_RD @ metric_DD, axis=1).max()))
    return largest


def _lifted_rows(table_VD, metric_DD, top_norm, row_R) -> Float32[np.ndarray, "R D_plus_1"]:
    """Rows in the queries' metric, with one more dimension that gives them all norm 1."""
    rows_RD = np.asarray(table_VD[row_R], np.float32) @ metric_DD / np.float32(top_norm)
    rest_R = 1 - np.square(rows_RD).sum(axis=1)
    return np.concatenate([rows_RD, np.sqrt(np.maximum(rest_R, 0))[:, None]], axis=1)


@jax.jit
def _nearest(rows_RD: Float32[Array, "R D"], center_CD: Float32[Array, "cells D"]) -> Int32[Array, "R"]:
    return jnp.einsum("RD,CD->RC", rows_RD, center_CD).argmax(axis=1).astype(jnp.int32)


def _padded(rows_RD):
    """Rows padded to a chunk, so that one program serves all."""
    return np.pad(rows_RD, ((0, CHUNK - len(rows_RD)), (0, 0)))


def _train(sample_RD, n_cells, rng) -> Float32[np.ndarray, "cells D"]:
    """Spherical k-means; a cell that loses all its rows restarts at a random row of the sample."""
    center = sample_RD[np.sort(rng.permutation(len(sample_RD))[:n_cells])]
    for _ in range(ROUNDS):
        total, count = np.zeros_like(center), np.zeros(n_cells, np.int64)
        for start in range(0, len(sample_RD), CHUNK):
            some = sample_RD[start : start + CHUNK]
            cell = np.asarray(_nearest(_padded(some), center))[: len(some)]
            order = np.argsort(cell, kind="stable")
            present, first = np.unique(cell[order], return_index=True)
            total[present] += np.add.reduceat(some[order], first, axis=0)
            count += np.bincount(cell, minlength=n_cells)
        empty = np.flatnonzero(count == 0)
        total[empty] = sample_RD[rng.integers(0, len(sample_RD), len(empty))]
        center = _unit(total)
    return center


def _unit(rows_RD):
    return rows_RD / np.maximum(np.linalg.norm(rows_RD, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _clustered(row_R, n_cells, lifted, rng) -> list[Int32[np.ndarray, "R"]]:
    """The rows of each block: k-means on a sample, all rows assigned, cells halved."""
    sample = np.sort(rng.permutation(row_R)[: max(n_cells, TRAINING_ROWS * n_cells)])
    center = _train(lifted(sample), n_cells, rng)
    cell_R = np.empty(len(row_R), np.int32)
    for start in range(0, len(row_R), CHUNK):
        some = row_R[start : start + CHUNK]
        cell_R[start : start + CHUNK] = np.asarray(_nearest(_padded(lifted(some)), center))[: len(some)]
    return _blocks_of(row_R, cell_R, n_cells, lifted)


def _blocks_of(row_R, cell_R, n_cells, lifted) -> list[Int32[np.ndarray, "R"]]:
    """The rows of each block, cell by cell."""
    order = np.argsort(cell_R, kind="stable")
    bounds = np.searchsorted(cell_R[order], np.arange(n_cells + 1))
    parts = []
    for cell in range(n_cells):
        of_cell = row_R[order[bounds[cell] : bounds[cell + 1]]]
        if len(of_cell):
            parts += [of_cell[places] for places in _halved(lifted(of_cell), np.arange(len(of_cell)))]
    return parts


def _halved(rows_RD, place_R) -> list[Int[np.ndarray, "R"]]:
    """Positions in the fewest parts of at most `BLOCK_ROWS`, split along the direction of the largest variance."""
    n_parts = -(-len(place_R) // BLOCK_ROWS)
    if n_parts == 1:
        return [place_R]
    centered_RD = rows_RD[place_R] - rows_RD[place_R].mean(axis=0)
    axis_D = centered_RD[np.square(centered_RD).sum(axis=1).argmax()]
    for _ in range(POWER_ROUNDS):
        axis_D = centered_RD.T @ (centered_RD @ axis_D)
        axis_D /= max(float(np.linalg.norm(axis_D)), 1e-30)  # identical rows have no direction
    order = place_R[np.argsort(centered_RD @ axis_D, kind="stable")]
    middle = n_parts // 2 * len(place_R) // n_parts
    return _halved(rows_RD, order[:middle]) + _halved(rows_RD, order[middle:])


def _lay_out(table_VD, parts, special_E, lifted, back_DD, queries_QD, *, is_8_bit, progress) -> MipsIndex:
    """Copies rows into blocks, with the ranking of each block and, for int8, the scale of each row."""
    n_blocks, width = len(parts), table_VD.shape[1]
    dtype = np.dtype(np.int8) if is_8_bit else table_VD.dtype
    rows = np.zeros((n_blocks, BLOCK_ROWS, width), dtype)
    ids = np.full((n_blocks, BLOCK_ROWS), NO_ROW, np.int32)
    scale = np.ones((n_blocks, BLOCK_ROWS), np.float32) if is_8_bit else None
    count = np.array([len(row_R) for row_R in parts], np.int32).reshape(n_blocks)
    rank_weight, rank_bias = np.zeros((n_blocks, width), np.float32), np.zeros(n_blocks, np.float32)
    fit, best_QP = rank_fit(queries_QD), np.empty((len(queries_QD), n_blocks), np.float32)
    for start in range(0, n_blocks, RANKED_AT_ONCE):
        chunk = slice(start, min(start + RANKED_AT_ONCE, n_blocks))
        rows_PRD = np.zeros((chunk.stop - start, BLOCK_ROWS, width), np.float32)
        centroid_PD = np.zeros((chunk.stop - start, width), np.float32)
        for block in range(start, chunk.stop):
            row_R, of_block = parts[block], np.asarray(table_VD[parts[block]])
            rows_PRD[block - start, : len(row_R)] = of_block
            centroid_PD[block - start] = _unit(lifted(row_R).mean(axis=0, keepdims=True))[0, :width] @ back_DD
            if scale is not None:
                scale[block, : len(row_R)] = np.abs(of_block).max(axis=1) / 127
                of_block = np.rint(of_block / scale[block, : len(row_R), None])
            rows[block, : len(row_R)], ids[block, : len(row_R)] = of_block, row_R
        ranked = rank_blocks(fit, rows_PRD, count[chunk], centroid_PD)
        rank_weight[chunk], rank_bias[chunk], best_QP[:, chunk] = ranked
        progress(0.6 + 0.3 * chunk.stop / n_blocks)
    rank_weight, rank_bias = rank_among_each_other(queries_QD, best_QP, rank_weight, rank_bias)
    progress(0.95)
    return MipsIndex(
        blocks=RowBlocks(rows, ids, count, rank_weight, rank_bias, scale),
        special_E=special_E,
        special_ED=np.asarray(table_VD[special_E]),
    )


def _measured(index, table_VD, queries_QD, probes) -> tuple[dict[int, float], dict[int, float]]:
    """The shares of the true best rows, and of the best one, that each number of probed blocks finds."""
    all_V = np.arange(len(table_VD), dtype=np.int32)
    left_out = np.setdiff1d(all_V, np.union1d(index.blocks.ids, index.special_E))
    k = min(RECALL_AT, len(table_VD) - len(left_out))
    table_VD, index = jnp.asarray(table_VD), jax.tree.map(jnp.asarray, index)

    def exact(_, table_VD, batch_BD):
        ids_BK, logits_BK = exact_search(table_VD, batch_BD, k + len(left_out))
        return best(ids_BK, jnp.where(jnp.isin(ids_BK, left_out), EXCLUDED, logits_BK), k)

    true_QK = _found(exact, index, table_VD, queries_QD)
    recall, best_found = {}, {}
    for probe in probes:
        found_QK = _found(partial(_search, k, probe), index, table_VD, queries_QD)
        recall[probe] = recall_of(found_QK, true_QK)
        best_found[probe] = float(np.mean(found_QK[:, 0] == true_QK[:, 0]))
    return recall, best_found


def _search(k, n_probe, index, table_VD, batch_BD):
    return search(index, batch_BD, k, n_probe, table_VD=table_VD)


def _found(find, index, table_VD, queries_QD) -> Int32[np.ndarray, "Q K"]:
    """The rows that a search finds, ordered by their exact logits."""

    @jax.jit
    def of_batch(index, table_VD, batch_BD):
        ids_BK, _ = find(index, table_VD, batch_BD)
        return best(ids_BK, rescore(table_VD, batch_BD, ids_BK), ids_BK.shape[1])[0]

    n_queries = len(queries_QD)
    padded_QD = np.pad(queries_QD, ((0, -n_queries % HELD_OUT_BATCH), (0, 0)))
    batches = np.split(padded_QD, len(padded_QD) // HELD_OUT_BATCH)
    return np.concatenate([np.asarray(of_batch(index, table_VD, batch)) for batch in batches])[:n_queries]


def recall_of(found_QK: Int[np.ndarray, "Q K"], true_QK: Int[np.ndarray, "Q K"]) -> float:
    """The share of the true ids that was found.

    >>> recall_of(np.array([[3, 1, 9]]), np.array([[3, 9, 4]]))
    0.66...
    """
    hits = (true_QK[:, :, None] == found_QK[:, None, :]).any(axis=2)
    return float(hits.mean())
