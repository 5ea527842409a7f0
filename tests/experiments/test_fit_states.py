"""The map of a decoder's states fitted in closed form: it brings predictions nearer to the rows that words have."""

from importlib import import_module
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from dyntok_jax.convert import load_hypernet
from dyntok_jax.errors import InputError
from dyntok_jax.parameters import flat_parameters
from tests.support.tiny import write_tiny_decoder, write_tiny_decoder_hypernet


@pytest.fixture(scope="module")
def fit_states():
    return import_module("experiments.fit_states")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    write_tiny_decoder(folder / "model", ties_embeddings=True)
    write_tiny_decoder_hypernet(folder / "hypernet", folder / "model")
    return folder


def options(fit_states, folder, output, **changes):
    named = {"model": str(folder / "model"), "hypernet": str(folder / "hypernet"), "output": output, "prefix": "<s>"}
    return fit_states.Options(**named | {"layers": (0, 1, 2), "words": 40} | changes)


@pytest.mark.slow
def test_predictions_come_nearer_to_the_words_own_rows(fit_states, folder, tmp_path):
    figures = fit_states.run(options(fit_states, folder, tmp_path / "fitted"), Console(file=StringIO()))
    assert 0 < figures["words"] <= 40
    assert figures["error_after"] < 0.9 * figures["error_before"]
    config, hypernet = load_hypernet(tmp_path / "fitted")
    assert config.read_layers == (0, 1, 2)
    assert np.abs(flat_parameters(hypernet)["state_linear.kernel"]).max() > 0


def test_a_hypernetwork_that_reads_layers_already_is_refused(fit_states, folder, tmp_path):
    fit_states.run(options(fit_states, folder, tmp_path / "once"), Console(file=StringIO()))
    twice = options(fit_states, folder, tmp_path / "twice", hypernet=str(tmp_path / "once"))
    with pytest.raises(InputError, match="reads no layers yet"):
        fit_states.run(twice, Console(file=StringIO()))


def test_ridge_regression_finds_a_linear_map(fit_states):
    random = np.random.default_rng(0)
    states_UM = random.normal(size=(200, 5)).astype(np.float32)
    states_UM -= states_UM.mean(axis=0)
    kernel_MD = random.normal(size=(5, 3)).astype(np.float32)
    found_MD, bias_D = fit_states.fit_ridge(states_UM, states_UM @ kernel_MD + 2, strength=0.0)
    np.testing.assert_allclose(found_MD, kernel_MD, atol=1e-4)
    np.testing.assert_allclose(bias_D, 2, atol=1e-4)
