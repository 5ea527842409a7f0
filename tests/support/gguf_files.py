"""Small GGUF files, written as llama.cpp's converter writes them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from dyntok_jax.assets import load_sample

TINY_LLAMA = {
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100_000.0,
}
"""Two layers with grouped queries, in the words of a Hugging Face config."""

SPECIAL = ["<|end|>", "<|start|>"]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


@cache
def bpe_tokenizer() -> Tokenizer:
    """A byte-level BPE split as SmolLM2's, trained on the sample."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(load_sample()["en"] + load_sample()["de"], trainer)
    return tokenizer


def bpe_fields(**changes: Any) -> dict[str, Any]:
    """The tokenizer's metadata; a change to None leaves a field out."""
    model = json.loads(bpe_tokenizer().to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    fields = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
    }
    return fields | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


@cache
def tiny_llama(*, tied: bool = False) -> dict[str, np.ndarray]:
    """Weights of a Llama by their Hugging Face names, of `TINY_LLAMA`'s sizes.

    All are random (norms too, so that a mix-up shows).
    """
    width, ffn, kv = TINY_LLAMA["hidden_size"], TINY_LLAMA["intermediate_size"], 2 * 16
    layer = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (kv, width), "self_attn.v_proj": (kv, width)}
    layer |= {"self_attn.o_proj": (width, width), "mlp.gate_proj": (ffn, width), "mlp.up_proj": (ffn, width)}
    layer |= {"mlp.down_proj": (width, ffn), "input_layernorm": (width,), "post_attention_layernorm": (width,)}
    shapes = {"model.embed_tokens.weight": (500, width), "model.norm.weight": (width,)}
    shapes |= {f"model.layers.{index}.{name}.weight": shape for index in (0, 1) for name, shape in layer.items()}
    shapes |= {} if tied else {"lm_head.weight": (500, width)}
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def llama_fields(**changes: Any) -> dict[str, Any]:
    """The metadata of `tiny_llama`."""
    fields = {
        "block_count": 2,
        "context_length": 128,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 100_000.0,
        "rope.dimension_count": 16,
    }
    return {f"llama.{key}": value for key, value in (fields | changes).items()}


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a query or key map in the order of llama.cpp's converter."""
    return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def tiny_tensors(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights of `tiny_llama` under GGUF's names, queries and keys permuted."""
    tensors = {}
    for name, array in weights.items():
        if name in OUTSIDE:
            tensors[OUTSIDE[name]] = array
            continue
        _, _, layer, *part, _ = name.split(".")
        short = NAMES[".".join(part)]
        heads = {"attn_q": TINY_LLAMA["num_attention_heads"], "attn_k": TINY_LLAMA["num_key_value_heads"]}.get(short)
        tensors[f"blk.{layer}.{short}.weight"] = permuted(array, heads) if heads else array
    return tensors


def write_gguf_file(
    path: Path,
    tensors: dict[str, np.ndarray],
    fields: dict[str, Any],
    *,
    quantisations: dict[str, gguf.GGMLQuantizationType] | None = None,
    architecture: str = "llama",
) -> Path:
    """Writes a file.

    Args:
      path: its name.
      tensors: float32 arrays; of those in `quantisations`, the bytes.
      fields: the metadata; None leaves a field out.
      quantisations: of some tensors, how they are to be stored.
      architecture: what the file says it holds.
    """
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in fields.items():
        if value is None:
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, array in tensors.items():
        kind = (quantisations or {}).get(name)
        if kind is not None and array.dtype == np.float32:
            array = gguf.quants.quantize(array, kind)
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
