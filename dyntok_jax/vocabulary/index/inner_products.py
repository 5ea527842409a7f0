"""Maximum inner product search in blocks: the few best rows of a table for each query, without reading all of it.

Rows that are close in the metric of the queries share a block of `BLOCK_ROWS` (see `building.py`). A search predicts
the best inner product in each block by a linear function of the query (see `block_ranking.py`), and reads all of the
best `n_probe` blocks. One block is one cell of the inverted file: a budget of blocks is a budget of cells, and
every shape is static. A block is read by one `dynamic_slice`, because gathering rows by index is ten times slower on a
CPU.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxtyping import Array, Float, Float32, Int8, Int32

from dyntok_jax.errors import InputError
from dyntok_jax.types import EXCLUDED, AnyArray

BLOCK_ROWS = 256
"""Rows that are read together."""
NO_ROW = -1
"""The id in a slot without a row."""
RESCORED = 4
"""Candidates among 8-bit rows that are rescored, for each row wanted."""
PAIRS_AT_ONCE = 4
"""Blocks read in parallel; on two CPU cores 4 take a sixth less time than 1, and 16 as long as 4."""
GROUP = 64
"""Scores per group in the first level of a top-k."""
SCORES = 1 << 26
"""Logits that exact search holds at a time."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RowBlocks:
    """Rows of a table in blocks.

    Attributes:
      rows: the blocks; empty slots are at a block's end and hold zeros. int8 rows are multiplied by their `scale`.
      ids: the table's row in each slot; `NO_ROW` in empty ones.
      count: how many rows each block holds; 0 for blocks that only pad a mesh.
      rank_weight: of the linear function of the query that ranks the blocks: it predicts each one's best inner product.
      rank_bias: likewise.
      scale: one factor per row; None unless the rows are int8.

    >>> len(index.blocks), index.blocks.size, index.blocks.count
    (4, 256, array([200, 200, 200,  12], dtype=int32))
    """

    rows: Float[AnyArray, "blocks rows D"] | Int8[AnyArray, "blocks rows D"]
    ids: Int32[AnyArray, "blocks rows"]
    count: Int32[AnyArray, "blocks"]
    rank_weight: Float32[AnyArray, "blocks D"]
    rank_bias: Float32[AnyArray, "blocks"]
    scale: Float32[AnyArray, "blocks rows"] | None

    def __len__(self) -> int:
        return len(self.count)

    @property
    def size(self) -> int:
        """Slots of a block."""
        return self.rows.shape[1]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MipsIndex:
    """A table's rows for search, made by `build_index`.

    Attributes:
      blocks: all rows but the special ones.
      special_E: ids of rows that every search scores.
      special_ED: these rows.

    >>> index.n_bytes  # four blocks of 256 rows of 32 float32, their ids and ranking
    135...
    """

    blocks: RowBlocks
    special_E: Int32[AnyArray, "E"]
    special_ED: Float[AnyArray, "E D"]

    @property
    def n_bytes(self) -> int:
        """Its size in memory."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))


def search(
    index: MipsIndex,
    queries_BD: Float[AnyArray, "B D"],
    k: int,
    n_probe: int,
    *,
    table_VD: Float[AnyArray, "V D"] | None = None,
    mesh: Mesh | None = None,
) -> tuple[Int32[Array, "B K"], Float32[Array, "B K"]]:
    """The rows with the largest inner products in the best blocks; a pure function to call inside `jax.jit`.

    Args:
      index: of the table; sharded by `place_index` if there is a mesh.
      queries_BD: such as a decoder's last hidden states.
      k: rows per query.
      n_probe: blocks to read per query; if all, the search is exact.
      table_VD: the table itself, which an index of 8-bit rows needs to rescore its candidates.
      mesh: every device of its axis `model` reads its own blocks, an equal part of `n_probe`, rounded up; their
        candidates are joined by one gather of k per device.

    Returns:
      Ids and logits, the best first, among equals the lowest id; after the last row, if the blocks hold fewer than k,
      `NO_ROW` and `EXCLUDED`. A NaN query gets NaN logits.

    Raises:
      InputError: widths differ, k or `n_probe` is out of range, or 8-bit rows come without their table.

    >>> ids_BK, logits_BK = search(index, queries[:2], k=3, n_probe=2)
    >>> ids_BK.shape, bool((logits_BK[:, 0] >= logits_BK[:, 1]).all())
    ((2, 3), True)
    """
    n_devices = 1 if mesh is None else mesh.shape["model"]
    n_own = -(-min(n_probe, len(index.blocks)) // n_devices)
    _check_search(index, queries_BD, k, n_probe, n_own * n_devices, table_VD)
    index, queries_BD = jax.tree.map(jnp.asarray, index), jnp.asarray(queries_BD)
    is_8_bit = index.blocks.scale is not None
    n_wanted = RESCORED * k if is_8_bit else k
    find = partial(_search_blocks, n_wanted=n_wanted, n_probe=n_own)
    if mesh is not None:
        find = _on_every_device(find, mesh)
    ids_BK, logits_BK = find(index.blocks, queries_BD)
    if is_8_bit and table_VD is not None:
        ids_BK, logits_BK = best(ids_BK, logits_BK, n_wanted)
        logits_BK = rescore(table_VD, queries_BD, ids_BK)
    special_BE = _product(queries_BD, index.special_ED)
    ids_BE = jnp.broadcast_to(index.special_E[None], special_BE.shape)
    return best(jnp.concatenate([ids_BK, ids_BE], axis=1), jnp.concatenate([logits_BK, special_BE], axis=1), k)


def exact_search(
    table_VD: Float[AnyArray, "V D"], queries_BD: Float[AnyArray, "B _"], k: int, *, is_approximate: bool = False
) -> tuple[Int32[Array, "B K"], Float32[Array, "B K"]]:
    """The rows with the largest inner products, by scoring the whole table; a pure function to call inside `jax.jit`.

    Args:
      table_VD: the table.
      queries_BD: the queries.
      k: rows per query.
      is_approximate: choose by `jax.lax.approx_max_k`, which is faster on a TPU and finds 95 % of them.

    Returns:
      Ids and logits, the best first, among equals the lowest id.

    Raises:
      InputError: widths differ, or k is out of range.

    >>> table_VD = jnp.array([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    >>> ids_BK, logits_BK = exact_search(table_VD, jnp.array([[1.0, 1.0]]), k=2)
    >>> ids_BK.tolist(), logits_BK.tolist()
    ([[1, 2]], [[3.0, 2.0]])
    """
    n_rows = len(table_VD)
    _check_width(table_VD.shape[1], queries_BD)
    _check_count(k, n_rows, "the table has")
    table_VD, queries_BD = jnp.asarray(table_VD), jnp.asarray(queries_BD)
    choose = lax.approx_max_k if is_approximate else top_k

    def find(query_GD):
        logits_GK, ids_GK = choose(_scores(query_GD, table_VD), k)
        return best(ids_GK.astype(jnp.int32), logits_GK, k)

    size = max(1, SCORES // n_rows)
    if len(queries_BD) <= size:
        return find(queries_BD)
    return lax.map(lambda query_D: jax.tree.map(jnp.ravel, find(query_D[None])), queries_BD, batch_size=size)


def top_k(scores_BN: Float32[Array, "B N"], k: int) -> tuple[Float32[Array, "B K"], Int32[Array, "B K"]]:
    """The k largest scores and their positions; of many scores, first the groups that hold them.

    The k largest are in the k groups with the largest maxima, so nothing is lost.
    """
    n_batch, n_scores = scores_BN.shape
    if n_scores <= 2 * GROUP * k:
        scores_BK, place_BK = lax.top_k(scores_BN, k)
        return scores_BK, place_BK.astype(jnp.int32)
    padded_BN = jnp.pad(scores_BN, ((0, 0), (0, -n_scores % GROUP)), constant_values=-jnp.inf)
    grouped_BGR = padded_BN.reshape(n_batch, -1, GROUP)
    _, group_BK = lax.top_k(grouped_BGR.max(axis=2), k)
    of_groups_BKR = jnp.take_along_axis(grouped_BGR, group_BK[:, :, None], axis=1)
    scores_BK, place_BK = lax.top_k(of_groups_BKR.reshape(n_batch, -1), k)
    group_BK = jnp.take_along_axis(group_BK, place_BK // GROUP, axis=1)
    return scores_BK, (group_BK * GROUP + place_BK % GROUP).astype(jnp.int32)


def best(
    ids_BN: Int32[Array, "B N"], logits_BN: Float32[Array, "B N"], k: int
) -> tuple[Int32[Array, "B K"], Float32[Array, "B K"]]:
    """The k best of a few candidates, among equals the lowest id first.

    >>> ids_BK, logits_BK = best(jnp.array([[8, 2, 5]]), jnp.array([[1.0, 3.0, 3.0]]), k=2)
    >>> ids_BK.tolist(), logits_BK.tolist()
    ([[2, 5]], [[3.0, 3.0]])
    """
    worst_first, ids_BN = lax.sort((-logits_BN, ids_BN), dimension=1, num_keys=2)
    return ids_BN[:, :k], -worst_first[:, :k]


def rescore(
    table_VD: Float[AnyArray, "V D"], queries_BD: Float[Array, "B D"], ids_BK: Int32[Array, "B K"]
) -> Float32[Array, "B K"]:
    """Inner products with the table's own rows, each summed on its own.

    A row gets the same logit, bit for bit, whichever search found it and whatever else was found. Matrix products round
    differently for different shapes, which can change the best of rows that are equal up to rounding, as rows of
    tokens that repeat one subword often are.

    Args:
      table_VD: the table.
      queries_BD: the queries.
      ids_BK: rows to score for each query; `NO_ROW` gets `EXCLUDED`.

    >>> table_VD = jnp.array([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    >>> rescore(table_VD, jnp.array([[1.0, 1.0]]), jnp.array([[2, 1]]))
    Array([[2., 3.]], dtype=float32)
    """
    rows_BKD = jnp.asarray(table_VD).at[jnp.maximum(ids_BK, 0)].get(mode="fill", fill_value=0)
    products_BKD = queries_BD.astype(jnp.float32)[:, None] * rows_BKD.astype(jnp.float32)
    return jnp.where(ids_BK == NO_ROW, EXCLUDED, products_BKD.sum(axis=2))


def place_index(index: MipsIndex, mesh: Mesh) -> MipsIndex:
    """Shards an index over the axis `model`, padded with empty blocks, which are ranked last.

    >>> from dyntok_jax.sharding import make_mesh
    >>> sharded = place_index(index, make_mesh(data=1, model=1))
    >>> sharded.blocks.rows.sharding.spec[0]
    'model'
    """
    n_more = -len(index.blocks) % mesh.shape["model"]

    def padded(array):
        return np.pad(np.asarray(array), [(0, n_more)] + [(0, 0)] * (array.ndim - 1))

    split, whole = NamedSharding(mesh, P("model")), NamedSharding(mesh, P())
    return MipsIndex(
        blocks=jax.device_put(jax.tree.map(padded, index.blocks), split),
        special_E=jax.device_put(index.special_E, whole),
        special_ED=jax.device_put(index.special_ED, whole),
    )


def _on_every_device(find, mesh):
    """`find` on every device in its own blocks; their candidates are concatenated."""

    def find_and_gather(blocks, queries_BD):
        return lax.all_gather(find(blocks, queries_BD), "model", axis=1, tiled=True)

    specs = P("model"), P("data")
    return jax.shard_map(find_and_gather, mesh=mesh, in_specs=specs, out_specs=P("data"), check_vma=False)


def _search_blocks(blocks, queries_BD, *, n_wanted, n_probe):
    """The best rows of the best blocks."""
    block_BP, logits_BPR = _probe(blocks, queries_BD, n_probe)
    if blocks.scale is not None:
        logits_BPR = logits_BPR * blocks.scale[block_BP]
    is_row_BPR = jnp.arange(blocks.size, dtype=jnp.int32)[None, None] < blocks.count[block_BP][:, :, None]
    logits_BN = jnp.where(is_row_BPR, logits_BPR, EXCLUDED).reshape(len(queries_BD), -1)
    logits_BK, place_BK = top_k(logits_BN, min(n_wanted, n_probe * blocks.size))
    block_BK = jnp.take_along_axis(block_BP, place_BK // blocks.size, axis=1)
    ids_BK = jnp.where(logits_BK == EXCLUDED, NO_ROW, blocks.ids[block_BK, place_BK % blocks.size])
    return ids_BK, logits_BK


def _probe(blocks, queries_BD, n_probe):
    """The best blocks of each query, and the inner products of all their slots."""
    n_batch, n_blocks = len(queries_BD), len(blocks)
    if n_probe == n_blocks:  # every block is read for all queries at once
        block_BP = jnp.broadcast_to(jnp.arange(n_blocks, dtype=jnp.int32)[None], (n_batch, n_blocks))
        _, logits_PBR = lax.scan(lambda _, block: (None, _product(queries_BD, block)), None, blocks.rows)
        return block_BP, jnp.swapaxes(logits_PBR, 0, 1)
    score_BP = jnp.einsum("BD,PD->BP", queries_BD.astype(jnp.float32), blocks.rank_weight) + blocks.rank_bias[None]
    _, block_BP = lax.top_k(jnp.where(blocks.count[None] > 0, score_BP, EXCLUDED), n_probe)
    # pairs of query and block, some in parallel; pairs with the same block are consecutive, while it is in the cache
    block_of = block_BP.reshape(-1)
    n_rows = math.gcd(block_of.size, PAIRS_AT_ONCE)
    order = jnp.argsort(block_of).reshape(n_rows, -1)

    def score(step, logits):
        for pair in order[:, step]:
            block = lax.dynamic_index_in_dim(blocks.rows, block_of[pair], keepdims=False)
            query_1D = lax.dynamic_slice_in_dim(queries_BD, pair // n_probe, 1)
            logits = lax.dynamic_update_slice_in_dim(logits, _product(query_1D, block), pair, axis=0)
        return logits

    logits = lax.fori_loop(0, order.shape[1], score, jnp.zeros((block_of.size, blocks.size), jnp.float32))
    return block_BP, logits.reshape(n_batch, n_probe, -1)


def _scores(queries_BD, table_VD):
    """The whole product; for several queries the table's rows come first, as in `models/decoder.py`."""
    if len(queries_BD) == 1:
        return _product(queries_BD, table_VD)
    return lax.optimization_barrier(_product(table_VD, queries_BD)).T


def _product(queries_BD, rows_RD):
    rows_RD = rows_RD.astype(queries_BD.dtype) if rows_RD.dtype == jnp.int8 else rows_RD
    queries_BD, rows_RD = _of_one_dtype(queries_BD, rows_RD)
    return jnp.einsum("BD,RD->BR", queries_BD, rows_RD, preferred_element_type=jnp.float32)


def _of_one_dtype(queries_BD, rows):
    """Both in float32 if their dtypes differ."""
    if queries_BD.dtype == rows.dtype:
        return queries_BD, rows
    return queries_BD.astype(jnp.float32), rows.astype(jnp.float32)


def _check_search(index, queries_BD, k, n_probe, n_read, table_VD):
    _check_width(index.blocks.rows.shape[2], queries_BD)
    if n_probe < 1:
        raise InputError(f"n_probe must be 1 or more, got {n_probe}.")
    _check_count(k, n_read * index.blocks.size + len(index.special_E), f"{n_read} blocks of the index hold")
    if index.blocks.scale is not None and table_VD is None:
        raise InputError("The rows of this index have 8 bits: pass table_VD too, to rescore the candidates exactly.")


def _check_width(width, queries_BD):
    if queries_BD.shape[1] != width:
        raise InputError(
            f"The rows are {width} wide and the queries {queries_BD.shape[1]}: they come from different models."
        )


def _check_count(k, n_rows, who):
    if not 1 <= k <= n_rows:
        raise InputError(
            f"The best {k} rows are requested, but {who} {n_rows}: request 1 to {n_rows}, or probe more blocks."
        )
