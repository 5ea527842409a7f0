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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dyntok_jax import DynamicEncoder, EncodedTexts, Merging, Share
from dyntok_jax.assets import load_sample
from dyntok_jax.embedding import TokenEmbedder
from dyntok_jax.errors import InputError
from dyntok_jax.options import AUTO, DEFAULT_MODEL, Boundary
from dyntok_jax.text import read_aligned
from experiments.shared import report, run_script

STATIC = "static"
SPACELESS = frozenset("th zh ja lo km my bo dz".split())
"""Languages written without spaces, where a pretoken is a phrase: not part of the mean."""


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


@dataclass(frozen=True)
class Setting:
    """One column of the table: a method, and the share of the maximum reduction unless it is static."""

    method: str
    share: float | None = None

    @property
    def name(self) -> str:
        return self.method if self.share is None else f"{self.method}_share{self.share:g}"


@dataclass(frozen=True)
class Score:
    """Results of one language in one setting; all in percent except the cosine.

    Attributes:
      accuracy: paragraphs whose nearest English embedding is their translation.
      reduction: 1 − tokens ÷ static tokens.
      cosine: mean cosine of embeddings to the static ones.
    """

    accuracy: float
    reduction: float
    cosine: float


Scores = dict[tuple[Setting, str], Score]


def load_pairs(data: str, languages: Sequence[str], limit: int | None) -> tuple[dict[str, list], dict[str, np.ndarray]]:
    """Reads the texts by language, and which rows of each language are pairs (those with English)."""
    texts = load_sample() if data == "udhr" else read_aligned(data)
    missing = [language for language in ("en", *languages) if language not in texts]
    if missing:
        raise InputError(f"{data} has no {', '.join(missing)}: its languages are {' '.join(texts)}.")
    rows = {}
    for language in languages or [language for language in texts if language != "en"]:
        both = zip(texts["en"], texts[language], strict=True)
        rows[language] = np.flatnonzero([None not in pair for pair in both])[:limit]
    rows.pop("en", None)
    if not rows or not all(len(of_language) for of_language in rows.values()):
        raise InputError(
            f"{data} has no pairs with English for some of {' '.join(rows) or 'these languages'}: choose others."
        )
    return texts, rows


def encoders_by_method(model: str, hypernet: str | None) -> dict[str, DynamicEncoder]:
    """The methods, in the order of the table; they share the model's parameters."""
    loaded = DynamicEncoder.load(model, hypernet)
    if loaded.cache is None:
        return {"fvt": loaded}
    fvt = TokenEmbedder(loaded.tokenizer, loaded.encoder.word_embeddings[...])
    return {"fvt": DynamicEncoder(loaded.config, loaded.encoder, fvt, prefix=loaded.prefix), "hypernet": loaded}


def accuracy(queries_ND: Float32[np.ndarray, "N D"], english_ND: Float32[np.ndarray, "N D"]) -> float:
    """Percentage of rows whose nearest English row (both of norm 1) has the same index."""
    nearest_N = (queries_ND @ english_ND.T).argmax(axis=1)
    return 100 * float((nearest_N == np.arange(len(queries_ND))).mean())


def pooled(encoded: EncodedTexts) -> Float32[np.ndarray, "N D"]:
    """The embeddings, which exist because pooling is the default."""
    assert encoded.embeddings_ND is not None
    return encoded.embeddings_ND


def measure(
    encoders: dict[str, DynamicEncoder],
    texts: dict[str, list],
    rows: dict[str, np.ndarray],
    settings: Sequence[Setting],
    options: Options,
    on_progress: Callable[[int], None],
) -> Scores:
    """Encodes every language in every setting and scores it; English itself gets only reduction and cosine."""
    english_rows = np.unique(np.concatenate(list(rows.values())))
    all_rows = {"en": english_rows, **rows}

    def encode(setting: Setting, language: str) -> EncodedTexts:
        encoder = encoders.get(setting.method) or next(iter(encoders.values()))
        return encoder.encode(
            [texts[language][row] for row in all_rows[language]],
            merging=Merging(
                None if setting.share is None else Share(setting.share),
                boundary=options.boundary,
                max_subwords=options.max_subwords,
            ),
            prefix=options.prefix,
            language=language if encoder.embedder.languages and setting.share is not None else None,
            on_progress=on_progress,
        )

    static = {language: encode(Setting(STATIC), language) for language in all_rows}
    scores: Scores = {}
    for setting in settings:
        english_ND = pooled(static["en"])
        for language in all_rows:
            encoded = static[language] if setting.method == STATIC else encode(setting, language)
            if language == "en" and options.english == "dynamic":
                english_ND = pooled(encoded)
            pool_ND = english_ND[np.searchsorted(english_rows, all_rows[language])]
            scores[setting, language] = Score(
                accuracy=accuracy(pooled(encoded), pool_ND) if language != "en" else float("nan"),
                reduction=100 * (1 - float(encoded.n_tokens.sum() / static[language].n_tokens.sum())),
                cosine=float((pooled(encoded) * pooled(static[language])).sum(axis=1).mean()),
            )
    return scores


def spaced(languages: Sequence[str]) -> list[str]:
    """The languages that the mean is taken over."""
    return [language for language in languages if language not in SPACELESS and language != "en"]


def mean_score(scores: Scores, setting: Setting, languages: Sequence[str]) -> Score:
    members = [scores[setting, language] for language in languages]
    accuracy, reduction, cosine = np.mean([(s.accuracy, s.reduction, s.cosine) for s in members], axis=0).tolist()
    return Score(accuracy, reduction, cosine)


def flat_figures(scores: Scores, settings: Sequence[Setting], rows: dict[str, np.ndarray]) -> dict[str, float | int]:
    """All figures as one flat object, units in the names."""
    figures: dict[str, float | int] = {f"pool_paragraphs_{language}": len(rows[language]) for language in rows}
    with_mean = dict(scores)
    if spaced(list(rows)):
        figures["languages_in_mean"] = len(spaced(list(rows)))
        with_mean |= {(setting, "mean"): mean_score(scores, setting, spaced(list(rows))) for setting in settings}
    for (setting, language), score in with_mean.items():
        if language != "en":
            figures[f"{setting.name}_accuracy_percent_{language}"] = round(score.accuracy, 3)
        figures[f"{setting.name}_reduction_percent_{language}"] = round(score.reduction, 3)
        figures[f"{setting.name}_cosine_{language}"] = round(score.cosine, 5)
    return figures


def by_method(settings: Sequence[Setting]) -> Iterator[tuple[str, list[Setting]]]:
    """The settings of each method but static."""
    for method in dict.fromkeys(setting.method for setting in settings if setting.method != STATIC):
        yield method, [setting for setting in settings if setting.method == method]


def markdown_table(scores: Scores, settings: Sequence[Setting], rows: dict[str, np.ndarray]) -> str:
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
            static = mean_score(scores, Setting(STATIC), members)
            means = [mean_score(scores, column, members) for column in columns]
            cells = " | ".join(f"**{mean.accuracy:.1f} ({mean.reduction:.1f})**" for mean in means)
            lines.append(f"| **mean of {len(members)} with spaces** | | **{static.accuracy:.1f}** | {cells} |")
            cosines = " | ".join(f"{mean.cosine:.3f}" for mean in means)
            lines.append(f"| their mean cosine to static | | 1 | {cosines} |")
    caption = "Top-1 accuracy in % (reduction in tokens against static tokenization in %)."
    return "\n".join([caption, *lines]) + "\n"


def draw(scores: Scores, settings: Sequence[Setting], rows: dict[str, np.ndarray], title: str, path: Path) -> None:
    """Accuracy against reduction, one panel per method, one line per language, the mean in bold."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = list(by_method(settings))
    figure = Figure(figsize=(1.6 + 5.6 * len(panels), 5.2), layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=11)
    members = spaced(list(rows))
    looks = [{"color": color, "ls": dashes} for dashes in ("-", "--", ":") for color in mpl.color_sequences["tab10"]]
    for axes, (method, columns) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        curves = {language: [scores[column, language] for column in columns] for language in rows}
        lines = [
            (*curve, {"lw": 1.3, "ms": 3, **look}) for curve, look in zip(curves.items(), cycle(looks), strict=False)
        ]
        if members:
            mean = [mean_score(scores, column, members) for column in columns]
            lines.append((f"mean of {len(members)}", mean, {"lw": 3.2, "ms": 5, "color": "black"}))
        for _, curve, look in lines:
            axes.plot([s.reduction for s in curve], [s.accuracy for s in curve], marker="o", **look)
        axes.set(xlabel="reduction: 1 − tokens ÷ static tokens, %", title=f"{method}, shares of 0 to 100 %")
        axes.set_title(axes.get_title(), fontsize=10)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("nearest English paragraph is the translation, %")
        axes.grid(color="0.9", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        _label_lines(axes, {label: (curve[-1].reduction, curve[-1].accuracy) for label, curve, _ in lines})
    figure.savefig(path, dpi=110)


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
    texts, rows = load_pairs(options.data, options.languages, options.limit)
    encoders = encoders_by_method(options.model, options.hypernet)
    settings = [Setting(STATIC), *(Setting(method, share) for method in encoders for share in options.shares)]
    n_english = len(np.unique(np.concatenate(list(rows.values()))))
    n_texts = n_english + sum(len(of_language) for of_language in rows.values())
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task(f"encoding, {len(settings)} settings", total=n_texts * len(settings))
        scores = measure(encoders, texts, rows, settings, options, lambda count: bars.advance(bar, count))
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
