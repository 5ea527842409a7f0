"""The training step of a hypernetwork with its frozen model, compiled ahead of time like the programs of generation."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from dyntok_jax.embedding import HypernetConfig, init_hypernet
from dyntok_jax.models import DecoderConfig
from dyntok_jax.sharding import batch_sharding
from dyntok_jax.training import (
    FrozenModel,
    Objectives,
    OptimizerConfig,
    init_state,
    make_optimizer,
    make_step,
    state_shardings,
    total_loss,
)
from dyntok_jax.training.data import SurfaceForms, TextBatch, TrainingBatch
from tpu.programs import Program, abstract, abstract_decoder, shape

MAX_SUBWORDS = 7
N_BYTES = 522
"""Bytes that Mistral's vocabulary lacks, and whatever else its byte-level form appends."""
TOKENS_PER_SUBWORD = 0.75
FORMS_PER_TEXT = 64
WEIGHTS = Objectives(hidden=1.0, next_subword=1.0)


def train_program(config: DecoderConfig, mesh: Mesh, dtype: Any, *, n_batch: int, length: int) -> Program:
    """One step of distillation in context: ZeTT's network for a decoder, as wide as the decoder, AdamW in float32."""
    body = abstract_decoder(config, mesh, dtype)
    by_width = NamedSharding(mesh, P(None, "model"))
    n_columns = config.width if config.ties_embeddings else 2 * config.width
    frozen = FrozenModel(
        body,
        source_VM=shape((config.vocab_size, n_columns), dtype, by_width),
        variance_M=shape((n_columns,), jnp.float32, NamedSharding(mesh, P("model"))),
    )
    optimizer = make_optimizer(OptimizerConfig(), 10_000)
    step = make_step(optimizer, partial(total_loss, weights=WEIGHTS), dtype)
    state = _abstract_state(hypernet_config(config), optimizer, mesh)
    batch = _abstract_batch(mesh, n_batch, length)
    return Program(
        name=f"train-hypernet {n_batch} × {length}",
        function=jax.jit(lambda state, frozen, batch: step(state, frozen, [batch]), donate_argnums=0),
        arguments=(state, frozen, batch),
        held={"parameters": frozen, "hypernet": state.parameters, "moments": state.optimizer, "inputs": batch},
    )


def hypernet_config(config: DecoderConfig) -> HypernetConfig:
    """ZeTT's network for a decoder: three layers of the decoder's width, one head for every 128 dimensions."""
    return HypernetConfig(
        width=config.width,
        hidden_width=config.width,
        ffn_width=2 * config.width,
        n_layers=3,
        n_heads=max(config.width // 128, 1),
        vocab_size=config.vocab_size,
        n_extra_tokens=N_BYTES,
        max_subwords=MAX_SUBWORDS,
        max_positions=MAX_SUBWORDS + 1,
        separate_output=not config.ties_embeddings,
        rescale=True,
        predict_bias=False,
        residual=True,
    )


def _abstract_state(config: HypernetConfig, optimizer: Any, mesh: Mesh) -> Any:
    begin = lambda: init_state(init_hypernet(config, jax.random.key(0)), optimizer)  # noqa: E731
    return abstract(begin, mesh, partial(state_shardings, optimizer=optimizer, mesh=mesh))


def _abstract_batch(mesh: Mesh, n_batch: int, length: int) -> TrainingBatch:
    on_batch = partial(shape, sharding=batch_sharding(mesh))
    n_tokens, n_forms = round(TOKENS_PER_SUBWORD * length), FORMS_PER_TEXT * n_batch
    static, dynamic = (n_batch, length), (n_batch, n_tokens)
    forms = SurfaceForms(
        surface_PS=on_batch((n_forms, MAX_SUBWORDS), jnp.int32),
        is_subword_PS=on_batch((n_forms, MAX_SUBWORDS), jnp.bool_),
        language_P=on_batch((n_forms,), jnp.int32),
    )
    texts = TextBatch(
        static_BL=on_batch(static, jnp.int32),
        static_mask_BL=on_batch(static, jnp.bool_),
        row_BT=on_batch(dynamic, jnp.int32),
        mask_BT=on_batch(dynamic, jnp.bool_),
        aligned_BT=on_batch(dynamic, jnp.int32),
        is_masked_BT=on_batch(dynamic, jnp.bool_),
        forms=forms,
        kept_K=on_batch((n_batch * n_tokens,), jnp.int32),
        n_kept=shape((), jnp.int32, NamedSharding(mesh, P())),
    )
    return TrainingBatch(texts, None)
