"""One step of training: gradients of what is trained alone, AdamW in float32, and their shardings on a mesh."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jax.typing import DTypeLike

from dyntok_jax.parameters import flat_parameters
from dyntok_jax.sharding import batch_sharding, shardings_for
from dyntok_jax.training.config import OptimizerConfig
from dyntok_jax.training.objectives import Metrics


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step changes; its shapes or shardings have the same form. A step is not random: it has no key.

    Attributes:
      parameters: what is trained: a hypernetwork, or an adapter.
      optimizer: AdamW's moments and counts.
      step: steps done, an int32.
    """

    parameters: Any
    optimizer: Any
    step: Any


Step = Callable[[TrainState, Any, Sequence[Any]], tuple[TrainState, Metrics]]
LossFunction = Callable[[Any, Any, Any], tuple[Any, Metrics]]
"""From trained parameters, frozen model and batch to the loss and its parts."""


def learning_rate_schedule(config: OptimizerConfig, n_steps: int) -> optax.Schedule:
    """The learning rate of each step, counted from 0."""
    warmup = min(config.warmup, max(n_steps - 1, 0))
    return optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / max(warmup, 1),
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(n_steps, 1),
        end_value=config.learning_rate * config.final_share,
    )


def make_optimizer(
    config: OptimizerConfig, n_steps: int, learning_rates: Mapping[str, float] = MappingProxyType({})
) -> optax.GradientTransformation:
    """The optimizer. As in ZeTT, scalers keep their values from the tables; only kernels decay.

    Args:
      config: its options.
      n_steps: of the run, over which the learning rate falls.
      learning_rates: regular expression of paths → the peak learning rate of these parameters, in place of the one in
        `config`; it rises and falls alike.

    >>> optimizer = make_optimizer(OptimizerConfig(warmup=10), n_steps=100)
    >>> init_state(hypernet, optimizer).step
    Array(0, dtype=int32)
    """
    return optax.chain(
        optax.masked(optax.set_to_zero(), lambda tree: _where(tree, _is_fixed)),
        optax.clip_by_global_norm(config.clip),
        optax.adamw(
            learning_rate_schedule(config, n_steps),
            weight_decay=config.weight_decay,
            mask=lambda tree: _where(tree, lambda path: path.endswith("kernel")),
        ),
        *(
            # all that AdamW adds is in proportion to the learning rate
            optax.masked(optax.scale(rate / config.learning_rate), partial(_where, condition=_matches(pattern)))
            for pattern, rate in learning_rates.items()
        ),
    )


def init_state(parameters: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; parameters become float32, whatever the compute dtype.

    >>> state = init_state(hypernet, make_optimizer(OptimizerConfig(), n_steps=100))
    >>> state.parameters.layers.query.kernel[...].dtype, state.step.tolist()
    (dtype('float32'), 0)
    """
    parameters = cast(parameters, jnp.float32)
    return TrainState(parameters, optimizer.init(parameters), jnp.zeros((), jnp.int32))


def make_step(optimizer: optax.GradientTransformation, loss: LossFunction, dtype: DTypeLike = jnp.float32) -> Step:
    """The jitted step; it donates the buffers of its state.

    Args:
      optimizer: from `make_optimizer`.
      loss: from trained parameters, frozen model and batch to the loss and its parts.
      dtype: that the trained parameters are computed in; the frozen model has the dtype that it was loaded in.
        Parameters and moments are always float32.

    Returns:
      A function from state, frozen model and the batches of one step to the next state and metrics: those of the loss
      averaged over the batches, `loss`, and the `gradient_norm` before clipping.

    >>> optimizer = make_optimizer(OptimizerConfig(), n_steps=100)
    >>> from functools import partial
    >>> from dyntok_jax.training import Objectives, total_loss
    >>> step = make_step(optimizer, partial(total_loss, weights=Objectives(pieces=1.0)))
    >>> state = init_state(jax.tree.map(jnp.copy, hypernet), optimizer)  # a copy, since the step donates its state
    >>> state, metrics = step(state, frozen, [training_batch])
    >>> int(state.step), sorted(metrics)
    (1, ['gradient_norm', 'loss', 'piece_cosine', 'pieces'])
    """

    def loss_of(parameters, frozen, batch):
        return loss(cast(parameters, dtype), frozen, batch)

    gradients_of = jax.jit(jax.grad(loss_of, has_aux=True))
    add = jax.jit(lambda total, more: jax.tree.map(jnp.add, total, more), donate_argnums=0)

    def update(state, gradient, metrics, n_batches):
        share = 1 / n_batches
        gradient, metrics = jax.tree.map(lambda x: x * jnp.asarray(share, x.dtype), (gradient, metrics))
        norm = optax.tree.norm([leaf for path, leaf in flat_parameters(gradient).items() if not _is_fixed(path)])
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to its integer counts of steps
            updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.parameters)
        parameters: Any = optax.apply_updates(state.parameters, updates)
        return TrainState(parameters, optimizer_state, state.step + 1), metrics | {"gradient_norm": norm}

    def update_from_one(state, frozen, batch):
        gradient, metrics = jax.grad(loss_of, has_aux=True)(state.parameters, frozen, batch)
        return update(state, gradient, metrics, 1)

    step_of_one = jax.jit(update_from_one, donate_argnums=0)
    step_of_many = jax.jit(update, donate_argnums=0, static_argnums=3)

    def step(state, frozen, batches):
        if len(batches) == 1:
            return step_of_one(state, frozen, batches[0])
        total = gradients_of(state.parameters, frozen, batches[0])
        for batch in batches[1:]:
            total = add(total, gradients_of(state.parameters, frozen, batch))
        return step_of_many(state, *total, len(batches))

    return step


def cast(tree: Any, dtype: DTypeLike) -> Any:
    """The tree with its arrays, which must all be floats, in another dtype."""
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def state_shardings(state: TrainState, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shardings of a state, or of its shapes: moments are sharded like their parameters.

    >>> from dyntok_jax.sharding import make_mesh
    >>> optimizer = make_optimizer(OptimizerConfig(), n_steps=100)
    >>> shardings = state_shardings(init_state(hypernet, optimizer), optimizer, make_mesh(1, 1))
    >>> tuple(flat_parameters(shardings.parameters)["layers.query.kernel"].spec)  # heads are split over `model`
    (None, None, 'model', None)
    """
    replicated = NamedSharding(mesh, P())
    of_parameters = shardings_for(state.parameters, mesh)
    of_optimizer = optax.tree.map_params(
        optimizer,
        lambda _, sharding: sharding,
        state.optimizer,
        of_parameters,
        transform_non_params=lambda _: replicated,
    )
    return TrainState(of_parameters, of_optimizer, replicated)


def put_batch(batch: Any, mesh: Mesh | None) -> Any:
    """Moves a batch to the device; on a mesh, shards each array over `data` by its first axis where that divides."""
    if mesh is None:
        return jax.device_put(batch)
    replicated, split = NamedSharding(mesh, P()), batch_sharding(mesh)

    def put(array):
        divides = np.ndim(array) > 0 and np.shape(array)[0] % mesh.shape["data"] == 0
        return jax.device_put(array, split if divides else replicated)

    return jax.tree.map(put, batch)


def _is_fixed(path: str) -> bool:
    """Whether a parameter is not trained."""
    return "scaler" in path


def _matches(pattern: str) -> Callable[[str], bool]:
    return lambda path: re.search(pattern, path) is not None


def _where(tree: Any, condition: Callable[[str], bool]) -> Any:
    """The tree with the condition of each path in place of its leaf."""
    return jax.tree.unflatten(jax.tree.structure(tree), [condition(path) for path in flat_parameters(tree)])
