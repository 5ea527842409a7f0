"""Hypernetworks that read tokens with a decoder's first layers."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyntok_jax import DynamicDecoder, Share
from dyntok_jax.adapters import LoraConfig, fresh_adapter
from dyntok_jax.convert import load_hypernet, save_adapter, save_hypernet
from dyntok_jax.embedding import HypernetConfig, init_hypernet, predict_embeddings, with_table_scalers
from dyntok_jax.embedding.hypernet import read_states
from dyntok_jax.errors import ConfigError
from dyntok_jax.models import Decoder, DecoderConfig, embed_ids, states_after
from dyntok_jax.parameters import flat_parameters
from dyntok_jax.training import NetworkConfig, Objectives, TrainingConfig, prepare_job
from dyntok_jax.training.data import DataConfig
from dyntok_jax.training.objectives import total_loss
from tests.support.tiny import write_tiny_decoder

MODEL = DecoderConfig("llama", 60, 32, 3, 4, 2, 8, 48, ties_embeddings=True)
IDS_US = jnp.array([[5, 6, 7], [8, 9, 0]])
MASK_US = IDS_US > 0


CONFIG = HypernetConfig(
    width=32,
    hidden_width=16,
    ffn_width=24,
    n_layers=1,
    n_heads=2,
    vocab_size=60,
    n_extra_tokens=5,
    predict_bias=False,
    residual=True,
    rescale=True,
    read_layers=(0, 2),
    read_prefix=(1,),
)


def config_of(**changes):
    return replace(CONFIG, **changes)


def random_model():
    return jax.tree.map(lambda x: 10 * x, Decoder(MODEL, jax.random.key(0)))


def filled(config):
    hypernet = init_hypernet(config, jax.random.key(0))
    kernel = kernel_of(hypernet)
    kernel[...] = jax.random.normal(jax.random.key(1), kernel.shape)
    return hypernet


def kernel_of(hypernet):
    assert hypernet.state_linear is not None
    return hypernet.state_linear.kernel


@pytest.mark.slow
def test_what_is_added_is_a_linear_map_of_the_last_subwords_states():
    model, config = random_model(), config_of()
    table_VD = model.word_embeddings[...]
    fresh, trained = init_hypernet(config, jax.random.key(0)), filled(config)
    predict = jax.jit(lambda hypernet: predict_embeddings(hypernet, IDS_US, MASK_US, table_VD, reader=model).input_UD)
    added_UD = predict(trained) - predict(fresh)
    for row, ids in enumerate(([1, 5, 6, 7], [1, 8, 9])):
        embeddings_1TD = embed_ids(model, jnp.array([ids]))
        states = states_after(model, embeddings_1TD, jnp.ones((1, len(ids)), bool), [0, 2])
        expected_D = jnp.concatenate([state[0, -1] for state in states]) @ kernel_of(trained)[...]
        np.testing.assert_allclose(added_UD[row], expected_D, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_fresh_one_is_fvt():
    model, config = random_model(), config_of()
    table_VD = model.word_embeddings[...]
    found_UD = predict_embeddings(init_hypernet(config, jax.random.key(0)), IDS_US, MASK_US, table_VD, reader=model)
    np.testing.assert_allclose(found_UD.input_UD[1], table_VD[jnp.array([8, 9])].mean(axis=0), atol=1e-5)


def test_saving_keeps_config_and_parameters(tmp_path):
    config = config_of()
    hypernet = filled(config)
    save_hypernet(tmp_path / "hypernet", config, hypernet)
    found, again = load_hypernet(tmp_path / "hypernet")
    assert found == config
    for path, values in flat_parameters(hypernet).items():
        np.testing.assert_array_equal(flat_parameters(again)[path], values)


@pytest.mark.slow
def test_a_fresh_network_sees_states_of_mean_0_and_spread_1():
    model, config = random_model(), config_of()
    fresh = init_hypernet(config, jax.random.key(0))
    hypernet = with_table_scalers(fresh, model.word_embeddings[...], model)
    ids_V1 = jnp.arange(60)[:, None]
    states_VM = read_states(hypernet, ids_V1, jnp.ones((60, 1), bool), model)
    scaler = flat_parameters(hypernet.state_scaler)
    seen_VM = states_VM * scaler["scale"][None] + scaler["bias"][None]
    np.testing.assert_allclose(seen_VM.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(seen_VM.std(axis=0), 1, rtol=1e-2)


@pytest.mark.slow
def test_training_reaches_the_map_of_states_and_not_the_decoder(tmp_path):
    write_tiny_decoder(tmp_path / "model", ties_embeddings=True)
    data = DataConfig(max_length=48, pieces_per_batch=16, held_out=0)
    network = NetworkConfig(layers=1, hidden=32, ffn=64, heads=4, read_layers=(0, 1))
    weights = Objectives(pieces=1.0)
    job = prepare_job(TrainingConfig(str(tmp_path / "model"), data, weights, network))
    assert len(job.parameters.config.read_prefix) == 1
    batch = jax.tree.map(jnp.asarray, next(job.batches))

    def loss(hypernet):
        return total_loss(hypernet, job.frozen, batch, weights)[0]

    gradient = jax.grad(loss)
    norms = jax.tree.map(lambda leaf: float(jnp.abs(leaf).max()), gradient(job.parameters))
    assert flat_parameters(norms)["state_linear.kernel"] > 0


def test_without_its_decoder_it_says_so():
    hypernet, table_VD = init_hypernet(config_of(), jax.random.key(0)), random_model().word_embeddings[...]
    with pytest.raises(ConfigError, match="first 2 layers of its decoder, and none was given"):
        predict_embeddings(hypernet, IDS_US, MASK_US, table_VD)
    deep = init_hypernet(config_of(read_layers=(4,)), jax.random.key(0))
    with pytest.raises(ConfigError, match="this one has 3"):
        predict_embeddings(deep, IDS_US, MASK_US, table_VD, reader=random_model())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"read_layers": (2, 0)}, "must ascend"),
        ({"read_layers": (2, 2)}, "must ascend"),
        ({"separate_output": True}, "tables are tied"),
    ],
)
def test_layers_that_cannot_be_read_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        config_of(**changes)
    with pytest.raises(ConfigError, match="hn_read_layers of the hypernetwork must be a list of whole numbers"):
        HypernetConfig.from_hf(config_of().to_hf() | {"hn_read_layers": [-1]})


@pytest.mark.slow
def test_a_decoder_predicts_the_rows_of_its_prompts_with_it(tmp_path):
    model_config = write_tiny_decoder(tmp_path / "model", ties_embeddings=True)
    plain = DynamicDecoder.load(tmp_path / "model", None)
    n_own, n_all = plain.tokenizer.n_own, plain.tokenizer.vocab_size
    config = config_of(width=model_config.width, vocab_size=n_own, n_extra_tokens=max(n_all - n_own, 1))
    save_hypernet(tmp_path / "hypernet", config, filled(config))
    decoder = DynamicDecoder.load(tmp_path / "model", tmp_path / "hypernet")
    read = partial(decoder.generate, ["Freedom and dignity for all"], max_tokens=3)
    (merged,) = read(goal=Share(100))
    assert merged.n_tokens < merged.n_static
    cache = decoder.embedder.cache
    assert cache is not None
    assert len(cache) > 0
    # an adapter changes what the decoder makes of tokens, and not the rows that it was trained with
    adapter = fresh_adapter(jax.random.key(0), LoraConfig(rank=2), decoder.decoder)
    save_adapter(tmp_path / "adapter", jax.tree.map(lambda leaf: leaf + 0.1, adapter), model_config)
    adapted = DynamicDecoder.load(tmp_path / "model", tmp_path / "hypernet", adapter=tmp_path / "adapter")
    tokens = decoder.read(["Freedom and dignity for all"], goal=Share(100)).tokens
    rows, same = (one.embedder.new_rows(tokens, np.zeros(1, np.int32))[1] for one in (decoder, adapted))
    np.testing.assert_array_equal(rows, same)
    assert len(rows)
