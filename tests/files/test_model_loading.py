"""One way to load a model: what it is decides, or what is asked for, and everything lies where the mesh says."""

import numpy as np
import pytest

from dyntok_jax.convert import load_tables
from dyntok_jax.errors import ConfigError, ModelNotFoundError
from dyntok_jax.files import Tables, load_model
from dyntok_jax.models import Decoder, Encoder
from dyntok_jax.sharding import make_mesh
from tests.support.tiny import write_tiny_decoder, write_tiny_encoder, write_tiny_hypernet


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_tiny_encoder(folder / "encoder")
    write_tiny_hypernet(folder / "hypernet")
    write_tiny_decoder(folder / "decoder")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("encoder", Encoder), ("decoder", Decoder)])
def test_a_model_is_loaded_as_what_it_is(folders, name, kind):
    loaded, asked = load_model(folders / name), load_model(folders / name, kind=name)
    assert isinstance(loaded.parameters, kind)
    assert loaded.config == asked.config == loaded.parameters.config
    assert loaded.folder == folders / name
    assert loaded.tokenizer.fingerprint == asked.tokenizer.fingerprint
    assert loaded.hypernet is None
    np.testing.assert_array_equal(loaded.parameters.word_embeddings[...], asked.parameters.word_embeddings[...])


def test_a_model_of_another_kind_is_refused(folders):
    for name, kind in (("encoder", "decoder"), ("encoder", "tables"), ("decoder", "encoder")):
        with pytest.raises(ConfigError, match="is not supported"):
            load_model(folders / name, kind=kind)
    with pytest.raises(ModelNotFoundError):
        load_model(folders / "gone")


def test_tables_come_without_the_layers(folders):
    loaded = load_model(folders / "decoder", kind="tables")
    assert isinstance(loaded.parameters, Tables)
    for table, expected in zip(loaded.parameters, load_tables(folders / "decoder"), strict=True):
        np.testing.assert_array_equal(table, expected)


def test_model_and_hypernetwork_lie_where_the_mesh_says(folders):
    mesh = make_mesh(2, 2)
    loaded = load_model(folders / "encoder", folders / "hypernet", kind="encoder", mesh=mesh)
    config, hypernet = loaded.hypernet
    assert config.vocab_size == loaded.tokenizer.n_own
    for table in (loaded.parameters.word_embeddings, hypernet.input_block.dense1.kernel):
        assert table[...].sharding.spec[1] == "model"
        assert table[...].sharding.mesh == mesh
