"""A task adapter merged with one that has learnt to read merged text, by every method.

    python -m experiments.adapter_merging --task-adapter static/adapter --tokenization-adapter uniform/adapter \
        --data xnli/en.dev.jsonl.gz --json merging.json

The task adapter was trained under static tokenization (`dyntok train-task --draw static`), the tokenization adapter on
merged text, on this task or another; the head is the task adapter's. The reference merges such a pair by magnitude,
with weights 0.4 and 0.6 and density 0.8, which are the defaults here. Factors are merged as peft's
`add_weighted_adapter` does; methods whose name ends in `_svd` merge the products and keep as many singular vectors as
the adapters have ranks. Each result is scored under static tokenization and at full merging with the hypernetwork.

Every adapter, merged or not, is scored twice.
"""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import jax
from rich.console import Console

from dyntok_jax.adapters import Adapter, MergeMethod, merge_adapters
from dyntok_jax.convert import load_adapter
from dyntok_jax.errors import InputError
from dyntok_jax.files import load_model
from dyntok_jax.options import AUTO, DEFAULT_MODEL, FULL, Boundary, Merging
from dyntok_jax.tasks import Examples, TaskModel, read_examples, read_task, save_task
from experiments.shared import Figures, progress_bar, report, run_script

METHODS: dict[str, MergeMethod] = {
    "linear": MergeMethod("linear"),
    "magnitude": MergeMethod("magnitude"),
    "ties": MergeMethod("ties"),
    "dare_linear": MergeMethod("dare_linear"),
    "dare_ties": MergeMethod("dare_ties"),
    "pcb": MergeMethod("pcb"),
    "consensus": MergeMethod("consensus"),
    "linear_svd": MergeMethod("linear"),
    "magnitude_svd": MergeMethod("magnitude"),
}
MEASURES = {"nli": "accuracy", "classify": "accuracy", "ner": "entity_f1"}
SVD = "_svd"


@dataclass(frozen=True)
class Options:
    """A task adapter merged with one that has learnt to read merged text, by every method.

    Attributes:
      task_adapter: folder of the adapter whose task is scored.
      tokenization_adapter: folder of the adapter that was trained on merged text.
      data: file with labelled texts of the task.
      limit: the most texts, evenly spaced.
      methods: which methods.
      weights: of the task adapter and of the tokenization adapter.
      density: share of the values that pruning keeps.
      seed: of DARE's draws.
      model: a folder, a Hub id, or a packaged model.
      hypernet: a folder or Hub id; by default the one that comes with the model.
      boundary: what merging may not cross.
      batch_size: texts a batch.
      json: where the figures go.
      table: where the Markdown table goes.
    """

    task_adapter: Path
    tokenization_adapter: Path
    data: Path
    limit: int | None = None
    methods: tuple[str, ...] = tuple(METHODS)
    weights: tuple[float, float] = (0.4, 0.6)
    density: float = 0.8
    seed: int = 0
    model: str = DEFAULT_MODEL
    hypernet: str | None = AUTO
    boundary: Boundary = "pretoken"
    batch_size: int = 32
    json: Path | None = None
    table: Path | None = None


def merged_adapter(task: Adapter, tokenization: Adapter, name: str, options: Options) -> Adapter:
    """The two merged; biases and heads are the task adapter's.

    Args:
      task: trained under static tokenization.
      tokenization: trained on merged text.
      name: of `METHODS`.
      options: weights, density, seed.

    Raises:
      InputError: the method is unknown, or the adapters have different maps.
    """
    if name not in METHODS:
        raise InputError(f"Unknown method {name!r}: choose from {', '.join(METHODS)}.")
    rank = task.config.rank if name.endswith(SVD) else None
    pair = [task, replace(tokenization, replaced={})]
    method = replace(METHODS[name], density=options.density)
    return merge_adapters(pair, options.weights, method, rank=rank, key=jax.random.key(options.seed))


def score(folder: Path, examples: Examples, options: Options, console: Console) -> dict[str, float]:
    """Static and dynamic score of an adapter, in percent, and the tokens saved."""
    model = TaskModel.load(folder, options.model, options.hypernet)
    found = {}
    with progress_bar(folder.name, 2 * len(examples.texts), console) as advance:
        for name, goal in (("static", None), ("dynamic", FULL)):
            merging = Merging(goal, boundary=options.boundary)
            found[name] = model.predict(
                examples.texts, merging=merging, batch_size=options.batch_size, on_progress=advance
            )
    scores = {name: labels.scores(examples.labels)[MEASURES[model.task]] for name, labels in found.items()}
    return scores | {"reduction": 100 * (1 - found["dynamic"].n_tokens / found["static"].n_tokens)}


def run(options: Options, console: Console) -> Figures:
    """Merges, measures, writes the files that were asked for, and returns the figures."""
    started = time.perf_counter()
    adapters = (options.task_adapter, options.tokenization_adapter)
    of_task = read_task(options.task_adapter)
    config = load_model(options.model, None, kind="encoder").config
    task, tokenization = (load_adapter(folder, config) for folder in adapters)
    merged = {name: merged_adapter(task, tokenization, name, options) for name in options.methods}
    examples = read_examples([str(options.data)], of_task["task"])
    examples = examples if options.limit is None else examples.evenly(options.limit)
    with tempfile.TemporaryDirectory() as root:
        folders = {"task": options.task_adapter, "tokenization": options.tokenization_adapter}
        for name, adapter in merged.items():
            folders[name] = Path(root) / name
            save_task(folders[name], adapter, task=of_task, config=config)
        scores = {name: score(folder, examples, options, console) for name, folder in folders.items()}
    figures: Figures = {
        "data": options.data.name,
        "texts": len(examples.texts),
        "boundary": options.boundary,
        "density": options.density,
        "reduction_percent": scores["task"]["reduction"],
        **{f"{name}_{kind}_percent": of[kind] for name, of in scores.items() for kind in ("static", "dynamic")},
        "run_seconds": time.perf_counter() - started,
    }
    lines = ["| adapter | static | fully merged | loss to the task adapter, static |", "|:--|--:|--:|--:|"]
    for name, of in scores.items():
        lost = scores["task"]["static"] - of["dynamic"]
        lines.append(f"| {name} | {of['static']:.2f} % | {of['dynamic']:.2f} % | {lost:.2f} |")
    return report(figures, "\n".join(lines) + "\n", options, console)


if __name__ == "__main__":
    run_script(run, Options, __doc__)
