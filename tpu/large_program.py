"""A step of decoding in a large vocabulary, and its search alone, to compile ahead of time."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from dyntok_jax.decoding import LargeVocabulary
from dyntok_jax.models import DecoderConfig
from dyntok_jax.sharding import batch_sharding
from dyntok_jax.vocabulary.index import BLOCK_ROWS, MipsIndex, RowBlocks, exact_search, search
from tpu.programs import Program, decode_program, shape

FILLED = 0.9
"""How full the blocks of an index are, roughly."""
SUBWORDS = 7
"""Subwords of the longest entry."""
CANDIDATES, PROBES = 64, 64
N_SPECIAL = 8


def large_decode_program(
    config: DecoderConfig, mesh: Mesh, dtype: Any, *, n_batch: int, capacity: int, size: int, n_rows: int
) -> Program:
    """One step when every slot of the cache is filled, with an index of 8-bit rows and exact scores of candidates."""
    own = decode_program(config, mesh, dtype, n_batch=n_batch, capacity=capacity, size=size)
    large = abstract_vocabulary(config, mesh, dtype, n_rows)
    tables = (large.input_VD, large.output_VD, large.constituents_VS, large.banned_E)
    return Program(
        name=f"decode {n_batch} × {capacity} of {n_rows:,}",
        function=own.function,
        arguments=own.arguments,
        held={**own.held, "tables": tables, "index": large.index},
        options={**own.options, "vocabulary": large},
        loops=own.loops,
    )


def search_program(config: DecoderConfig, mesh: Mesh, dtype: Any, *, n_batch: int, n_rows: int) -> Program:
    """The search of one such step."""
    large = abstract_vocabulary(config, mesh, dtype, n_rows)
    queries_BD = shape((n_batch, config.width), dtype, batch_sharding(mesh))
    return Program(
        name=f"search {n_batch} of {n_rows:,}",
        function=jax.jit(partial(_search, mesh=mesh)),
        arguments=(large.index, queries_BD, large.output_VD),
        held={"index": large.index, "tables": large.output_VD, "inputs": queries_BD},
    )


def exact_program(config: DecoderConfig, mesh: Mesh, dtype: Any, *, n_batch: int, n_rows: int) -> Program:
    """The same search by scoring the whole table."""
    table_VD = abstract_vocabulary(config, mesh, dtype, n_rows).output_VD
    queries_BD = shape((n_batch, config.width), dtype, batch_sharding(mesh))
    return Program(
        name=f"exact search {n_batch} of {n_rows:,}",
        function=jax.jit(_search_exactly),
        arguments=(table_VD, queries_BD),
        held={"tables": table_VD, "inputs": queries_BD},
    )


def _search_exactly(table_VD, queries_BD):
    return exact_search(table_VD, queries_BD, CANDIDATES)


def _search(index, queries_BD, output_VD, *, mesh):
    return search(index, queries_BD, CANDIDATES, PROBES, table_VD=output_VD, mesh=mesh)


def abstract_vocabulary(config: DecoderConfig, mesh: Mesh, dtype: Any, n_rows: int) -> LargeVocabulary:
    """A vocabulary of a model with an output table of its own, as shapes where `shard_vocabulary` puts them."""
    n_model = mesh.shape["model"]
    n_blocks = -(-round(n_rows / FILLED / BLOCK_ROWS) // n_model) * n_model
    split = partial(shape, sharding=NamedSharding(mesh, P("model")))
    whole = partial(shape, sharding=NamedSharding(mesh, P()))
    table_VD = shape((n_rows, config.width), dtype, NamedSharding(mesh, P(None, "model")))
    blocks = RowBlocks(
        rows=split((n_blocks, BLOCK_ROWS, config.width), jnp.int8),
        ids=split((n_blocks, BLOCK_ROWS), jnp.int32),
        count=split((n_blocks,), jnp.int32),
        rank_weight=split((n_blocks, config.width), jnp.float32),
        rank_bias=split((n_blocks,), jnp.float32),
        scale=split((n_blocks, BLOCK_ROWS), jnp.float32),
    )
    return LargeVocabulary(
        input_VD=table_VD,
        output_VD=table_VD,
        index=MipsIndex(blocks, whole((N_SPECIAL,), jnp.int32), whole((N_SPECIAL, config.width), dtype)),
        constituents_VS=whole((n_rows, SUBWORDS), jnp.int32),
        banned_E=whole((0,), jnp.int32),
        k=CANDIDATES,
        n_probe=PROBES,
        mesh=mesh,
    )
