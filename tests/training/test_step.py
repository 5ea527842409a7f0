"""A training step is AdamW on the mean gradient of its batches, however these are cut, on one device or on eight."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dyntok_jax.errors import ConfigError
from dyntok_jax.parameters import flat_parameters
from dyntok_jax.sharding import make_mesh, shardings_for
from dyntok_jax.training import (
    Objectives,
    OptimizerConfig,
    init_state,
    make_optimizer,
    make_step,
    state_shardings,
)
from dyntok_jax.training.data import TrainingBatch
from dyntok_jax.training.objectives import freeze, total_loss
from dyntok_jax.training.step import (
    cast,
    learning_rate_schedule,
    put_batch,
)
from tests.support.tiny_training import (
    MASK_ROW,
    random_batch,
    random_hypernet,
    random_pieces,
    tiny_frozen,
)

WEIGHTS = {"encoder": Objectives(pieces=0.5, sentences=1.0), "decoder": Objectives(pieces=0.5, next_subword=1.0)}
N_STEPS = 10
QUICK = OptimizerConfig(warmup=0, learning_rate=1e-2)


def loss_of(kind: str) -> partial:
    return partial(total_loss, weights=WEIGHTS[kind])


def updates_of(optimizer, gradient, state):
    """What the optimizer would add; optax needs its own promotion of dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        return jax.jit(optimizer.update)(gradient, state.optimizer, state.parameters)[0]


def assert_close(one, other, **tolerance) -> None:
    """But for biases of keys: they shift all scores of a query alike, so AdamW follows their rounding errors."""
    there = flat_parameters(other)
    for path, value in flat_parameters(one).items():
        if not path.endswith("key.bias"):
            np.testing.assert_allclose(np.asarray(value), np.asarray(there[path]), err_msg=path, **tolerance)


def test_the_learning_rate_rises_and_falls():
    config = OptimizerConfig(learning_rate=1.0, warmup=4, final_share=0.1)
    rates = [float(learning_rate_schedule(config, 20)(step)) for step in range(21)]
    np.testing.assert_allclose(rates[:5], [0.25, 0.4375, 0.625, 0.8125, 1.0])
    assert all(before > after for before, after in pairwise(rates[4:]))
    assert rates[20] == pytest.approx(0.1)
    assert float(learning_rate_schedule(config, 1)(0)) == 1.0  # a run shorter than its warm-up


@pytest.mark.parametrize("wrong", [{"learning_rate": 0.0}, {"clip": 0.0}, {"accumulate": 0}, {"warmup": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        OptimizerConfig(**wrong)


def test_scalers_stay_and_kernels_alone_decay():
    hypernet = random_hypernet(residual=True)
    optimizer = make_optimizer(OptimizerConfig(warmup=0, weight_decay=0.5), N_STEPS)
    state = init_state(hypernet, optimizer)
    ones = jax.tree.map(jnp.ones_like, state.parameters)
    zeros = jax.tree.map(jnp.zeros_like, state.parameters)
    for gradient, moves in ((ones, lambda path: "scaler" not in path), (zeros, lambda path: path.endswith("kernel"))):
        updates = updates_of(optimizer, gradient, state)
        for path, update in flat_parameters(updates).items():
            assert bool(np.asarray(update).any()) == moves(path), path


@pytest.mark.slow
def test_batches_of_a_step_are_averaged():
    kind = "encoder"
    frozen, batches = tiny_frozen(kind), jax.tree.map(jnp.asarray, [random_batch(1), random_batch(2)])
    optimizer = make_optimizer(QUICK, N_STEPS)
    hypernet = random_hypernet(kind)

    def mean_loss(hypernet):
        return sum(total_loss(hypernet, frozen, batch, WEIGHTS[kind])[0] for batch in batches) / 2

    state = init_state(hypernet, optimizer)
    loss, gradient = jax.jit(jax.value_and_grad(mean_loss))(hypernet)
    updates = updates_of(optimizer, gradient, state)
    wanted = optax.apply_updates(state.parameters, updates)
    state, metrics = make_step(optimizer, loss_of(kind))(state, frozen, batches)
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
    free = [leaf for path, leaf in flat_parameters(gradient).items() if "scaler" not in path]
    assert metrics["gradient_norm"] == pytest.approx(float(optax.tree.norm(free)), rel=1e-4)
    # AdamW's first step has the size of the learning rate wherever the gradient is not tiny
    assert_close(state.parameters, wanted, atol=2e-4)
    assert state.step == 1


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "shape"), [("encoder", (8, 1)), ("decoder", (2, 4))])
def test_sharded_equals_unsharded(kind, shape):
    frozen, optimizer = tiny_frozen(kind), make_optimizer(QUICK, N_STEPS)
    batches = [random_batch(seed, n_texts=8, n_forms=8) for seed in (1, 2)]
    step = make_step(optimizer, loss_of(kind))
    alone = init_state(random_hypernet(kind), optimizer)
    mesh = make_mesh(*shape)
    begin = partial(init_state, optimizer=optimizer)
    places = state_shardings(jax.eval_shape(begin, random_hypernet(kind)), optimizer, mesh)
    spread = jax.jit(begin, out_shardings=places)(random_hypernet(kind))
    head_there = frozen.head and jax.device_put(frozen.head, shardings_for(frozen.head, mesh))
    body_there = jax.device_put(frozen.body, shardings_for(frozen.body, mesh))
    frozen_there = freeze(body_there, head_there, MASK_ROW if frozen.head else None)
    for batch in batches:
        alone, metrics = step(alone, frozen, [batch])
        spread, metrics_there = step(spread, frozen_there, [put_batch(batch, mesh)])
        assert_close(metrics_there, metrics, rtol=2e-4, atol=1e-6)
    assert_close(spread.parameters, alone.parameters, atol=1e-3)
    if shape == (2, 4):
        assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(spread.parameters))


@pytest.mark.slow
def test_half_precision_keeps_whole_parameters():
    frozen, optimizer = tiny_frozen(dtype=jnp.bfloat16), make_optimizer(QUICK, N_STEPS)
    state = init_state(cast(random_hypernet(), jnp.bfloat16), optimizer)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.parameters)} == {jnp.dtype(jnp.float32)}
    batch = jax.tree.map(jnp.asarray, random_batch())
    whole = float(jax.jit(total_loss, static_argnums=3)(state.parameters, tiny_frozen(), batch, WEIGHTS["encoder"])[0])
    state, metrics = make_step(optimizer, loss_of("encoder"), jnp.bfloat16)(state, frozen, [random_batch()])
    assert {leaf.dtype for leaf in jax.tree.leaves(state.parameters)} == {jnp.dtype(jnp.float32)}
    assert metrics["loss"].dtype == jnp.float32
    assert metrics["loss"] == pytest.approx(whole, rel=0.05)


@pytest.mark.slow
def test_a_step_learns_from_pieces_alone():
    frozen, optimizer = tiny_frozen(), make_optimizer(QUICK, N_STEPS)
    state, step = (
        init_state(random_hypernet(residual=True), optimizer),
        make_step(optimizer, loss_of("encoder")),
    )
    batch = TrainingBatch(None, random_pieces())
    losses = []
    for _ in range(N_STEPS):
        state, metrics = step(state, frozen, [batch])
        losses.append(float(metrics["loss"]))
    assert set(metrics) == {"pieces", "piece_cosine", "loss", "gradient_norm"}
    assert losses[-1] < 0.8 * losses[0]
