"""What merging loses for a topic classifier that was trained on static embeddings: a linear probe per language.

    python -m experiments.topics --data sib200 --json topics.json --table topics.md
    python -m experiments.topics --data sib200 --languages swh_Latn tha_Thai --shares 25 50 75 100

The data are a folder with `LANGUAGE.train.jsonl.gz`, `LANGUAGE.dev.jsonl.gz` and `LANGUAGE.test.jsonl.gz`, whose lines
have `text` and `category`, as SIB-200 (Adelani et al., EACL 2024). The probe is ridge regression on the categories as
one-hot vectors (Hoerl & Kennard 1970), its penalty the best on `dev`; train and dev are read under static
tokenization. Then it classifies the test embeddings of every tokenization: a loss is static accuracy − accuracy, in
points, and flips are the texts whose category changed, in percent. Means are over languages with spaces.

A language takes some 50 seconds of one CPU core at share 100, FVT and hypernetwork.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int
from rich.console import Console

from dyntok_jax.errors import InputError
from dyntok_jax.options import AUTO, DEFAULT_MODEL, Boundary
from dyntok_jax.text import read_rows
from experiments.shared import (
    UNMERGED,
    Encode,
    Setting,
    all_settings,
    by_method,
    encode_in_settings,
    encoders_by_method,
    loss,
    mean_of,
    pooled,
    progress_bar,
    report,
    run_script,
    spaced,
)

SPLITS = ("train", "dev", "test")
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Options:
    """What merging loses for a topic classifier that was trained on static embeddings.

    Attributes:
      data: folder with LANGUAGE.train.jsonl.gz, .dev and .test; lines have `text` and `category`.
      languages: which languages, as the files are named; by default all.
      model: a folder, a Hub id, or a packaged model.
      hypernet: a folder or Hub id, compared with FVT; by default the one that comes with the model.
      boundary: what merging may not cross.
      max_subwords: the longest token; None for no limit.
      shares: percentages of the maximum reduction.
      prefix: put before each text, as e5 was trained; it is not counted.
      json: where the figures go.
      table: where the Markdown table goes.
    """

    data: Path
    languages: tuple[str, ...] = ()
    model: str = DEFAULT_MODEL
    hypernet: str | None = AUTO
    boundary: Boundary = "pretoken"
    max_subwords: int | None = 7
    shares: tuple[float, ...] = (50, 100)
    prefix: str = "query: "
    json: Path | None = None
    table: Path | None = None


@dataclass(frozen=True)
class Labelled:
    """Texts and their categories, in one language."""

    texts: list[str]
    categories: list[str]


Splits = dict[str, Labelled]


@dataclass(frozen=True)
class Score:
    """Results of one language's test texts in one setting, in percent except the cosine.

    Attributes:
      accuracy: of the probe.
      flips: texts whose category is not the one that the probe gives under static tokenization.
      reduction: 1 − tokens ÷ static tokens.
      cosine: mean cosine of embeddings to the static ones.
    """

    accuracy: float
    flips: float
    reduction: float
    cosine: float


Scores = dict[tuple[Setting, str], Score]


@dataclass(frozen=True)
class Probe:
    """A linear classifier of embeddings."""

    weight_DC: Float[np.ndarray, "D C"]
    bias_C: Float[np.ndarray, " C"]

    def classify(self, embeddings_ND: Float32[np.ndarray, "N D"]) -> Int[np.ndarray, " N"]:
        """The most probable category of each row."""
        return (embeddings_ND @ self.weight_DC + self.bias_C).argmax(axis=1)

    def accuracy(self, embeddings_ND: Float32[np.ndarray, "N D"], category_N: Int[np.ndarray, " N"]) -> float:
        """Percentage of rows that get their category."""
        return 100 * float((self.classify(embeddings_ND) == category_N).mean())


def fit_probe(
    embeddings_ND: Float32[np.ndarray, "N D"], category_N: Int[np.ndarray, " N"], n_categories: int, penalty: float
) -> Probe:
    """Ridge regression of one-hot categories on embeddings, with an intercept that is not penalized."""
    rows_ND = embeddings_ND.astype(np.float64)
    target_NC = np.eye(n_categories)[category_N]
    mean_D, mean_C = rows_ND.mean(axis=0), target_NC.mean(axis=0)
    centred_ND = rows_ND - mean_D
    gram_DD = centred_ND.T @ centred_ND + penalty * np.eye(rows_ND.shape[1])
    weight_DC = np.linalg.solve(gram_DD, centred_ND.T @ (target_NC - mean_C))
    return Probe(weight_DC, mean_C - mean_D @ weight_DC)


def languages_in(folder: Path) -> list[str]:
    """The languages whose three files are in a folder.

    Raises:
      InputError: there are none.
    """
    found = [
        {path.name.removesuffix(f".{split}.jsonl.gz") for path in folder.glob(f"*.{split}.jsonl.gz")}
        for split in SPLITS
    ]
    if not set.intersection(*found):
        raise InputError(
            f"{folder} has no language with files for {', '.join(SPLITS)}: give a folder with files such as "
            "deu_Latn.train.jsonl.gz."
        )
    return sorted(set.intersection(*found))


def load_splits(folder: Path, language: str) -> Splits:
    """A language's texts with categories.

    Raises:
      InputError: a file is missing, or a line has no text or no category.
    """
    splits = {}
    for split in SPLITS:
        path = folder / f"{language}.{split}.jsonl.gz"
        rows = read_rows(path)
        for number, row in enumerate(rows, start=1):
            if not (row.get("text") and row.get("category")):
                raise InputError(f"Row {number} of {path} has no `text` or no `category`: give both.")
        splits[split] = Labelled([row["text"] for row in rows], [row["category"] for row in rows])
    unknown = {*splits["dev"].categories, *splits["test"].categories} - {*splits["train"].categories}
    if unknown:
        raise InputError(
            f"{folder}: the training texts of {language} have no {', '.join(sorted(unknown))}, which its dev or test "
            "texts have: the probe cannot learn them."
        )
    return splits


def numbered(splits: Splits) -> dict[str, Int[np.ndarray, " N"]]:
    """The categories of each split as numbers."""
    numbers = {category: number for number, category in enumerate(sorted(set(splits["train"].categories)))}
    return {split: np.array([numbers[one] for one in labelled.categories]) for split, labelled in splits.items()}


def score_language(encode: Encode, language: str, splits: Splits, settings: Sequence[Setting]) -> Iterator[Score]:
    """Trains a language's probe and scores it on the test texts in each setting."""
    category = numbered(splits)
    static = {split: encode(UNMERGED, language, labelled.texts) for split, labelled in splits.items()}
    n_categories = int(category["train"].max()) + 1
    probes = [fit_probe(pooled(static["train"]), category["train"], n_categories, penalty) for penalty in PENALTIES]
    best = max(probes, key=lambda probe: probe.accuracy(pooled(static["dev"]), category["dev"]))
    expected_N = best.classify(pooled(static["test"]))
    for setting in settings:
        encoded = static["test"] if setting == UNMERGED else encode(setting, language, splits["test"].texts)
        yield Score(
            accuracy=best.accuracy(pooled(encoded), category["test"]),
            flips=100 * float((best.classify(pooled(encoded)) != expected_N).mean()),
            reduction=100 * (1 - float(encoded.n_tokens.sum() / static["test"].n_tokens.sum())),
            cosine=float((pooled(encoded) * pooled(static["test"])).sum(axis=1).mean()),
        )


def with_means(languages: Sequence[str]) -> dict[str, list[str]]:
    """What a row of the table stands for: each language, and the languages with spaces."""
    groups = {language: [language] for language in languages}
    return groups | ({"mean": spaced(languages)} if spaced(languages) else {})


def flat_figures(scores: Scores, settings: Sequence[Setting], languages: Sequence[str]) -> dict[str, float | int]:
    """All figures as one flat object, units in the names."""
    figures: dict[str, float | int] = {"languages_in_mean": len(spaced(languages))}
    for setting in settings:
        for group, members in with_means(languages).items():
            for quantity in ("accuracy", "flips", "reduction"):
                figures[f"{setting.name}_{quantity}_percent_{group}"] = mean_of(scores, setting, members, quantity)
            figures[f"{setting.name}_cosine_{group}"] = mean_of(scores, setting, members, "cosine")
            if setting != UNMERGED:
                figures[f"{setting.name}_loss_points_{group}"] = round(loss(scores, setting, members), 3)
    return figures


def markdown_table(scores: Scores, settings: Sequence[Setting], languages: Sequence[str]) -> str:
    """A row per language: static accuracy, and the loss in each setting, in brackets the reduction."""
    columns = [setting for _, of_method in by_method(settings) for setting in of_method]
    head = ["", "static", *(f"{column.method}, share {column.share:g} %" for column in columns)]
    lines = [f"| {' | '.join(head)} |", "|:--|" + "--:|" * (len(head) - 1)]
    for group, members in with_means(languages).items():
        title = f"**mean of {len(members)} with spaces**" if group == "mean" else group
        cells = [f"{mean_of(scores, UNMERGED, members, 'accuracy'):.1f} %"]
        cells += [
            f"{loss(scores, column, members):.2f} ({mean_of(scores, column, members, 'reduction'):.1f})"
            for column in columns
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    caption = "Accuracy of the topic under static tokenization; losses in points (reduction in tokens in %)."
    return "\n".join([caption, "", *lines]) + "\n"


def run(options: Options, console: Console) -> dict[str, float | int | str]:
    """Measures, writes the files that were asked for, and returns the figures."""
    started = time.perf_counter()
    languages = list(options.languages) or languages_in(options.data)
    splits = {language: load_splits(options.data, language) for language in languages}
    encoders = encoders_by_method(options.model, options.hypernet)
    settings = all_settings(list(encoders), options.shares)
    n_static = sum(len(labelled.texts) for of_language in splits.values() for labelled in of_language.values())
    n_test = sum(len(of_language["test"].texts) for of_language in splits.values())
    scores: Scores = {}
    n_texts = n_static + n_test * (len(settings) - 1)
    with progress_bar(f"encoding, {len(languages)} languages", n_texts, console) as on_progress:
        encode = encode_in_settings(encoders, options, on_progress)
        for language, of_language in splits.items():
            found = score_language(encode, language, of_language, settings)
            scores |= {(setting, language): score for setting, score in zip(settings, found, strict=True)}
    figures = {
        "data": options.data.name,
        "model": Path(options.model).name,
        "boundary": options.boundary,
        "max_subwords": options.max_subwords or "none",
        "prefix": options.prefix,
        "test_texts": n_test,
        **flat_figures(scores, settings, languages),
        "run_seconds": time.perf_counter() - started,
    }
    return report(figures, markdown_table(scores, settings, languages), options, console)


if __name__ == "__main__":
    run_script(run, Options, __doc__)
