"""Every way a checkpoint can be wrong gives one error that says so."""

import json
import os
import shutil
import time
from contextlib import contextmanager

import jax
import numpy as np
import pytest
from ml_dtypes import bfloat16
from safetensors.numpy import load_file, save_file

from dyntok_jax.convert import (
    load_decoder,
    load_encoder,
    load_hypernet,
    load_masked_lm_head,
    open_checkpoint,
    read_config,
)
from dyntok_jax.convert.bert_checkpoint import (
    encoder_table,
    save_encoder,
)
from dyntok_jax.errors import CheckpointError, ConfigError
from dyntok_jax.parameters import flat_parameters
from tests.support.tiny import write_tiny_decoder, write_tiny_encoder, write_tiny_hypernet

CONFIG = {
    "model_type": "xlm-roberta",
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 10,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
}


def random_tensors(dtype=np.float32):
    rng = np.random.default_rng(0)

    def tensor(*shape):
        return rng.normal(size=shape).astype(dtype)

    tensors = {
        "embeddings.word_embeddings.weight": tensor(20, 8),
        "embeddings.position_embeddings.weight": tensor(10, 8),
        "embeddings.token_type_embeddings.weight": tensor(1, 8),
        "embeddings.LayerNorm.weight": tensor(8),
        "embeddings.LayerNorm.bias": tensor(8),
    }
    shapes = {
        **{f"attention.self.{name}": (8, 8) for name in ("query", "key", "value")},
        "attention.output.dense": (8, 8),
        "intermediate.dense": (12, 8),
        "output.dense": (8, 12),
    }
    for i in range(2):
        for name, shape in shapes.items():
            tensors[f"encoder.layer.{i}.{name}.weight"] = tensor(*shape)
            tensors[f"encoder.layer.{i}.{name}.bias"] = tensor(shape[0])
        for name in ("attention.output", "output"):
            tensors[f"encoder.layer.{i}.{name}.LayerNorm.weight"] = tensor(8)
            tensors[f"encoder.layer.{i}.{name}.LayerNorm.bias"] = tensor(8)
    return tensors


def write_folder(folder, tensors, config=CONFIG):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_shards(folder, tensors, names=("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")):
    folder.mkdir()
    weight_map = {name: names[i % 2] for i, name in enumerate(sorted(tensors))}
    for shard in names:
        save_file({n: tensors[n] for n, where in weight_map.items() if where == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.mark.parametrize("dtype", [np.float32, np.float16, bfloat16])
def test_every_dtype_survives_the_round_trip_bit_for_bit(tmp_path, dtype):
    tensors = random_tensors(dtype)
    config, encoder = load_encoder(write_folder(tmp_path / "in", tensors), dtype=dtype)
    save_encoder(tmp_path / "out", config, encoder)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert written[name].dtype == tensor.dtype
        np.testing.assert_array_equal(written[name].view(np.uint8), tensor.view(np.uint8))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]


def test_shards_give_the_same_parameters_as_one_file(tmp_path):
    tensors = random_tensors()
    _, one = load_encoder(write_folder(tmp_path / "one", tensors))
    _, sharded = load_encoder(write_shards(tmp_path / "sharded", tensors))
    jax.tree.map(np.testing.assert_array_equal, one, sharded)


def test_extras_prefixes_and_old_norm_names_are_understood(tmp_path):
    tensors = random_tensors()
    _, plain = load_encoder(write_folder(tmp_path / "plain", tensors))
    renamed = {f"roberta.{name}": tensor for name, tensor in tensors.items()}
    for old, new in (("weight", "gamma"), ("bias", "beta")):
        renamed = {name.replace(f"LayerNorm.{old}", f"LayerNorm.{new}"): t for name, t in renamed.items()}
    extras = ("roberta.embeddings.position_ids", "roberta.pooler.dense.weight", "lm_head.bias", "classifier.out.weight")
    renamed |= {name: np.zeros(3, np.float32) for name in extras}
    _, same = load_encoder(write_folder(tmp_path / "renamed", renamed))
    jax.tree.map(np.testing.assert_array_equal, plain, same)


def test_all_wrong_tensors_are_listed_in_one_error(tmp_path):
    tensors = random_tensors()
    del tensors["embeddings.LayerNorm.bias"]
    tensors["encoder.layer.1.output.dense.weight"] = np.zeros((12, 8), np.float32)
    tensors["encoder.layer.2.output.dense.bias"] = np.zeros(8, np.float32)
    tensors["surprise"] = np.zeros((2, 3), np.float32)
    tensors["roberta.embeddings.LayerNorm.weight"] = np.zeros(8, np.float32)
    tensors["encoder.layer.0.output.dense.bias"] = np.zeros(8, np.int32)
    with pytest.raises(CheckpointError) as error:
        load_encoder(write_folder(tmp_path / "bad", tensors))
    message = str(error.value)
    for line in (
        "missing: embeddings.LayerNorm.bias",
        "misshapen: encoder.layer.1.output.dense.weight is [12, 8], expected [8, 12]",
        "unknown: encoder.layer.2.output.dense.bias (the config has 2 layers)",
        "unknown: surprise [2, 3]",
        "twice: ",
        "unsupported dtype: encoder.layer.0.output.dense.bias is I32",
    ):
        assert line in message
    assert len(message.splitlines()) == 7


def test_a_tensor_in_two_shards_is_listed(tmp_path):
    folder = write_shards(tmp_path / "m", random_tensors())
    second = folder / "model-00002-of-00002.safetensors"
    save_file(load_file(second) | {"embeddings.LayerNorm.bias": np.zeros(8, np.float32)}, second)
    with pytest.raises(CheckpointError, match=r"twice: embeddings\.LayerNorm\.bias \(in several shards\)"):
        load_encoder(folder)


def test_missing_shards_and_tensors_of_the_index_are_named(tmp_path):
    folder = write_shards(tmp_path / "m", random_tensors())
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": weight_map | {"ghost": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(CheckpointError, match="their shards do not hold: ghost"):
        load_encoder(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"missing shards: model-00002-of-00002\.safetensors"):
        load_encoder(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(CheckpointError, match="outside its folder"):
        load_encoder(folder)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="no weight_map"):
        load_encoder(folder)


def test_missing_folder_config_and_weights_are_told(tmp_path):
    for function in (read_config, open_checkpoint):
        with pytest.raises(CheckpointError, match="is not a folder"):
            function(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not readable JSON"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="instead of a JSON object"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(CheckpointError, match="the weights are missing"):
        load_encoder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(CheckpointError, match=r"only as pickle \(pytorch_model\.bin\)"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_git_lfs_pointers_are_named_as_such(tmp_path, name):
    folder = write_folder(tmp_path / "m", random_tensors())
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(CheckpointError, match=r"is a Git LFS pointer.*git lfs pull"):
        load_encoder(folder)


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_truncated_files_are_told(tmp_path, keep):
    folder = write_folder(tmp_path / "m", random_tensors())
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="is truncated or not a safetensors file"):
        load_encoder(folder)


def test_a_damaged_config_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="hidden_size"):
        load_encoder(write_folder(tmp_path / "m", random_tensors(), CONFIG | {"hidden_size": "many"}))


def test_a_missing_or_untied_head_is_told(tmp_path):
    folder = write_folder(tmp_path / "m", random_tensors())
    with pytest.raises(CheckpointError, match="no masked-LM head"):
        load_masked_lm_head(folder)
    write_folder(folder, random_tensors() | {"lm_head.decoder.weight": np.ones((20, 8), np.float32)})
    with pytest.raises(CheckpointError, match="an output table of its own"):
        load_masked_lm_head(folder)


def test_a_failed_write_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch):
    config, encoder = load_encoder(write_folder(tmp_path / "m", random_tensors()))
    save_encoder(tmp_path / "out", config, encoder)
    before = (tmp_path / "out" / "model.safetensors").read_bytes()

    def full_disk(path, _tensors):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("dyntok_jax.convert.safetensors_writer._write_file", full_disk)
    with pytest.raises(CheckpointError, match="no space left"):
        save_encoder(tmp_path / "out", config, encoder)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").write_text("a file in the way")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_encoder(tmp_path / "out", config, encoder)


def test_every_parameter_has_a_name_in_the_checkpoint(tmp_path):
    config, encoder = load_encoder(write_folder(tmp_path / "m", random_tensors()))
    assert {path for path, _ in encoder_table(config).values()} == set(flat_parameters(encoder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json", ""])
def test_what_may_not_be_read_is_told(tmp_path, name):
    folder = tmp_path / "m"
    if name.endswith("index.json"):
        write_shards(folder, random_tensors())
    else:
        write_folder(folder, random_tensors())
    with as_a_stranger_to(folder / name), pytest.raises(CheckpointError, match=r"cannot be read \(Permission denied\)"):
        load_encoder(folder)


@contextmanager
def as_a_stranger_to(path):
    """Runs a block as somebody who may not read `path`; root may read all, so as nobody."""
    path.chmod(0)
    is_root = os.geteuid() == 0
    opened = [(parent, parent.stat().st_mode) for parent in path.parents if parent != parent.parent] if is_root else []
    try:
        for parent, mode in opened:
            parent.chmod(mode | 0o055)
        if is_root:
            os.seteuid(65534)
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for parent, mode in opened:
            parent.chmod(mode)
        path.chmod(0o700)


def test_a_file_cut_after_it_was_opened_is_told(tmp_path):
    checkpoint = open_checkpoint(write_folder(tmp_path / "m", random_tensors()))
    path = tmp_path / "m" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="is truncated at tensor encoder"):
        checkpoint.read("encoder.layer.1.output.dense.weight")


def test_21_more_layers_than_tensors_are_refused_before_any_is_made(tmp_path):
    began = time.monotonic()
    for write, load, name in (
        (write_tiny_encoder, load_encoder, "num_hidden_layers"),
        (write_tiny_decoder, load_decoder, "num_hidden_layers"),
        (write_tiny_hypernet, load_hypernet, "hn_n_layers"),
    ):
        folder = tmp_path / name / write.__name__
        write(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {name: 2**31 - 1}))
        with pytest.raises(CheckpointError, match="2,147,483,647 layers, and there are"):
            load(folder)
    assert time.monotonic() - began < 60
