"""Sharded over 8 devices equals unsharded, whichever way the mesh is cut and typed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from dyntok_jax.convert import load_encoder
from dyntok_jax.convert.bert_checkpoint import save_encoder
from dyntok_jax.embedding import Hypernet, HypernetConfig, HypernetOutput, predict_embeddings
from dyntok_jax.errors import ConfigError
from dyntok_jax.models import Encoder, EncoderConfig, MaskedLmHead, encode_ids, mlm_logits
from dyntok_jax.sharding import batch_sharding, make_mesh, shardings_for, under_explicit_mesh

ENCODER = EncoderConfig("bert", 50, 16, 2, 4, 24, 12)
HYPERNET = HypernetConfig(16, 16, 24, 2, 4, 50, 5, n_langs=2, separate_output=True, rescale=True, residual=True)
SHAPES = [(8, 1), (2, 4)]


def filled(module, config, seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(partial(module, config), jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(0.1 * rng.normal(size=x.shape), x.dtype), shapes)


def encoder_batch():
    rng = np.random.default_rng(1)
    mask = np.arange(9)[None] < rng.integers(1, 10, 8)[:, None]
    ids = rng.integers(0, 50, mask.shape).astype(np.int32) * mask
    return ids, mask, (ids % 2).astype(np.int32)


def surface_batch():
    rng = np.random.default_rng(2)
    mask = np.arange(4)[None] < rng.integers(1, 5, 16)[:, None]
    return rng.integers(0, 55, mask.shape).astype(np.int32) * mask, mask


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * float(jnp.abs(theirs).max()))


def run_sharded(function, parameters, batch, rest, shape, axis_type, out_specs=None):
    """Places parameters by the rules and the batch over `data`, and runs the jitted function."""
    if axis_type == AxisType.Auto:
        mesh = make_mesh(*shape)
        run = function
    else:
        mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(axis_type,) * 2)
        run = under_explicit_mesh(function, mesh, out_specs)
    parameters = jax.device_put(parameters, shardings_for(parameters, mesh))
    batch = jax.device_put(batch, batch_sharding(mesh))
    rest = jax.device_put(rest, NamedSharding(mesh, P()))
    with jax.set_mesh(mesh):
        return jax.jit(run)(parameters, *batch, *rest)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("shape", SHAPES)
def test_sharded_encoder_equals_unsharded(shape, axis_type):
    model, batch = filled(Encoder, ENCODER), encoder_batch()
    hidden = run_sharded(encode_ids, model, batch, (), shape, axis_type)
    close(hidden, jax.jit(encode_ids)(model, *batch))
    assert hidden.sharding.spec[0] == "data"


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("shape", SHAPES)
def test_sharded_hypernetwork_equals_unsharded(shape, axis_type):
    hypernet, batch = filled(Hypernet, HYPERNET), surface_batch()
    source = np.random.default_rng(3).normal(size=(50, 32)).astype(np.float32)
    rest = (source, np.int32(1))
    specs = HypernetOutput(P("data"), P("data"), P("data"))
    sharded = run_sharded(predict_embeddings, hypernet, batch, rest, shape, axis_type, specs)
    alone = jax.jit(predict_embeddings)(hypernet, *batch, *rest)
    jax.tree.map(close, sharded, alone)


def test_sharded_masked_lm_head_equals_unsharded():
    head, table = filled(MaskedLmHead, ENCODER), filled(Encoder, ENCODER).word_embeddings[...]
    hidden = np.random.default_rng(4).normal(size=(8, 9, 16)).astype(np.float32)
    mesh = make_mesh(2, 4)
    placed = jax.device_put(head, shardings_for(head, mesh))
    split_table = jax.device_put(table, NamedSharding(mesh, P(None, "model")))
    logits = jax.jit(mlm_logits)(placed, jax.device_put(hidden, batch_sharding(mesh)), split_table)
    close(logits, jax.jit(mlm_logits)(head, hidden, table))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_checkpoints_stream_to_their_shards(tmp_path, axis_type):
    model = filled(Encoder, ENCODER)
    save_encoder(tmp_path, ENCODER, model)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(axis_type,) * 2)
    _, loaded = load_encoder(tmp_path, shardings=partial(shardings_for, mesh=mesh))
    jax.tree.map(np.testing.assert_array_equal, model, loaded)
    assert loaded.layers.ffn_in.kernel.sharding.shard_shape((2, 16, 24)) == (2, 16, 6)
    assert loaded.word_embeddings.sharding.shard_shape((50, 16)) == (50, 4)


def test_most_of_a_full_size_model_is_split():
    mesh = make_mesh(2, 4)
    config = EncoderConfig("xlm-roberta", 250002, 768, 12, 12, 3072, 514, 1, 1, 1e-5)
    for module, shapes in (
        (Encoder, config),
        (Hypernet, HypernetConfig(768, 768, 1536, 3, 12, 250002, 161, n_langs=26, rescale=True)),
    ):
        tree = jax.eval_shape(partial(module, shapes), jax.random.key(0))
        leaves, places = jax.tree.leaves(tree), jax.tree.leaves(shardings_for(tree, mesh))
        held = sum(np.prod(s.shard_shape(x.shape)) for x, s in zip(leaves, places, strict=True))
        whole = sum(np.prod(x.shape) for x in leaves)
        assert held < 0.35 * whole


def test_what_the_mesh_does_not_divide_is_listed_before_anything_runs():
    tree = jax.eval_shape(partial(Encoder, EncoderConfig("bert", 50, 18, 2, 3, 25, 12)), jax.random.key(0))
    with pytest.raises(ConfigError) as error:
        shardings_for(tree, make_mesh(2, 4))
    assert "axis 1 of word_embeddings has 18 entries" in str(error.value)
    assert "axis 2 of layers.query.kernel has 3 entries" in str(error.value)


def test_a_mesh_larger_than_the_machine_is_told():
    with pytest.raises(ConfigError, match="4 × 4 devices does not fit: there are 8"):
        make_mesh(4, 4)


def test_a_parameter_without_a_rule_is_told():
    with pytest.raises(ConfigError, match="No sharding rule covers the parameter mystery"):
        shardings_for({"mystery": jnp.zeros(3)}, make_mesh(8, 1))
