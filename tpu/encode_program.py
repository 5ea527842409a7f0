"""The one program from padded subwords to sentence embeddings, compiled ahead of time."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from dyntok_jax.embedding import HypernetConfig, RowPredictor, empty_device_cache, init_hypernet
from dyntok_jax.encoding import (
    CACHE_ROWS,
    LEAST_LOOPED,
    OnDeviceMerging,
    OnDeviceModel,
    Room,
    encode_subwords,
)
from dyntok_jax.models import Encoder, EncoderConfig, SentenceHead
from dyntok_jax.options import Merging
from dyntok_jax.sharding import batch_sharding
from dyntok_jax.types import SubwordBatch
from tpu.costs import Loop
from tpu.programs import Program, abstract, shape

N_BYTES, N_LANGUAGES = 161, 26
"""Of ZeTT's hypernetwork for XLM-R."""


def encode_program(
    config: EncoderConfig, mesh: Mesh, dtype: Any, *, n_batch: int, length: int, n_predicted: int, n_merges: int
) -> Program:
    """Full merging, ZeTT's hypernetwork with a cache on the device, and the encoder.

    Args:
      config: of the encoder.
      mesh: data × model.
      dtype: of all parameters and of the cache.
      n_batch: texts.
      length: subwords a text, of which three quarters are left as tokens.
      n_predicted: new tokens that are not in the cache, of an eighth of all tokens that are new and distinct.
      n_merges: merges that are done one after the other, for segments longer than a token may be; without any, there is
        room for 256 subwords of such segments, else for all of the batch.
    """
    hypernet = HypernetConfig(
        width=config.width,
        hidden_width=config.width,
        ffn_width=2 * config.width,
        n_layers=3,
        n_heads=config.n_heads,
        vocab_size=config.vocab_size,
        n_extra_tokens=N_BYTES,
        n_langs=N_LANGUAGES,
        rescale=True,
        predict_bias=False,
    )
    encoder = abstract(lambda: Encoder(config, jax.random.key(0), dtype), mesh)
    network = abstract(lambda: init_hypernet(hypernet, jax.random.key(0), dtype), mesh)
    predictor = RowPredictor(encoder.word_embeddings.get_value(), network, None, None, config.vocab_size)
    model = OnDeviceModel(encoder, predictor, SentenceHead(), None)
    width = hypernet.max_subwords
    cache = abstract(lambda: empty_device_cache(CACHE_ROWS, 1 + width, config.width, dtype), mesh)
    on_batch = partial(shape, sharding=batch_sharding(mesh))
    ids_BL, mask_BL = on_batch((n_batch, length), jnp.int32), on_batch((n_batch, length), jnp.bool_)
    span_BL2 = on_batch((n_batch, length, 2), jnp.int32)
    batch = SubwordBatch(ids_BL, ids_BL, ids_BL, mask_BL, ids_BL, ids_BL, span_BL2, ids_BL, mask_BL)
    language_B = on_batch((n_batch,), jnp.int32)
    merging = jax.tree.map(
        lambda number: shape(number.shape, number.dtype, NamedSharding(mesh, P())),
        OnDeviceMerging.of(Merging(scope="batch", max_subwords=width)),
    )
    n_tokens = max(1, 3 * length // 4)
    looped = n_batch * length if n_merges else LEAST_LOOPED
    room = Room(n_tokens, n_batch * max(1, n_tokens // 8), n_predicted, looped, width)
    return Program(
        name=f"encode {n_batch} × {length}",
        function=encode_subwords,
        arguments=(model, batch, language_B, merging, cache),
        held={"parameters": encoder, "hypernet": network, "cache": cache, "inputs": (batch, language_B)},
        options={"room": room, "mesh": mesh},
        loops=_loops(n_merges),
        main=r".*jit\(encode_batch\).*",
    )


def _loops(n_merges: int) -> tuple[Loop, ...]:
    merge = r".*/merge_pairs/while"
    return (
        Loop(r".*/find_segments/while", 3 if n_merges else 0, "rounds that find the segments to merge step by step"),
        Loop(merge, n_merges, "merges"),
        Loop(rf"{merge}/.*while", 1, "run of each loop in a merge"),
    )
