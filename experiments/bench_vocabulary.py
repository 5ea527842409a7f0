"""How long a step of decoding takes in the model's own vocabulary, and in a large one.

    python -m experiments.bench_vocabulary VOCAB TABLE INDEX --json bench_vocabulary.json --table bench_vocabulary.md

The folders are those of `dyntok build-vocab`, `embed-vocab` and `build-index`. The same loop runs on the same prompts,
`--steps` steps per call, greedily and without an end token; all ways of choosing take turns for `--rounds` rounds, and
the best counts. *own* scores all rows of the model's table; *N blocks* reads that many of the index; *exact* scores all
rows of the large table; *own + prompt* adds the tokens of each prompt to the model's own.

Two CPU cores, a million entries: 7 minutes.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from dyntok_jax import DynamicDecoder
from dyntok_jax.assets import load_sample
from dyntok_jax.decoding import (
    OWN,
    Limits,
    LoadedVocabulary,
    PromptVocabulary,
    SamplingConfig,
    Vocabulary,
    advance,
    sampling_of,
    sequence_keys,
    start,
)
from dyntok_jax.models import embed_ids
from dyntok_jax.options import DEFAULT_DECODER
from experiments.shared import Figures, best_seconds, ratio, report, run_script, take_turns

CAPACITY, N_TOKENS = 256, 64
PROMPT_TOKENS = 64
"""New tokens per prompt, for *own + prompt*."""


@dataclass(frozen=True)
class Options:
    """How long a step takes.

    Attributes:
      vocabulary: folder of `dyntok build-vocab`.
      rows: folder of `dyntok embed-vocab`.
      index: folder of `dyntok build-index`.
      model: a packaged decoder, a folder or a Hub id.
      batches: batch sizes.
      probes: numbers of blocks read.
      candidates: per step.
      steps: per call.
      rounds: how often each way runs.
      json: where the figures go.
      table: where the Markdown table goes.
    """

    vocabulary: tyro.conf.Positional[str]
    rows: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="rows", metavar="TABLE")]
    index: tyro.conf.Positional[str]
    model: str = DEFAULT_DECODER
    batches: tuple[int, ...] = (1, 8)
    probes: tuple[int, ...] = (48, 56, 64)
    candidates: int = 64
    steps: int = 32
    rounds: int = 7
    json: Path | None = None
    table: Path | None = None


def ways_to_choose(decoder: DynamicDecoder, loaded: LoadedVocabulary, n_batch: int, options: Options):
    """The vocabularies by their names in the table."""
    ways: dict[str, Vocabulary] = {"own": OWN, "own + prompt": of_prompts(decoder, n_batch)}
    index = loaded.large.index
    for n_probe in options.probes:
        if index is not None and n_probe <= len(index.blocks):
            ways[f"{n_probe} blocks"] = replace(loaded.large, n_probe=n_probe)
    return ways | {"exact": replace(loaded.large, index=None)}


def of_prompts(decoder: DynamicDecoder, n_batch: int) -> PromptVocabulary:
    """As many new tokens per sequence as a long prompt has; which ones makes no difference."""
    rng, table_VD = np.random.default_rng(0), np.asarray(decoder.decoder.word_embeddings[...], np.float32)
    parts_BNS = rng.integers(0, len(table_VD), (n_batch, PROMPT_TOKENS, 2)).astype(np.int32)
    rows_RD = table_VD[parts_BNS.reshape(-1, 2)].mean(axis=1)
    row_BN = np.arange(len(rows_RD), dtype=np.int32).reshape(n_batch, PROMPT_TOKENS)
    output_RD = None if decoder.decoder.output_embeddings is None else rows_RD
    return jax.tree.map(jnp.asarray, PromptVocabulary(rows_RD, output_RD, row_BN, parts_BNS))


def prompts(decoder: DynamicDecoder, n_batch: int):
    """Ids and mask of texts of the sample, cut to `N_TOKENS` tokens."""
    texts = (load_sample()["en"] * n_batch)[:n_batch]
    ids = [encoding.ids[:N_TOKENS] for encoding in decoder.tokenizer.own.encode_batch(texts)]
    mask = np.arange(N_TOKENS)[None] < np.array([len(row) for row in ids])[:, None]
    padded = np.zeros(mask.shape, np.int32)
    padded[mask] = np.concatenate(ids)
    return jnp.asarray(padded), jnp.asarray(mask)


def caller(
    decoder: DynamicDecoder, vocabulary: Vocabulary, n_batch: int, options: Options
) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """A function that reads the prompts, and one that decodes `options.steps` steps from the state it returns."""
    settings = sampling_of([SamplingConfig()] * n_batch)
    limits = Limits(np.array([-1], np.int32), np.full(n_batch, CAPACITY, np.int32))

    def begin():
        ids, mask = prompts(decoder, n_batch)
        keys = sequence_keys(np.zeros(n_batch, np.uint32), np.arange(n_batch, dtype=np.uint32))
        embeddings = embed_ids(decoder.decoder, ids)
        state = start(
            decoder.decoder,
            embeddings,
            mask,
            None,
            keys,
            settings,
            limits,
            vocabulary=vocabulary,
            capacity=CAPACITY,
            chunk=N_TOKENS,
        )
        return jax.block_until_ready(state)

    def go_on(state):
        n_steps = np.int32(options.steps)
        state, tokens = advance(
            decoder.decoder, state, settings, limits, n_steps, vocabulary=vocabulary, size=options.steps
        )
        return jax.block_until_ready(tokens)

    return begin, go_on


def bench(decoder: DynamicDecoder, loaded: LoadedVocabulary, n_batch: int, options: Options) -> list[Figures]:
    """Milliseconds per step, and their ratio to those in the model's own vocabulary."""
    ways = ways_to_choose(decoder, loaded, n_batch, options)
    calls = {name: caller(decoder, vocabulary, n_batch, options) for name, vocabulary in ways.items()}
    for begin, go_on in calls.values():
        go_on(begin())
    # reading the prompt is not measured, and a state can be continued only once
    states = {name: [begin() for _ in range(options.rounds)] for name, (begin, _) in calls.items()}
    modes = {name: (lambda _, name=name: calls[name][1](states[name].pop())) for name in calls}
    runs = take_turns(modes, [None], options.rounds, f"Batch {n_batch}")
    found = []
    for name, rounds in runs.items():
        best, middle = ratio(rounds, runs["own"])
        milliseconds = 1000 * best_seconds(rounds) / options.steps
        found.append({"batch": n_batch, "way": name, "milliseconds": milliseconds, "ratio": best, "median": middle})
    return found


def markdown_table(found: list[Figures], n_own: int, n_large: int) -> str:
    lines = [f"A step, {n_own:,} tokens (own) and {n_large:,}.", ""]
    lines += ["| batch | chosen from | a step | ÷ own | median |", "|--:|:--|--:|--:|--:|"]
    for row in found:
        times = f"{row['milliseconds']:.1f} ms | {row['ratio']:.2f} | {row['median']:.2f}"
        lines.append(f"| {row['batch']} | {row['way']} | {times} |")
    return "\n".join(lines) + "\n"


def run(options: Options, console: Console) -> Figures:
    """Measures, writes the files that were asked for, and returns the figures."""
    decoder = DynamicDecoder.load(options.model, None)
    loaded = decoder.load_vocabulary(options.vocabulary, options.rows, options.index, k=options.candidates)
    found = [row for n_batch in options.batches for row in bench(decoder, loaded, n_batch, options)]
    figures: Figures = {"own": decoder.config.vocab_size, "large": loaded.entries.size, "cores": os.cpu_count() or 1}
    for row in found:
        name = f"batch{row['batch']}_{str(row['way']).replace(' ', '_')}"
        figures |= {f"{name}_{what}": float(f"{row[what]:.5g}") for what in ("milliseconds", "ratio", "median")}
    table = markdown_table(found, decoder.config.vocab_size, loaded.entries.size)
    return report(figures, table, options, console)


if __name__ == "__main__":
    run_script(run, Options, __doc__)
