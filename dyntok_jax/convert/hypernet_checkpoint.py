"""ZeTT hypernetworks in the released format: the name table, load and save."""

import os
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dyntok_jax.convert.bert_checkpoint import Shardings, layer_table
from dyntok_jax.convert.safetensors import (
    AS_IS,
    ROW_VECTOR,
    TRANSPOSED,
    Table,
    check_backed,
    load_tree,
    open_checkpoint,
    read_config,
)
from dyntok_jax.convert.safetensors_writer import export_tensors, write_checkpoint
from dyntok_jax.embedding import Hypernet, HypernetConfig

HYPERNET_EXTRAS = (r"model\.embeddings\.(position_ids|token_type_ids)", r"model\.pooler\..*")


def hypernet_table(config: HypernetConfig) -> Table:
    """Names of a released checkpoint, without the parts that the config lacks."""
    table: Table = {
        "fallback_embeddings.weight": ("fallback_embeddings", AS_IS),
        **_dense("input_projection.0", "input_linear"),
        **_projector("input_projection.1", "input_block"),
        "model.embeddings.word_embeddings.weight": ("unused_word_embeddings", AS_IS),
        "model.embeddings.position_embeddings.weight": ("position_embeddings", AS_IS),
        "model.embeddings.token_type_embeddings.weight": ("type_embeddings", AS_IS),
        **_norm("model.embeddings.LayerNorm", "embedding_norm"),
        **layer_table(config.n_heads, prefix="model.encoder.layer.{i}."),
        **_projector("output_projection.0", "output_head.block"),
        **_dense("output_projection.1", "output_head.linear"),
    }
    if config.separate_output and not config.single_head:
        table |= _projector("output_projection_out.0", "second_head.block")
        table |= _dense("output_projection_out.1", "second_head.linear")
    if config.rescale:
        table |= _scaler("in_scaler") | _scaler("scaler")
        table |= _scaler("out_scaler") if config.separate_output else {}
    if config.predict_bias:
        table |= _dense("bias_projection", "bias_linear")
    if config.read_layers:
        table |= _scaler("state_scaler") | _dense("state_projection", "state_linear")
    if config.n_langs:
        table["lang_embeddings.weight"] = ("lang_embeddings", AS_IS)
    return table


def load_hypernet(
    folder: str | os.PathLike, *, dtype: Any = jnp.float32, shardings: Shardings | None = None
) -> tuple[HypernetConfig, Hypernet]:
    """Loads a hypernetwork in ZeTT's released format.

    Args:
      folder: holds `config.json` and `model.safetensors`, or its shards and their index.
      dtype: of the parameters.
      shardings: from the tree of shapes to a tree of shardings, such as `partial(shardings_for, mesh=mesh)`.

    Raises:
      ConfigError: the config is not supported.
      CheckpointError: files are missing or damaged, or tensors do not match the config.

    >>> config, hypernet = load_hypernet(hypernet_folder)
    >>> config.max_subwords, hypernet.fallback_embeddings.shape
    (7, (256, 32))
    """
    config, checkpoint = HypernetConfig.from_hf(read_config(folder)), open_checkpoint(folder)
    check_backed(checkpoint, config.n_layers)
    abstract = jax.eval_shape(partial(Hypernet, config, dtype=dtype), jax.random.key(0))
    table = hypernet_table(config)
    return config, load_tree(checkpoint, table, abstract, ignored=HYPERNET_EXTRAS, shardings=shardings)


def save_hypernet(folder: str | os.PathLike, config: HypernetConfig, hypernet: Hypernet) -> None:
    """Writes a hypernetwork in the released format; `load_hypernet` reads the same bits back.

    Raises:
      CheckpointError: the folder cannot be written.

    >>> save_hypernet(folder, hypernet_config, hypernet)
    >>> load_hypernet(folder)[0] == hypernet_config
    True
    """
    write_checkpoint(folder, config.to_hf(), export_tensors(hypernet, hypernet_table(config)))


def _dense(theirs: str, ours: str) -> Table:
    return {f"{theirs}.weight": (f"{ours}.kernel", TRANSPOSED), f"{theirs}.bias": (f"{ours}.bias", AS_IS)}


def _norm(theirs: str, ours: str) -> Table:
    return {f"{theirs}.weight": (f"{ours}.scale", AS_IS), f"{theirs}.bias": (f"{ours}.bias", AS_IS)}


def _projector(theirs: str, ours: str) -> Table:
    return (
        _dense(f"{theirs}.dense1", f"{ours}.dense1")
        | _dense(f"{theirs}.dense2", f"{ours}.dense2")
        | _norm(f"{theirs}.ln", f"{ours}.norm")
    )


def _scaler(name: str) -> Table:
    return {f"{name}.w": (f"{name}.scale", ROW_VECTOR), f"{name}.b": (f"{name}.bias", ROW_VECTOR)}
