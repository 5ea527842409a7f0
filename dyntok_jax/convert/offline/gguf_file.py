"""Llama-family GGUF files, llama.cpp's format, written as a Hugging Face folder: weights, config and tokenizer.

GGUF calls Llama and Mistral `llama`. Its rotary embedding rotates neighbouring dimensions of a head, Hugging
Face's rotates the first half against the second; so llama.cpp permutes the rows of the query and key maps, which is
undone here. Quantised weights are written as the floating-point numbers that they encode.

The package `gguf` parses the file and dequantises; it is the extra `dyntok_jax[gguf]`.
"""

import json
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from math import pi
from pathlib import Path
from typing import Any

import numpy as np

from dyntok_jax.convert import MAX_SHARD_BYTES, LazyTensor, write_weights
from dyntok_jax.convert.offline.gguf_sizes import check_gguf_sizes
from dyntok_jax.convert.offline.gguf_tokenizer import gguf_tokenizer, gguf_tokenizer_config, token_id
from dyntok_jax.errors import CheckpointError, ConfigError
from dyntok_jax.models import DecoderConfig, is_number
from dyntok_jax.storage import check_not_lfs_pointer

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ARCHITECTURE = "llama"
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROPE_FREQS = "rope_freqs.weight"
IGNORED = (ROPE_FREQS, r"blk\.\d+\.attn_rot_embd\.weight")
"""Tensors that hold no weights: factors of the rotary frequencies are read into the config."""
UNSUPPORTED = {"expert_count": 0, "logit_scale": 1, "residual_scale": 1, "embedding_scale": 1, "attention.scale": 0}
"""Fields that change what the model computes, with the neutral value of each."""
READ = {
    *("embedding_length", "block_count", "context_length", "feed_forward_length", "vocab_size"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
    *("attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base"),
    *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length"),
}
"""Fields that are read here."""
INERT = {
    *("rope.scaling.finetuned", "tensor_data_layout"),
    *("expert_used_count", "expert_weights_scale", "expert_feed_forward_length"),  # of experts, which are refused
}
"""Fields that do not change what the model computes."""
LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""The values of Llama 3.1 and its successors; GGUF keeps only the factors that follow from them."""


@dataclass(frozen=True)
class GgufFile:
    """A parsed file; its tensors stay on disk, quantised, until they are read.

    Attributes:
      path: the file.
      fields: its metadata by key, such as `llama.block_count`.
      tensors: the package's description of each tensor, by name.
    """

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, Any]


@dataclass(frozen=True)
class Expected:
    """What a tensor of the file should be.

    Attributes:
      name: its Hugging Face name.
      shape: its shape, [out, in] for linear maps.
      heads: number of heads whose rows llama.cpp permuted; 0 if it did not.
    """

    name: str
    shape: tuple[int, ...]
    heads: int = 0


def write_gguf(
    source: str | os.PathLike,
    folder: str | os.PathLike,
    progress: Callable[[float], None] = lambda _: None,
    *,
    dtype: Any = np.float32,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes a Llama-family GGUF file as a Hugging Face folder; the files appear together, complete.

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
        want.name: LazyTensor(want.shape, dtype, partial(read_tensor, file.tensors[name], want.heads, dtype))
        for name, want in expected.items()
    }
    write_weights(
        Path(folder),
        tensors,
        max_shard_bytes=max_shard_bytes,
        beside=texts,
        progress=lambda share: progress(0.1 + 0.9 * share),
    )


def is_gguf(path: str | os.PathLike) -> bool:
    """Whether a path is a GGUF file, judged by its first bytes or its name.

    >>> is_gguf(gguf_file), is_gguf(decoder_folder)
    (True, False)
    """
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix == ".gguf" or file.read(len(MAGIC)) == MAGIC


def read_gguf(source: str | os.PathLike) -> GgufFile:
    """Parses the metadata of a file.

    Raises:
      CheckpointError: the file is missing, damaged, not GGUF, of an unsupported version or architecture, or one part of
        several; or the package `gguf` is not installed.
    """
    path = Path(source)
    try:
        check_not_lfs_pointer(path, CheckpointError)
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}): name a GGUF file.") from error
    if head[:4] != MAGIC or len(head) < 8:
        raise CheckpointError(
            f"{path} is not a GGUF file: it begins with {head[:4]!r}, not {MAGIC!r}. Name another file."
        )
    (version,) = struct.unpack("<I", head[4:])
    if version & 0xFFFF == 0:
        raise CheckpointError(f"{path} is a big-endian GGUF file: only little-endian files are supported.")
    if version not in VERSIONS:
        raise CheckpointError(
            f"{path} has GGUF version {version}; versions {' and '.join(map(str, VERSIONS))} are supported. "
            "Convert the model again with a current llama.cpp."
        )
    check_gguf_sizes(path)
    package = gguf_package()
    try:
        reader = package.GGUFReader(path)
        fields = {key: field.contents() for key, field in reader.fields.items()}
    except Exception as error:  # the package raises what numpy raises past the end of the file
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) is truncated or damaged, or newer than the installed package gguf "
            f"({type(error).__name__}: {error}): fetch it again."
        ) from error
    architecture = fields.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise CheckpointError(
            f"{path} holds a model of architecture {architecture!r}; of GGUF files only {ARCHITECTURE!r} (Llama, "
            "Mistral) is supported. Convert the model from its Hugging Face checkpoint."
        )
    if (count := fields.get("split.count") or 1) > 1:
        raise CheckpointError(
            f"{path} is one of {count} parts of a model: join them with `llama-gguf-split --merge` of llama.cpp."
        )
    return GgufFile(path, fields, {tensor.name: tensor for tensor in reader.tensors})


def gguf_package() -> Any:
    """The package `gguf`.

    Raises:
      CheckpointError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise CheckpointError(
            f"GGUF files are read with the package gguf, which cannot be imported ({error}). "
            "Install it: pip install 'dyntok_jax[gguf]'."
        ) from error
    return gguf


def gguf_config(file: GgufFile) -> dict[str, Any]:
    """The Hugging Face config of a file's model, of type `llama`.

    Raises:
      CheckpointError: fields are missing or not supported.
    """
    width, layers, heads = (_number(file, key) for key in ("embedding_length", "block_count", "attention.head_count"))
    if layers > len(file.tensors):
        raise CheckpointError(
            f"{file.path} says {layers:,} layers, and has {len(file.tensors):,} tensors: fetch it again."
        )
    head_width = _number(file, "attention.key_length", width // heads)
    if "token_embd.weight" not in file.tensors:
        raise CheckpointError(
            f"{file.path} has no embedding table (token_embd.weight): the model is incomplete. Fetch it again."
        )
    asked = {key: _number(file, key, neutral, takes_fractions=True) for key, neutral in UNSUPPORTED.items()}
    asked = {key: value for key, value in asked.items() if value != UNSUPPORTED[key]}
    own = [key.removeprefix(f"{ARCHITECTURE}.") for key in file.fields if key.startswith(f"{ARCHITECTURE}.")]
    asked |= {key: file.fields[f"{ARCHITECTURE}.{key}"] for key in own if key not in {*READ, *INERT, *UNSUPPORTED}}
    for key in ("attention.value_length", "rope.dimension_count"):
        if (value := _number(file, key, head_width)) != head_width:
            asked[key] = value
    if asked:
        said = ", ".join(f"{ARCHITECTURE}.{key} = {value}" for key, value in asked.items())
        raise CheckpointError(f"{file.path} needs features that are not supported: {said}.")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": head_width,
        "hidden_act": "silu",
        "hidden_size": width,
        "initializer_range": 0.02,
        "intermediate_size": _number(file, "feed_forward_length"),
        "max_position_embeddings": _number(file, "context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": _number(file, "attention.head_count_kv", heads),
        "rms_norm_eps": _shortest(_number(file, "attention.layer_norm_rms_epsilon", takes_fractions=True)),
        "rope_theta": _shortest(_number(file, "rope.freq_base", 10000.0, takes_fractions=True)),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "use_cache": True,
        "vocab_size": int(file.tensors["token_embd.weight"].shape[-1]),
    }
    for name in ("bos", "eos", "padding"):
        config[f"{name.removesuffix('ding')}_token_id"] = token_id(file.fields, name)
    scaling = _rope_scaling(file, config)
    config |= {"rope_scaling": scaling} if scaling else {}
    if layers:
        try:
            DecoderConfig.from_hf(config)
        except ConfigError as error:
            raise CheckpointError(f"{file.path} holds no model that can be converted: {error}") from error
    return config


def _number(
    file: GgufFile, key: str, default: int | float | None = None, *, takes_fractions: bool = False
) -> int | float:
    """A field of the architecture; if it is a list with a number for each layer, all must be equal.

    A whole number without a default is a size: at least 0 layers, and 1 of everything else.
    """
    value = file.fields.get(f"{ARCHITECTURE}.{key}", default)
    numbers = set(value) if isinstance(value, list) else {value}
    is_right = len(numbers) == 1 and all(is_number(one, takes_fractions=takes_fractions) for one in numbers)
    least = 0 if key == "block_count" else 1
    if not is_right or (default is None and not takes_fractions and min(numbers) < least):
        found = "missing" if value is None else f"{value!r}, which is not supported"
        raise CheckpointError(f"{file.path}: the field {ARCHITECTURE}.{key} is {found}.")
    return numbers.pop()


def _shortest(number: float | np.float32) -> float:
    """The shortest decimal of a float32, such as 1e-5 again where the model's config had 1e-5."""
    return float(str(np.float32(number)))


def _rope_scaling(file: GgufFile, config: dict[str, Any]) -> dict[str, Any] | None:
    kind = file.fields.get(f"{ARCHITECTURE}.rope.scaling.type", "none")
    if ROPE_FREQS in file.tensors:
        return _llama3_scaling(file, config)
    match kind:
        case "none":
            return None
        case "linear":
            factor = _shortest(_number(file, "rope.scaling.factor", takes_fractions=True))
            return {"rope_type": "linear", "factor": factor}
        case "yarn":
            original = _number(file, "rope.scaling.original_context_length")
            factor = _shortest(_number(file, "rope.scaling.factor", takes_fractions=True))
            return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    raise CheckpointError(f"{file.path} scales its rotary embedding by {kind!r}; only linear and yarn are supported.")


def _llama3_scaling(file: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    """The fields from which GGUF's factors were computed: frequencies of long wavelengths are divided by `factor`."""
    factors = read_tensor(file.tensors[ROPE_FREQS])
    factor = _shortest(factors.max())
    low, high, original = LLAMA3_ROPE.values()
    frequency = config["rope_theta"] ** (-np.arange(0, config["head_dim"], 2) / config["head_dim"])
    share = np.clip((original * frequency / (2 * pi) - low) / (high - low), 0, 1)
    if not np.allclose(factors, 1 / ((1 - share) / factor + share), rtol=1e-3):
        raise CheckpointError(
            f"{file.path} scales its rotary embedding by factors ({ROPE_FREQS}) other than Llama 3.1's, which are not "
            "supported. Convert the model from its Hugging Face checkpoint."
        )
    return {"rope_type": "llama3", "factor": factor, **LLAMA3_ROPE}


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
    permuted = {"attn_q": heads, "attn_k": kv_heads}
    table = (config["vocab_size"], width)
    expected = {"token_embd.weight": Expected("model.embed_tokens.weight", table)}
    for layer in range(config["num_hidden_layers"]):
        for ours, theirs in LAYER_NAMES.items():
            name = f"model.layers.{layer}.{theirs}.weight"
            expected[f"blk.{layer}.{ours}.weight"] = Expected(name, shapes.get(ours, (width,)), permuted.get(ours, 0))
    expected["output_norm.weight"] = Expected("model.norm.weight", (width,))
    if not config["tie_word_embeddings"]:
        expected["output.weight"] = Expected("lm_head.weight", table)
    return expected


def _check_tensors(file: GgufFile, expected: dict[str, Expected]) -> None:
    faults = [f"missing: {name}" for name in expected.keys() - file.tensors.keys()]
    for name, tensor in file.tensors.items():
        shape = tuple(map(int, reversed(tensor.shape)))
        if name not in expected:
            if not any(re.fullmatch(pattern, name) for pattern in IGNORED):
                faults.append(f"unknown: {name} {list(shape)}")
        elif shape != expected[name].shape:
            faults.append(f"misshapen: {name} is {list(shape)}, expected {list(expected[name].shape)}")
        elif not _can_dequantize(tensor.tensor_type):
            faults.append(f"unsupported quantisation: {name} is {tensor.tensor_type.name}")
    if faults:
        raise CheckpointError(f"{file.path} cannot be converted:\n  " + "\n  ".join(sorted(faults)))


@cache
def _can_dequantize(kind: Any) -> bool:
    package = gguf_package()
    try:
        package.quants.dequantize(np.zeros((1, package.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def read_tensor(tensor: Any, heads: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Dequantises one tensor.

    Args:
      tensor: the package's description of it.
      heads: number of heads whose rows to reorder: llama.cpp interleaves the two halves of a head's rows; 0 for none.
      dtype: of the result.
    """
    array = gguf_package().quants.dequantize(tensor.data, tensor.tensor_type)
    if heads:
        array = array.reshape(heads, -1, 2, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)
    return array.astype(dtype, copy=False)
