"""`dyntok predict`: labels of texts or entities, static beside dynamic."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from dyntok_jax.cli.shared import (
    DEFAULT_HYPERNET,
    Count,
    HypernetName,
    OptionalBoundary,
    OptionalPath,
    Percent,
    arg,
    goal_of,
    hypernet_of,
    mesh_shape,
    print_out,
    progress_bar,
    write_json,
    write_json_lines,
)
from dyntok_jax.errors import InputError
from dyntok_jax.options import Merging
from dyntok_jax.storage import check_writable

if TYPE_CHECKING:
    from dyntok_jax.tasks import Examples, Labels


@dataclass(frozen=True)
class Predict:
    """Labels texts with an adapter that `train-task` wrote, and compares static and dynamic tokenization.

    Attributes:
      file: JSON lines with the fields of the task, .gz or not; where they have labels, accuracy is shown.
      adapter: the folder.
      model: the model that the adapter is for (default: as the adapter says).
      hypernet: folder or Hub id of a hypernetwork; auto: the one that comes with the model; none: FVT.
      share: merge until this share of the maximum reduction is reached (default: 100).
      merges: merge this many times in each batch.
      boundary: what merging may not cross (default: as in the training).
      batch_size: texts a batch.
      limit: the most texts.
      output: file for JSON lines with the labels of each text and their probabilities; entities with their characters.
      no_static: skip the comparison with static tokenization.
      mesh: devices that share the batches × devices that share the model, such as 4x2.
      json: file for the table's figures.
    """

    EXAMPLES: ClassVar[str] = """\
  dyntok predict pairs.jsonl --adapter run/adapter
  dyntok predict ner.jsonl.gz --adapter run/adapter --share 50 --output entities.jsonl
  dyntok predict pairs.jsonl --adapter run/adapter --hypernet none --limit 500 --json figures.json
"""

    file: tyro.conf.Positional[Annotated[str, arg(metavar="FILE")]]
    adapter: Annotated[str, arg(metavar="FOLDER")]
    model: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    hypernet: HypernetName = DEFAULT_HYPERNET
    share: Percent = None
    merges: Count = None
    boundary: OptionalBoundary = None
    batch_size: Annotated[int, arg(metavar="N")] = 32
    limit: Count = None
    output: OptionalPath = None
    no_static: bool = False
    mesh: Annotated[str | None, arg(metavar="DATAxMODEL", help_behavior_hint="")] = None
    json: OptionalPath = None

    def run(self) -> None:
        """Reads, labels, prints, writes."""
        goal = goal_of(self.share, self.merges)
        shape = mesh_shape(self.mesh)
        if self.batch_size < 1:
            raise InputError(f"--batch-size must be 1 or more, got {self.batch_size}.")
        for path in (self.output, self.json):
            if path is not None:
                check_writable(Path(path))

        from dyntok_jax.sharding import make_mesh
        from dyntok_jax.tasks import TaskModel, read_examples

        mesh = None if shape is None else make_mesh(*shape)
        task = TaskModel.load(self.adapter, self.model, hypernet_of(self.hypernet), mesh=mesh)
        examples = read_examples([self.file], task.task, needs_labels=False)
        examples = examples.evenly(len(examples.texts) if self.limit is None else self.limit)
        has_labels = None not in examples.labels
        if has_labels:
            examples.numbers(task.head.labels)  # labels that the model does not have are refused
        boundary = self.boundary or task.merging.boundary
        runs = {"dynamic": Merging(goal, boundary=boundary)}
        if not self.no_static:
            runs = {"static": Merging(None, boundary=boundary), **runs}
        figures: dict[str, Any] = {"texts": len(examples.texts)}
        found: dict[str, Labels] = {}
        with progress_bar("Labelling", len(runs) * len(examples.texts)) as advance:
            for name, merging in runs.items():
                started = time.perf_counter()
                found[name] = task.predict(
                    examples.texts, merging=merging, batch_size=self.batch_size, on_progress=advance
                )
                figures |= {
                    f"{name}_tokens": found[name].n_tokens,
                    f"{name}_seconds": round(time.perf_counter() - started, 2),
                }
                if has_labels:
                    figures |= {f"{name}_{key}": value for key, value in found[name].scores(examples.labels).items()}
        if self.json is not None:
            write_json(Path(self.json), figures)
        notes = []
        if self.output is not None:
            write_json_lines(Path(self.output), _lines(examples, found["dynamic"]))
            notes.append(f"Written: {self.output}")
        print_out(_table(figures, runs), *notes)


def _lines(examples: "Examples", labels: "Labels"):
    """One object a text: its label, or its tags and entities."""
    from dyntok_jax.tasks import entities, word_spans

    for text, label, probability in zip(examples.texts, labels.labels, labels.probabilities, strict=True):
        if isinstance(probability, float):
            yield {"label": label, "probability": round(probability, 4)}
            continue
        words = list(text)
        joined, spans = " ".join(words), word_spans(words)
        yield {
            "text": joined,
            "tags": label,
            "entities": [
                {
                    "kind": one.kind,
                    "start": spans[one.start][0],
                    "end": spans[one.end - 1][1],
                    "text": joined[spans[one.start][0] : spans[one.end - 1][1]],
                }
                for one in entities(label)
            ],
        }


def _table(figures: dict[str, Any], runs: dict[str, Any]):
    from rich.table import Table

    measures = [name.split("_", 1)[1] for name in figures if name.startswith("dynamic_")]
    table = Table(box=None)
    table.add_column("")
    for measure in measures:
        table.add_column(measure.replace("_", " "), justify="right")
    for name in runs:
        cells = (figures[f"{name}_{measure}"] for measure in measures)
        table.add_row(name, *(f"{value:,}" if isinstance(value, int) else f"{value:.2f}" for value in cells))
    return table
