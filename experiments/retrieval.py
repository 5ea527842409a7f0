"""What a text costs in each language, and what merging loses there: tokens per English token, and retrieval.

    python -m experiments.retrieval --data ntrex.jsonl.gz --limit 500 --json ntrex.json --plot ntrex.png
    python -m experiments.retrieval --data ntrex.jsonl.gz --languages th zh --shares 10 20 30 40 50

The data are translations of the same texts, so a language's *price* is the number of its tokens for each token that
static tokenization needs for the English original; dynamic tokenization should bring prices together and closer to 1.
The *premium* compares with English under the same tokenization (Petrov et al., "Language Model Tokenizers Introduce
Unfairness Between Languages", NeurIPS 2023). Retrieval is that of `experiments.bitext`: is the nearest English
embedding the text's own translation? A loss is static accuracy − accuracy, in points; beside it stands the largest
share, of those measured, up to which no loss exceeds `--tolerance`. Tokens do not depend on the method: those shown
are of full merging. Means are over languages with spaces.

`--limit 250 --shares 100` on NTREX-128 takes 9 minutes of one CPU core. Expect of it with e5-small, mean of the 18
languages with spaces: price 1.20 → 0.87 (English itself 1 → 0.82), 27.6 % fewer tokens, retrieval 98.4 %, a loss of
5.6 points with FVT and of 0.9 with the packaged hypernetwork.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from dyntok_jax.options import AUTO, DEFAULT_MODEL, Boundary
from experiments.shared import (
    UNMERGED,
    Rows,
    Scores,
    Setting,
    all_settings,
    by_method,
    count_texts,
    encode_in_settings,
    encoders_by_method,
    load_pairs,
    loss,
    mean_of,
    progress_bar,
    report,
    run_script,
    score_translations,
    spaced,
)

QUANTITIES = {"accuracy_percent": 3, "reduction_percent": 3, "cosine": 5, "price": 4, "premium": 4}
"""Names of figures and their digits; the attribute of a score is the name without the unit."""


@dataclass(frozen=True)
class Options:
    """What a text costs in each language, and what merging loses there.

    Attributes:
      data: `udhr` (the packaged sample) or a file of aligned JSON lines with an `en` field (.jsonl, .jsonl.gz).
      languages: which languages; all in the data by default.
      limit: the most pairs per language, from the first on.
      model: a folder, a Hub id, or a packaged model.
      hypernet: a folder or Hub id, compared with FVT; by default the one that comes with the model.
      boundary: what merging may not cross.
      max_subwords: the longest token; None for no limit.
      shares: percentages of the maximum reduction, ascending.
      tolerance: the largest loss that counts as none for the largest share, in points.
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
    shares: tuple[float, ...] = (50, 100)
    tolerance: float = 2.0
    prefix: str = "query: "
    json: Path | None = None
    table: Path | None = None
    plot: Path | None = None


def share_within(scores: Scores, columns: Sequence[Setting], language: str, tolerance: float) -> float:
    """The largest share up to which no loss exceeds the tolerance, of those measured; 0 if there is none."""
    largest = 0.0
    for column in sorted(columns, key=lambda column: column.share or 0):
        if loss(scores, column, [language]) > tolerance:
            break
        largest = column.share or 0
    return largest


def flat_figures(scores: Scores, settings: Sequence[Setting], rows: Rows, tolerance: float) -> dict[str, float | int]:
    """All figures as one flat object, units in the names."""
    figures: dict[str, float | int] = {f"pool_texts_{language}": len(rows[language]) for language in rows}
    groups = {language: [language] for language in ("en", *rows)}
    if members := spaced(list(rows)):
        figures["languages_in_mean"] = len(members)
        groups["mean"] = members
    for setting in settings:
        for group, languages in groups.items():
            for quantity, digits in QUANTITIES.items():
                if (group, quantity) not in {("en", "accuracy_percent"), ("en", "premium")}:
                    value = mean_of(scores, setting, languages, quantity.removesuffix("_percent"))
                    figures[f"{setting.name}_{quantity}_{group}"] = round(value, digits)
            if setting != UNMERGED and group != "en":
                figures[f"{setting.name}_loss_points_{group}"] = round(loss(scores, setting, languages), 3)
        dearest = max(rows, key=lambda language, setting=setting: scores[setting, language].price)
        figures[f"{setting.name}_highest_price"] = round(scores[setting, dearest].price, 4)
    for method, columns in by_method(settings):
        for language in rows:
            largest = share_within(scores, columns, language, tolerance)
            figures[f"{method}_share_percent_within_tolerance_{language}"] = largest
    return figures


def by_price(scores: Scores, languages: Sequence[str]) -> list[str]:
    """The languages, dearest first, as static tokenization prices them."""
    return sorted(languages, key=lambda language: -scores[UNMERGED, language].price)


def markdown_table(scores: Scores, settings: Sequence[Setting], rows: Rows, tolerance: float) -> str:
    """A row per language, dearest first: prices, tokens saved, and each method's losses."""
    methods = list(by_method(settings))
    full = methods[-1][1][-1]
    head = ["", "texts", "price, static", f"share {full.share:g} %", "premium, static", f"share {full.share:g} %"]
    head += ["tokens saved", "accuracy, static"]
    for method, columns in methods:
        head += [f"{method}, loss at {column.share:g} %" for column in columns]
        head.append(f"{method}, share within {tolerance:g}")
    lines = [f"| {' | '.join(head)} |", "|:--|" + "--:|" * (len(head) - 1)]
    groups = {language: [language] for language in by_price(scores, list(rows))}
    if members := spaced(list(rows)):
        groups[f"**mean of {len(members)} with spaces**"] = members
    for title, languages in groups.items():
        prices = [
            f"{mean_of(scores, setting, languages, quantity):.2f}"
            for quantity in ("price", "premium")
            for setting in (UNMERGED, full)
        ]
        saved = f"{mean_of(scores, full, languages, 'reduction'):.1f} %"
        cells = [str(len(rows[title])) if title in rows else "", *prices, saved]
        cells.append(f"{mean_of(scores, UNMERGED, languages, 'accuracy'):.1f} %")
        for _, columns in methods:
            cells += [f"{loss(scores, column, languages):.1f}" for column in columns]
            cells.append(f"{share_within(scores, columns, title, tolerance):g} %" if title in rows else "")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    english = scores[full, "en"]
    caption = (
        "Price: tokens per static token of the English original; premium: per English token of the same tokenization; "
        "losses of retrieval in points."
    )
    saved = f"English itself: price {english.price:.2f} ({english.reduction:.1f} % saved)."
    return "\n".join([caption, "", *lines, "", saved]) + "\n"


def draw(scores: Scores, settings: Sequence[Setting], rows: Rows, title: str, path: Path) -> None:
    """Each language's price, static and at full merging, beside what retrieval loses there by each method."""
    from matplotlib.figure import Figure

    languages = by_price(scores, ["en", *rows])[::-1]
    methods = list(by_method(settings))
    full = methods[-1][1][-1]
    figure = Figure(figsize=(11, 1.6 + 0.27 * len(languages)), layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=11)
    prices, losses = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    heights = np.arange(len(languages))
    static, dynamic = ([scores[setting, one].price for one in languages] for setting in (UNMERGED, full))
    prices.hlines(heights, dynamic, static, color="0.75", lw=2, zorder=1)
    prices.scatter(static, heights, color="tab:gray", s=36, label="static", zorder=2)
    prices.scatter(dynamic, heights, color="tab:blue", s=36, label=f"dynamic, share {full.share:g} %", zorder=2)
    prices.axvline(1, color="black", lw=0.8, ls=":")
    prices.set_yticks(heights, languages)
    prices.set_xlabel("price: tokens per static token of the English original")
    prices.legend(frameon=False, loc="lower right", fontsize=9)
    for (method, columns), color in zip(methods, ("tab:orange", "tab:blue"), strict=False):
        points = [loss(scores, columns[-1], [one]) if one != "en" else np.nan for one in languages]
        losses.scatter(points, heights, color=color, s=30, label=f"{method}, share {columns[-1].share:g} %")
    losses.axvline(0, color="black", lw=0.8, ls=":")
    losses.set_xlabel("loss of retrieval, points")
    losses.legend(frameon=False, loc="lower right", fontsize=9)
    for axes in (prices, losses):
        axes.grid(axis="x", color="0.9", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def run(options: Options, console: Console) -> dict[str, float | int | str]:
    """Measures, writes the files that were asked for, and returns the figures."""
    started = time.perf_counter()
    texts, rows = load_pairs(options.data, options)
    encoders = encoders_by_method(options.model, options.hypernet)
    settings = all_settings(list(encoders), options.shares)
    n_texts = count_texts(rows)
    with progress_bar(f"encoding, {len(settings)} settings", n_texts * len(settings), console) as on_progress:
        encode = encode_in_settings(encoders, options, on_progress)
        scores = score_translations(encode, texts, rows, settings)
    figures = {
        "data": Path(options.data).name,
        "model": Path(options.model).name,
        "boundary": options.boundary,
        "max_subwords": options.max_subwords or "none",
        "prefix": options.prefix,
        "tolerance_points": options.tolerance,
        **flat_figures(scores, settings, rows, options.tolerance),
        "run_seconds": time.perf_counter() - started,
    }
    figures = report(figures, markdown_table(scores, settings, rows, options.tolerance), options, console)
    console.print(f"{n_texts} texts, {len(settings)} settings")
    if options.plot:
        draw(scores, settings, rows, f"{figures['data']}, {figures['model']}: the price of a text", options.plot)
    return figures


if __name__ == "__main__":
    run_script(run, Options, __doc__)
