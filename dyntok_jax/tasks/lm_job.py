"""Training a decoder to read dynamic tokens: an adapter beside it, and a loss on what follows merged prompts."""

from functools import partial
from math import log

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32

from dyntok_jax.adapters import Adapter, LoraConfig, apply_adapters, fresh_adapter
from dyntok_jax.convert import save_adapter
from dyntok_jax.decoding import end_ids
from dyntok_jax.embedding import TokenEmbedder, embed_tokens
from dyntok_jax.errors import ConfigError, InputError
from dyntok_jax.files import load_model
from dyntok_jax.models import Decoder, forward, logits
from dyntok_jax.tasks.config import TaskConfig
from dyntok_jax.tasks.drawn_batches import DrawnBatches
from dyntok_jax.tasks.examples import digest
from dyntok_jax.tasks.held_out import GOALS, held_out_validator
from dyntok_jax.tasks.labelled_batch import NO_LABEL
from dyntok_jax.tasks.lm_batch import AnsweredPrompts, LmBatch, lm_batch_maker
from dyntok_jax.tasks.lm_texts import LmTexts, lm_texts, read_lm_examples
from dyntok_jax.text import ChatTemplate, TextEncoder
from dyntok_jax.training import ADAPTER, Job, Metrics, Validate, mean_by_chunks


def lm_loss(
    adapter: Adapter, decoder: Decoder, batch: LmBatch[Array], *, distill: float = 0.0, remat: bool = False
) -> tuple[Float32[Array, ""], Metrics]:
    r"""Mean cross-entropy of the answers' tokens after the prompts, in nats; with a teacher also what it consists of.

    Args:
      adapter: that is trained.
      decoder: the frozen model.
      batch: prompts and answers.
      distill: weight of the divergence (Kullback-Leibler, in nats a token) of the adapted model's distributions from
        those of the model without the adapter, which reads the prompts unmerged; needs `batch.static`.
      remat: compute layers again for gradients, instead of keeping what is in them.

    >>> from dyntok_jax.tasks import TaskConfig, prepare_task
    >>> path = folder / "texts.jsonl"
    >>> _ = path.write_text('{"prompt": "All human beings", "completion": " are born free"}')
    >>> config = TaskConfig("lm", train=(str(path),), model=str(decoder_folder), batch_size=1, distill=1.0)
    >>> job = prepare_task(config)
    >>> loss, metrics = jax.jit(job.loss)(job.parameters, job.frozen, next(job.batches))
    >>> loss.shape, sorted(metrics)
    ((), ['cross_entropy', 'divergence', 'loss'])
    """
    n_answer = batch.answer_BO.shape[1]
    adapted = apply_adapters(decoder, [adapter])
    hidden = [_states_before(adapted, batch.dynamic, n_answer, remat=remat)]
    if batch.static is not None:
        hidden.append(_states_before(decoder, batch.static, n_answer, remat=remat))

    def terms(target_BO, hidden_BOD, *static_BOD) -> dict[str, Float32[Array, "B O"]]:
        found_BOV = jax.nn.log_softmax(logits(decoder, hidden_BOD), axis=-1)
        chosen_BO1 = jnp.take_along_axis(found_BOV, target_BO[..., None], axis=-1)
        metrics = {"cross_entropy": -chosen_BO1[..., 0]}
        for teacher_BOD in static_BOD:
            wanted_BOV = jax.nn.log_softmax(logits(decoder, teacher_BOD), axis=-1)
            metrics["divergence"] = jnp.sum(jnp.exp(wanted_BOV) * (wanted_BOV - found_BOV), axis=-1)
        return metrics

    target_BO = jnp.maximum(batch.answer_BO, 0)
    metrics: Metrics = mean_by_chunks(terms, batch.answer_BO != NO_LABEL, target_BO, *hidden)
    if batch.static is None:
        return metrics["cross_entropy"], {"loss": metrics["cross_entropy"]}
    loss = metrics["cross_entropy"] + distill * metrics["divergence"]
    return loss, metrics | {"loss": loss}


def _states_before(
    model: Decoder, read: AnsweredPrompts[Array], n_answer: int, *, remat: bool
) -> Float[Array, "B O D"]:
    """The hidden state before each token of the answers: first that of the prompt's last token."""
    mask_BT = read.inputs.mask_BT
    hidden_BTD = forward(model, embed_tokens(model.word_embeddings[...], read.inputs), mask_BT, remat=remat)
    before_BO = read.n_prompt_B[:, None] - 1 + jnp.arange(n_answer, dtype=jnp.int32)[None]
    before_BO = jnp.minimum(before_BO, mask_BT.shape[1] - 1)
    return jnp.take_along_axis(hidden_BTD, before_BO[..., None], axis=1)


def prepare_lm(config: TaskConfig, mesh: Mesh | None = None) -> Job:
    """Loads everything that training an adapter of a decoder needs; see `prepare_task`."""
    examples = read_lm_examples(config.train)
    held = read_lm_examples(config.validation) if config.validation else None
    hypernet = None if config.hypernet == "none" else config.hypernet
    loaded = load_model(config.model, hypernet, kind="decoder", dtype=jnp.dtype(config.run.compute_dtype), mesh=mesh)
    decoder = loaded.parameters
    if config.max_length > loaded.config.max_positions:
        raise ConfigError(
            f"max_length is {config.max_length}, but the model has positions for {loaded.config.max_positions} tokens: "
            "give that or less."
        )
    output = decoder.output_embeddings
    embedder = TokenEmbedder(
        loaded.tokenizer,
        decoder.word_embeddings[...],
        loaded.hypernet,
        output_VD=None if output is None else output[...],
        reader=decoder,
    )
    if embedder.languages:
        raise InputError(
            "The hypernetwork is multilingual, and texts to train on name no language: use another one, or none "
            "(--hypernet none)."
        )
    read = partial(
        lm_texts,
        text_encoder=TextEncoder(loaded.tokenizer),
        chat=ChatTemplate.load(loaded.folder),
        end_ids=end_ids(loaded.folder, loaded.tokenizer),
        boundary=config.boundary,
        max_length=config.max_length,
    )
    texts = read(examples)
    loss = partial(lm_loss, distill=config.distill, remat=config.remat)
    validate = None
    if held is not None:
        validate = _validator(read(held).evenly(config.validation_examples), embedder, config, loss, decoder)
    lora = LoraConfig(rank=config.lora.rank, alpha=config.lora.alpha, task="CAUSAL_LM", base_model=config.model)
    return Job(
        parameters=fresh_adapter(jax.random.key(config.seed + 1), lora, decoder),
        frozen=decoder,
        loss=loss,
        batches=DrawnBatches(texts.n_tokens, config, lm_batch_maker(texts, embedder, config)),
        validate=validate,
        run=config.run,
        optimizer=config.optimizer,
        decisive=config.decisive()
        | {"contents of the training": digest(examples), "contents of the validation": digest(held)},
        result=ADAPTER,
        save=partial(save_adapter, config=loaded.config),
    )


def _validator(texts: LmTexts, embedder: TokenEmbedder, config: TaskConfig, loss, decoder: Decoder) -> Validate:
    """Loss, cross-entropy and bits a byte after prompts that are static and fully merged."""
    make_batch = lm_batch_maker(texts, embedder, config)
    validate = held_out_validator(
        loss, decoder, make_batch, n_examples=len(texts.prompts), batch_size=config.batch_size
    )
    own = texts.text_encoder.tokenizer.own
    n_bytes = sum(len(own.decode(ids.tolist(), skip_special_tokens=True).encode()) for ids in texts.answers)
    bits = sum(map(len, texts.answers)) / (log(2) * max(n_bytes, 1))

    def with_bits(adapter: Adapter) -> dict[str, float]:
        scores = validate(adapter)
        nats = {name: scores.get(f"{name}_cross_entropy", scores[f"{name}_loss"]) for name in GOALS}
        return scores | {f"{name}_bits_per_byte": bits * one for name, one in nats.items()}

    return with_bits
