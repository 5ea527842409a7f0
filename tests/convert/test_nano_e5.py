import json
import struct

import numpy as np
import pytest
from hypothesis import given, strategies as st
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from dyntok_jax.assets import load_sample
from dyntok_jax.convert.offline import (
    write_e5_small,
)
from dyntok_jax.convert.offline.nano_e5 import (
    Q4_0_BLOCK,
    read_packed,
    unpack_q4_0,
)
from dyntok_jax.encoding import default_prompt
from dyntok_jax.errors import CheckpointError
from tests.support.packed_e5 import FEED_FORWARD, HIDDEN, pack, tiny_shapes


def write(data: bytes, folder) -> None:
    source = folder / "packed.bin"
    source.write_bytes(data)
    write_e5_small(source, folder, lambda _: None)


def test_config_says_what_the_model_is(e5_small_folder):
    config = json.loads((e5_small_folder / "config.json").read_text())
    assert config["model_type"] == "bert"
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    assert tuple(config[name] for name in names) == (250037, 384, 12, 12, 1536)
    names = ("max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id", "hidden_act")
    assert tuple(config[name] for name in names) == (512, 2, 1e-12, 1, "gelu")


def test_token_counts_on_the_sample_are_xlmrs(e5_small_folder):
    raw = Tokenizer.from_file(str(e5_small_folder / "tokenizer.json"))
    counts = {}
    for language, texts in load_sample().items():
        counts[language] = sum(len(line.ids) for line in raw.encode_batch(texts, add_special_tokens=False))
    expected = [1723, 1755, 2031, 1964, 2519, 1938, 2201, 2131, 1979, 1947, 1900, 1916, 2036, 2147, 1449]
    assert list(counts.values()) == expected


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=3), st.integers(0, 0x7BFF))
def test_q4_0_is_half_minus_8_times_scale(halves, scale_bits):
    scale = struct.unpack("<e", struct.pack("<H", scale_bits))[0]
    blocks = np.frombuffer(b"".join(struct.pack("<H", scale_bits) + block for block in halves), Q4_0_BLOCK)
    expected = []
    for block in halves:
        expected += [(byte % 16 - 8) * scale for byte in block] + [(byte // 16 - 8) * scale for byte in block]
    np.testing.assert_array_equal(unpack_q4_0(blocks), np.array(expected, np.float32))


def test_tensors_get_hugging_face_names_and_shapes(tmp_path):
    shapes = tiny_shapes()
    write(pack(shapes), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert len(tensors) == len(shapes)
    index = list(shapes).index("l0.fi.w")
    written = tensors["encoder.layer.0.intermediate.dense.weight"]
    np.testing.assert_array_equal(written, (np.arange(2048, dtype=np.float32) + index).reshape(FEED_FORWARD, HIDDEN))


def test_missing_extra_and_misshapen_tensors_are_all_listed(tmp_path):
    shapes = tiny_shapes() | {"l0.q.w": (HIDDEN, 2 * HIDDEN), "pooler.w": (HIDDEN,)}
    del shapes["emb.ln.b"], shapes["l0.oln.w"]
    with pytest.raises(CheckpointError) as caught:
        write(pack(shapes), tmp_path)
    assert "missing: emb.ln.b, l0.oln.w; unknown: pooler.w; misshapen: l0.q.w (2048 weights" in str(caught.value)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    data = pack(tiny_shapes())
    read_packed(data)
    ends = [*range(0, 1000, 7), len(data) - 4 * HIDDEN, len(data) - 1]
    for end in ends:
        with pytest.raises(CheckpointError, match=r"E5S1|truncated"):
            write(data[:end], tmp_path)


def test_another_format_is_refused():
    with pytest.raises(CheckpointError, match="does not begin with E5S1"):
        read_packed(b"PK\x03\x04" + bytes(100))
    with pytest.raises(CheckpointError, match="64 weights per block"):
        read_packed(pack(tiny_shapes())[:40] + struct.pack("<i", 64) + bytes(100))


def test_the_encoder_knows_the_prompt_that_e5_expects(e5_small_folder):
    assert default_prompt(e5_small_folder) == "query: "
