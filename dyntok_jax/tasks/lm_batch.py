"""Batches of prompts and answers: prompts merged as a decoder merges them, answers in the model's own tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic

import jax
import numpy as np
from jaxtyping import Int32

from dyntok_jax.embedding import TokenEmbedder, TokenInputs
from dyntok_jax.merging import merge_texts
from dyntok_jax.options import STATIC, Merges, Merging, Share
from dyntok_jax.tasks.config import TaskConfig
from dyntok_jax.tasks.drawn_batches import MakeBatch
from dyntok_jax.tasks.labelled_batch import NO_LABEL
from dyntok_jax.tasks.lm_texts import LmTexts
from dyntok_jax.text import CONTINUATION_BUCKETS, bucket, pad_ragged
from dyntok_jax.types import ArrayT


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AnsweredPrompts(Generic[ArrayT]):
    """Prompts, each followed by its answer, as a decoder reads them.

    Attributes:
      inputs: the tokens of both.
      n_prompt_B: tokens of each prompt; 1 for rows of padding.

    >>> from dyntok_jax.tasks import TaskConfig, lm_batch_maker, lm_texts
    >>> config = TaskConfig("lm", batch_size=2, max_length=32)
    >>> texts = lm_texts(
    ...     [("All human", " beings")], decoder.text_encoder, None, end_ids=(), boundary="pretoken", max_length=32
    ... )
    >>> dynamic = lm_batch_maker(texts, decoder.embedder, config)(np.array([0]), None, None).dynamic
    >>> n_answer = len(texts.answers[0])
    >>> (dynamic.inputs.mask_BT.sum(axis=1) - dynamic.n_prompt_B).tolist() == [n_answer, -1]
    True
    """

    inputs: TokenInputs[ArrayT]
    n_prompt_B: Int32[ArrayT, "B"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LmBatch(Generic[ArrayT]):
    """What a step of training a decoder reads.

    Attributes:
      dynamic: the prompts as they are merged, with their answers.
      static: the same prompts unmerged, for the teacher; None without one.
      answer_BO: ids of the answers, `NO_LABEL` after the last.

    >>> from dyntok_jax.tasks import TaskConfig, lm_batch_maker, lm_texts
    >>> config = TaskConfig("lm", batch_size=2, max_length=32, distill=0.5)
    >>> texts = lm_texts(
    ...     [("All human", " beings")], decoder.text_encoder, None, end_ids=(), boundary="pretoken", max_length=32
    ... )
    >>> batch = lm_batch_maker(texts, decoder.embedder, config)(np.array([0]), None, None)
    >>> batch.n_labels == len(texts.answers[0]), batch.static is None
    (True, False)
    """

    dynamic: AnsweredPrompts[ArrayT]
    static: AnsweredPrompts[ArrayT] | None
    answer_BO: Int32[ArrayT, "B O"]

    @property
    def n_labels(self) -> int:
        """Tokens of all answers; the batch must be on the host."""
        return int((self.answer_BO != NO_LABEL).sum())


def lm_batch_maker(texts: LmTexts, embedder: TokenEmbedder, config: TaskConfig) -> MakeBatch:
    """What makes a batch of some of the texts.

    Each prompt is merged alone, its last segment and its digits stay unmerged, as `DynamicDecoder` reads prompts.

    >>> from dyntok_jax.options import FULL
    >>> from dyntok_jax.tasks import TaskConfig, lm_batch_maker, lm_texts
    >>> config = TaskConfig("lm", batch_size=2, max_length=32)
    >>> texts = lm_texts(
    ...     [("Freiheit und", " Recht")], decoder.text_encoder, None, end_ids=(), boundary="pretoken", max_length=32
    ... )
    >>> make_batch = lm_batch_maker(texts, decoder.embedder, config)
    >>> static, full = (make_batch(np.array([0]), goal, None) for goal in (None, FULL))
    >>> bool(full.dynamic.n_prompt_B[0] < static.dynamic.n_prompt_B[0])
    True
    """
    longest = max(map(len, texts.answers))

    def make_batch(rows, goal, goals) -> LmBatch[np.ndarray]:
        prompts = [texts.prompts[row] for row in rows]
        answers = [texts.answers[row] for row in rows]
        offsets = np.append(0, np.cumsum([len(ids) for ids in answers]))
        length = min(bucket(int(np.diff(offsets).max()), CONTINUATION_BUCKETS), longest)
        answer_BO = pad_ragged(np.concatenate(answers), offsets, config.batch_size, length, padding=NO_LABEL)

        def read(merging: Merging, goals: Sequence[Merges | Share] | None) -> AnsweredPrompts[np.ndarray]:
            resolved = embedder.resolve(merging, scope="example", merge_last=False, protect="digits")
            return _read(prompts, answer_BO, texts, embedder, resolved, goals, max_length=config.max_length)

        dynamic = read(Merging(goal, boundary=config.boundary), goals)
        return LmBatch(dynamic, read(STATIC, None) if config.distill else None, answer_BO)

    return make_batch


def _read(
    prompts: Sequence[str],
    answer_BO: Int32[np.ndarray, "B O"],
    texts: LmTexts,
    embedder: TokenEmbedder,
    merging: Merging,
    goals: Sequence[Merges | Share] | None,
    *,
    max_length: int,
) -> AnsweredPrompts[np.ndarray]:
    encoder, n_batch = texts.text_encoder, len(answer_BO)
    if merging.is_static:
        subwords = encoder.encode_static(prompts, add_special_tokens=texts.adds_special)
    else:
        subwords = encoder.encode(
            prompts, boundary=merging.boundary, add_special_tokens=texts.adds_special, protect=merging.protect
        )
    tokens = merge_texts(subwords, merging, batch_size=len(prompts), limit=max_length, truncate=None, goals=goals)
    n_prompt_B = np.pad(tokens.lengths.astype(np.int32), (0, n_batch - len(prompts)), constant_values=1)
    is_answer_BO = answer_BO != NO_LABEL
    longest = int((n_prompt_B + is_answer_BO.sum(axis=1)).max())
    inputs = embedder.inputs(
        tokens,
        np.zeros(len(prompts), np.int32),
        n_batch=n_batch,
        length=min(bucket(longest), max_length),
        is_static=merging.is_static,
    )
    row_A, place_A = np.nonzero(is_answer_BO)
    at = row_A, n_prompt_B[row_A] + place_A
    ids_BT, mask_BT = inputs.ids_BT.copy(), inputs.mask_BT.copy()
    ids_BT[at], mask_BT[at] = answer_BO[is_answer_BO], True
    row_BT = None
    if inputs.row_BT is not None:
        row_BT = inputs.row_BT.copy()
        row_BT[at] = -1
    return AnsweredPrompts(replace(inputs, ids_BT=ids_BT, mask_BT=mask_BT, row_BT=row_BT), n_prompt_B)
