"""Batches of labelled texts: tokenized, merged, and laid out for the encoder, with a label a text or a token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

import jax
import numpy as np
from jaxtyping import Int32

from dyntok_jax.embedding import TokenEmbedder, TokenInputs
from dyntok_jax.merging import first_tokens, merge_texts
from dyntok_jax.options import Merges, Merging, Share
from dyntok_jax.tasks.config import TaskConfig
from dyntok_jax.tasks.drawn_batches import MakeBatch
from dyntok_jax.text import Text, TextEncoder, bucket, pad_ragged
from dyntok_jax.types import ArrayT

NO_LABEL = -1
"""Where a token has no label: all but the first of a word."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LabelledBatch(Generic[ArrayT]):
    """What a step of training on a task reads.

    Attributes:
      inputs: the tokens.
      type_BT: which text of a pair each is in.
      label_BW: number of each label, `NO_LABEL` where there is none; W is 1 for labels of texts, T for those of tokens.

    >>> from dyntok_jax.options import FULL, Merging
    >>> merging = encoder.embedder.resolve(Merging(FULL), scope="batch", merge_last=True)
    >>> batch = labelled_batch(["Freiheit"], [[1]], encoder.embedder, merging, n_batch=2, max_length=32)
    >>> batch.label_BW.tolist(), batch.inputs.mask_BT.shape
    ([[1], [-1]], (2, 16))
    """

    inputs: TokenInputs[ArrayT]
    type_BT: Int32[ArrayT, "B T"]
    label_BW: Int32[ArrayT, "B W"]

    @property
    def n_labels(self) -> int:
        """Labels of the batch, which must be on the host."""
        return int((self.label_BW != NO_LABEL).sum())


def labelled_batch(
    texts: Sequence[Text],
    numbers: Sequence[Sequence[int]],
    embedder: TokenEmbedder,
    merging: Merging,
    *,
    n_batch: int,
    max_length: int,
    prefix: str = "",
    goals: Sequence[Merges | Share] | None = None,
) -> LabelledBatch[np.ndarray]:
    """Tokenizes, merges and pads texts, and gives labels of words to their first tokens.

    Args:
      texts: one a row; lists of words if the labels are those of words.
      numbers: of the labels: one a text, or one a word.
      embedder: with the tokenizer, and the rows of new tokens.
      merging: how texts are merged, resolved.
      n_batch: rows, padding included.
      max_length: the most tokens a text; longer ones are cut, and labels of words that were cut off are left out.
      prefix: put before each text.
      goals: one for each text, which is then merged alone, in place of the goal of `merging`.

    >>> from dyntok_jax.options import FULL, Merging
    >>> merging = encoder.embedder.resolve(Merging(FULL), scope="batch", merge_last=True)
    >>> words = [["Freiheit", "und"]]
    >>> batch = labelled_batch(words, [[2, 0]], encoder.embedder, merging, n_batch=1, max_length=32)
    >>> [label for label in batch.label_BW[0].tolist() if label != NO_LABEL]
    [2, 0]
    """
    encoder = TextEncoder(embedder.tokenizer)
    if merging.is_static:
        subwords = encoder.encode_static(texts, prefix=prefix)
    else:
        subwords = encoder.encode(texts, boundary=merging.boundary, prefix=prefix, protect=merging.protect)
    tokens = merge_texts(subwords, merging, batch_size=len(texts), limit=max_length, truncate=True, goals=goals)
    length = min(bucket(max(1, int(tokens.lengths.max()))), max_length)
    language_B = np.zeros(len(texts), np.int32)
    inputs = embedder.inputs(tokens, language_B, n_batch=n_batch, length=length, is_static=merging.is_static)
    type_BT = pad_ragged(tokens.subwords.type_N[tokens.start_M], tokens.offsets, n_batch, length, padding=0)
    is_of_words = isinstance(texts[0], list)
    label_BW = np.full((n_batch, length if is_of_words else 1), NO_LABEL, np.int32)
    if is_of_words:
        places = first_tokens(tokens, [len(row) for row in numbers])
        for row, (place, labels) in enumerate(zip(places, numbers, strict=True)):
            # a token of several words has the label of the first
            for at, label in reversed(list(zip(place.tolist(), labels, strict=True))):
                if at >= 0:
                    label_BW[row, at] = label
    else:
        label_BW[: len(numbers), 0] = [row[0] for row in numbers]
    return LabelledBatch(inputs, type_BT, label_BW)


def labelled_batch_maker(
    texts: list[Text], numbers: Sequence[Sequence[int]], embedder: TokenEmbedder, config: TaskConfig
) -> MakeBatch:
    """What makes a batch of some of the texts.

    >>> from dyntok_jax.tasks import TaskConfig
    >>> config = TaskConfig("classify", batch_size=2, max_length=32)
    >>> make_batch = labelled_batch_maker(["Freiheit", "Recht"], [[0], [1]], encoder.embedder, config)
    >>> make_batch(np.array([1, 0]), None, None).label_BW.tolist()
    [[1], [0]]
    """

    def make_batch(rows, goal, goals) -> LabelledBatch[np.ndarray]:
        return labelled_batch(
            [texts[row] for row in rows],
            [numbers[row] for row in rows],
            embedder,
            embedder.resolve(Merging(goal, boundary=config.boundary), scope="batch", merge_last=True),
            n_batch=config.batch_size,
            max_length=config.max_length,
            prefix=config.prefix,
            goals=goals,
        )

    return make_batch


def n_characters(text: Text) -> int:
    """Characters of a text, of a pair, or of words."""
    return len(text) if isinstance(text, str) else sum(map(len, text))
