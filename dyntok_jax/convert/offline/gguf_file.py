"""GGUF files, llama.cpp's format, written as a Hugging Face folder: weights, config and tokenizer.

Quantised weights are written as the floating-point numbers that they encode, and two habits of llama.cpp are undone.
GGUF calls Llama and Mistral `llama`; its rotary embedding rotates neighbouring dimensions of a head, Hugging Face's
rotates the first half against the second, so the rows of the query and key maps are permuted. In Gemma 3's norms the 1
that Hugging Face's code adds is already there.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dyntok_jax.convert import MAX_SHARD_BYTES, LazyTensor, write_weights
from dyntok_jax.convert.offline.gguf_config import ROPE_FREQS, gguf_config
from dyntok_jax.convert.offline.gguf_reader import GgufFile, GgufTensor, can_dequantize, read_gguf
from dyntok_jax.convert.offline.gguf_tokenizer import gguf_tokenizer, gguf_tokenizer_config
from dyntok_jax.errors import CheckpointError

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LAYER_NAMES_OF = {
    "llama": {"ffn_norm": "post_attention_layernorm"},
    "gemma3_text": {
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
}
"""What differs between families."""
IGNORED = (ROPE_FREQS, r"blk\.\d+\.attn_rot_embd\.weight")
"""Tensors that hold no weights: factors of the rotary frequencies are read into the config."""


@dataclass(frozen=True)
class Expected:
    """What a tensor of the file should be.

    Attributes:
      name: its Hugging Face name.
      shape: its shape, [out, in] for linear maps.
      heads: number of heads whose rows llama.cpp permuted; 0 if it did not.
      holds_one: it is the scale of a norm, and 1 more than Hugging Face's.
    """

    name: str
    shape: tuple[int, ...]
    heads: int = 0
    holds_one: bool = False

    def read(self, tensor: GgufTensor, dtype: np.dtype) -> np.ndarray:
        """The tensor as Hugging Face has it."""
        array = tensor.read()
        if self.heads:  # llama.cpp interleaves the two halves of a head's rows
            array = array.reshape(self.heads, -1, 2, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)
        return (array - 1 if self.holds_one else array).astype(dtype, copy=False)


def write_gguf(
    source: str | os.PathLike,
    folder: str | os.PathLike,
    progress: Callable[[float], None] = lambda _: None,
    *,
    dtype: Any = np.float32,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes a GGUF file of a family that is supported as a Hugging Face folder; the files appear together, complete.

    Args:
      source: the file.
      folder: an existing folder; files of the same names in it are replaced.
      progress: called with the share done so far, 0 to 1.
      dtype: of the written weights; float32 is exact for quantised weights and those of 16 bits.
      max_shard_bytes: size limit of one file of weights.

    Raises:
      CheckpointError: the file is missing, damaged or not GGUF, or its architecture, version, quantisation or tokenizer
        is not supported; or the package `gguf` is not installed.
      OSError: the folder cannot be written.

    >>> write_gguf(gguf_file, folder, dtype=np.float16)
    >>> sorted(path.name for path in folder.iterdir())
    ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json']
    """
    file = read_gguf(source)
    dtype = np.dtype(dtype)
    config = gguf_config(file) | {"dtype": dtype.name}
    expected = expected_tensors(config)
    _check_tensors(file, expected)
    texts = {
        "config.json": json.dumps(config, indent=2, sort_keys=True) + "\n",
        "tokenizer.json": gguf_tokenizer(file.path, file.fields).to_str(),
        "tokenizer_config.json": json.dumps(gguf_tokenizer_config(file.fields), indent=2, ensure_ascii=False) + "\n",
    }
    progress(0.1)
    tensors = {
        want.name: LazyTensor(want.shape, dtype, partial(want.read, file.tensors[name], dtype))
        for name, want in expected.items()
    }
    write_weights(
        Path(folder),
        tensors,
        max_shard_bytes=max_shard_bytes,
        beside=texts,
        progress=lambda share: progress(0.1 + 0.9 * share),
    )


def expected_tensors(config: dict[str, Any]) -> dict[str, Expected]:
    """Every tensor of a model, by its name in GGUF.

    Args:
      config: the Hugging Face config.
    """
    width, feed_forward, head_width = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    shapes = {
        "attn_q": (heads * head_width, width),
        "attn_k": (kv_heads * head_width, width),
        "attn_v": (kv_heads * head_width, width),
        "attn_output": (width, heads * head_width),
        "ffn_gate": (feed_forward, width),
        "ffn_up": (feed_forward, width),
        "ffn_down": (width, feed_forward),
    }
    shapes |= {"attn_q_norm": (head_width,), "attn_k_norm": (head_width,)}
    is_llama = config["model_type"] == "llama"
    permuted = {"attn_q": heads, "attn_k": kv_heads} if is_llama else {}
    table = (config["vocab_size"], width)
    expected = {"token_embd.weight": Expected("model.embed_tokens.weight", table)}
    for layer in range(config["num_hidden_layers"]):
        for theirs, ours in (LAYER_NAMES | LAYER_NAMES_OF[config["model_type"]]).items():
            expected[f"blk.{layer}.{theirs}.weight"] = Expected(
                f"model.layers.{layer}.{ours}.weight",
                shapes.get(theirs, (width,)),
                permuted.get(theirs, 0),
                holds_one=not is_llama and theirs.endswith("norm"),
            )
    expected["output_norm.weight"] = Expected("model.norm.weight", (width,), holds_one=not is_llama)
    if not config["tie_word_embeddings"]:
        expected["output.weight"] = Expected("lm_head.weight", table)
    return expected


def _check_tensors(file: GgufFile, expected: dict[str, Expected]) -> None:
    faults = [f"missing: {name}" for name in expected.keys() - file.tensors.keys()]
    for name, tensor in file.tensors.items():
        shape = tensor.shape
        if name not in expected:
            if not any(re.fullmatch(pattern, name) for pattern in IGNORED):
                faults.append(f"unknown: {name} {list(shape)}")
        elif shape != expected[name].shape:
            faults.append(f"misshapen: {name} is {list(shape)}, expected {list(expected[name].shape)}")
        elif not can_dequantize(tensor.kind):
            faults.append(f"unsupported quantisation: {name} is {tensor.kind.name}")
    if faults:
        raise CheckpointError(f"{file.path} cannot be converted:\n  " + "\n  ".join(sorted(faults)))
