"""Decoders' checkpoints of Hugging Face, of all families: the name table, load and save."""

import os
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dyntok_jax.convert.bert_checkpoint import Shardings
from dyntok_jax.convert.safetensors import (
    AS_IS,
    TRANSPOSED,
    Checkpoint,
    Table,
    check_backed,
    join_heads,
    load_tree,
    open_checkpoint,
    read_config,
    split_heads,
)
from dyntok_jax.convert.safetensors_writer import MAX_SHARD_BYTES, export_tensors, write_checkpoint
from dyntok_jax.errors import CheckpointError
from dyntok_jax.models import DECODER_MAPS, Decoder, DecoderConfig, unstacked

WORD_TABLE, OUTPUT_TABLE = "model.embed_tokens.weight", "lm_head.weight"
EXTRAS = (r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",)
"""Tensors of older files that nobody reads: the rotary frequencies follow from the config."""


def layer_table(config: DecoderConfig, prefix: str = "model.layers.{i}.") -> Table:
    """Names of the layers."""
    family = config.family
    heads = {
        "query": split_heads(config.n_heads),
        "key": split_heads(config.n_kv_heads),
        "value": split_heads(config.n_kv_heads),
    }
    kernels = heads | {"output": join_heads(config.n_heads)}
    norms = {"input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm"}
    if family.has_post_norms:
        norms |= {"post_attention_layernorm": "attention_post_norm", "pre_feedforward_layernorm": "ffn_norm"}
        norms |= {"post_feedforward_layernorm": "ffn_post_norm"}
    if family.has_head_norms:
        norms |= {"self_attn.q_norm": "query_norm", "self_attn.k_norm": "key_norm"}
    table = {f"{prefix}{theirs}.weight": (f"layers.{ours}.scale", AS_IS) for theirs, ours in norms.items()}
    for ours, theirs in DECODER_MAPS.items():
        table[f"{prefix}{theirs}.weight"] = (f"layers.{ours}.kernel", kernels.get(ours, TRANSPOSED))
        if family.has_qkv_bias and ours in heads:
            table[f"{prefix}{theirs}.bias"] = (f"layers.{ours}.bias", heads[ours])
    return table


def decoder_table(config: DecoderConfig) -> Table:
    """Names of a decoder; a tied one has no output table of its own."""
    table = {
        WORD_TABLE: ("word_embeddings", AS_IS),
        **layer_table(config),
        "model.norm.weight": ("final_norm.scale", AS_IS),
    }
    return table if config.ties_embeddings else table | {OUTPUT_TABLE: ("output_embeddings", AS_IS)}


def plain_name(name: str) -> str:
    """A tensor's name with the prefix `model.`, which checkpoints of the body alone omit."""
    return name if name.startswith(("model.", "lm_head.")) else f"model.{name}"


def load_decoder(
    folder: str | os.PathLike,
    *,
    dtype: Any = jnp.float32,
    shardings: Shardings | None = None,
    is_stacked: bool = True,
) -> tuple[DecoderConfig, Decoder]:
    """Loads a decoder.

    Args:
      folder: holds `config.json` and `model.safetensors`, or its shards and their index.
      dtype: of the parameters, and so of the computation.
      shardings: from the tree of shapes to a tree of shardings, such as `partial(shardings_for, mesh=mesh)`.
      is_stacked: stack the layers' parameters, for `lax.scan`; else keep a tuple of layers, as `unstacked` returns it.

    Raises:
      ConfigError: the config is not supported.
      CheckpointError: files are missing or damaged, or tensors do not match the config.

    >>> config, decoder = load_decoder(decoder_folder)
    >>> config.model_type, decoder.layers.query.kernel.shape  # layers, D, N, H
    ('llama', (2, 32, 4, 8))
    """
    config, checkpoint = DecoderConfig.from_hf(read_config(folder)), open_checkpoint(folder)
    check_backed(checkpoint, config.n_layers)
    ignored = EXTRAS
    if config.ties_embeddings and OUTPUT_TABLE in checkpoint.files:
        _check_tied(checkpoint)
        ignored += (OUTPUT_TABLE.replace(".", r"\."),)
    table = decoder_table(config)
    abstract = jax.eval_shape(partial(Decoder, config, dtype=dtype), jax.random.key(0))
    if not is_stacked:
        table, abstract = _unstacked_table(table, config.n_layers), jax.eval_shape(unstacked, abstract)
    decoder = load_tree(
        checkpoint,
        table,
        abstract,
        rename=plain_name,
        ignored=ignored,
        shardings=shardings,
    )
    return config, decoder


def load_tables(folder: str | os.PathLike, *, dtype: Any = jnp.float32) -> tuple[jax.Array, jax.Array | None]:
    """Loads a model's input table and, unless the two are tied, its output table; reads no other tensor.

    Raises:
      ConfigError: the config is not supported.
      CheckpointError: files are missing or damaged, or the tables do not match the config.

    >>> input_VD, output_VD = load_tables(decoder_folder)
    >>> input_VD.shape, output_VD.shape
    ((600, 32), (600, 32))
    """
    config, checkpoint = DecoderConfig.from_hf(read_config(folder)), open_checkpoint(folder)
    if config.ties_embeddings and OUTPUT_TABLE in checkpoint.files:
        _check_tied(checkpoint)
    names = {plain_name(name): name for name in checkpoint.files}
    shape, tables = (config.vocab_size, config.width), []
    for table in (WORD_TABLE,) if config.ties_embeddings else (WORD_TABLE, OUTPUT_TABLE):
        if table not in names or checkpoint.shapes[names[table]] != shape:
            found = "is missing" if table not in names else f"is {list(checkpoint.shapes[names[table]])}"
            raise CheckpointError(f"{folder} does not fit its config: {table} {found}, expected {list(shape)}.")
        tables.append(jnp.asarray(checkpoint.read(names[table], dtype)))
    return tables[0], None if config.ties_embeddings else tables[1]


def save_decoder(
    folder: str | os.PathLike, config: DecoderConfig, decoder: Decoder, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Writes a checkpoint that `load_decoder` and PyTorch transformers (`AutoModelForCausalLM`) read.

    Args:
      folder: created if missing.
      config: of the decoder.
      decoder: stacked, or from `unstacked`; its tensors are moved to the host one at a time.
      max_shard_bytes: size limit of one file, as for `write_checkpoint`.

    Raises:
      CheckpointError: the folder cannot be written.

    >>> config, loaded = load_decoder(decoder_folder)
    >>> save_decoder(folder, config, loaded, max_shard_bytes=100_000)
    >>> len(list(folder.glob("model-*.safetensors")))
    3
    """
    table = decoder_table(config)
    if isinstance(decoder.layers, tuple):
        table = _unstacked_table(table, config.n_layers)
    dtype = np.dtype(decoder.word_embeddings.dtype).name
    written = config.to_hf() | {"architectures": [config.family.architecture], "dtype": dtype}
    write_checkpoint(folder, written, export_tensors(decoder, table), max_shard_bytes=max_shard_bytes)


def _unstacked_table(table: Table, n_layers: int) -> Table:
    """The same names for a decoder whose layers are a tuple."""
    unstacked: Table = {}
    for template, (path, transform) in table.items():
        for i in range(n_layers) if "{i}" in template else (0,):
            unstacked[template.replace("{i}", str(i))] = (path.replace("layers.", f"layers.{i}.", 1), transform)
    return unstacked


def _check_tied(checkpoint: Checkpoint) -> None:
    """A tied checkpoint may hold the table twice, as some tools save it, but not two different tables."""
    words = next((name for name in checkpoint.files if plain_name(name) == WORD_TABLE), None)
    if words and not np.array_equal(checkpoint.read(OUTPUT_TABLE), checkpoint.read(words)):
        raise CheckpointError(
            f"{checkpoint.folder} has an output table of its own ({OUTPUT_TABLE}), but its config ties the output "
            'table to the word table: set "tie_word_embeddings" to false in config.json, or fetch it again.'
        )
