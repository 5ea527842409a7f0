"""What merging costs a classifier of pairs in 15 languages: XNLI, with adapters trained on English pairs.

    dyntok train-task --task nli --train mnli.jsonl.gz --draw static --output run      trains an adapter
    python -m experiments.xnli --data xnli --adapters static=run/adapter --json xnli.json --table xnli.md
    python -m experiments.xnli --data xnli --languages en --curve 0 10 20 133 --adapters static=a uniform=b

The data are a folder with `LANGUAGE.dev.jsonl.gz` (premise, hypothesis, label; Conneau et al., EMNLP 2018). Adapters
see no language but English; each is scored under static tokenization and merged, with FVT and with the hypernetwork,
on all languages. Losses are static accuracy − accuracy, in points. `--curve` repeats the reference's figure: accuracy
against merges of a batch, in English, where the lengths of batches of 32 (in the order of the file, without normaliser
and limit) are the reference's to the third decimal.

With a network: `--model xlm-roberta-base --hypernet benjamin/zett-hypernetwork-xlm-roberta-base`, and an adapter for
it. A pass over the 2,490 pairs of a language takes some 50 seconds of two CPU cores with e5-small.
"""

from dataclasses import dataclass

from rich.console import Console

from experiments.shared import Figures, LabelledOptions, Task, read_sets, run_labelled, run_script, spaced

TASK = Task(
    kind="nli",
    measure="accuracy",
    ending=".dev.jsonl.gz",
    curve_set="en",
    tokens={
        0: 42.143,
        2: 41.533,
        6: 40.818,
        10: 40.242,
        11: 40.114,
        20: 39.141,
        29: 38.384,
        40: 37.563,
        50: 36.964,
        80: 36.127,
        133: 35.936,
    },
    scores={
        0: 84.30,
        1: 84.54,
        2: 84.62,
        3: 84.46,
        5: 84.54,
        10: 84.42,
        15: 84.26,
        20: 84.14,
        25: 83.69,
        30: 83.61,
        35: 83.29,
        40: 82.93,
        50: 82.69,
        60: 82.73,
        80: 82.85,
        100: 82.61,
        133: 82.61,
    },
)
"""The figures are in the result files of the paper's implementation: XLM-R base, an adapter trained at 10 merges."""


@dataclass(frozen=True)
class Options(LabelledOptions):
    """What merging costs a classifier of pairs in 15 languages.

    Attributes:
      languages: which languages; by default all in the data.
    """

    languages: tuple[str, ...] = ()


def run(options: Options, console: Console) -> Figures:
    """Measures, writes the files that were asked for, and returns the figures."""
    sets = read_sets(options.data, options.languages, TASK, options.limit)
    means = {"all": list(sets), "spaced": [*spaced(list(sets)), *(["en"] if "en" in sets else [])]}
    return run_labelled(TASK, sets, means, options, console)


if __name__ == "__main__":
    run_script(run, Options, __doc__)
