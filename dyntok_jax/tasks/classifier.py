"""`TaskModel`: labels of texts or of words, from an encoder with an adapter that was trained on a task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32

from dyntok_jax.adapters import fold_adapters
from dyntok_jax.convert import load_adapter
from dyntok_jax.encoding import DynamicEncoder
from dyntok_jax.errors import CheckpointError, InputError
from dyntok_jax.merging import first_tokens
from dyntok_jax.models import SequenceHead, TokenHead, classify_sequences, classify_tokens
from dyntok_jax.options import AUTO, FULL, Goal, Merging, check_list, one_merging
from dyntok_jax.storage import read_json
from dyntok_jax.tasks.config import LabelKind
from dyntok_jax.tasks.job import HEAD_KINDS, read_task
from dyntok_jax.tasks.metrics import accuracy, entity_f1, macro_f1
from dyntok_jax.text import Text, pad_ragged

CHUNK = 256
"""Texts whose hidden states are in memory at a time."""
OUTSIDE = "O"
"""The tag of a word that has no token: an empty one, or one that was cut off."""


@dataclass(frozen=True)
class Labels:
    """Labels of texts, or of their words.

    Attributes:
      labels: one a text; for `ner` a list of tags, one a word.
      probabilities: of each label that was chosen, in the same form.
      n_subwords: of all texts, before merging, special tokens not counted.
      n_tokens: the same after merging.
      padded_tokens: all tokens that the model read, padding and special tokens included.

    >>> found = Labels(["good"], [0.9], n_subwords=4, n_tokens=3, padded_tokens=16)
    >>> found.scores(["good"])
    {'accuracy': 100.0, 'macro_f1': 100.0}
    """

    labels: list[str] | list[list[str]]
    probabilities: list[float] | list[list[float]]
    n_subwords: int
    n_tokens: int
    padded_tokens: int

    def scores(self, wanted: Sequence[Any]) -> dict[str, float]:
        """Percentages against the right labels: accuracy and macro F1, or accuracy of words and F1 of entities."""
        if self.labels and isinstance(self.labels[0], list):
            flat = [[tag for tags in several for tag in tags] for several in (self.labels, wanted)]
            return {"accuracy": accuracy(*flat), "entity_f1": entity_f1(self.labels, wanted)}
        labels = [label for label in self.labels if isinstance(label, str)]
        return {"accuracy": accuracy(labels, wanted), "macro_f1": macro_f1(labels, wanted)}


class TaskModel:
    """An encoder and the adapter and head that `train-task` wrote.

    Attributes:
      task: what it was trained on.
      head: gives the labels.
      encoder: with the adapter multiplied into its weights.
      prefix: put before each text.
      merging: how texts are merged unless a call says otherwise: fully, with the boundary of the training.

    >>> from dyntok_jax.models import SequenceHead
    >>> head = SequenceHead(encoder.config, ("bad", "good"), jax.random.key(0))
    >>> found = TaskModel("classify", head, encoder).predict(["Freiheit", "Recht"])
    >>> set(found.labels) <= {"bad", "good"}, len(found.probabilities)
    (True, 2)
    """

    def __init__(
        self,
        task: LabelKind,
        head: SequenceHead | TokenHead,
        encoder: DynamicEncoder,
        *,
        prefix: str = "",
        merging: Merging | None = None,
    ):
        self.task: LabelKind = task
        self.head, self.encoder, self.prefix = head, encoder, prefix
        self.merging = Merging(FULL) if merging is None else merging

    @classmethod
    def load(
        cls,
        adapter: str | Path,
        model: str | Path | None = None,
        hypernet: str | Path | None = AUTO,
        *,
        mesh: Mesh | None = None,
    ) -> "TaskModel":
        """Loads an adapter's folder and the model that it was trained for.

        Args:
          adapter: a folder that `train-task` wrote (`run/adapter`).
          model: a folder, a Hub id, or a packaged encoder; None for the one that the adapter names.
          hypernet: as for `DynamicEncoder.load`.
          mesh: shards parameters and batches.

        Raises:
          CheckpointError: the folder lacks a file, or the adapter is of another model.
          ModelNotFoundError, ConfigError, TokenizerError: as `DynamicEncoder.load`.
        """
        folder = Path(adapter)
        task = read_task(folder)
        named = read_json(folder / "adapter_config.json", CheckpointError, "train again, or repair it")
        model = model or named.get("base_model_name_or_path")
        if not model:
            raise InputError(f"{folder} does not name the model that it was trained for: give the model.")
        encoder = DynamicEncoder.load(model, hypernet, adapter=folder, mesh=mesh)
        fresh = HEAD_KINDS[task["task"]](encoder.config, task["labels"], jax.random.key(0))
        head = fold_adapters(fresh, [load_adapter(folder, encoder.config, dtype=jnp.float32)])
        merging = Merging(FULL, boundary=task.get("boundary", "pretoken"))
        return cls(task["task"], head, encoder, prefix=task.get("prefix", ""), merging=merging)

    def predict(
        self,
        texts: Sequence[Text],
        *,
        goal: Goal | None = FULL,
        merging: Merging | None = None,
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
    ) -> Labels:
        """The labels of texts.

        Args:
          texts: pairs for `nli`, strings for `classify`, lists of words for `ner`.
          goal: when merging stops; None is static tokenization.
          merging: all merging options, instead of `goal`; by default the boundary is that of the training.
          batch_size: texts a batch.
          on_progress: called with the number of texts of each batch.

        Raises:
          InputError: texts of another kind than the task's, or invalid options.
        """
        check_list("texts", texts)
        kind = {"nli": tuple, "classify": str, "ner": list}[self.task]
        if wrong := [at for at, text in enumerate(texts) if not isinstance(text, kind)]:
            what = {"nli": "pairs of texts", "classify": "texts", "ner": "lists of words"}[self.task]
            raise InputError(f"The task {self.task} takes {what}, and text {wrong[0] + 1} is {texts[wrong[0]]!r:.60}.")
        if merging is None:
            merging = self.merging if goal == FULL else Merging(goal, boundary=self.merging.boundary)
        encode = partial(
            self.encoder.encode,
            merging=one_merging(FULL, merging, FULL),
            prefix=self.prefix,
            normalize=False,
            batch_size=batch_size,
            truncate=True,
            on_progress=on_progress,
        )
        labels, probabilities, counts = [], [], np.zeros(3, np.int64)
        for first in range(0, len(texts), CHUNK):
            some = texts[first : first + CHUNK]
            encoded = encode(some, pooling="first" if isinstance(self.head, SequenceHead) else "none")
            found = self._of_texts(encoded) if isinstance(self.head, SequenceHead) else self._of_words(encoded, some)
            labels += found[0]
            probabilities += found[1]
            counts += encoded.n_subwords.sum(), encoded.n_tokens.sum(), encoded.padded_tokens
        return Labels(labels, probabilities, *counts.tolist())

    def _of_texts(self, encoded) -> tuple[list[str], list[float]]:
        probability_NY = np.asarray(_probabilities(self.head, encoded.embeddings_ND[:, None]))
        best_N = probability_NY.argmax(axis=-1)
        return [self.head.labels[at] for at in best_N], probability_NY.max(axis=-1).tolist()

    def _of_words(self, encoded, texts: Sequence[Sequence[str]]) -> tuple[list[list[str]], list[list[float]]]:
        states_MD = np.concatenate(encoded.hidden)
        offsets = np.cumsum([0, *map(len, encoded.hidden)])
        length = -(-int(np.diff(offsets).max(initial=1)) // 32) * 32
        hidden_BTD = pad_ragged(states_MD, offsets, CHUNK, length, padding=0)
        probability_BTY = np.asarray(_probabilities(self.head, hidden_BTD))
        labels, probabilities = [], []
        for row, place_W in enumerate(first_tokens(encoded.tokens, [len(words) for words in texts])):
            chosen_WY = probability_BTY[row, np.maximum(place_W, 0)]
            tags = [self.head.labels[at] for at in chosen_WY.argmax(axis=-1)]
            labels.append([tag if at >= 0 else OUTSIDE for tag, at in zip(tags, place_W, strict=True)])
            probabilities.append(np.where(place_W >= 0, chosen_WY.max(axis=-1, initial=0), 1.0).tolist())
        return labels, probabilities


@jax.jit
def _probabilities(head: SequenceHead | TokenHead, hidden_BTD: Float[Array, "B T D"]) -> Float32[Array, "B *T Y"]:
    if isinstance(head, SequenceHead):
        scores = classify_sequences(head, hidden_BTD)
    else:
        scores = classify_tokens(head, hidden_BTD)
    return jax.nn.softmax(scores.astype(jnp.float32), axis=-1)


def word_spans(words: Sequence[str], text: str | None = None) -> list[tuple[int, int]]:
    """The characters of each word: in the text that it comes from, or in the words joined by single spaces.

    >>> word_spans(["New", "York", "!"], "New York!")
    [(0, 3), (4, 8), (8, 9)]
    """
    text = " ".join(words) if text is None else text
    spans, at = [], 0
    for word in words:
        start = text.find(word, at)
        if start < 0:  # words were changed: the text is not what they come from
            return word_spans(words)
        at = start + len(word)
        spans.append((start, at))
    return spans
