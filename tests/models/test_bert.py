"""The encoder behaves under every transform; that it equals PyTorch is held in `tests/parity`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyntok_jax.errors import ConfigError, TooLongError
from dyntok_jax.models import (
    Encoder,
    EncoderConfig,
    MaskedLmHead,
    embed_ids,
    encode,
    encode_ids,
    l2_normalize,
    mean_pool,
    mlm_logits,
)

TINY = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
}


# Eager JAX compiles every operation alone, which takes the tests longer than the models: jit once.
run_ids = jax.jit(encode_ids)


def small_config(**changes):
    fields = {"model_type": "bert", "vocab_size": 50, "width": 24, "n_layers": 2, "n_heads": 3, "ffn_width": 40}
    return EncoderConfig(**fields | {"max_positions": 20} | changes)


def fresh(config, dtype=jnp.float32):
    # Compiling JAX's random numbers for every shape takes longer than all else here: draw with NumPy.
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(partial(Encoder, config, dtype=dtype), jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(0.1 * rng.normal(size=x.shape), dtype) + 0.05, shapes)


def batch(pad=0, seed=0, types=2):
    rng = np.random.default_rng(seed)
    mask = np.arange(11)[None] < np.array([11, 7, 1])[:, None]
    ids = np.where(mask, rng.integers(4, 50, mask.shape), pad).astype(np.int32)
    types = (rng.integers(0, types, mask.shape) * mask).astype(np.int32)
    return jnp.asarray(ids), jnp.asarray(mask), jnp.asarray(types)


def assert_close(ours, theirs, tolerance=1e-5):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


def test_mean_pooled_embeddings_have_length_one():
    ids, mask, types = batch()
    hidden = run_ids(fresh(small_config()), ids, mask, types)
    pooled = mean_pool(hidden, mask)
    np.testing.assert_allclose(pooled[1], np.asarray(hidden)[1, :7].mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(l2_normalize(pooled), axis=-1), 1, rtol=1e-6)
    assert np.all(np.asarray(l2_normalize(mean_pool(hidden, jnp.zeros_like(mask)))) == 0)


def test_pooling_is_as_exact_in_bfloat16_as_in_float32():
    hidden = jnp.asarray(np.random.default_rng(0).normal(1, 0.1, size=(2, 301, 8)), jnp.bfloat16)
    mask = jnp.asarray(np.arange(301)[None] < np.array([301, 259])[:, None])
    pooled = mean_pool(hidden, mask)
    exact = np.stack([np.asarray(hidden, np.float64)[row, :length].mean(0) for row, length in enumerate((301, 259))])
    np.testing.assert_allclose(pooled, exact, rtol=1e-6)
    assert (pooled.dtype, l2_normalize(pooled.astype(jnp.bfloat16)).dtype) == (jnp.float32, jnp.float32)
    np.testing.assert_allclose(jnp.linalg.norm(l2_normalize(hidden[0]), axis=-1), 1, rtol=1e-6)


def test_padding_changes_nothing_and_is_finite():
    model = fresh(small_config())
    ids, mask, types = batch()
    mask = mask.at[2].set(False)
    hidden = np.asarray(run_ids(model, ids, mask, types))
    assert np.isfinite(hidden).all()
    alone = np.asarray(run_ids(model, ids[1:2, :7], mask[1:2, :7], types[1:2, :7]))
    assert_close(hidden[1:2, :7], alone, 1e-6)


def test_a_model_of_one_token_type_ignores_types():
    model = fresh(small_config(model_type="xlm-roberta", n_token_types=1, pad_token_id=1))
    ids, mask, types = batch(1)
    np.testing.assert_array_equal(run_ids(model, ids, mask, types), run_ids(model, ids, mask, 0 * types))


def test_ids_past_the_table_are_zero_rows():
    model = fresh(small_config())
    rows = np.asarray(embed_ids(model, jnp.array([[3, 50, 70]])))
    assert rows[0, 0].any()
    assert not rows[0, 1:].any()


def test_jit_equals_eager_and_vmap_equals_batch():
    model = fresh(small_config())
    ids, mask, types = batch()
    eager = encode_ids(model, ids, mask, types)
    assert_close(run_ids(model, ids, mask, types), eager, 1e-6)
    one = jax.jit(jax.vmap(lambda i, m, t: encode_ids(model, i[None], m[None], t[None])[0]))(ids, mask, types)
    assert_close(one, eager, 1e-6)


def test_gradients_equal_finite_differences():
    model = fresh(small_config())
    ids, mask, types = batch()
    mask = mask.at[2].set(False)
    weight = jax.random.normal(jax.random.key(5), (3, 11, 24))

    @jax.jit
    def loss(model):
        return jnp.sum(jnp.where(mask[:, :, None], encode_ids(model, ids, mask, types), 0.0) * weight)

    gradient = jax.jit(jax.grad(loss))(model)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    rng = np.random.default_rng(2)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), model)
    step = 1e-3
    ahead, behind = (
        loss(jax.tree.map(lambda x, d, s=s: np.asarray(x) + np.float32(s) * d, model, direction)) for s in (step, -step)
    )
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: np.vdot(g, d), gradient, direction)))
    np.testing.assert_allclose((ahead - behind) / (2 * step), slope, rtol=2e-2)


def test_parameters_keep_their_dtype_through_the_model():
    model = fresh(small_config(), jnp.bfloat16)
    hidden = run_ids(model, *batch())
    assert hidden.dtype == jnp.bfloat16
    full = run_ids(jax.tree.map(lambda x: x.astype(jnp.float32), model), *batch())
    assert_close(hidden.astype(jnp.float32), full, 0.1)


def test_full_size_xlm_roberta_base_has_its_shapes():
    config = EncoderConfig("xlm-roberta", 250002, 768, 12, 12, 3072, 514, 1, 1, 1e-5)
    model = jax.eval_shape(partial(Encoder, config), jax.random.key(0))
    head = jax.eval_shape(partial(MaskedLmHead, config), jax.random.key(0))
    ids = jax.ShapeDtypeStruct((8, 512), jnp.int32)
    hidden = jax.eval_shape(encode_ids, model, ids, jax.ShapeDtypeStruct((8, 512), bool), ids)
    assert (hidden.shape, hidden.dtype) == ((8, 512, 768), jnp.float32)
    assert jax.eval_shape(mlm_logits, head, hidden, jax.ShapeDtypeStruct((250002, 768), jnp.float32)).shape == (
        8,
        512,
        250002,
    )
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(model)) == 277_453_056


def test_too_long_a_batch_is_told():
    model = fresh(small_config(model_type="roberta", pad_token_id=1))
    long = jnp.zeros((1, 19), jnp.int32)
    with pytest.raises(TooLongError, match="19 tokens long and the model has positions for 18"):
        encode(model, jnp.zeros((1, 19, 24)), long == 0, long)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "t5"}, "model_type 't5'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"is_decoder": True}, "is_decoder"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"hidden_act": "mish"}, "hidden_act 'mish'"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_attention_heads": 5}, "5 attention heads do not divide"),
        ({"num_hidden_layers": 0}, "n_layers is 0"),
        ({"hidden_act": ["gelu"]}, "hidden_act .* is not supported"),
    ],
)
def test_unsupported_configs_are_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        EncoderConfig.from_hf(TINY | {"model_type": "bert"} | changes)


@pytest.mark.parametrize(
    "name",
    [
        *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
        *("max_position_embeddings", "type_vocab_size", "pad_token_id", "layer_norm_eps"),
    ],
)
@pytest.mark.parametrize("value", ["x", [1], True, float("nan"), float("inf"), 10**400])
def test_what_is_no_number_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"config.json of a bert model lacks a number for: {name}"):
        EncoderConfig.from_hf(TINY | {"model_type": "bert", name: value})
