"""The training step of an adapter beside a frozen encoder, with a head, or decoder, compiled ahead of time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dyntok_jax.adapters import Adapter, LoraConfig, fresh_adapter
from dyntok_jax.embedding import TokenInputs
from dyntok_jax.models import DecoderConfig, Encoder, EncoderConfig, SequenceHead
from dyntok_jax.sharding import batch_sharding
from dyntok_jax.tasks import (
    AnsweredPrompts,
    FrozenEncoder,
    LabelledBatch,
    LmBatch,
    LoraOptions,
    lm_loss,
    saved_modules,
    task_loss,
)
from dyntok_jax.training import LossFunction, OptimizerConfig, init_state, make_optimizer, make_step, state_shardings
from tpu.programs import Program, abstract, abstract_decoder, shape

LABELS = ("contradiction", "entailment", "neutral")
LORA = LoraOptions()


def task_program(config: EncoderConfig, mesh: Mesh, dtype: Any, *, n_batch: int, length: int) -> Program:
    """One step of `dyntok train-task --task nli` on batches with new tokens: the default adapter, AdamW in float32."""
    make_encoder = lambda: Encoder(config, jax.random.key(0), dtype)  # noqa: E731
    make_head = lambda: SequenceHead(config, LABELS, jax.random.key(0))  # noqa: E731
    frozen = FrozenEncoder(abstract(make_encoder, mesh), abstract(make_head, mesh))
    lora = LoraConfig(rank=LORA.rank, alpha=LORA.alpha, modules_to_save=saved_modules(frozen.head))
    on_batch = partial(shape, sharding=batch_sharding(mesh))
    batch = LabelledBatch(
        _inputs(config.width, mesh, n_batch, length),
        type_BT=on_batch((n_batch, length), jnp.int32),
        label_BW=on_batch((n_batch, 1), jnp.int32),
    )
    make_adapter = lambda: fresh_adapter(jax.random.key(0), lora, make_encoder(), make_head())  # noqa: E731
    return _step(f"train-task {n_batch} × {length}", make_adapter, frozen, batch, task_loss, mesh, dtype)


def lm_program(config: DecoderConfig, mesh: Mesh, dtype: Any, *, n_batch: int, length: int) -> Program:
    """One step of `dyntok train-task --task lm --remat`, where prompts and answers have half of the length each."""
    frozen = abstract_decoder(config, mesh, dtype)
    lora = LoraConfig(rank=LORA.rank, alpha=LORA.alpha, task="CAUSAL_LM")
    on_batch = partial(shape, sharding=batch_sharding(mesh))
    dynamic = AnsweredPrompts(_inputs(config.width, mesh, n_batch, length), on_batch((n_batch,), jnp.int32))
    batch = LmBatch(dynamic, None, on_batch((n_batch, length // 2), jnp.int32))
    make_adapter = lambda: fresh_adapter(jax.random.key(0), lora, frozen)  # noqa: E731
    loss = partial(lm_loss, remat=True)
    return _step(f"train-task lm {n_batch} × {length}", make_adapter, frozen, batch, loss, mesh, dtype)


def _inputs(width: int, mesh: Mesh, n_batch: int, length: int) -> TokenInputs:
    """Tokens of which any may be new."""
    on_batch = partial(shape, sharding=batch_sharding(mesh))
    tokens = n_batch, length
    return TokenInputs(
        ids_BT=on_batch(tokens, jnp.int32),
        row_BT=on_batch(tokens, jnp.int32),
        rows_RD=on_batch((n_batch * length, width), jnp.float32),
        mask_BT=on_batch(tokens, jnp.bool_),
    )


def _step(
    name: str, make_adapter: Callable[[], Adapter], frozen: Any, batch: Any, loss: LossFunction, mesh: Mesh, dtype: Any
) -> Program:
    optimizer = make_optimizer(OptimizerConfig(), 10_000)
    step = make_step(optimizer, loss, dtype)
    begin = lambda: init_state(make_adapter(), optimizer)  # noqa: E731
    state = abstract(begin, mesh, partial(state_shardings, optimizer=optimizer, mesh=mesh))
    return Program(
        name=name,
        function=jax.jit(lambda state, frozen, batch: step(state, frozen, [batch]), donate_argnums=0),
        arguments=(state, frozen, batch),
        held={"parameters": frozen, "adapter": state.parameters, "moments": state.optimizer, "inputs": batch},
    )
