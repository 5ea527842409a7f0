"""Training on a task with labels: an adapter and a head beside the frozen encoder, by the loop of hypernetworks."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32

from dyntok_jax.adapters import Adapter, LoraConfig, apply_adapters, fresh_adapter
from dyntok_jax.convert import save_adapter
from dyntok_jax.embedding import TokenEmbedder, embed_tokens
from dyntok_jax.errors import CheckpointError, ConfigError, InputError
from dyntok_jax.files import load_model
from dyntok_jax.models import Encoder, SequenceHead, TokenHead, classify_sequences, classify_tokens, encode
from dyntok_jax.storage import read_json, written
from dyntok_jax.tasks.config import LabelKind, TaskConfig
from dyntok_jax.tasks.drawn_batches import DrawnBatches
from dyntok_jax.tasks.examples import digest, read_examples
from dyntok_jax.tasks.held_out import held_out_validator
from dyntok_jax.tasks.labelled_batch import NO_LABEL, LabelledBatch, labelled_batch_maker, n_characters
from dyntok_jax.tasks.lm_job import prepare_lm
from dyntok_jax.training import ADAPTER, Job, Metrics

TASK_FILE = "dyntok_task.json"
"""Beside the adapter: what the task is, and the names of its labels."""
HEAD_KINDS = {"nli": SequenceHead, "classify": SequenceHead, "ner": TokenHead}
PEFT_TASKS = {"nli": "SEQ_CLS", "classify": "SEQ_CLS", "ner": "TOKEN_CLS"}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FrozenEncoder:
    """What an adapter is trained beside.

    Attributes:
      encoder: its parameters.
      head: a head of the right shape, whose parameters the adapter brings.

    >>> from dyntok_jax.models import SequenceHead
    >>> FrozenEncoder(encoder.encoder, SequenceHead(encoder.config, ("bad", "good"), jax.random.key(0))).head.labels
    ('bad', 'good')
    """

    encoder: Encoder
    head: SequenceHead | TokenHead


def task_loss(
    adapter: Adapter, frozen: FrozenEncoder, batch: LabelledBatch[Array]
) -> tuple[Float32[Array, ""], Metrics]:
    r"""Mean cross-entropy of the labels, in nats, and the share that are right, in percent.

    >>> from dyntok_jax.tasks import TaskConfig
    >>> path = folder / "reviews.jsonl"
    >>> _ = path.write_text('{"text": "Dull", "label": "bad"}\n{"text": "Fine", "label": "good"}')
    >>> config = TaskConfig("classify", train=(str(path),), model=str(encoder_folder), batch_size=2, max_length=32)
    >>> job = prepare_task(config)
    >>> loss, metrics = jax.jit(task_loss)(job.parameters, job.frozen, next(job.batches))
    >>> loss.shape, sorted(metrics)
    ((), ['accuracy', 'loss'])
    """
    scores_BWY = label_scores(adapter, frozen, batch)
    is_label_BW = batch.label_BW != NO_LABEL
    log_BWY = jax.nn.log_softmax(scores_BWY.astype(jnp.float32), axis=-1)
    chosen_BW = jnp.take_along_axis(log_BWY, jnp.maximum(batch.label_BW, 0)[..., None], axis=-1)[..., 0]
    count = jnp.maximum(is_label_BW.sum(), 1).astype(jnp.float32)
    is_right_BW = scores_BWY.argmax(axis=-1) == batch.label_BW
    loss = -jnp.where(is_label_BW, chosen_BW, 0).sum() / count
    return loss, {"loss": loss, "accuracy": 100 * (is_right_BW & is_label_BW).sum().astype(jnp.float32) / count}


def label_scores(adapter: Adapter, frozen: FrozenEncoder, batch: LabelledBatch[Array]) -> Float[Array, "B W Y"]:
    """Scores of every label, for each text (W is 1) or each token."""
    encoder, head = apply_adapters(frozen.encoder, [adapter]), apply_adapters(frozen.head, [adapter])
    embeddings_BTD = embed_tokens(encoder.word_embeddings[...], batch.inputs)
    hidden_BTD = encode(encoder, embeddings_BTD, batch.inputs.mask_BT, batch.type_BT)
    hidden_BTD = hidden_BTD.astype(head.output.kernel.dtype)  # a head computes in float32, whatever the encoder does
    if isinstance(head, SequenceHead):
        return classify_sequences(head, hidden_BTD)[:, None]
    return classify_tokens(head, hidden_BTD)


def prepare_task(config: TaskConfig, mesh: Mesh | None = None) -> Job:
    r"""Loads everything that training on a task needs.

    Args:
      config: its options.
      mesh: shards the model by the rules in `sharding.py`.

    Raises:
      DyntokError: files cannot be read, labels of the validation are not among those of the training, or options do not
        fit the model.

    >>> from dyntok_jax.tasks import TaskConfig
    >>> path = folder / "reviews.jsonl"
    >>> _ = path.write_text('{"text": "Wonderful", "label": "good"}\n{"text": "Dull", "label": "bad"}')
    >>> config = TaskConfig("classify", train=(str(path),), model=str(encoder_folder), batch_size=2, max_length=32)
    >>> job = prepare_task(config)
    >>> sorted(job.parameters.replaced), next(job.batches).label_BW.tolist()
    (['head.dense.bias', 'head.dense.kernel', 'head.output.bias', 'head.output.kernel'], [[0], [1]])
    """
    if not config.train:
        raise InputError("There is nothing to train on: give files of JSON lines (--train FILE ...).")
    if config.task == "lm":
        return prepare_lm(config, mesh)
    examples = read_examples(config.train, config.task)
    names = examples.label_names
    if len(names) < 2:
        raise InputError(f"All examples have the label {', '.join(names)}: give examples of two labels or more.")
    dtype = jnp.dtype(config.run.compute_dtype)
    hypernet = None if config.hypernet == "none" else config.hypernet
    loaded = load_model(config.model, hypernet, kind="encoder", dtype=dtype, mesh=mesh)
    if config.max_length > loaded.config.max_tokens:
        raise ConfigError(
            f"max_length is {config.max_length}, but the model has positions for {loaded.config.max_tokens} tokens: "
            "give that or less."
        )
    embedder = TokenEmbedder(loaded.tokenizer, loaded.parameters.word_embeddings[...], loaded.hypernet)
    head = HEAD_KINDS[config.task](loaded.config, names, jax.random.key(config.seed))
    lora = LoraConfig(
        rank=config.lora.rank,
        alpha=config.lora.alpha,
        modules_to_save=saved_modules(head),
        task=PEFT_TASKS[config.task],
        base_model=config.model,
    )
    frozen = FrozenEncoder(loaded.parameters, head)
    make_batch = labelled_batch_maker(examples.texts, examples.numbers(names), embedder, config)
    batches = DrawnBatches([n_characters(text) for text in examples.texts], config, make_batch)
    validate, held = None, None
    if config.validation:
        held = read_examples(config.validation, config.task).evenly(config.validation_examples)
        make_batch = labelled_batch_maker(held.texts, held.numbers(names), embedder, config)
        sizes = {"n_examples": len(held.texts), "batch_size": config.batch_size}
        validate = held_out_validator(task_loss, frozen, make_batch, **sizes)
    task = {"task": config.task, "labels": list(names), "prefix": config.prefix, "boundary": config.boundary}
    contents = {"contents of the training": digest(examples), "contents of the validation": digest(held)}
    return Job(
        parameters=fresh_adapter(jax.random.key(config.seed + 1), lora, loaded.parameters, head),
        frozen=frozen,
        loss=task_loss,
        batches=batches,
        validate=validate,
        run=config.run,
        optimizer=config.optimizer,
        learning_rates={} if config.head_learning_rate is None else {r"\bhead\.": config.head_learning_rate},
        decisive=config.decisive() | contents,
        result=ADAPTER,
        save=partial(save_task, task=task, config=loaded.config),
    )


def saved_modules(head: SequenceHead | TokenHead) -> tuple[str, ...]:
    """Hugging Face's names of the modules that a fresh head consists of.

    >>> saved_modules(SequenceHead(encoder.config, ("bad", "good"), jax.random.key(0)))
    ('classifier',)
    """
    return (
        ("pooler", "classifier")
        if isinstance(head, SequenceHead) and head.config.model_type == "bert"
        else ("classifier",)
    )


def save_task(folder: Path, adapter: Adapter, *, task: dict[str, Any], config: Any) -> None:
    """Writes an adapter as a folder of peft, and what its labels are beside it.

    >>> from dyntok_jax.adapters import LoraConfig
    >>> adapter = fresh_adapter(jax.random.key(0), LoraConfig(rank=4), encoder.encoder)
    >>> save_task(folder, adapter, task={"task": "classify", "labels": ["bad", "good"]}, config=encoder.config)
    >>> read_task(folder)["task"]
    'classify'
    """
    save_adapter(folder, adapter, config)
    with written(folder / TASK_FILE) as part:
        part.write_text(json.dumps(task, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_task(folder: Path) -> dict[str, Any]:
    r"""What `save_task` wrote beside the adapter: `task`, `labels`, `prefix` and `boundary`.

    Raises:
      CheckpointError: the folder has no such file, or not these fields.

    >>> _ = (folder / "dyntok_task.json").write_text('{"task": "classify", "labels": ["bad", "good"]}')
    >>> read_task(folder)["labels"]
    ['bad', 'good']
    """
    if not (folder / TASK_FILE).is_file():
        raise CheckpointError(
            f"{folder} has no {TASK_FILE}, which names the task and its labels: name the folder `adapter` in the "
            "output of `dyntok train-task`, of a task with labels. An adapter of --task lm is for `dyntok generate`."
        )
    task = read_json(folder / TASK_FILE, CheckpointError, "train again, or repair it")
    if task.get("task") not in get_args(LabelKind) or not isinstance(task.get("labels"), list):
        raise CheckpointError(f"{folder / TASK_FILE} must have the fields task and labels: train again.")
    return task
