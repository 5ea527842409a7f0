"""The hypernetwork equals ZeTT's reference on the golden checkpoints, and starts at FVT where it should."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from dyntok_jax.convert import (
    load_hypernet,
    save_hypernet,
)
from dyntok_jax.convert.hypernet_checkpoint import (
    hypernet_table,
)
from dyntok_jax.embedding import (
    Hypernet,
    HypernetConfig,
    average_embeddings,
    check_hypernet_fits,
    init_hypernet,
    predict_embeddings,
)
from dyntok_jax.errors import ConfigError
from dyntok_jax.parameters import flat_parameters

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ("hypernet_xlmr", "hypernet_mistral", "hypernet_single_head")


# Eager JAX compiles every operation alone, which takes the tests longer than the model: jit once.
predict = jax.jit(predict_embeddings)


def filled(config):
    # Compiling JAX's random numbers for every shape takes longer than all else here: draw with NumPy.
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(partial(Hypernet, config), jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(0.2 * rng.normal(size=x.shape), x.dtype) + 0.05, shapes)


def small_config(**changes):
    fields = {"width": 12, "hidden_width": 16, "ffn_width": 24, "n_layers": 2, "n_heads": 2, "vocab_size": 30}
    return HypernetConfig(**fields | {"n_extra_tokens": 5, "max_positions": 9} | changes)


def small_call(config, seed=0):
    rng = np.random.default_rng(seed)
    surface = rng.integers(0, 35, (6, 4)).astype(np.int32)
    mask = np.arange(4)[None] < np.array([4, 1, 2, 3, 4, 0])[:, None]
    source = rng.normal(size=(30, config.source_width)).astype(np.float32)
    return jnp.asarray(surface * mask), jnp.asarray(mask), jnp.asarray(source)


def assert_close(ours, theirs, tolerance=1e-5):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_reference_implementation(name):
    config, hypernet = load_hypernet(GOLDEN / name)
    io = load_file(GOLDEN / name / "io.safetensors")
    language = json.loads((GOLDEN / name / "call.json").read_text())["lang_index"]
    surface = io["target_surface_forms"].astype(np.int32)
    mask = surface != config.pad_token_id
    out = jax.jit(predict_embeddings)(
        hypernet,
        surface * mask,
        mask,
        io["source_embeddings"],
        None if language is None else jnp.int32(language),
    )
    assert_close(out.input_UD, io["predicted_in"])
    if config.separate_output:
        assert_close(out.output_UD, io["predicted_out"])
    else:
        assert out.output_UD is None
    if config.predict_bias:
        assert_close(out.bias_U, io["predicted_bias"])
    else:
        assert out.bias_U is None


@pytest.mark.slow
def test_language_may_differ_from_token_to_token():
    config = small_config(n_langs=3)
    hypernet = filled(config)
    call = small_call(config)
    mixed = predict(hypernet, *call, jnp.array([0, 1, 2, 0, 1, 2], jnp.int32)).input_UD
    for language in range(3):
        alone = predict(hypernet, *call, language).input_UD
        assert_close(mixed[language::3], alone[language::3], 1e-6)
    assert np.abs(np.asarray(mixed - alone)).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("single_head", [False, True])
def test_a_fresh_residual_hypernetwork_is_fvt(separate, single_head):
    config = small_config(residual=True, rescale=True, separate_output=separate, single_head=single_head and separate)
    surface, mask, source = small_call(config)
    out = predict(init_hypernet(config, jax.random.key(0)), surface, mask, source)
    fvt = np.asarray(average_embeddings(surface, mask, source))
    np.testing.assert_array_equal(out.input_UD, fvt[:, :12])
    if separate:
        np.testing.assert_array_equal(out.output_UD, fvt[:, 12:])


def test_what_stands_under_a_false_mask_does_not_matter():
    config = small_config()
    hypernet = filled(config)
    surface, mask, source = small_call(config)
    out = predict(hypernet, surface, mask, source).input_UD
    np.testing.assert_array_equal(out, predict(hypernet, jnp.where(mask, surface, 33), mask, source).input_UD)
    assert np.isfinite(out).all()
    padded = predict(hypernet, jnp.pad(surface, ((0, 0), (0, 3))), jnp.pad(mask, ((0, 0), (0, 3))), source)
    assert_close(padded.input_UD[:5], out[:5], 1e-6)


@pytest.mark.slow
def test_jit_equals_eager_and_vmap_equals_batch():
    config = small_config(n_langs=3, rescale=True)
    hypernet = filled(config)
    surface, mask, source = small_call(config)
    eager = predict_embeddings(hypernet, surface, mask, source, 1)
    jitted = predict(hypernet, surface, mask, source, jnp.int32(1))
    assert_close(jitted.input_UD, eager.input_UD, 1e-6)
    one = jax.jit(jax.vmap(lambda s, m: predict_embeddings(hypernet, s[None], m[None], source, 1).input_UD[0]))(
        surface, mask
    )
    assert_close(one, eager.input_UD, 1e-6)


@pytest.mark.slow
def test_gradients_equal_finite_differences():
    config = small_config(n_langs=3, rescale=True, separate_output=True, residual=True)
    hypernet = filled(config)
    surface, mask, source = small_call(config)
    weights = jax.random.normal(jax.random.key(5), (6, 12))

    @jax.jit
    def loss(hypernet):
        out = predict_embeddings(hypernet, surface, mask, source, 1)
        return jnp.sum(out.input_UD * weights) + jnp.sum(jnp.sin(out.output_UD)) + jnp.sum(out.bias_U)

    gradient = jax.jit(jax.grad(loss))(hypernet)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    rng = np.random.default_rng(2)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), hypernet)
    step = 1e-3
    ahead, behind = (
        loss(jax.tree.map(lambda x, d, s=s: np.asarray(x) + np.float32(s) * d, hypernet, direction))
        for s in (step, -step)
    )
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: np.vdot(g, d), gradient, direction)))
    np.testing.assert_allclose((ahead - behind) / (2 * step), slope, rtol=2e-2)


def test_full_size_zett_hypernetwork_for_xlmr_has_its_shapes():
    config = HypernetConfig(768, 768, 1536, 3, 12, 250002, 161, n_langs=26, rescale=True)
    hypernet = jax.eval_shape(partial(Hypernet, config), jax.random.key(0))
    surface = jax.ShapeDtypeStruct((4096, 7), jnp.int32)
    out = jax.eval_shape(
        predict_embeddings,
        hypernet,
        surface,
        jax.ShapeDtypeStruct((4096, 7), bool),
        jax.ShapeDtypeStruct((250002, 768), jnp.float32),
        jax.ShapeDtypeStruct((), jnp.int32),
    )
    assert (out.input_UD.shape, out.output_UD, out.bias_U.shape) == ((4096, 768), None, (4096,))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_name_in_the_checkpoint(name):
    config = HypernetConfig.from_hf(json.loads((GOLDEN / name / "config.json").read_text()))
    hypernet = jax.eval_shape(partial(Hypernet, config), jax.random.key(0))
    assert {path for path, _ in hypernet_table(config).values()} == set(flat_parameters(hypernet))


@pytest.mark.parametrize("name", NAMES)
def test_config_survives_the_way_to_zett_and_back(name):
    config = HypernetConfig.from_hf(json.loads((GOLDEN / name / "config.json").read_text()))
    assert HypernetConfig.from_hf(config.to_hf()) == config
    ours = small_config(n_langs=3, residual=True, separate_output=True, single_head=True, norm_eps=1e-6)
    assert HypernetConfig.from_hf(ours.to_hf()) == ours


def test_languages_survive_saving(tmp_path):
    config = small_config(n_langs=2, langs=("sw", "qu"))
    save_hypernet(tmp_path, config, filled(config))
    loaded, hypernet = load_hypernet(tmp_path)
    assert loaded == hypernet.config == config
    assert hash(loaded) == hash(config)
    save_hypernet(tmp_path / "unnamed", small_config(n_langs=2), hypernet)
    assert load_hypernet(tmp_path / "unnamed")[0].langs is None


def test_absent_fields_have_zett_defaults():
    released = json.loads((GOLDEN / "hypernet_xlmr" / "config.json").read_text())
    for name in ("hn_predict_bias", "hn_rescale_embeddings", "hn_num_attention_heads"):
        del released[name]
    config = HypernetConfig.from_hf(released | {"hn_hidden_size": 192})
    assert (config.predict_bias, config.rescale, config.n_heads) == (True, False, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hn_concat_last_hidden_state": True}, "hn_concat_last_hidden_state"),
        ({"hn_embed_target_priors": True}, "hn_embed_target_priors"),
        ({"hn_add_inter_token_attention": True}, "hn_add_inter_token_attention"),
        ({"hn_model_type": "t5"}, "'t5'"),
        ({"hn_model_name_or_path": "roberta-large"}, "'roberta-large'"),
        ({"hn_embed_using_source_embeddings": False}, "hn_embed_using_source_embeddings"),
        ({"n_langs": None}, "n_langs"),
        ({"n_embd": None}, "n_embd"),
        ({"hn_num_attention_heads": 3}, "3 heads do not divide"),
        ({"hn_single_head": True}, "hn_single_head"),
        ({"langs": 5}, "langs .* must be a list of language codes, got 5"),
        ({"langs": "en"}, "must be a list"),
        ({"langs": [["en"]] * 26}, "must be a list"),
        ({"langs": ["en", "de"]}, "26 languages and its config names 2"),
        ({"hn_model_name_or_path": 5}, "from 5 is not supported"),
        ({"n_langs": -1}, "n_langs of the hypernetwork is -1"),
        ({"hn_type_vocab_size": 0}, "n_token_types of the hypernetwork is 0"),
    ],
)
def test_unsupported_configs_are_refused_by_name(changes, message):
    released = json.loads((GOLDEN / "hypernet_xlmr" / "config.json").read_text())
    with pytest.raises(ConfigError, match=message):
        HypernetConfig.from_hf(released | changes)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "n_embd",
            "hn_hidden_size",
            "hn_intermediate_size",
            "hn_n_layers",
            "hn_n_extra_tokens",
            "original_vocab_size",
        ),
        *("pad_token_id", "hn_surface_maxlen", "n_langs", "hn_num_attention_heads", "hn_max_position_embeddings"),
        *("hn_type_vocab_size", "hn_layer_norm_eps"),
    ],
)
@pytest.mark.parametrize("value", ["x", [1], True, float("nan"), float("inf"), 10**400])
def test_what_is_no_number_is_refused_by_name(name, value):
    released = json.loads((GOLDEN / "hypernet_xlmr" / "config.json").read_text())
    with pytest.raises(ConfigError, match=f"config.json of the hypernetwork lacks a number for: {name}"):
        HypernetConfig.from_hf(released | {name: value})


def test_a_hypernetwork_of_another_model_is_refused():
    config = small_config()
    check_hypernet_fits(config, width=12, vocab_size=30)
    with pytest.raises(ConfigError, match="width 12 and the model's width is 13"):
        check_hypernet_fits(config, width=13, vocab_size=30)
    with pytest.raises(ConfigError, match="30 subwords and the model has 31"):
        check_hypernet_fits(config, width=12, vocab_size=31)
    check_hypernet_fits(config, width=12, vocab_size=30, n_appended=5)
    with pytest.raises(ConfigError, match=r"rows for 5 bytes .* the tokenizer needs 6"):
        check_hypernet_fits(config, width=12, vocab_size=30, n_appended=6)


def test_a_hypernetwork_with_an_output_table_is_refused_where_the_model_has_none():
    config = small_config(separate_output=True)
    check_hypernet_fits(config, width=12, vocab_size=30, separate_output=True)
    with pytest.raises(ConfigError, match="use a hypernetwork with separate_out_embeddings = false"):
        check_hypernet_fits(config, width=12, vocab_size=30)


def test_wrong_calls_are_told():
    config = small_config()
    hypernet = filled(config)
    surface, mask, source = small_call(config)
    with pytest.raises(ConfigError, match="has no languages"):
        predict_embeddings(hypernet, surface, mask, source, 0)
    with pytest.raises(ConfigError, match="width 12, not 11"):
        predict_embeddings(hypernet, surface, mask, source[:, :11])
    multilingual = filled(small_config(n_langs=2))
    with pytest.raises(ConfigError, match="give the language"):
        predict_embeddings(multilingual, surface, mask, source)
