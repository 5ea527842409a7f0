"""One batch of texts for a training step: tokenized twice, merged, its new tokens listed, aligned and padded."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, Int32

from dyntok_jax.embedding import distinct_forms, wants_row
from dyntok_jax.errors import InputError
from dyntok_jax.merging import merge_batch_on_host
from dyntok_jax.options import Boundary, Goal
from dyntok_jax.text import (
    TRAINING_ROW_BUCKETS,
    TRAINING_SUBWORD_BUCKETS,
    TRAINING_TOKEN_BUCKETS,
    RaggedSubwords,
    TextEncoder,
    bucket,
    cut_padding,
    pad_batch,
    token_spans,
)
from dyntok_jax.training.data.data_config import DataConfig
from dyntok_jax.training.data.training_batch import SurfaceForms, TextBatch
from dyntok_jax.types import MergedBatch, SubwordBatch, UniqueTokens


def make_text_batch(
    texts: Sequence[str],
    language_B: Int32[np.ndarray, "B"],
    text_encoder: TextEncoder,
    config: DataConfig,
    *,
    goal: Goal,
    rng: np.random.Generator,
) -> TextBatch[np.ndarray]:
    """Tokenizes texts as the model does and as dynamic tokens.

    Args:
      texts: those longer than `config.max_length` are cut at the border of a subword.
      language_B: the language index of each.
      text_encoder: of the model.
      config: its boundary, maximum lengths, prefix, `predict_all` and `mask_probability`; its sources are not used.
      goal: when merging stops; pairs are counted over the batch.
      rng: draws the tokens that `is_masked_BT` hides.

    Returns:
      A batch padded to a few shapes: L, T and P to the buckets of training, K to B · T.
    """
    max_length, max_subwords = config.max_length, config.max_subwords
    static, dynamic = encode_twice(
        texts, text_encoder, boundary=config.boundary, prefix=config.prefix or "", max_length=max_length
    )
    rows = np.arange(len(texts))
    static_batch = pad_batch(
        static,
        rows,
        pad_id=text_encoder.tokenizer.pad_id,
        length=padded_length(static.lengths, max_length, TRAINING_SUBWORD_BUCKETS),
    )
    subwords = pad_batch(dynamic, rows, pad_id=text_encoder.tokenizer.pad_id)
    merged = merge_batch_on_host(
        subwords.ids_BL, subwords.segment_BL, subwords.mask_BL, goal, max_subwords=max_subwords
    )
    merged = cut_padding(merged, padded_length(merged.mask_BT.sum(axis=1), max_length, TRAINING_TOKEN_BUCKETS))
    wanted_BT = wants_row(text_encoder.tokenizer, subwords.ids_BL, merged, predict_all=config.predict_all)
    forms, language_U = distinct_forms(subwords.ids_BL, merged, wanted_BT, language_B[:, None], width=max_subwords)
    padded = pad_forms_to(forms, language_U, bucket(int(forms.count), TRAINING_ROW_BUCKETS))
    row_BT, kept_K, n_kept = number_rows(subwords, merged, wanted_BT, forms.inverse_BT, len(padded.language_P))
    is_masked_BT = np.zeros(row_BT.shape, bool)
    if config.mask_probability > 0:
        is_text_BT = np.take_along_axis(subwords.is_counted_BL, merged.start_BT, axis=1) & merged.mask_BT
        is_masked_BT = is_text_BT & (rng.random(row_BT.shape) < config.mask_probability)
    return TextBatch(
        static_BL=static_batch.ids_BL,
        static_mask_BL=static_batch.mask_BL,
        row_BT=row_BT,
        mask_BT=merged.mask_BT,
        aligned_BT=align(static_batch, subwords, merged),
        is_masked_BT=is_masked_BT,
        forms=padded,
        kept_K=kept_K,
        n_kept=np.asarray(n_kept, np.int32),
    )


def padded_length(lengths_B: Int[np.ndarray, "B"], longest: int, buckets: Sequence[int]) -> int:
    """The padded length of sequences with at most `longest` subwords."""
    return min(bucket(int(lengths_B.max()), buckets), longest)


def encode_twice(
    texts: Sequence[str], text_encoder: TextEncoder, *, boundary: Boundary, prefix: str, max_length: int
) -> tuple[RaggedSubwords, RaggedSubwords]:
    """Static and byte-level subwords of the same texts, cut so that neither has more than `max_length`.

    Raises:
      InputError: special tokens and prefix alone have more.
    """
    texts = list(texts)
    while True:
        static = text_encoder.encode_static(texts, prefix=prefix)
        dynamic = text_encoder.encode(texts, boundary=boundary, prefix=prefix)
        too_long = np.flatnonzero((static.lengths > max_length) | (dynamic.lengths > max_length))
        if not too_long.size:
            return static, dynamic
        for row in too_long.tolist():
            if not texts[row]:
                taken = max(int(static.lengths[row]), int(dynamic.lengths[row]))
                raise InputError(
                    f"max_length {max_length} leaves no room for text: special tokens and prefix take {taken}."
                )
            fits = min(_characters_that_fit(subwords, row, max_length) for subwords in (static, dynamic))
            texts[row] = texts[row][: min(fits, len(texts[row]) - 1)]


def _characters_that_fit(subwords: RaggedSubwords, row: int, max_length: int) -> int:
    """How many characters of a text are in its first subwords, as many as fit into `max_length`."""
    begin, end = subwords.offsets[row : row + 2]
    room = max_length - int((~subwords.is_counted_N[begin:end]).sum())
    ends = subwords.span_N2[begin:end, 1][subwords.is_counted_N[begin:end]]
    return int(ends[:room].max(initial=0)) if len(ends) > room else int(ends.max(initial=0))


def pad_forms_to(
    forms: UniqueTokens[np.ndarray], language_U: Int32[np.ndarray, "U"], size: int
) -> SurfaceForms[np.ndarray]:
    """The forms, padded to P = `size` rows."""
    missing = size - len(language_U)
    return SurfaceForms(
        surface_PS=np.pad(forms.surface_US, ((0, missing), (0, 0))),
        is_subword_PS=np.pad(forms.is_subword_US, ((0, missing), (0, 0))),
        language_P=np.pad(language_U, (0, missing)),
    )


def number_rows(
    subwords: SubwordBatch[np.ndarray],
    merged: MergedBatch[np.ndarray],
    wanted_BT: Bool[np.ndarray, "B T"],
    form_BT: Int32[np.ndarray, "B T"],
    n_forms: int,
) -> tuple[Int32[np.ndarray, "B T"], Int32[np.ndarray, "K"], int]:
    """Numbers the rows of a batch: the forms, then the distinct source rows that tokens keep.

    Returns:
      Each token's row; the distinct source rows, padded; and their number.
    """
    first_BT = np.take_along_axis(subwords.ids_BL, merged.start_BT, axis=1)
    keeps_BT = merged.mask_BT & ~wanted_BT
    kept, index = np.unique(first_BT[keeps_BT], return_inverse=True)
    row_BT = np.where(wanted_BT, form_BT, 0).astype(np.int32)
    row_BT[keeps_BT] = n_forms + index
    kept_K = np.zeros(row_BT.size, np.int32)
    kept_K[: len(kept)] = kept
    return row_BT, kept_K, len(kept)


def align(
    static: SubwordBatch[np.ndarray], subwords: SubwordBatch[np.ndarray], merged: MergedBatch[np.ndarray]
) -> Int32[np.ndarray, "B T"]:
    """For each token the static subword that ends at the same character, -1 where there is none.

    If several subwords end there (the bytes of one character), only the last has read all of it; likewise for tokens.
    """
    end_BT = token_spans(subwords, merged)[..., 1]
    is_text_BT = np.take_along_axis(subwords.is_counted_BL, merged.start_BT, axis=1) & merged.mask_BT & (end_BT > 0)
    last_BT = _last_with_its_end(end_BT, is_text_BT)
    end_BL = static.span_BL2[..., 1]
    last_BL = _last_with_its_end(end_BL, static.is_counted_BL & (end_BL > 0))
    aligned_BT = np.full(end_BT.shape, -1, np.int32)
    for row in range(len(end_BT)):
        position = np.flatnonzero(last_BL[row])
        token = np.flatnonzero(last_BT[row])
        _, at_token, at_position = np.intersect1d(
            end_BT[row, token], end_BL[row, position], assume_unique=True, return_indices=True
        )
        aligned_BT[row, token[at_token]] = position[at_position]
    return aligned_BT


def _last_with_its_end(end: Int32[np.ndarray, "B N"], is_text: Bool[np.ndarray, "B N"]) -> Bool[np.ndarray, "B N"]:
    """Which are the last in their sequence with their end; ends never decrease."""
    following = np.concatenate([end[:, 1:], np.full((len(end), 1), -1)], axis=1)
    following_is_text = np.concatenate([is_text[:, 1:], np.zeros((len(end), 1), bool)], axis=1)
    return is_text & ~(following_is_text & (following == end))
