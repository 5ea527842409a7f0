"""Figures, tables and plots of adapters that were scored in rival settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from dyntok_jax.tasks import LabelKind
from experiments.shared.recorded import table
from experiments.shared.settings import UNMERGED, Setting, by_method, loss, mean_of


@dataclass(frozen=True)
class Score:
    """Results of one set in one setting, of one or more adapters that were trained alike.

    Attributes:
      values: accuracy or F1 of each adapter, in percent.
      reduction: 1 − tokens ÷ static tokens, in percent, the same for all.
    """

    values: tuple[float, ...]
    reduction: float

    @property
    def value(self) -> float:
        """The mean of the adapters."""
        return fmean(self.values)


Scores = dict[tuple[Setting, str], Score]


@dataclass(frozen=True)
class Task:
    """What one experiment measures, and the reference's own figures.

    Attributes:
      kind: of the adapters.
      measure: which of `Labels.scores`.
      ending: of the files, after the set's name.
      curve_set: the set of the curve.
      tokens: the reference's mean tokens a text by merges a batch.
      scores: the reference's scores by merges a batch.
    """

    kind: LabelKind
    measure: str
    ending: str
    curve_set: str
    tokens: Mapping[int, float]
    scores: Mapping[int, float]


def score_figures(
    scores: Scores, means: Mapping[str, Sequence[str]], measure: str, name: str
) -> dict[str, float | int]:
    """The figures of one adapter's scores, units in the names; of several, standard deviations (n − 1) beside means.

    Args:
      scores: from `score_adapters`.
      means: group → the sets that its mean is over.
      measure: what is scored.
      name: of the adapter.
    """
    figures: dict[str, float | int] = {}
    sets = [one for setting, one in scores if setting == UNMERGED]
    groups = {one: [one] for one in sets} | {group: list(members) for group, members in means.items() if members}
    for setting in dict.fromkeys(setting for setting, _ in scores):
        for group, members in groups.items():
            if any((setting, member) not in scores for member in members):
                continue
            key = f"{name}_{setting.name}"
            figures[f"{key}_{measure}_percent_{group}"] = round(mean_of(scores, setting, members, "value"), 3)
            figures[f"{key}_reduction_percent_{group}"] = round(mean_of(scores, setting, members, "reduction"), 3)
            of_adapters, static = (_of_adapters(scores, one, members) for one in (setting, UNMERGED))
            if len(of_adapters) > 1:
                figures[f"{key}_{measure}_deviation_{group}"] = round(stdev(of_adapters), 3)
            if setting != UNMERGED:
                figures[f"{key}_loss_points_{group}"] = round(loss(scores, setting, members, "value"), 3)
                if len(of_adapters) > 1:
                    losses = [before - after for before, after in zip(static, of_adapters, strict=True)]
                    figures[f"{key}_loss_deviation_{group}"] = round(stdev(losses), 3)
    return figures


def _of_adapters(scores: Scores, setting: Setting, members: Sequence[str]) -> list[float]:
    """Each adapter's mean over the sets."""
    return [fmean(values) for values in zip(*(scores[setting, one].values for one in members), strict=True)]


def score_table(scores: Scores, means: Mapping[str, Sequence[str]]) -> str:
    """A row a set: the static score, and for each setting the loss in points and, in brackets, the tokens saved."""
    settings = [setting for setting in dict.fromkeys(one for one, _ in scores) if setting.merges is None]
    columns = [setting for _, of_method in by_method(settings) for setting in of_method]
    groups = {one: [one] for setting, one in scores if setting == UNMERGED}
    groups |= {f"**mean, {group}**": list(members) for group, members in means.items() if members}
    rows = []
    for title, members in groups.items():
        cells = [
            f"{loss(scores, column, members, 'value'):.2f} ({mean_of(scores, column, members, 'reduction'):.1f} %)"
            for column in columns
        ]
        rows.append([title, f"{mean_of(scores, UNMERGED, members, 'value'):.1f} %", *cells])
    return table(["", "static", *(f"{column.method}, share {column.share:g} %" for column in columns)], rows) + "\n"


def curve_points(of_adapter: Scores, method: str, curve_set: str) -> dict[int, float]:
    """A method's scores by merges a batch."""
    return {
        setting.merges: score.value
        for (setting, name), score in of_adapter.items()
        if setting.method == method and setting.merges is not None and name == curve_set
    }


def curve_lines(scores: Mapping[str, Scores], curve_set: str) -> dict[str, dict[int, float]]:
    """The curves of all adapters and methods, by their titles."""
    return {
        f"{name}, {method}": curve_points(of_adapter, method, curve_set)
        for name, of_adapter in scores.items()
        for method in dict.fromkeys(setting.method for setting, _ in of_adapter if setting.merges is not None)
    }


def curve_table(curves: Mapping[str, Mapping[int, float]], lengths: Mapping[int, float], task: Task) -> str:
    """A row a number of merges: lengths and scores, the reference's beside them."""

    def cell(values: Mapping[int, float], merges: int, form: str) -> str:
        return format(values[merges], form) if merges in values else ""

    rows = [
        [
            str(merges),
            f"{lengths[merges]:.3f}",
            cell(task.tokens, merges, ".3f"),
            *(cell(points, merges, ".2f") for points in curves.values()),
            cell(task.scores, merges, ".2f"),
        ]
        for merges in lengths
    ]
    return table(["merges", "tokens", "the reference's", *curves, f"the reference's {task.measure}"], rows) + "\n"


def draw_curves(curves: Mapping[str, Mapping[int, float]], task: Task, title: str, path: Path) -> None:
    """Scores against merges a batch, each adapter and method a line, and the reference's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained", facecolor="white")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot(list(points), list(points.values()), marker="o", ms=4, label=name)
    if task.scores:
        known = list(task.scores), list(task.scores.values())
        axes.plot(*known, color="0.6", ls="--", label="the reference (XLM-R base)")
    axes.set_xlabel("merges a batch")
    axes.set_ylabel(f"{task.measure}, %")
    axes.set_title(title, fontsize=11)
    axes.grid(color="0.9", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
