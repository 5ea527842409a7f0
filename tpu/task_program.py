"""The training step of an adapter and a head on a task, beside a frozen encoder, compiled ahead of time."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dyntok_jax.adapters import LoraConfig, fresh_adapter
from dyntok_jax.embedding import TokenInputs
from dyntok_jax.models import Encoder, EncoderConfig, SequenceHead
from dyntok_jax.sharding import batch_sharding
from dyntok_jax.tasks import FrozenEncoder, LabelledBatch, LoraOptions, saved_modules, task_loss
from dyntok_jax.training import OptimizerConfig, init_state, make_optimizer, make_step, state_shardings
from tpu.programs import Program, abstract, shape

LABELS = ("contradiction", "entailment", "neutral")


def task_program(config: EncoderConfig, mesh: Mesh, dtype: Any, *, n_batch: int, length: int) -> Program:
    """One step of `dyntok train-task --task nli` on batches with new tokens: the default adapter, AdamW in float32."""
    make_encoder = lambda: Encoder(config, jax.random.key(0), dtype)  # noqa: E731
    make_head = lambda: SequenceHead(config, LABELS, jax.random.key(0))  # noqa: E731
    frozen = FrozenEncoder(abstract(make_encoder, mesh), abstract(make_head, mesh))
    options = LoraOptions()
    lora = LoraConfig(rank=options.rank, alpha=options.alpha, modules_to_save=saved_modules(frozen.head))
    optimizer = make_optimizer(OptimizerConfig(), 10_000)
    step = make_step(optimizer, task_loss, dtype)
    begin = lambda: init_state(  # noqa: E731
        fresh_adapter(jax.random.key(0), lora, make_encoder(), make_head()), optimizer
    )
    state = abstract(begin, mesh, partial(state_shardings, optimizer=optimizer, mesh=mesh))
    on_batch = partial(shape, sharding=batch_sharding(mesh))
    tokens = n_batch, length
    inputs = TokenInputs(
        ids_BT=on_batch(tokens, jnp.int32),
        row_BT=on_batch(tokens, jnp.int32),
        rows_RD=on_batch((n_batch * length, config.width), jnp.float32),
        mask_BT=on_batch(tokens, jnp.bool_),
    )
    batch = LabelledBatch(inputs, type_BT=on_batch(tokens, jnp.int32), label_BW=on_batch((n_batch, 1), jnp.int32))
    return Program(
        name=f"train-task {n_batch} × {length}",
        function=jax.jit(lambda state, frozen, batch: step(state, frozen, [batch]), donate_argnums=0),
        arguments=(state, frozen, batch),
        held={"parameters": frozen, "adapter": state.parameters, "moments": state.optimizer, "inputs": batch},
    )
