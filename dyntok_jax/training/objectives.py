"""The objectives of training: known rows, the frozen model's own reading of a text, and ZeTT's language model.

Every objective is a pure function of the hypernetwork, the frozen model and a batch, and can be used alone;
`total_loss` weighs several and computes what they share once. Gradients are those of the hypernetwork alone. Dimensions
are as in `data/training_batch.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from dyntok_jax.embedding import Hypernet, HypernetOutput, predict_embeddings
from dyntok_jax.errors import ConfigError
from dyntok_jax.models import (
    Decoder,
    Encoder,
    MaskedLmHead,
    encode,
    forward,
    l2_normalize,
    logits,
    mean_pool,
    mlm_features,
)
from dyntok_jax.training.config import Objectives
from dyntok_jax.training.data import PieceBatch, SurfaceForms, TextBatch, TrainingBatch

LOSS_CHUNK = 16
"""Positions of a sequence whose scores over a vocabulary are in memory at a time."""
LEAST_VARIANCE = 1e-4
"""The smallest variance of a table's column that errors are divided by, in units of the mean over columns."""

Loss = Float32[Array, ""]
Metrics = dict[str, Loss]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FrozenModel:
    """The model that a hypernetwork is trained for; training does not change it.

    Attributes:
      body: an encoder or a decoder.
      source_VM: its table; where input and output tables differ, both concatenated, [input ‖ output].
      variance_M: variances of the table's columns, in float32, with a lower bound.
      head: an encoder's masked-LM head, for the language-model objective.
      mask_row: source row of the mask token, for the same.

    >>> type(frozen.body).__name__, frozen.source_VM.shape == (tokenizer.n_own, 32), frozen.head
    ('Encoder', True, None)
    """

    body: Encoder | Decoder
    source_VM: Float[Array, "V M"]
    variance_M: Float32[Array, "M"]
    head: MaskedLmHead | None = None
    mask_row: Int[Array, ""] | None = None


class TokenRows(NamedTuple):
    """The rows of a batch's own R tokens: those predicted, then those kept.

    Attributes:
      input_RD: input embeddings.
      output_RD: output embeddings; the same array where the model's tables are tied.
      bias_R: unigram bias of a masked-LM head; zeros where there is none.
      is_token_R: False for padding.
    """

    input_RD: Float[Array, "R D"]
    output_RD: Float[Array, "R D"]
    bias_R: Float[Array, "R"]
    is_token_R: Bool[Array, "R"]


def freeze(body: Encoder | Decoder, head: MaskedLmHead | None = None, mask_row: int | None = None) -> FrozenModel:
    """Collects what the objectives need of a model."""
    source_VM = body.word_embeddings[...]
    if isinstance(body, Decoder) and body.output_embeddings is not None:
        source_VM = jnp.concatenate([source_VM, body.output_embeddings[...]], axis=1)
    variance_M = jnp.var(source_VM.astype(jnp.float32), axis=0)
    least = jnp.maximum(LEAST_VARIANCE * variance_M.mean(), jnp.finfo(jnp.float32).tiny)
    variance_M = jnp.maximum(variance_M, least)
    return FrozenModel(body, source_VM, variance_M, head, None if mask_row is None else jnp.int32(mask_row))


def total_loss(
    hypernet: Hypernet, frozen: FrozenModel, batch: TrainingBatch[Array], weights: Objectives
) -> tuple[Loss, Metrics]:
    """The weighted sum of the objectives, and each of them.

    Args:
      hypernet: the parameters that are trained.
      frozen: the model.
      batch: texts, pieces or both; an objective whose part is None is left out, as in a warm-up on pieces alone.
      weights: of the objectives.

    Raises:
      ConfigError: an objective needs something that the model or the hypernetwork lacks.

    >>> from functools import partial
    >>> from dyntok_jax.training import Objectives
    >>> loss_of = jax.jit(partial(total_loss, weights=Objectives(pieces=1.0)))
    >>> loss, metrics = loss_of(hypernet, frozen, training_batch)
    >>> sorted(metrics)
    ['loss', 'piece_cosine', 'pieces']
    """
    metrics: Metrics = {}
    if weights.pieces > 0 and batch.pieces is not None:
        metrics |= piece_terms(hypernet, frozen, batch.pieces)
    if weights.needs_texts and batch.texts is not None:
        rows = token_rows(hypernet, frozen, batch.texts)
        if weights.distills:
            metrics |= distillation_terms(rows, frozen, batch.texts, weights)
        if weights.language_model > 0:
            metrics["language_model"] = language_model_loss(rows, frozen, batch.texts)
    loss = sum(
        (weight * metrics[name] for name, weight in vars(weights).items() if name in metrics),
        start=jnp.zeros((), jnp.float32),
    )
    return loss, metrics | {"loss": loss}


def predict_forms(hypernet: Hypernet, frozen: FrozenModel, forms: SurfaceForms[Array]) -> HypernetOutput:
    """Predictions for surface forms; those of padding mean nothing."""
    language_P = None if hypernet.lang_embeddings is None else forms.language_P
    reader = frozen.body if isinstance(frozen.body, Decoder) else None
    return predict_embeddings(hypernet, forms.surface_PS, forms.is_subword_PS, frozen.source_VM, language_P, reader)


def token_rows(hypernet: Hypernet, frozen: FrozenModel, texts: TextBatch[Array]) -> TokenRows:
    """The rows that `texts.row_BT` indexes."""
    predicted = predict_forms(hypernet, frozen, texts.forms)
    kept_KM = frozen.source_VM[texts.kept_K]
    width = predicted.input_UD.shape[1]
    input_RD = jnp.concatenate([predicted.input_UD, kept_KM[:, :width]])
    output_RD = input_RD
    if predicted.output_UD is not None:
        output_RD = jnp.concatenate([predicted.output_UD, kept_KM[:, width:]])
    bias_P, bias_K = jnp.zeros_like(predicted.input_UD[:, 0]), jnp.zeros_like(kept_KM[:, 0])
    if frozen.head is not None:
        bias_P = bias_P if predicted.bias_U is None else predicted.bias_U
        bias_K = frozen.head.bias[...][texts.kept_K]
    is_kept_K = jnp.arange(len(texts.kept_K)) < texts.n_kept
    is_token_R = jnp.concatenate([texts.forms.is_subword_PS.any(axis=1), is_kept_K])
    return TokenRows(input_RD, output_RD, jnp.concatenate([bias_P, bias_K]), is_token_R)


def piece_terms(hypernet: Hypernet, frozen: FrozenModel, pieces: PieceBatch[Array]) -> Metrics:
    """Vocabulary decomposition: predictions against the pieces' rows in the model's tables.

    The loss `pieces` is the mean of 1 − cosine plus the squared error in units of the table's variance, over both
    tables where they differ; `piece_cosine` is the mean cosine.
    """
    predicted = predict_forms(hypernet, frozen, pieces.forms)
    parts = [part for part in (predicted.input_UD, predicted.output_UD) if part is not None]
    predicted_PM = jnp.concatenate(parts, axis=1).astype(jnp.float32)
    true_PM = frozen.source_VM[pieces.target_P].astype(jnp.float32)
    is_piece_P = pieces.forms.is_subword_PS.any(axis=1)
    width = predicted.input_UD.shape[1]
    halves = range(0, predicted_PM.shape[1], width)
    cosines = (cosine(predicted_PM[:, at : at + width], true_PM[:, at : at + width]) for at in halves)
    cosine_P = sum(cosines, start=jnp.zeros((), jnp.float32)) / len(halves)
    error_P = jnp.mean(jnp.square(predicted_PM - true_PM) / frozen.variance_M[None], axis=1)
    return {
        "pieces": masked_mean(1 - cosine_P + error_P, is_piece_P),
        "piece_cosine": masked_mean(cosine_P, is_piece_P),
    }


def distillation_terms(rows: TokenRows, frozen: FrozenModel, texts: TextBatch[Array], weights: Objectives) -> Metrics:
    """Distillation in context: the frozen model on dynamic tokens against itself on static subwords.

    Returns:
      Those of `sentences`, `hidden` and `next_subword` that have a weight.
    """
    body = frozen.body
    static_BLD = jax.lax.stop_gradient(static_states(frozen, texts))
    dynamic_BTD = hidden_states(body, rows.input_RD[texts.row_BT], texts.mask_BT)
    at_BT = jnp.maximum(texts.aligned_BT, 0)
    is_aligned_BT = (texts.aligned_BT >= 0) & texts.mask_BT
    target_BTD = jnp.take_along_axis(static_BLD, at_BT[..., None], axis=1)
    terms: Metrics = {}
    if weights.sentences > 0:
        static_BD, dynamic_BD = mean_pool(static_BLD, texts.static_mask_BL), mean_pool(dynamic_BTD, texts.mask_BT)
        terms["sentences"] = masked_mean(1 - cosine(dynamic_BD, static_BD), texts.mask_BT.any(axis=1))
    if weights.hidden > 0:
        terms["hidden"] = masked_mean(relative_error(dynamic_BTD, target_BTD), is_aligned_BT)
    if weights.next_subword > 0:
        if not isinstance(body, Decoder):
            raise ConfigError(
                "The objective next_subword compares a decoder's predictions, and the model is an encoder: leave it "
                "out."
            )
        terms["next_subword"] = next_subword_divergence(body, dynamic_BTD, target_BTD, is_aligned_BT)
    return terms


def language_model_loss(rows: TokenRows, frozen: FrozenModel, texts: TextBatch[Array]) -> Loss:
    """ZeTT's main loss: cross-entropy of tokens under a softmax over the batch's own R tokens, in nats a token.

    An encoder predicts the tokens that `is_masked_BT` hides, a decoder every next token (ZeTT §3.1, eq. 1).
    """
    embeddings_BTD = rows.input_RD[texts.row_BT]
    if isinstance(frozen.body, Decoder):
        hidden_BTD = hidden_states(frozen.body, embeddings_BTD, texts.mask_BT)[:, :-1]
        label_BT, is_asked_BT = texts.row_BT[:, 1:], texts.mask_BT[:, 1:]
    else:
        if frozen.head is None or frozen.mask_row is None:
            raise ConfigError(
                "The objective language_model needs the encoder's masked-LM head and mask token: use a checkpoint "
                "that has them, or other objectives."
            )
        mask_D = frozen.source_VM[frozen.mask_row]
        embeddings_BTD = jnp.where(texts.is_masked_BT[..., None], mask_D[None, None], embeddings_BTD)
        hidden_BTD = mlm_features(frozen.head, hidden_states(frozen.body, embeddings_BTD, texts.mask_BT))
        label_BT, is_asked_BT = texts.row_BT, texts.is_masked_BT & texts.mask_BT
    lowest = jnp.finfo(jnp.float32).min

    def cross_entropy(hidden_BTD, label_BT):
        scores_BTR = jnp.einsum("BTD,RD->BTR", hidden_BTD, rows.output_RD, preferred_element_type=jnp.float32)
        scores_BTR = scores_BTR + rows.bias_R.astype(jnp.float32)[None, None]
        scores_BTR = jnp.where(rows.is_token_R[None, None], scores_BTR, lowest)
        label_BT1 = jnp.take_along_axis(scores_BTR, label_BT[..., None], axis=2)
        return jax.nn.logsumexp(scores_BTR, axis=2) - label_BT1[..., 0]

    return mean_by_chunks(cross_entropy, is_asked_BT, hidden_BTD, label_BT)


def next_subword_divergence(
    body: Decoder,
    dynamic_BTD: Float[Array, "B T D"],
    static_BTD: Float[Array, "B T D"],
    is_aligned_BT: Bool[Array, "B T"],
) -> Loss:
    """Mean Kullback-Leibler divergence of a decoder's next-subword distributions, static from dynamic, in nats."""

    def divergence(dynamic_BTD, static_BTD):
        wanted_BTV = jax.nn.log_softmax(logits(body, static_BTD), axis=-1)
        found_BTV = jax.nn.log_softmax(logits(body, dynamic_BTD), axis=-1)
        return jnp.sum(jnp.exp(wanted_BTV) * (wanted_BTV - found_BTV), axis=-1)

    return mean_by_chunks(divergence, is_aligned_BT, dynamic_BTD, static_BTD)


def static_states(frozen: FrozenModel, texts: TextBatch[Array]) -> Float[Array, "B L D"]:
    """The model's hidden states of the static subwords."""
    table_VD = frozen.body.word_embeddings[...]
    return hidden_states(frozen.body, table_VD[texts.static_BL], texts.static_mask_BL)


def hidden_states(
    body: Encoder | Decoder, embeddings_BTD: Float[Array, "B T D"], mask_BT: Bool[Array, "B T"]
) -> Float[Array, "B T D"]:
    """The model's last hidden states, given word embeddings."""
    if isinstance(body, Decoder):
        return forward(body, embeddings_BTD, mask_BT)
    return encode(body, embeddings_BTD, mask_BT, jnp.zeros(mask_BT.shape, jnp.int32))


def cosine(a: Float[Array, "*rows D"], b: Float[Array, "*rows D"]) -> Float32[Array, "*rows"]:
    """Cosine of rows, in float32; 0 for a zero row."""
    return jnp.sum(l2_normalize(a) * l2_normalize(b), axis=-1)


def relative_error(found: Float[Array, "*rows D"], wanted: Float[Array, "*rows D"]) -> Float32[Array, "*rows"]:
    """Squared distance in units of the squared length of `wanted`, in float32."""
    found, wanted = found.astype(jnp.float32), wanted.astype(jnp.float32)
    length = jnp.square(wanted).sum(axis=-1)
    return jnp.square(found - wanted).sum(axis=-1) / jnp.maximum(length, jnp.finfo(jnp.float32).tiny)


def masked_mean(values: Float[Array, "*rows"], mask: Bool[Array, "*rows"]) -> Loss:
    """The mean where the mask is True; 0 if it is True nowhere."""
    total = jnp.where(mask, values, 0).sum(dtype=jnp.float32)
    return total / jnp.maximum(mask.sum(), 1).astype(jnp.float32)


def mean_by_chunks(term: Callable[..., Any], mask_BT: Bool[Array, "B T"], *arrays_BT: Array) -> Any:
    """The masked mean of a term whose intermediate values are large, `LOSS_CHUNK` positions at a time.

    Chunks are recomputed for gradients, so scores over a vocabulary are never in memory for all positions.

    Args:
      term: from a chunk of each array to its values, or to a tree of several terms' values.
      mask_BT: where they count.
      arrays_BT: what the term reads.

    Returns:
      A mean in place of each term's values.

    >>> mask_BT, x_BT = jnp.array([[True, True, False]]), jnp.array([[1.0, 2.0, 9.0]])
    >>> jax.tree.map(float, mean_by_chunks(lambda x_BT: {"x": x_BT, "square": x_BT**2}, mask_BT, x_BT))
    {'square': 2.5, 'x': 1.5}
    """
    n_batch, length = mask_BT.shape
    n_chunks = -(-length // LOSS_CHUNK)

    def in_chunks(array):
        padding = ((0, 0), (0, n_chunks * LOSS_CHUNK - length), *((0, 0) for _ in array.shape[2:]))
        folded = jnp.pad(array, padding).reshape(n_batch, n_chunks, LOSS_CHUNK, *array.shape[2:])
        return jnp.moveaxis(folded, 1, 0)

    @jax.checkpoint
    def sums(_, chunk):
        mask_BT, *arrays_BT = chunk
        return None, jax.tree.map(lambda values_BT: jnp.where(mask_BT, values_BT, 0).sum(), term(*arrays_BT))

    _, of_chunks = jax.lax.scan(sums, None, tuple(map(in_chunks, (mask_BT, *arrays_BT))))
    count = jnp.maximum(mask_BT.sum(), 1).astype(jnp.float32)
    return jax.tree.map(lambda sums: sums.sum() / count, of_chunks)
