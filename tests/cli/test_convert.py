"""`dyntok convert` there and back changes no bit."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from dyntok_jax.cli import main
from dyntok_jax.convert import load_encoder, read_config
from dyntok_jax.files import load_checkpoint, read_shapes
from tests.support.gguf_files import bpe_fields, llama_fields, tiny_llama, tiny_tensors, write_gguf_file
from tests.support.tiny import write_tiny_encoder

GOLDEN = Path(__file__).parents[1] / "golden"


def convert(*arguments, status=0):
    assert main(["convert", *map(str, arguments)]) == status


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_encoder(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"license": "é", "hidden_dropout_prob": 0.25}))
    (folder / "vocab.txt").write_text("a")
    (folder / "manifest.json").write_text("{}")
    return folder


def assert_same_tensors(one, other):
    one, other = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert tensor.tobytes() == other[name].tobytes(), name


def test_an_encoder_comes_back_bit_by_bit_with_its_tokenizer(tiny, tmp_path, capsys):
    convert(tiny, tmp_path / "orbax")
    convert(tmp_path / "orbax", tmp_path / "back")
    assert_same_tensors(tiny, tmp_path / "back")
    assert read_config(tmp_path / "back") == read_config(tiny)
    assert {path.name for path in (tmp_path / "back").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    }
    assert (tmp_path / "back" / "tokenizer.json").read_bytes() == (tiny / "tokenizer.json").read_bytes()
    assert "(orbax format)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hypernet_xlmr", "hypernet_mistral", "hypernet_single_head"])
def test_a_hypernetwork_comes_back_bit_by_bit(name, tmp_path):
    convert(GOLDEN / name, tmp_path / "orbax")
    convert(tmp_path / "orbax", tmp_path / "back")
    assert_same_tensors(GOLDEN / name, tmp_path / "back")
    assert read_config(GOLDEN / name).items() <= read_config(tmp_path / "back").items()


def test_a_gguf_file_becomes_a_folder_and_then_orbax(tmp_path, capsys):
    fields = bpe_fields() | llama_fields()
    source = write_gguf_file(tmp_path / "tiny.gguf", tiny_tensors(tiny_llama()), fields)
    convert(source, tmp_path / "hf", "--dtype", "bfloat16")
    assert "(Hugging Face format)" in capsys.readouterr().out
    assert read_config(tmp_path / "hf")["dtype"] == "bfloat16"
    convert(tmp_path / "hf", tmp_path / "orbax")
    convert(tmp_path / "orbax", tmp_path / "back")
    assert_same_tensors(tmp_path / "hf", tmp_path / "back")
    assert (tmp_path / "back" / "tokenizer.json").read_bytes() == (tmp_path / "hf" / "tokenizer.json").read_bytes()
    before = sorted(path.name for path in tmp_path.iterdir())
    write_gguf_file(source, tiny_tensors(tiny_llama()), fields, architecture="gemma")
    convert(source, tmp_path / "other", status=2)
    assert (err := capsys.readouterr().err).count("\n") == 1
    assert "architecture 'gemma'" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_tensors_that_are_left_out_are_named(tiny, tmp_path, capsys):
    from safetensors.numpy import save_file

    shutil.copytree(tiny, tmp_path / "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors") | {"pooler.dense.bias": np.ones(3, np.float32)}
    save_file(tensors, tmp_path / "hf" / "model.safetensors")
    convert(tmp_path / "hf", tmp_path / "orbax")
    assert "Left out" in (said := capsys.readouterr().out)
    assert "pooler.dense.bias" in said


@pytest.mark.slow
def test_bfloat16_halves_and_is_kept_until_asked(tiny, tmp_path):
    convert(tiny, tmp_path / "orbax", "--dtype", "bfloat16")
    assert {leaf.dtype for leaf in read_shapes(tmp_path / "orbax").values()} == {np.dtype(jnp.bfloat16)}
    assert read_config(tmp_path / "orbax")["dtype"] == "bfloat16"
    convert(tmp_path / "orbax", tmp_path / "kept")
    convert(tmp_path / "orbax", tmp_path / "wide", "--dtype", "float32")
    kept, wide = (load_file(tmp_path / name / "model.safetensors") for name in ("kept", "wide"))
    for name, tensor in load_file(tiny / "model.safetensors").items():
        np.testing.assert_array_equal(kept[name], tensor.astype(jnp.bfloat16))
        np.testing.assert_array_equal(wide[name], tensor.astype(jnp.bfloat16).astype(np.float32))
    assert read_config(tmp_path / "wide")["dtype"] == "float32"


def test_the_library_reads_what_was_converted(tiny, tmp_path):
    convert(tiny, tmp_path / "orbax")
    _, encoder = load_encoder(tiny)
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), encoder)
    jax.tree.map(np.testing.assert_array_equal, load_checkpoint(tmp_path / "orbax", abstract), encoder)


def test_the_target_is_replaced_only_when_asked(tiny, tmp_path, capsys):
    convert(tiny, tmp_path / "out")
    before = sorted((tmp_path / "out").iterdir())
    convert(tiny, tmp_path / "out", status=2)
    assert "--overwrite" in capsys.readouterr().err
    assert sorted((tmp_path / "out").iterdir()) == before
    convert(GOLDEN / "hypernet_xlmr", tmp_path / "out", "--overwrite")
    assert read_config(tmp_path / "out")["model_type"] == "zett_hypernetwork"


def test_what_cannot_be_converted_is_told_and_nothing_is_written(tiny, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    shutil.copytree(tiny, tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"\x08")
    shutil.copytree(tiny, tmp_path / "other")
    config = json.loads((tiny / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"intermediate_size": 65, "vocab_size": 9}))
    before = sorted(path.name for path in tmp_path.iterdir())
    cases = {
        ("gone/a/b", "out"): "There is no folder",
        ("empty", "out"): "lacks config.json",
        ("damaged", "out"): "truncated or not a safetensors file",
        ("other", "out"): "word_embeddings.weight is [",
        ("damaged", "damaged"): "choose another name",
        ("damaged", "."): "choose another name",
        ("damaged", "other/config.json/x"): "cannot be written",
        ("damaged", "other/config.json"): "is not a folder",
    }
    for (source, target), said in cases.items():
        convert(tmp_path / source, tmp_path / target, status=2)
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before
