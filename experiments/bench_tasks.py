"""How much faster labels come, and adapters train, when texts are merged: pairs of XNLI, static and dynamic in turns.

    python -m experiments.bench_tasks --data xnli --adapter run/adapter --train mnli.jsonl.gz --json bench_tasks.json

Prediction is measured from text to label, with a cache that has the rows of all new tokens (a first pass fills it);
training is measured with the making of each batch: a step of LoRA and head, batches of 32 of the same texts. Both are
fully merged, with the packaged hypernetwork. The gain is compared with the ratio of padded tokens, which bounds it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from dyntok_jax.options import DEFAULT_MODEL, FULL, Boundary, Merging
from dyntok_jax.tasks import Draw, Labels, TaskConfig, TaskModel, prepare_task, read_examples, task_loss
from dyntok_jax.training import OptimizerConfig, init_state, make_optimizer, make_step
from experiments.shared import Figures, best_seconds, ratio, report, run_script, take_turns

ENDING = ".dev.jsonl.gz"
PAIRS_A_CALL = 256


@dataclass(frozen=True)
class Options:
    """How much faster labels come, and adapters train, when texts are merged.

    Attributes:
      data: folder with LANGUAGE.dev.jsonl.gz.
      adapter: folder of an adapter for the task nli.
      train: files to train on.
      languages: which languages of the data; by default all.
      pairs: a language.
      steps: of training, each timed in every round.
      rounds: how often everything is timed.
      model: a folder, a Hub id, or a packaged model.
      boundary: what merging may not cross.
      json: where the figures go.
      table: where the Markdown table goes.
    """

    data: Path
    adapter: Path
    train: tuple[str, ...]
    languages: tuple[str, ...] = ()
    pairs: int = 256
    steps: int = 12
    rounds: int = 3
    model: str = DEFAULT_MODEL
    boundary: Boundary = "pretoken"
    json: Path | None = None
    table: Path | None = None


def bench_prediction(options: Options) -> Figures:
    """From text to label."""
    model = TaskModel.load(options.adapter, options.model)
    found = sorted(path.name.removesuffix(ENDING) for path in options.data.glob(f"*{ENDING}"))
    files = [options.data / f"{language}{ENDING}" for language in options.languages or found]
    calls = []
    for file in files:
        texts = read_examples([str(file)], model.task).evenly(options.pairs).texts
        calls += [texts[at : at + PAIRS_A_CALL] for at in range(0, len(texts), PAIRS_A_CALL)]

    def predict(merging: Merging, texts: list) -> Labels:
        return model.predict(texts, merging=merging)

    goals = {"static": None, "dynamic": FULL}
    modes = {name: partial(predict, Merging(goal, boundary=options.boundary)) for name, goal in goals.items()}
    take_turns(modes, calls, 1, "compiling, filling the cache")
    runs = take_turns(modes, calls, options.rounds, "predicting in turns")
    figures: Figures = {"prediction_texts": sum(map(len, calls))}
    for name, rounds in runs.items():
        figures[f"prediction_{name}_seconds"] = best_seconds(rounds)
        figures[f"prediction_{name}_padded_tokens"] = sum(labels.padded_tokens for _, labels in rounds[-1])
        figures[f"prediction_{name}_tokens"] = sum(labels.n_tokens for _, labels in rounds[-1])
    return figures | gains("prediction", runs, figures)


def bench_training(options: Options) -> Figures:
    """Steps of an adapter and a head."""
    optimizer = make_optimizer(OptimizerConfig(), options.steps * (options.rounds + 1))
    modes: dict[str, Callable[[int], int]] = {}
    draws: dict[str, Draw] = {"static": "static", "dynamic": "fixed"}
    for name, draw in draws.items():
        config = TaskConfig("nli", options.train, model=options.model, draw=draw, boundary=options.boundary)
        modes[name] = _step_of(prepare_task(config), optimizer)
    take_turns(modes, list(range(options.steps)), 1, "compiling")
    runs = take_turns(modes, list(range(options.steps)), options.rounds, "training in turns")
    figures: Figures = {"training_steps": options.steps}
    for name, rounds in runs.items():
        figures[f"training_{name}_seconds"] = best_seconds(rounds)
        figures[f"training_{name}_padded_tokens"] = sum(size for _, size in rounds[-1])
    return figures | gains("training", runs, figures)


def _step_of(job: Any, optimizer: Any) -> Callable[[int], int]:
    """Makes batch i, takes a step on it, and returns how many tokens it has."""
    take_step, states = make_step(optimizer, task_loss), [init_state(job.parameters, optimizer)]

    def step(number: int) -> int:
        job.batches.set_state({"next": number})
        batch = next(job.batches)
        states[0], _ = jax.block_until_ready(take_step(states[0], job.frozen, [batch]))
        return batch.inputs.mask_BT.size

    return step


def gains(what: str, runs: dict[str, Any], figures: Figures) -> Figures:
    """Speed-ups, and the ratio of padded tokens that bounds them."""
    by_best, by_median = ratio(runs["static"], runs["dynamic"])
    tokens = float(figures[f"{what}_static_padded_tokens"]) / float(figures[f"{what}_dynamic_padded_tokens"])
    return {
        f"{what}_gain": by_best,
        f"{what}_gain_median": by_median,
        f"{what}_padded_token_ratio": tokens,
        f"{what}_gain_per_padded_token_ratio": by_best / tokens,
    }


def run(options: Options, console: Console) -> Figures:
    """Measures, writes the files that were asked for, and returns the figures."""
    started = time.perf_counter()
    figures: Figures = {"model": Path(options.model).name, "boundary": options.boundary}
    figures |= bench_prediction(options) | bench_training(options)
    figures["run_seconds"] = time.perf_counter() - started
    lines = ["| | static | dynamic | gain | median of rounds | padded tokens, static ÷ dynamic |", "|:--|" + "--:|" * 5]
    for what in ("prediction", "training"):
        seconds = [f"{figures[f'{what}_{mode}_seconds']:.1f} s" for mode in ("static", "dynamic")]
        ratios = [f"{figures[f'{what}_{one}']:.2f} ×" for one in ("gain", "gain_median", "padded_token_ratio")]
        lines.append(f"| {' | '.join([what, *seconds, *ratios])} |")
    return report(figures, "\n".join(lines) + "\n", options, console)


if __name__ == "__main__":
    run_script(run, Options, __doc__)
