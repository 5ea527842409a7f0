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
it. A pass over the 2,490 pairs of a language takes some 50 seconds of processor time with e5-small. Expect of an
adapter trained as in docs/results.md, fully merged within pretokens, mean of 13 languages with spaces: static 61.4 %,
a loss of 0.7 points with the hypernetwork and of 3.1 with FVT, at 24 % fewer tokens.
"""

from dataclasses import dataclass

from rich.console import Console

from experiments.shared import (
    XNLI_ACCURACY,
    XNLI_TOKENS,
    Figures,
    LabelledOptions,
    Task,
    read_sets,
    run_labelled,
    run_script,
    spaced,
)

TASK = Task(
    kind="nli",
    measure="accuracy",
    ending=".dev.jsonl.gz",
    curve_set="en",
    tokens=XNLI_TOKENS,
    scores=XNLI_ACCURACY,
)


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
