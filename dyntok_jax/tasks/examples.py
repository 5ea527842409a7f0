"""Labelled examples in files of JSON lines.

nli        {"premise": "…", "hypothesis": "…", "label": "entailment"}
classify   {"text": "…", "label": "sports"}          `category` is read as the label, too
ner        {"tokens": ["Anna", "sings"], "tags": ["B-PER", "O"]}
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dyntok_jax.errors import InputError
from dyntok_jax.tasks.config import TaskKind
from dyntok_jax.text import Text, decode_line, stream_byte_lines

TAG = re.compile(r"O|[BI]-.+")
INPUT_FIELDS = {"nli": ("premise", "hypothesis"), "classify": ("text",), "ner": ("tokens",)}
LABEL_FIELDS = {"nli": ("label",), "classify": ("label", "category"), "ner": ("tags",)}


@dataclass(frozen=True)
class Examples:
    """Texts with their labels.

    Attributes:
      texts: pairs for nli, strings for classify, lists of words for ner.
      labels: a label a text, or a tag a word; None for a text without.

    >>> Examples(["good"], ["positive"]).label_names
    ('positive',)
    """

    texts: list[Text]
    labels: list[str | list[str] | None]

    @property
    def label_names(self) -> tuple[str, ...]:
        """The distinct labels, sorted; for tags O first, and I of each kind beside B."""
        kinds = {label for one in self.labels for label in ([one] if isinstance(one, str) else one or ())}
        if not any(isinstance(one, list) for one in self.labels):
            return tuple(sorted(kinds))
        of_entities = sorted({kind[2:] for kind in kinds if kind != "O"})
        return ("O", *(f"{position}-{kind}" for kind in of_entities for position in "BI"))

    def numbers(self, names: Sequence[str]) -> list[list[int]]:
        """The numbers of the labels among `names`: one a text, or one a word.

        Raises:
          InputError: labels that are not among them (all are listed), or a text without a label.
        """
        number_of = {name: number for number, name in enumerate(names)}
        if None in self.labels:
            raise InputError(f"Example {self.labels.index(None) + 1} has no label: give one to each.")
        listed = [[one] if isinstance(one, str) else one or [] for one in self.labels]
        if unknown := sorted({label for one in listed for label in one} - number_of.keys()):
            raise InputError(
                f"The labels {', '.join(map(repr, unknown))} are not among those of the model: {', '.join(names)}."
            )
        return [[number_of[label] for label in one] for one in listed]

    def evenly(self, count: int) -> "Examples":
        """At most `count` of the examples, evenly spaced."""
        step = max(len(self.texts) / count, 1.0)
        rows = [int(at * step) for at in range(min(count, len(self.texts)))]
        return Examples([self.texts[row] for row in rows], [self.labels[row] for row in rows])


def read_examples(files: Sequence[str], task: TaskKind, *, needs_labels: bool = True) -> Examples:
    """Reads the examples of all files, in order; blank lines are skipped.

    Args:
      files: of JSON lines, .gz or not.
      task: which fields an example has; others are not read.
      needs_labels: whether each must have a label.

    Raises:
      InputError: a file cannot be read or holds no example; or, with file and line: it is not such an object, a field
        is missing or of another type, a pair lacks a text, the tags are fewer or more than the words, or no BIO
        sequence.

    >>> path = folder / "reviews.jsonl"
    >>> _ = path.write_text('{"text": "Wonderful", "label": "positive"}')
    >>> read_examples([str(path)], "classify")
    Examples(texts=['Wonderful'], labels=['positive'])
    """
    texts: list[Text] = []
    labels: list[str | list[str] | None] = []
    for file in files:
        for number, line in enumerate(stream_byte_lines(file), start=1):
            if line.strip():
                text, label = _example(decode_line(line, f"{file}, line {number}"), task, f"{file}, line {number}")
                if label is None and needs_labels:
                    raise InputError(
                        f"{file}, line {number} has no {LABEL_FIELDS[task][0]}: give each example one to train on."
                    )
                texts.append(text)
                labels.append(label)
    if not texts:
        raise InputError(f"{', '.join(files) or 'No file'} holds no example: give JSON lines, one example a line.")
    return Examples(texts, labels)


def _example(line: str, task: TaskKind, where: str) -> tuple[Text, str | list[str] | None]:
    fields = INPUT_FIELDS[task]
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}): give one JSON object a line.") from error
    if not isinstance(row, dict):
        raise InputError(f"{where} must be a JSON object with {' and '.join(fields)}, got {line[:60]}.")
    wrong = [field for field in fields if field not in row]
    if wrong:
        raise InputError(f"{where} lacks {' and '.join(wrong)}, which {task} reads: it has {', '.join(row) or 'none'}.")
    label = next((row[field] for field in LABEL_FIELDS[task] if row.get(field) is not None), None)
    if task == "ner":
        return _tagged(row["tokens"], label, where)
    texts = tuple(row[field] for field in fields)
    if bad := [field for field, text in zip(fields, texts, strict=True) if not isinstance(text, str)]:
        raise InputError(f"{where}: {' and '.join(bad)} must be text.")
    if label is not None and not isinstance(label, str):
        raise InputError(f"{where}: a label must be text, got {label!r}.")
    return (texts if len(texts) == 2 else texts[0]), label


def _tagged(words: Any, tags: Any, where: str) -> tuple[list[str], list[str] | None]:
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise InputError(f"{where}: tokens must be a list of words.")
    if tags is None:
        return words, None
    if not isinstance(tags, list) or len(tags) != len(words):
        found = len(tags) if isinstance(tags, list) else repr(tags)
        raise InputError(f"{where} has {len(words)} tokens and {found} tags: give one tag a word.")
    for before, tag in zip(["O", *tags], tags, strict=False):
        if not isinstance(tag, str) or not TAG.fullmatch(tag):
            raise InputError(f"{where}: a tag must be O, B-KIND or I-KIND, got {tag!r}.")
        if tag[0] == "I" and before[2:] != tag[2:]:
            raise InputError(f"{where}: {tag} follows {before}, which is no BIO sequence: an entity begins with B.")
    return words, tags
