"""Adapters for a task, scored in rival settings: what merging costs and saves on labelled texts."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dyntok_jax import Merges, Merging
from dyntok_jax.errors import InputError
from dyntok_jax.files import find_model
from dyntok_jax.merging import merge_texts
from dyntok_jax.options import AUTO, DEFAULT_MODEL, Boundary
from dyntok_jax.tasks import Examples, TaskModel, read_examples
from dyntok_jax.text import ByteLevelTokenizer, TextEncoder
from experiments.shared.labelled_scores import (
    Score,
    Scores,
    Task,
    curve_lines,
    curve_table,
    draw_curves,
    score_figures,
    score_table,
)
from experiments.shared.reporting import Figures, report
from experiments.shared.settings import (
    STATIC,
    UNMERGED,
    Setting,
    all_settings,
    progress_bar,
    with_fvt,
)

REFERENCE_BATCH = 32
NO_LIMIT = 100_000
"""Tokens a text: more than any has."""


@dataclass(frozen=True)
class LabelledOptions:
    """What experiments with adapters have in common.

    Attributes:
      data: folder of the data.
      adapters: NAME=FOLDER of adapters that `dyntok train-task` wrote; several of one name are trained alike.
      limit: the most texts of a set, evenly spaced.
      model: a folder, a Hub id, or a packaged model.
      hypernet: a folder or Hub id, compared with FVT; by default the one that comes with the model.
      boundary: what merging may not cross.
      shares: percentages of the maximum reduction.
      curve: numbers of merges a batch, within pretokens; lengths are those of batches of 32, without normaliser.
      batch_size: texts a batch, which are merged together.
      json: where the figures go.
      table: where the Markdown tables go.
      plot: where the plot of the curve goes (.png, .svg).
    """

    data: Path
    adapters: tuple[str, ...]
    limit: int | None = None
    model: str = DEFAULT_MODEL
    hypernet: str | None = AUTO
    boundary: Boundary = "pretoken"
    shares: tuple[float, ...] = (50, 100)
    curve: tuple[int, ...] = ()
    batch_size: int = 32
    json: Path | None = None
    table: Path | None = None
    plot: Path | None = None


def adapters_by_name(adapters: Sequence[str]) -> dict[str, list[str]]:
    """The folders of adapters by the name before the equals sign; several of one name are trained alike.

    Raises:
      InputError: there are none, or one has no name or no folder.

    >>> adapters_by_name(["static=a", "static=b"])
    {'static': ['a', 'b']}
    """
    found: dict[str, list[str]] = {}
    for one in adapters:
        name, _, folder = one.partition("=")
        if not name or not folder:
            raise InputError(f"--adapters takes NAME=FOLDER, such as static=run/adapter, got {one!r}.")
        found.setdefault(name, []).append(folder)
    if not found:
        raise InputError("No adapter was given: train one with `dyntok train-task`, then pass --adapters NAME=FOLDER.")
    return found


def read_sets(folder: Path, names: Sequence[str], task: Task, limit: int | None) -> dict[str, Examples]:
    """The examples of each set; by default of all in the folder.

    Raises:
      InputError: a file is missing, or lacks the fields of the task.
    """
    names = names or sorted(path.name.removesuffix(task.ending) for path in folder.glob(f"*{task.ending}"))
    if not names:
        raise InputError(f"{folder} has no files whose names end in {task.ending}: give the folder of the data.")
    sets = {name: read_examples([str(folder / f"{name}{task.ending}")], task.kind) for name in names}
    return sets if limit is None else {name: examples.evenly(limit) for name, examples in sets.items()}


def score_adapters(
    folders: Sequence[str],
    sets: Mapping[str, Examples],
    task: Task,
    options: LabelledOptions,
    console: Console,
) -> Scores:
    """Scores of all sets in all settings, and of one set at each number of merges.

    Args:
      folders: adapters that are trained alike; scores are their means.
      sets: labelled texts by name.
      task: what is measured.
      options: of the experiment.
      console: where progress is shown.
    """
    found: dict[tuple[Setting, str], list[tuple[float, int]]] = {}
    for folder in folders:
        loaded = TaskModel.load(folder, options.model, options.hypernet)
        encoders = with_fvt(loaded.encoder)
        models = {
            name: TaskModel(loaded.task, loaded.head, encoder, prefix=loaded.prefix)
            for name, encoder in encoders.items()
        }
        todo = [(setting, name) for name in sets for setting in all_settings(list(models), options.shares)]
        if options.curve:
            todo += [(Setting(method, merges=merges), task.curve_set) for method in models for merges in options.curve]
        total = sum(len(sets[name].texts) for _, name in todo)
        with progress_bar(f"labelling with {folder}", total, console) as advance:
            for setting, name in todo:
                model = loaded if setting.method == STATIC else models[setting.method]
                # the curve is the reference's: merges of a batch, within pretokens
                boundary = options.boundary if setting.merges is None else "pretoken"
                labels = model.predict(
                    sets[name].texts,
                    merging=Merging(setting.goal, boundary=boundary),
                    batch_size=options.batch_size,
                    on_progress=advance,
                )
                value = labels.scores(sets[name].labels)[task.measure]
                found.setdefault((setting, name), []).append((value, labels.n_tokens))
    scores: Scores = {}
    for (setting, name), several in found.items():
        static_tokens = found[UNMERGED, name][0][1]
        scores[setting, name] = Score(
            values=tuple(value for value, _ in several), reduction=100 * (1 - several[0][1] / static_tokens)
        )
    return scores


def reference_lengths(model: str, examples: Examples, merges: Sequence[int]) -> dict[int, float]:
    """Mean tokens a text in the reference's setting: batches of 32 in the order of the file, no normaliser, no limit.

    Args:
      model: whose tokenizer.
      examples: the texts.
      merges: numbers of merges a batch.

    Returns:
      For each number, the mean length with special tokens.
    """
    tokenizer = ByteLevelTokenizer.load(find_model(model), keep_normalizer=False)
    subwords = TextEncoder(tokenizer).encode(examples.texts, boundary="pretoken")
    lengths = {}
    for count in merges:
        merging = Merging(Merges(count), boundary="pretoken", max_subwords=None, scope="batch")
        tokens = merge_texts(subwords, merging, batch_size=REFERENCE_BATCH, limit=NO_LIMIT, truncate=None)
        lengths[count] = float(tokens.lengths.mean())
    return lengths


def run_labelled(
    task: Task,
    sets: Mapping[str, Examples],
    means: Mapping[str, Sequence[str]],
    options: LabelledOptions,
    console: Console,
) -> Figures:
    """Scores all adapters, writes the files that were asked for, and returns the figures.

    Args:
      task: what is measured.
      sets: labelled texts by name.
      means: group → the sets that its mean is over.
      options: of the experiment.
      console: where tables and progress are shown.

    Raises:
      InputError: adapters are missing, or a curve or its plot is asked for that cannot be measured.
    """
    started = time.perf_counter()
    adapters = adapters_by_name(options.adapters)
    if options.curve and task.curve_set not in sets:
        raise InputError(f"The curve is measured on {task.curve_set}, which is not among the sets: add it.")
    if options.plot and not options.curve:
        raise InputError("The plot shows the curve: give --curve its numbers of merges, such as --curve 0 10 20.")
    lengths = reference_lengths(options.model, sets[task.curve_set], options.curve) if options.curve else {}
    scores = {name: score_adapters(folders, sets, task, options, console) for name, folders in adapters.items()}
    figures: Figures = {
        "data": options.data.name,
        "model": Path(options.model).name,
        "boundary": options.boundary,
        "batch_size": options.batch_size,
        **{f"texts_{name}": len(examples.texts) for name, examples in sets.items()},
        **{f"adapters_{name}": len(folders) for name, folders in adapters.items()},
        **{f"tokens_merges{merges}": round(length, 3) for merges, length in lengths.items()},
    }
    parts = []
    for name, of_adapter in scores.items():
        figures |= score_figures(of_adapter, means, task.measure, name)
        title = f"Adapter {name}: {task.measure}, and losses in points (tokens saved), boundary {options.boundary}."
        parts += [title, score_table(of_adapter, means)]
    curves = curve_lines(scores, task.curve_set)
    if curves:
        parts += [f"{task.curve_set}, boundary pretoken.", curve_table(curves, lengths, task)]
        if options.plot:
            draw_curves(curves, task, f"{options.data.name}, {task.curve_set}, {figures['model']}", options.plot)
    figures["run_seconds"] = time.perf_counter() - started
    return report(figures, "\n".join(parts), options, console)
