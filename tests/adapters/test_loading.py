"""Encoders and decoders are loaded with an adapter in their weights, by the library and by the command line."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from dyntok_jax import DynamicDecoder, DynamicEncoder
from dyntok_jax.adapters import LoraConfig, fold_adapters, fresh_adapter
from dyntok_jax.cli import main
from dyntok_jax.convert import load_decoder, load_encoder, save_adapter, save_decoder, save_encoder
from dyntok_jax.errors import CheckpointError
from dyntok_jax.sharding import make_mesh
from tests.support.tiny import write_tiny_decoder, write_tiny_encoder

TEXTS = ["All human beings are born free", "dignity and rights"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of each kind a model, an adapter for it, and the same model with the adapter in the weights it was saved with."""
    root = tmp_path_factory.mktemp("models")
    for kind, write, load, save in (
        ("encoder", write_tiny_encoder, load_encoder, save_encoder),
        ("decoder", write_tiny_decoder, load_decoder, save_decoder),
    ):
        write(root / kind)
        write(root / f"{kind}-folded")
        config, model = load(root / kind)
        adapter = fresh_adapter(jax.random.key(0), LoraConfig(rank=4), model)
        adapter = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape, x.dtype), adapter)
        save_adapter(root / f"{kind}-adapter", adapter, config)
        save(root / f"{kind}-folded", config, fold_adapters(model, [adapter]))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [None, (2, 4)])
def test_an_encoder_with_an_adapter_is_the_model_it_was_folded_into(folders, mesh):
    mesh = None if mesh is None else make_mesh(*mesh)
    adapted = DynamicEncoder.load(folders / "encoder", None, adapter=folders / "encoder-adapter", mesh=mesh)
    folded, plain = (DynamicEncoder.load(folders / name, None) for name in ("encoder-folded", "encoder"))
    found, expected, without = (one.encode(TEXTS).embeddings_ND for one in (adapted, folded, plain))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - without).max() > 1e-2


def test_a_decoder_with_an_adapter_is_the_model_it_was_folded_into(folders):
    adapted = DynamicDecoder.load(folders / "decoder", None, adapter=folders / "decoder-adapter")
    folded, plain = (DynamicDecoder.load(folders / name, None) for name in ("decoder-folded", "decoder"))
    found, expected, without = (
        one.score(["All human beings"], [" are born free"])[0].total for one in (adapted, folded, plain)
    )
    assert found == pytest.approx(expected, abs=1e-4)
    assert abs(found - without) > 1e-2


def test_an_adapter_of_another_model_is_refused(folders):
    with pytest.raises(CheckpointError, match=r"^The adapter of .*decoder-adapter is of another model:"):
        DynamicEncoder.load(folders / "encoder", None, adapter=folders / "decoder-adapter")
    with pytest.raises(CheckpointError, match=r"encoder has no adapter_config.json"):
        DynamicEncoder.load(folders / "encoder", None, adapter=folders / "encoder")


@pytest.mark.slow
def test_the_command_line_takes_an_adapter(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    options = ["texts.txt", "--hypernet", "none", "--no-static"]
    adapter = ["--adapter", str(folders / "encoder-adapter")]
    assert main(["encode", "--model", str(folders / "encoder"), *adapter, "--output", "one", *options]) == 0
    assert main(["encode", "--model", str(folders / "encoder-folded"), "--output", "two", *options]) == 0
    one, two = (load_file(tmp_path / name / "embeddings.safetensors") for name in ("one", "two"))
    for name, values in one.items():
        np.testing.assert_allclose(values, two[name], atol=1e-5)
    capsys.readouterr()

    printed = []
    for model, extra in (("decoder", ["--adapter", str(folders / "decoder-adapter")]), ("decoder-folded", [])):
        options = ["--model", str(folders / model), *extra, "--max-tokens", "4"]
        assert main(["generate", "All human beings", *options]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
