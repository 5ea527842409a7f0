"""What a run begins with: a network whose scalers fit the model's tables, and models and networks that fit."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyntok_jax.convert import save_hypernet
from dyntok_jax.embedding import average_embeddings, init_hypernet, predict_embeddings, with_table_scalers
from dyntok_jax.errors import ConfigError
from dyntok_jax.models import INIT_STD
from dyntok_jax.training import setup
from tests.support.tiny_training import D, V, hypernet_config, random_hypernet, tiny_frozen

KINDS = ("encoder", "decoder")


def fresh(kind: str, **changes):
    """A network as it is drawn, and the tables of the model that it is for."""
    frozen = tiny_frozen(kind)
    return with_table_scalers(
        init_hypernet(hypernet_config(kind, **changes), jax.random.key(0)), frozen.source_VM
    ), frozen


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_source_rows_come_in_as_fresh_embeddings_are(kind):
    hypernet, frozen = fresh(kind)
    scale_M, bias_M = np.asarray(hypernet.in_scaler.scale[...]), np.asarray(hypernet.in_scaler.bias[...])
    rows_VM = np.asarray(frozen.source_VM) * scale_M + bias_M
    np.testing.assert_allclose(rows_VM.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(rows_VM.std(axis=0), INIT_STD, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_plain_predictions_go_out_with_the_level_and_spread_of_the_tables(kind):
    hypernet, frozen = fresh(kind)
    ids_V1 = jnp.arange(V)[:, None]
    predicted = predict_embeddings(hypernet, ids_V1, jnp.ones((V, 1), bool), frozen.source_VM)
    tables = [frozen.source_VM[:, :D], frozen.source_VM[:, D:]]
    for rows_VD, table_VD in zip((predicted.input_UD, predicted.output_UD), tables, strict=True):
        if rows_VD is not None:
            np.testing.assert_allclose(rows_VD.mean(axis=0), table_VD.mean(axis=0), atol=1e-4)
            np.testing.assert_allclose(rows_VD.std(axis=0), table_VD.std(axis=0), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_residual_predictions_begin_at_the_mean_of_the_subwords(kind):
    hypernet, frozen = fresh(kind, residual=True)
    ids_U2, is_subword_U2 = jnp.array([[3, 7], [5, 0]]), jnp.array([[True, True], [True, False]])
    predicted = predict_embeddings(hypernet, ids_U2, is_subword_U2, frozen.source_VM)
    wanted_UM = average_embeddings(ids_U2, is_subword_U2, frozen.source_VM)
    np.testing.assert_allclose(predicted.input_UD, wanted_UM[:, :D], atol=1e-6)
    if predicted.output_UD is not None:
        np.testing.assert_allclose(predicted.output_UD, wanted_UM[:, D:], atol=1e-6)


def test_a_network_without_scalers_is_left_as_it_is():
    hypernet = random_hypernet(rescale=False)
    assert with_table_scalers(hypernet, tiny_frozen().source_VM) is hypernet


def test_a_given_hypernetwork_must_fit_the_model_and_its_head(tmp_path, tokenizer):
    frozen = tiny_frozen()
    n_own, n_appended = tokenizer.n_own, tokenizer.vocab_size - tokenizer.n_own

    def saved(name: str, **changes) -> str:
        config = hypernet_config(**{"vocab_size": n_own, "n_extra_tokens": n_appended} | changes)
        save_hypernet(tmp_path / name, config, init_hypernet(config, jax.random.key(0)))
        return str(tmp_path / name)

    assert setup.given_hypernet(saved("right"), frozen, tokenizer).config.predict_bias
    with pytest.raises(ConfigError):
        setup.given_hypernet(saved("wide", width=2 * D), frozen, tokenizer)


def test_a_hypernetwork_without_bias_is_refused_where_a_head_has_one(tmp_path, tokenizer):
    frozen = tiny_frozen()
    n_own, n_appended = tokenizer.n_own, tokenizer.vocab_size - tokenizer.n_own
    config = replace(hypernet_config(vocab_size=n_own, n_extra_tokens=n_appended), predict_bias=False)
    save_hypernet(tmp_path, config, init_hypernet(config, jax.random.key(0)))
    with pytest.raises(ConfigError, match="predicts no unigram bias"):
        setup.given_hypernet(str(tmp_path), frozen, tokenizer)


def test_texts_longer_than_the_model_are_refused():
    setup.check_max_length(24, tiny_frozen())
    with pytest.raises(ConfigError, match="max_length is 25, but the model has positions for 24"):
        setup.check_max_length(25, tiny_frozen())
    with pytest.raises(ConfigError, match="positions for 64"):
        setup.check_max_length(65, tiny_frozen("decoder"))
