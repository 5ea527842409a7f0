"""XLM-R, RoBERTa and BERT checkpoints of Hugging Face: the name tables, load and save."""

import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
from dyntok_jax.convert.safetensors_writer import export_tensors, write_checkpoint
from dyntok_jax.errors import CheckpointError
from dyntok_jax.models import (
    ENCODER_MAPS,
    Encoder,
    EncoderConfig,
    MaskedLmHead,
    SequenceHead,
    TokenHead,
    head_map_names,
    labels_of_hf,
)

Shardings = Callable[[Any], Any]

BERT_EXTRAS = (
    r"embeddings\.(position_ids|token_type_ids)",
    r"pooler\..*",
    # Heads of tasks: classification, question answering, next sentence.
    r"(classifier|qa_outputs|score)\..*",
    r"cls\.seq_relationship\..*",
)
BERT_HEAD_NAMES = (r"lm_head\..*", r"cls\.predictions\..*")
BODY_NAMES = (r"embeddings\..*", r"encoder\..*")
TASKS = {MaskedLmHead: "ForMaskedLM", SequenceHead: "ForSequenceClassification", TokenHead: "ForTokenClassification"}
"""What transformers' architecture names end in."""
DECODER_WEIGHTS = ("lm_head.decoder.weight", "cls.predictions.decoder.weight")
DECODER_BIASES = (r"lm_head\.decoder\.bias", r"cls\.predictions\.decoder\.bias")


def layer_table(heads: int, prefix: str = "encoder.layer.{i}.") -> Table:
    """Names of BERT's layers, which RoBERTa, XLM-R and ZeTT's hypernetworks share."""
    table: Table = {}
    kernels = dict.fromkeys(("query", "key", "value"), split_heads(heads)) | {"output": join_heads(heads)}
    for ours, theirs in ENCODER_MAPS.items():
        table[f"{prefix}{theirs}.weight"] = (f"layers.{ours}.kernel", kernels.get(ours, TRANSPOSED))
        bias = split_heads(heads) if ours in ("query", "key", "value") else AS_IS
        table[f"{prefix}{theirs}.bias"] = (f"layers.{ours}.bias", bias)
    for theirs, ours in (("attention.output", "attention_norm"), ("output", "ffn_norm")):
        table[f"{prefix}{theirs}.LayerNorm.weight"] = (f"layers.{ours}.scale", AS_IS)
        table[f"{prefix}{theirs}.LayerNorm.bias"] = (f"layers.{ours}.bias", AS_IS)
    return table


def encoder_table(config: EncoderConfig) -> Table:
    """Names of the body, without the family's prefix."""
    return {
        "embeddings.word_embeddings.weight": ("word_embeddings", AS_IS),
        "embeddings.position_embeddings.weight": ("position_embeddings", AS_IS),
        "embeddings.token_type_embeddings.weight": ("type_embeddings", AS_IS),
        "embeddings.LayerNorm.weight": ("embedding_norm.scale", AS_IS),
        "embeddings.LayerNorm.bias": ("embedding_norm.bias", AS_IS),
        **layer_table(config.n_heads),
    }


def head_table(config: EncoderConfig) -> Table:
    """Names of the masked-LM head; its output table is the encoder's word table."""
    bert = config.model_type == "bert"
    dense, norm = (
        ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm")
        if bert
        else ("lm_head.dense", "lm_head.layer_norm")
    )
    return {
        f"{dense}.weight": ("transform.kernel", TRANSPOSED),
        f"{dense}.bias": ("transform.bias", AS_IS),
        f"{norm}.weight": ("norm.scale", AS_IS),
        f"{norm}.bias": ("norm.bias", AS_IS),
        "cls.predictions.bias" if bert else "lm_head.bias": ("bias", AS_IS),
    }


def classifier_table(config: EncoderConfig, kind: type[SequenceHead] | type[TokenHead]) -> Table:
    """Names of a head that classifies sequences or tokens."""
    table: Table = {}
    for ours, theirs in head_map_names(config, kind).items():
        table[f"{theirs}.weight"] = (f"{ours}.kernel", TRANSPOSED)
        table[f"{theirs}.bias"] = (f"{ours}.bias", AS_IS)
    return table


def plain_name(name: str) -> str:
    """A tensor's name without the prefix `bert.` or `roberta.`, and with today's spelling of LayerNorm's parameters.

    >>> plain_name("bert.embeddings.LayerNorm.gamma")
    'embeddings.LayerNorm.weight'
    """
    name = re.sub(r"^(bert|roberta)\.", "", name)
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: "LayerNorm." + {"gamma": "weight", "beta": "bias"}[m[1]], name)


def load_encoder(
    folder: str | os.PathLike, *, dtype: Any = jnp.float32, shardings: Shardings | None = None
) -> tuple[EncoderConfig, Encoder]:
    """Loads a BERT, RoBERTa or XLM-R body and ignores any heads.

    Args:
      folder: holds `config.json` and `model.safetensors`, or its shards and their index.
      dtype: of the parameters, and so of the computation.
      shardings: from the tree of shapes to a tree of shardings, such as `partial(shardings_for, mesh=mesh)`.

    Raises:
      ConfigError: the config is not supported.
      CheckpointError: files are missing or damaged, or tensors do not match the config.

    >>> config, encoder = load_encoder(encoder_folder, dtype=jnp.bfloat16)
    >>> config.model_type, encoder.word_embeddings.shape, encoder.word_embeddings.dtype.name
    ('xlm-roberta', (1500, 32), 'bfloat16')
    """
    config, checkpoint = EncoderConfig.from_hf(read_config(folder)), open_checkpoint(folder)
    check_backed(checkpoint, config.n_layers)
    abstract = jax.eval_shape(partial(Encoder, config, dtype=dtype), jax.random.key(0))
    encoder = load_tree(
        checkpoint,
        encoder_table(config),
        abstract,
        rename=plain_name,
        ignored=BERT_EXTRAS + BERT_HEAD_NAMES,
        shardings=shardings,
    )
    return config, encoder


def load_masked_lm_head(
    folder: str | os.PathLike, *, dtype: Any = jnp.float32, shardings: Shardings | None = None
) -> MaskedLmHead:
    """Loads the masked-LM head of a checkpoint, whose output table must be tied to the word table.

    Raises:
      ConfigError: the config is not supported.
      CheckpointError: there is no such head, it has an output table of its own, or as for `load_encoder`.

    >>> from dyntok_jax.models import MaskedLmHead
    >>> head = MaskedLmHead(encoder.config, jax.random.key(0))
    >>> save_encoder(folder, encoder.config, encoder.encoder, head)
    >>> load_masked_lm_head(folder).bias.shape
    (1500,)
    """
    config = EncoderConfig.from_hf(read_config(folder))
    checkpoint = open_checkpoint(folder)
    if not any(re.fullmatch("|".join(BERT_HEAD_NAMES), plain_name(name)) for name in checkpoint.files):
        raise CheckpointError(
            f"{checkpoint.folder} has no masked-LM head: only the body was saved. Use a checkpoint with a head."
        )
    _check_tied(checkpoint)
    return load_tree(
        checkpoint,
        head_table(config),
        jax.eval_shape(partial(MaskedLmHead, config, dtype=dtype), jax.random.key(0)),
        rename=plain_name,
        ignored=(*BERT_EXTRAS, *BODY_NAMES, *DECODER_BIASES, *map(re.escape, DECODER_WEIGHTS)),
        shardings=shardings,
    )


def load_sequence_head(folder: str | os.PathLike, *, dtype: Any = jnp.float32) -> SequenceHead:
    """Loads the head that classifies sequences, with the labels that `config.json` names.

    Raises:
      ConfigError: the config is not supported.
      CheckpointError: there is no such head, it has another number of labels than the config names, or as for
        `load_encoder`.

    >>> from dyntok_jax.models import SequenceHead
    >>> head = SequenceHead(encoder.config, ("entailment", "neutral"), jax.random.key(0))
    >>> save_encoder(folder, encoder.config, encoder.encoder, head)
    >>> load_sequence_head(folder).labels
    ('entailment', 'neutral')
    """
    return _load_classifier(folder, SequenceHead, dtype)


def load_token_head(folder: str | os.PathLike, *, dtype: Any = jnp.float32) -> TokenHead:
    """Loads the head that classifies tokens, with the labels that `config.json` names; raises as `load_sequence_head`.

    >>> from dyntok_jax.models import TokenHead
    >>> head = TokenHead(encoder.config, ("O", "B-PER", "I-PER"), jax.random.key(0))
    >>> save_encoder(folder, encoder.config, encoder.encoder, head)
    >>> load_token_head(folder).labels
    ('O', 'B-PER', 'I-PER')
    """
    return _load_classifier(folder, TokenHead, dtype)


def _load_classifier(folder: str | os.PathLike, kind: Any, dtype: Any) -> Any:
    hf_config, checkpoint = read_config(folder), open_checkpoint(folder)
    config, labels = EncoderConfig.from_hf(hf_config), labels_of_hf(hf_config)
    table = classifier_table(config, kind)
    plain = {plain_name(name): name for name in checkpoint.files}
    saved = [str(name) for name in hf_config.get("architectures") or [] if "Classification" in str(name)]
    if not plain.keys() >= table.keys() or (saved and not any(name.endswith(TASKS[kind]) for name in saved)):
        found = f"it is a {saved[0]}" if saved else f"it lacks {', '.join(sorted(table.keys() - plain.keys()))}"
        raise CheckpointError(f"{folder} has no head {TASKS[kind]}: {found}. Use a checkpoint that has one.")
    output = next(name for name, (path, _) in table.items() if path == "output.bias")
    rows = checkpoint.shapes[plain[output]]
    if rows != (len(labels),):
        raise CheckpointError(
            f"The head of {folder} has {rows[0]} labels and id2label in config.json names {len(labels)} "
            f"({', '.join(labels)}): name as many as the head has."
        )
    return load_tree(
        checkpoint,
        table,
        jax.eval_shape(partial(kind, config, labels, dtype=dtype), jax.random.key(0)),
        rename=plain_name,
        ignored=(*BERT_EXTRAS, *BERT_HEAD_NAMES, *BODY_NAMES),
    )


def save_encoder(
    folder: str | os.PathLike,
    config: EncoderConfig,
    encoder: Encoder,
    head: MaskedLmHead | SequenceHead | TokenHead | None = None,
) -> None:
    """Writes a checkpoint that PyTorch transformers reads.

    It does so as `AutoModel`; with a head as `AutoModelForMaskedLM`, `AutoModelForSequenceClassification` or
    `AutoModelForTokenClassification`. A pooler or task head of the original checkpoint is only written if it is given.

    Raises:
      CheckpointError: the folder cannot be written, or the model has adapters beside its weights.

    >>> save_encoder(folder, encoder.config, encoder.encoder)
    >>> sorted(path.name for path in folder.iterdir())
    ['config.json', 'model.safetensors']
    """
    tensors = export_tensors(encoder, encoder_table(config))
    family = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}[config.model_type]
    architecture, labels = f"{family}Model", {}
    if head is not None:
        prefix = "bert." if config.model_type == "bert" else "roberta."
        is_masked_lm = isinstance(head, MaskedLmHead)
        of_head = export_tensors(head, head_table(config) if is_masked_lm else classifier_table(config, type(head)))
        pooler = {name: of_head.pop(name) for name in tuple(of_head) if name.startswith("pooler.")}
        tensors = {prefix + name: tensor for name, tensor in (tensors | pooler).items()} | of_head
        architecture = f"{family}{TASKS[type(head)]}"
        if not is_masked_lm:
            labels["id2label"] = {str(number): name for number, name in enumerate(head.labels)}
            labels["label2id"] = {name: number for number, name in enumerate(head.labels)}
    dtype = next(iter(tensors.values())).dtype.name
    write_checkpoint(folder, config.to_hf() | labels | {"architectures": [architecture], "dtype": dtype}, tensors)


def _check_tied(checkpoint: Checkpoint) -> None:
    plain = {plain_name(name): name for name in checkpoint.files}
    table = plain.get("embeddings.word_embeddings.weight")
    for name in DECODER_WEIGHTS:
        if name in plain and table and not np.array_equal(checkpoint.read(plain[name]), checkpoint.read(table)):
            raise CheckpointError(
                f"{checkpoint.folder} has an output table of its own ({plain[name]}): only masked-LM heads tied to the "
                "word table are supported."
            )
