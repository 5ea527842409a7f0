"""Cross-lingual retrieval with fewer and fewer tokens: static, FVT, hypernetwork, at shares of 0 to 100 %.

    python -m experiments.bitext --json bitext.json --table bitext.md --plot bitext.png
    python -m experiments.bitext --data lohelp_eval.jsonl.gz --limit 250 --json help.json --plot help.png

For each paragraph of a language: is its nearest English embedding (cosine) its own translation? The pool of a language
is the English side of its own pairs. Languages are encoded one by one, in batches of 32 paragraphs as the file has
them, merging within a batch. By default English goes through the same tokenization as the language; with
`--english static` it is an index that does not change while queries get shorter. e5's prefix `query: ` merges like the
text, so it affects shares between 0 and 100, but is not counted in reductions. A share of 0 is the
byte-level form without merges, not quite static tokenization.

Two CPU cores: 2 to 4 minutes for the packaged sample (50 paragraphs in 15 languages), 4 for 250 paragraphs of software
help in 10; twice that with a hypernetwork. Expect, mean of the languages with spaces, static → FVT → e5-small's own
hypernetwork at share 100: the sample 96.8 → 91.3 → 96.3 % (12 languages, 22.6 % fewer tokens), software help 92.8 →
80.4 → 92.0 % (8 languages, 26.3 % fewer tokens).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Literal

from rich.console import Console

from dyntok_jax.options import AUTO, DEFAULT_MODEL, Boundary
from experiments.shared import (
    STATIC,
    Rows,
    Scores,
    Setting,
    all_settings,
    by_method,
    count_texts,
    encode_in_settings,
    encoders_by_method,
    load_pairs,
    mean_of,
    progress_bar,
    report,
    run_script,
    score_translations,
    spaced,
)


@dataclass(frozen=True)
class Options:
    """Cross-lingual retrieval with fewer and fewer tokens.

    Attributes:
      data: `udhr` (the packaged sample) or a file of aligned JSON lines with an `en` field (.jsonl, .jsonl.gz).
      languages: which languages; all in the data by default.
      limit: the most pairs per language, from the first on.
      model: a folder, a Hub id, or a packaged model.
      hypernet: a folder or Hub id, plotted beside FVT; by default the one that comes with the model.
      boundary: what merging may not cross.
      max_subwords: the longest token; None for no limit.
      shares: percentages of the maximum reduction.
      english: how the English side is tokenized.
      prefix: put before each text, as e5 was trained; it is not counted.
      json: where the figures go.
      table: where the Markdown table goes.
      plot: where the plot goes (.png, .svg).
    """

    data: str = "udhr"
    languages: tuple[str, ...] = ()
    limit: int | None = None
    model: str = DEFAULT_MODEL
    hypernet: str | None = AUTO
    boundary: Boundary = "pretoken"
    max_subwords: int | None = 7
    shares: tuple[float, ...] = (0, 25, 50, 75, 100)
    english: Literal["static", "dynamic"] = "dynamic"
    prefix: str = "query: "
    json: Path | None = None
    table: Path | None = None
    plot: Path | None = None


def flat_figures(scores: Scores, settings: Sequence[Setting], rows: Rows) -> dict[str, float | int]:
    """All figures as one flat object, units in the names."""
    figures: dict[str, float | int] = {f"pool_paragraphs_{language}": len(rows[language]) for language in rows}
    groups = {language: [language] for language in ("en", *rows)}
    if members := spaced(list(rows)):
        figures["languages_in_mean"] = len(members)
        groups["mean"] = members
    for setting in settings:
        for group, languages in groups.items():
            for quantity, unit, digits in (
                ("accuracy", "_percent", 3),
                ("reduction", "_percent", 3),
                ("cosine", "", 5),
            ):
                if (group, quantity) != ("en", "accuracy"):
                    value = mean_of(scores, setting, languages, quantity)
                    figures[f"{setting.name}_{quantity}{unit}_{group}"] = round(value, digits)
    return figures


def markdown_table(scores: Scores, settings: Sequence[Setting], rows: Rows) -> str:
    """One table per method: accuracy and, in brackets, reduction, both in percent; the mean and its cosine below."""
    lines = []
    for method, columns in by_method(settings):
        shares = " | ".join(f"share {column.share:g} %" for column in columns)
        lines += ["", f"| {method} | pool | static | {shares} |", "|:--|--:|--:|" + "--:|" * len(columns)]
        for language, of_language in rows.items():
            static = scores[Setting(STATIC), language]
            cells = [f"{s.accuracy:.1f} ({s.reduction:.1f})" for s in (scores[c, language] for c in columns)]
            lines.append(f"| {language} | {len(of_language)} | {static.accuracy:.1f} | {' | '.join(cells)} |")
        if members := spaced(list(rows)):
            means = {
                quantity: [mean_of(scores, column, members, quantity) for column in (Setting(STATIC), *columns)]
                for quantity in ("accuracy", "reduction", "cosine")
            }
            pairs = zip(means["accuracy"][1:], means["reduction"][1:], strict=True)
            cells = " | ".join(f"**{accuracy:.1f} ({reduction:.1f})**" for accuracy, reduction in pairs)
            lines.append(f"| **mean of {len(members)} with spaces** | | **{means['accuracy'][0]:.1f}** | {cells} |")
            cosines = " | ".join(f"{cosine:.3f}" for cosine in means["cosine"][1:])
            lines.append(f"| their mean cosine to static | | 1 | {cosines} |")
    caption = "Top-1 accuracy in % (reduction in tokens against static tokenization in %)."
    return "\n".join([caption, *lines]) + "\n"


def draw(scores: Scores, settings: Sequence[Setting], rows: Rows, title: str, path: Path) -> None:
    """Accuracy against reduction, one panel per method, one line per language, the mean in bold."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = list(by_method(settings))
    figure = Figure(figsize=(1.6 + 5.6 * len(panels), 5.2), layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=11)
    members = spaced(list(rows))
    looks = [{"color": color, "ls": dashes} for dashes in ("-", "--", ":") for color in mpl.color_sequences["tab10"]]
    for axes, (method, columns) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        lines = [
            (language, curve(scores, columns, [language]), {"lw": 1.3, "ms": 3, **look})
            for language, look in zip(rows, cycle(looks), strict=False)
        ]
        if members:
            mean = curve(scores, columns, members)
            lines.append((f"mean of {len(members)}", mean, {"lw": 3.2, "ms": 5, "color": "black"}))
        for _, points, look in lines:
            axes.plot(*zip(*points, strict=True), marker="o", **look)
        axes.set(xlabel="reduction: 1 − tokens ÷ static tokens, %", title=f"{method}, shares of 0 to 100 %")
        axes.set_title(axes.get_title(), fontsize=10)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("nearest English paragraph is the translation, %")
        axes.grid(color="0.9", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        _label_lines(axes, {label: points[-1] for label, points, _ in lines})
    figure.savefig(path, dpi=110)


def curve(scores: Scores, columns: Sequence[Setting], languages: Sequence[str]) -> list[tuple[float, float]]:
    """Reduction and accuracy in each setting, means of the languages."""
    return [
        (mean_of(scores, column, languages, "reduction"), mean_of(scores, column, languages, "accuracy"))
        for column in columns
    ]


def _label_lines(axes, ends: dict[str, tuple[float, float]]) -> None:
    """Labels each line at its end, lower if another label is there already."""
    from matplotlib.patheffects import withStroke

    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    labels: list[tuple[float, float, float]] = []
    for label, (x, y) in sorted(ends.items(), key=lambda item: -item[1][1]):
        end = x + (0.02 + 0.016 * len(label)) * (right - left)
        while any(x < till and since < end and abs(y - v) < 0.035 * (high - low) for since, till, v in labels):
            y -= 0.005 * (high - low)
        labels.append((x, end, y))
        style = {"fontsize": 11, "weight": "bold"} if label.startswith("mean") else {"fontsize": 9}
        halo = [withStroke(linewidth=2.5, foreground="white")]
        axes.annotate(
            label, (x, y), (6, 0), textcoords="offset points", va="center", path_effects=halo, zorder=9, **style
        )


def run(options: Options, console: Console) -> dict[str, float | int | str | bool]:
    """Measures, writes the files that were asked for, and returns the figures."""
    started = time.perf_counter()
    texts, rows = load_pairs(options.data, options)
    encoders = encoders_by_method(options.model, options.hypernet)
    settings = all_settings(list(encoders), options.shares)
    n_texts = count_texts(rows)
    with progress_bar(f"encoding, {len(settings)} settings", n_texts * len(settings), console) as on_progress:
        encode = encode_in_settings(encoders, options, on_progress)
        scores = score_translations(encode, texts, rows, settings, options.english)
    figures = {
        "data": Path(options.data).name,
        "model": Path(options.model).name,
        "boundary": options.boundary,
        "max_subwords": options.max_subwords or "none",
        "english": options.english,
        "prefix": options.prefix,
        **flat_figures(scores, settings, rows),
        "run_seconds": time.perf_counter() - started,
    }
    table = markdown_table(scores, settings, rows)
    figures = report(figures, table, options, console)
    console.print(f"{n_texts} paragraphs, {len(settings)} settings")
    if options.plot:
        draw(
            scores,
            settings,
            rows,
            f"{figures['data']}, {figures['model']}: retrieval as tokens get fewer",
            options.plot,
        )
    return figures


if __name__ == "__main__":
    run_script(run, Options, __doc__)
