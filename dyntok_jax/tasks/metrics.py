"""Scores of predicted labels: accuracy, macro F1, and F1 of whole entities."""

from collections.abc import Sequence
from typing import NamedTuple


class Entity(NamedTuple):
    """A named entity of a tagged text.

    Attributes:
      kind: `PER`, say.
      start: its first word.
      end: the word after its last.

    >>> Entity("PER", start=0, end=2)
    Entity(kind='PER', start=0, end=2)
    """

    kind: str
    start: int
    end: int


def accuracy(predicted: Sequence[str], wanted: Sequence[str]) -> float:
    """Percent of labels that are right.

    >>> accuracy(["a", "b"], ["a", "a"])
    50.0
    """
    return 100 * sum(one == other for one, other in zip(predicted, wanted, strict=True)) / max(len(wanted), 1)


def macro_f1(predicted: Sequence[str], wanted: Sequence[str]) -> float:
    """Mean over the labels that occur of the F1 of each, in percent.

    >>> round(macro_f1(["a", "b", "b"], ["a", "a", "b"]), 1)
    66.7
    """
    scores = []
    for label in sorted({*predicted, *wanted}):
        hits = sum(one == other == label for one, other in zip(predicted, wanted, strict=True))
        scores.append(2 * hits / (list(predicted).count(label) + list(wanted).count(label)))
    return 100 * sum(scores) / max(len(scores), 1)


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of BIO tags; an I that continues nothing begins an entity (conlleval and seqeval's default mode).

    >>> entities(["B-PER", "I-PER", "O", "I-LOC"])
    [Entity(kind='PER', start=0, end=2), Entity(kind='LOC', start=3, end=4)]
    """
    found: list[Entity] = []
    kind, start = None, 0
    for at, tag in enumerate([*tags, "O"]):
        continues = tag[0] == "I" and tag[2:] == kind
        if kind is not None and not continues:
            found.append(Entity(kind, start, at))
            kind = None
        if tag != "O" and not continues:
            kind, start = tag[2:], at
    return found


def entity_f1(predicted: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> float:
    """F1 of whole entities over all texts, in percent: kind and both ends must be right (CoNLL-2003, seqeval).

    >>> entity_f1([["B-PER", "O"]], [["B-PER", "B-LOC"]])
    66.66666666666667
    """
    hits = n_predicted = n_wanted = 0
    for one, other in zip(predicted, wanted, strict=True):
        found, true = set(entities(one)), set(entities(other))
        hits, n_predicted, n_wanted = hits + len(found & true), n_predicted + len(found), n_wanted + len(true)
    return 100 * 2 * hits / max(n_predicted + n_wanted, 1)
