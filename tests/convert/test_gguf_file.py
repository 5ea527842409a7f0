"""GGUF files become Hugging Face folders; what is not supported is named, and a failure leaves nothing behind."""

import json
import struct
import sys
import time

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from ml_dtypes import bfloat16
from safetensors.numpy import load_file

from dyntok_jax.convert.offline import (
    is_gguf,
    write_gguf,
)
from dyntok_jax.convert.offline.gguf_reader import (
    read_gguf,
)
from dyntok_jax.errors import CheckpointError
from tests.support.gguf_files import bpe_fields, llama_fields, tiny_llama, tiny_tensors, write_gguf_file

LINEAR = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@pytest.fixture
def tiny_file(tmp_path):
    return write_gguf_file(tmp_path / "tiny.gguf", tiny_tensors(tiny_llama()), bpe_fields() | llama_fields())


def converted(source, folder, **options):
    folder.mkdir()
    write_gguf(source, folder, **options)
    return folder


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q5_1, Kind.Q4_0])
def test_quantised_weights_are_the_numbers_they_stand_for(tmp_path, kind):
    tensors = tiny_tensors(tiny_llama())
    kinds = {name: kind for name in tensors if name.split(".")[-2] in LINEAR or name == "token_embd.weight"}
    fields = bpe_fields() | llama_fields()
    source = write_gguf_file(tmp_path / "q.gguf", tensors, fields, quantisations=kinds)
    for name in kinds:
        tensors[name] = gguf.quants.dequantize(gguf.quants.quantize(tensors[name], kind), kind)
    whole = write_gguf_file(tmp_path / "f.gguf", tensors, fields)
    ours, expected = (
        load_file(converted(path, tmp_path / path.stem) / "model.safetensors") for path in (source, whole)
    )
    assert ours.keys() == expected.keys()
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor, expected[name])


def test_k_quants_are_read(tmp_path):
    rng = np.random.default_rng(0)
    packed = rng.integers(0, 100, (500, gguf.GGML_QUANT_SIZES[Kind.Q6_K][1]), np.uint8)
    tensors = {"token_embd.weight": packed, "output_norm.weight": np.ones(256, np.float32)}
    fields = bpe_fields() | llama_fields(block_count=0, embedding_length=256, **{"rope.dimension_count": 64})
    source = write_gguf_file(tmp_path / "k.gguf", tensors, fields, quantisations={"token_embd.weight": Kind.Q6_K})
    table = load_file(converted(source, tmp_path / "hf") / "model.safetensors")["model.embed_tokens.weight"]
    np.testing.assert_array_equal(table, gguf.quants.dequantize(packed, Kind.Q6_K))
    assert table.shape == (500, 256)


def test_config_says_what_the_file_says(tmp_path, tiny_file):
    config = json.loads((converted(tiny_file, tmp_path / "hf") / "config.json").read_text())
    expected = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100_000.0,
        "vocab_size": 500,
        "bos_token_id": 1,
        "eos_token_id": 0,
        "pad_token_id": None,
        "hidden_act": "silu",
        "dtype": "float32",
    }
    assert config.items() >= expected.items()
    assert "rope_scaling" not in config


def test_weights_can_be_written_in_bfloat16_and_shards(tmp_path, tiny_file):
    whole = load_file(converted(tiny_file, tmp_path / "whole") / "model.safetensors")
    folder = converted(tiny_file, tmp_path / "hf", dtype=bfloat16, max_shard_bytes=50_000)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    tensors = {name: tensor for path in shards for name, tensor in load_file(path).items()}
    assert index.keys() == tensors.keys() == whole.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, whole[name].astype(tensor.dtype))
        assert tensor.dtype.name == "bfloat16"
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


FAULTS = {
    "architecture": ("architecture 'qwen2'", {}),
    "experts": (r"not supported: llama\.expert_count = 8", llama_fields(expert_count=8)),
    "partial rope": (r"llama\.rope\.dimension_count = 8", llama_fields(**{"rope.dimension_count": 8})),
    "long rope": ("by 'longrope'", llama_fields(**{"rope.scaling.type": "longrope"})),
    "missing field": (r"llama\.block_count is missing", llama_fields(block_count=None)),
    "half a layer": (r"llama\.block_count is 1\.5", llama_fields(block_count=1.5)),
    "no heads": (r"llama\.attention\.head_count is 0", llama_fields(**{"attention.head_count": 0})),
    "an infinite epsilon": (
        r"layer_norm_rms_epsilon is inf",
        llama_fields(**{"attention.layer_norm_rms_epsilon": float("inf")}),
    ),
    "19 an absurd epsilon": ("rms_norm_eps of .* is 1000", llama_fields(**{"attention.layer_norm_rms_epsilon": 1e3})),
    "19 no merges": (r"has no merges \(tokenizer\.ggml\.merges\)", bpe_fields(merges=None)),
    "02 an unknown field": (
        r"not supported: llama\.attention\.sliding_window = 64",
        llama_fields(**{"attention.sliding_window": 64}),
    ),
    "21 many layers": (r"says 2,147,483,647 layers, and has 21 tensors", llama_fields(block_count=2**31 - 1)),
    "layers that differ": (r"head_count_kv is \[2, 1\]", llama_fields(**{"attention.head_count_kv": [2, 1]})),
    "one of many": ("one of 3 parts", {"split.count": 3}),
    "no tokenizer": ("no tokenizer", bpe_fields(tokens=None)),
    "tokenizer kind": ("tokenizer of kind 'bert'", bpe_fields(model="bert")),
    "pre-tokenizer": ("has the pre-tokenizer 'qwen2' .*supported are gpt-2", bpe_fields(pre="qwen2")),
    "no pre-tokenizer": ("does not name its pre-tokenizer", bpe_fields(pre=None)),
    "kinds of pieces": ("500 pieces, but 3 kinds", bpe_fields(token_type=[1, 1, 1])),
    "merges": ("damaged tokenizer", bpe_fields(merges=["never ever"])),
    "no bos": ("with a token it lacks: bos", bpe_fields(add_bos_token=True, bos_token_id=None)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_supported_is_named_and_nothing_is_written(tmp_path, fault):
    said, changes = FAULTS[fault]
    source = write_gguf_file(
        tmp_path / "bad.gguf",
        tiny_tensors(tiny_llama()),
        bpe_fields() | llama_fields() | changes,
        architecture="qwen2" if fault == "architecture" else "llama",
    )
    (tmp_path / "hf").mkdir()
    with pytest.raises(CheckpointError, match=said):
        write_gguf(source, tmp_path / "hf")
    assert list((tmp_path / "hf").iterdir()) == []


def test_all_wrong_tensors_are_listed_in_one_error(tmp_path):
    tensors = tiny_tensors(tiny_llama())
    del tensors["blk.0.attn_norm.weight"]
    tensors["blk.0.attn_q.bias"] = np.zeros(64, np.float32)
    tensors["blk.1.ffn_up.weight"] = np.zeros((64, 64), np.float32)
    tensors["blk.1.attn_v.weight"] = np.zeros((32, 64), np.int8)
    tensors["rope_freqs.weight"] = np.ones(8, np.float32)
    fields = bpe_fields() | llama_fields()
    kinds = {"blk.1.attn_v.weight": Kind.I8}
    source = write_gguf_file(tmp_path / "bad.gguf", tensors, fields, quantisations=kinds)
    (tmp_path / "hf").mkdir()
    with pytest.raises(CheckpointError) as error:
        write_gguf(source, tmp_path / "hf")
    assert str(error.value).splitlines()[1:] == [
        "  misshapen: blk.1.ffn_up.weight is [64, 64], expected [96, 64]",
        "  missing: blk.0.attn_norm.weight",
        "  unknown: blk.0.attn_q.bias [64]",
        "  unsupported quantisation: blk.1.attn_v.weight is I8",
    ]
    assert list((tmp_path / "hf").iterdir()) == []


def test_a_file_cut_anywhere_is_refused(tmp_path, tiny_file):
    data = tiny_file.read_bytes()
    cut = tmp_path / "cut.gguf"
    for keep in (0, 3, 6, 20, 100, 3000, len(data) // 4, len(data) - 40_000, len(data) - 300):
        cut.write_bytes(data[:keep])
        with pytest.raises(CheckpointError, match=r"truncated or damaged|is not a GGUF file"):
            read_gguf(cut)


@pytest.mark.parametrize(
    ("key", "kind", "count"),
    [("llama.block_count", 9, 2**40), ("llama.block_count", 9, 2**62), ("general.architecture", 8, 2**40)],
)
def test_21_lists_and_texts_longer_than_the_file_are_refused_at_once(tmp_path, tiny_file, key, kind, count):
    data = bytearray(tiny_file.read_bytes())
    at = data.index(key.encode()) + len(key)
    inner = struct.pack("<IIQ", kind, 0, count) if kind == 9 else struct.pack("<IQ", kind, count)
    data[at : at + len(inner)] = inner
    (tmp_path / "long.gguf").write_bytes(data)
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=r"its metadata asks for a (list|text) of"):
        read_gguf(tmp_path / "long.gguf")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("at", [8, 16])
def test_21_more_tensors_or_fields_than_bytes_are_refused(tmp_path, tiny_file, at):
    data = bytearray(tiny_file.read_bytes())
    data[at : at + 8] = struct.pack("<Q", 2**50)
    (tmp_path / "many.gguf").write_bytes(data)
    with pytest.raises(CheckpointError, match="its metadata asks for"):
        read_gguf(tmp_path / "many.gguf")


def test_other_files_and_versions_are_named(tmp_path, tiny_file):
    other = tmp_path / "other.gguf"
    for head, said in (
        (b"PK\x03\x04" * 4, "begins with b'PK"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(100), "version 1; versions 2 and 3"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(100), "big-endian"),
    ):
        other.write_bytes(head)
        with pytest.raises(CheckpointError, match=said):
            read_gguf(other)
    with pytest.raises(CheckpointError, match=r"nowhere\.gguf cannot be read \(No such file"):
        read_gguf(tmp_path / "nowhere.gguf")
    renamed = tiny_file.rename(tmp_path / "model.bin")
    assert is_gguf(renamed)
    assert is_gguf(other)
    assert not is_gguf(tmp_path)
    assert not is_gguf(tmp_path / "nowhere.gguf")


def test_without_the_package_the_extra_is_named(tiny_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r"pip install 'dyntok_jax\[gguf\]'"):
        read_gguf(tiny_file)


def test_a_failed_write_leaves_the_old_folder_whole(tmp_path, tiny_file, monkeypatch):
    folder = converted(tiny_file, tmp_path / "hf")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dyntok_jax.convert.offline.gguf_reader.GgufTensor.read", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_gguf(tiny_file, folder, dtype=np.float16)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_progress_reaches_one(tmp_path, tiny_file):
    shares = []
    converted(tiny_file, tmp_path / "hf", progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
