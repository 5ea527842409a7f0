"""What merging costs a tagger of names in several languages: Universal NER, with adapters for its tags.

    dyntok train-task --task ner --train pt_bosque.train.jsonl.gz --draw static --head-learning-rate 1e-2 --output run
    python -m experiments.uner --data uner --adapters static=run/adapter --json uner.json --table uner.md
    python -m experiments.uner --data uner --sets en_ewt.dev --curve 0 10 36 154 --adapters static=run/adapter

The data are a folder with `SET.SPLIT.jsonl.gz` (tokens, tags; Mayhew et al., NAACL 2024). A word has the tag of its
first token, and the F1 is that of whole entities (seqeval). Each adapter is scored under static tokenization and
merged, with FVT and with the hypernetwork. Losses are static F1 − F1, in points. `--curve` is measured on en_ewt.dev,
where the lengths of batches of 32 are the reference's to the third decimal.

Some 5 minutes on two CPU cores for 500 sentences a set at share 100. Expect of an adapter trained as in
docs/results.md, mean of the six sets: an F1 of 67 %, a loss of 2.7 points with the hypernetwork and of 25 with FVT, at
27 % fewer tokens.
"""

from dataclasses import dataclass

from rich.console import Console

from experiments.shared import UNER_TOKENS, Figures, LabelledOptions, Task, read_sets, run_labelled, run_script

TASK = Task(
    kind="ner",
    measure="entity_f1",
    ending=".jsonl.gz",
    curve_set="en_ewt.dev",
    tokens=UNER_TOKENS,
    scores={},
)
SETS = tuple(f"{name}.test" for name in ("en_ewt", "en_pud", "de_pud", "pt_bosque", "pt_pud", "ru_pud"))


@dataclass(frozen=True)
class Options(LabelledOptions):
    """What merging costs a tagger of names in several languages.

    Attributes:
      sets: which sets, as SET.SPLIT.
    """

    sets: tuple[str, ...] = SETS


def run(options: Options, console: Console) -> Figures:
    """Measures, writes the files that were asked for, and returns the figures."""
    sets = read_sets(options.data, options.sets, TASK, options.limit)
    return run_labelled(TASK, sets, {"all": list(sets)}, options, console)


if __name__ == "__main__":
    run_script(run, Options, __doc__)
