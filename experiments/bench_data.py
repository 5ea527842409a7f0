"""Speed of the training input pipeline compared with a training step.

    python -m experiments.bench_data --text de.txt.gz el.txt.gz --json bench_data.json

Two CPU cores: 3 minutes, most of it for compiling training steps. Expect 20 batches per second or more (17 ms of one
core each) and some 100 batches in the time of a step.

Without `--text` the texts are the packaged sample (the Universal Declaration in 15 languages, 750 texts). The pipeline
runs alone, with one thread of its own, in batches of 24 texts of at most 96 subwords. Then some of its batches are
trained on, with e5-small and the default hypernetwork: each twice, the second time timed. `--step-seconds` gives the
time of a step elsewhere, such as on an accelerator; then nothing is trained.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import jax
import tyro
from rich.console import Console
from rich.table import Table

from dyntok_jax.assets import load_sample
from dyntok_jax.encoding import default_prompt
from dyntok_jax.files import find_model
from dyntok_jax.text import ByteLevelTokenizer
from dyntok_jax.training import (
    NetworkConfig,
    Objectives,
    OptimizerConfig,
    fresh_hypernet,
    init_state,
    load_frozen,
    make_optimizer,
    make_step,
    total_loss,
)
from dyntok_jax.training.data import DataConfig, TrainingBatch, by_language, training_batches

PIECES = 256
OBJECTIVES = Objectives(sentences=1.0, hidden=1.0)


@dataclass(frozen=True)
class Options:
    """Times the input pipeline.

    Attributes:
      text: text files, as FILE or CODE=FILE; by default the packaged sample.
      words: lists of words for pseudo-texts, half of a language's samples, as CODE=FILE or CODE=wordfreq:CODE.
      model: a folder, a Hugging Face Hub id, or a packaged model.
      batch_size: texts per batch.
      batches: how many to time.
      steps: training steps to time.
      step_seconds: the time of a step, if known.
      json: where to write the figures, as one flat object.
    """

    text: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    model: str = "e5-small"
    batch_size: int = 24
    batches: int = 200
    steps: int = 4
    step_seconds: float | None = None
    json: Path | None = None


def run(options: Options, console: Console) -> None:
    folder = find_model(options.model)
    tokenizer, prefix = ByteLevelTokenizer.load(folder), default_prompt(folder)
    with tempfile.TemporaryDirectory() as texts_folder:
        texts = by_language(options.text if options.text or options.words else sample_files(Path(texts_folder)))
        config = DataConfig(
            texts,
            words=by_language(options.words),
            batch_size=options.batch_size,
            prefix=prefix,
            held_out=0,
            pieces_per_batch=0,
        )
        begin = time.perf_counter()
        stream = training_batches(config, tokenizer)
        some = list(islice(stream, options.steps))
        figures = {"open_s": time.perf_counter() - begin}
        batch_s, cpu_s = seconds_a_batch(stream, options.batches)
        with_pieces = training_batches(replace(config, pieces_per_batch=PIECES), tokenizer)
        next(with_pieces)
        pieces_s, _ = seconds_a_batch(with_pieces, options.batches)
        stream.close()
        with_pieces.close()
    step_s = options.step_seconds or seconds_a_step(options.model, config, some)
    figures |= {
        "batch_ms": batch_s * 1e3,
        "batch_cpu_ms": cpu_s * 1e3,
        "batches_per_s": 1 / batch_s,
        "texts_per_s": options.batch_size / batch_s,
        f"with_{PIECES}_pieces_batches_per_s": 1 / pieces_s,
        "step_s": step_s,
        "batches_a_step": step_s / batch_s,
    }
    print_table(figures, console)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def sample_files(folder: Path) -> list[str]:
    """The packaged sample, one file per language."""
    for code, texts in load_sample().items():
        (folder / f"{code}.txt").write_text("\n".join(texts), encoding="utf-8")
    return [str(path) for path in sorted(folder.iterdir())]


def seconds_a_batch(stream: Iterator[TrainingBatch], count: int) -> tuple[float, float]:
    """Seconds per batch, elapsed and summed over all cores."""
    begin, cpu_begin = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(stream)
    return (time.perf_counter() - begin) / count, (time.process_time() - cpu_begin) / count


def seconds_a_step(model: str, config: DataConfig, batches: list[TrainingBatch]) -> float:
    """The median time of a training step on these batches, without compilation."""
    frozen, tokenizer = load_frozen(model)
    optimizer = make_optimizer(OptimizerConfig(), 1000)
    step = make_step(optimizer, partial(total_loss, weights=OBJECTIVES))
    state = init_state(
        fresh_hypernet(NetworkConfig(), frozen, tokenizer, max_subwords=config.max_subwords, seed=0), optimizer
    )
    times = []
    for batch in jax.device_put(batches):
        for is_timed in (False, True):
            begin = time.perf_counter()
            state, metrics = step(state, frozen, [batch])
            jax.block_until_ready(metrics)
            if is_timed:
                times.append(time.perf_counter() - begin)
    return statistics.median(times)


def print_table(figures: dict[str, float], console: Console) -> None:
    rows = {
        "open the stream, first batches": f"{figures['open_s']:.1f} s",
        "a batch": f"{figures['batch_ms']:.1f} ms",
        "a batch, time of all cores": f"{figures['batch_cpu_ms']:.1f} ms",
        "batches a second": f"{figures['batches_per_s']:.1f}",
        f"batches a second, with {PIECES} vocabulary pieces": f"{figures[f'with_{PIECES}_pieces_batches_per_s']:.1f}",
        "a training step": f"{figures['step_s']:.2f} s",
        "batches in the time of a step": f"{figures['batches_a_step']:.0f}",
    }
    table = Table(show_header=False)
    for row in rows.items():
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    run(tyro.cli(Options), Console())
