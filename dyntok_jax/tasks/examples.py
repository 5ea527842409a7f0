"""Labelled examples in files of JSON lines, or in data sets of Hugging Face with such columns (`hf:NAME:CONFIG:SPLIT`).

nli        {"premise": "…", "hypothesis": "…", "label": "entailment"}
classify   {"text": "…", "label": "sports"}          `category` is read as the label, too
ner        {"tokens": ["Anna", "sings"], "tags": ["B-PER", "O"]}          `ner_tags` is read as the tags, too
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dyntok_jax.errors import InputError
from dyntok_jax.tasks.config import LabelKind
from dyntok_jax.text import Text, decode_line, stream_byte_lines
from dyntok_jax.training.data import DATASET, open_dataset

TAG = re.compile(r"O|[BI]-.+")
INPUT_FIELDS = {"nli": ("premise", "hypothesis"), "classify": ("text",), "ner": ("tokens",)}
LABEL_FIELDS = {"nli": ("label",), "classify": ("label", "category"), "ner": ("tags", "ner_tags")}


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
        rows = evenly_spaced(len(self.texts), count)
        return Examples([self.texts[row] for row in rows], [self.labels[row] for row in rows])


def read_examples(files: Sequence[str], task: LabelKind, *, needs_labels: bool = True) -> Examples:
    """Reads the examples of all files, in order; blank lines are skipped.

    Args:
      files: of JSON lines, .gz or not; `hf:NAME:CONFIG:SPLIT` is a data set, whose numbered labels become names.
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
    for where, row in example_rows(files):
        text, label = _example(row, task, where)
        if label is None and needs_labels:
            raise InputError(f"{where} has no {LABEL_FIELDS[task][0]}: give each example one to train on.")
        texts.append(text)
        labels.append(label)
    return Examples(texts, labels)


def evenly_spaced(n: int, count: int) -> list[int]:
    """At most `count` numbers below `n`, evenly spaced."""
    step = max(n / count, 1.0)
    return [int(at * step) for at in range(min(count, n))]


def digest(examples: Any) -> str:
    """A digest of examples; empty for none."""
    return "" if examples is None else hashlib.sha256(repr(examples).encode()).hexdigest()[:16]


def example_rows(files: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Where each line of the files, or row of the data sets, stands, and what it holds; one or more."""
    found = False
    for file in files:
        for where, row in _dataset_rows(file) if file.startswith(DATASET) else _rows(file):
            found = True
            yield where, row
    if not found:
        raise InputError(f"{', '.join(files) or 'No file'} holds no example: give JSON lines, one example a line.")


def _rows(file: str) -> Iterator[tuple[str, Any]]:
    """Where each line that is not blank stands, and what it holds."""
    for number, line in enumerate(stream_byte_lines(file), start=1):
        if line.strip():
            where = f"{file}, line {number}"
            try:
                yield where, json.loads(decode_line(line, where))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where} is not JSON ({error}): give one JSON object a line.") from error


def _dataset_rows(name: str) -> Iterator[tuple[str, Any]]:
    """The rows of a data set; labels that are numbers become their names, and −1, no label, None."""
    dataset = open_dataset(name.removeprefix(DATASET))
    # a list of labels has the names in the feature of its values
    features = {field: getattr(feature, "feature", feature) for field, feature in dataset.features.items()}
    names = {field: feature.names for field, feature in features.items() if hasattr(feature, "names")}

    def named(field: str, value: Any) -> Any:
        if isinstance(value, list):
            return [named(field, one) for one in value]
        return None if value == -1 else names[field][value]

    for number, row in enumerate(dataset, start=1):
        yield (
            f"{name}, row {number}",
            {field: named(field, value) if field in names else value for field, value in row.items()},
        )


def _example(row: Any, task: LabelKind, where: str) -> tuple[Text, str | list[str] | None]:
    fields = INPUT_FIELDS[task]
    if not isinstance(row, dict):
        raise InputError(f"{where} must be a JSON object with {' and '.join(fields)}, got {row!r:.60}.")
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
