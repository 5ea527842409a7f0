"""Speed and recall of the maximum inner product index, compared with exact search, FAISS and ScaNN.

    python -m experiments.bench_index TABLE --json bench_index.json --table bench_index.md
    python -m experiments.bench_index --synthetic 100000

TABLE is a folder that `dyntok embed-vocab` wrote; `--synthetic` draws rows instead: means of one to four of the model's
own output rows, as FVT makes them, with a norm that varies by a factor. Queries are real hidden states of the model on
the packaged sample; those used for times and recall were not used for any build. All rivals search the same rows,
float32, for the `--k` best by inner product and take turns for `--rounds` rounds; times are the best of them, for a
batch of queries, and everything is compiled before. FAISS and ScaNN use `OMP_NUM_THREADS` threads.

- Exact: the whole product and a two-level top-k, in JAX.
- Ours: float32 and 8-bit rows, at several numbers of probed blocks of 256 rows.
- FAISS IVF-Flat and IVF-PQ with one cell per 244 rows (4,096 at a million), at several numbers of probed cells.
- ScaNN with the settings of the paper's code: normalised rows, which is cosine; 2,000 leaves of which 250 are searched
  (fewer leaves, in proportion, where there are fewer rows than a million), `score_ah(3, 0.2)`, 200 reordered.

Two CPU cores, 1,000,000 × 576: some 17 minutes. (The extras are `pip install faiss-cpu scann`; a rival that is not
installed is skipped.)
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float32
from rich.console import Console
from tokenizers import Tokenizer

from dyntok_jax.assets import load_sample
from dyntok_jax.decoding import hidden_queries
from dyntok_jax.errors import InputError
from dyntok_jax.files import load_model
from dyntok_jax.models import Decoder
from dyntok_jax.options import DEFAULT_DECODER
from dyntok_jax.vocabulary import open_table
from dyntok_jax.vocabulary.index import build_index, exact_search, recall_of, search
from experiments.shared import Figures, best_seconds, report, run_script, take_turns

ROWS_PER_CELL = 244
FAISS_TRAINING_ROWS = 64
PQ_WIDTH = 8
REFERENCE_LEAVES, REFERENCE_SEARCHED, REFERENCE_REORDERED = 2000, 250, 200
Search = Callable[[Float32[np.ndarray, "B D"]], np.ndarray]


@dataclass(frozen=True)
class Options:
    """Speed and recall of the index.

    Attributes:
      folder: of the table.
      synthetic: draw this many rows instead.
      model: whose hidden states are the queries.
      languages: of the sample's texts.
      paragraphs: texts per language.
      k: rows to find.
      batches: batch sizes of queries.
      probes: blocks probed.
      faiss_probes: cells probed by FAISS.
      queries: the most queries to time.
      rounds: how often each rival runs.
      json: where the figures go.
      table: where the Markdown table goes.
    """

    folder: Annotated[str | None, tyro.conf.Positional] = None
    synthetic: int | None = None
    model: str = DEFAULT_DECODER
    languages: tuple[str, ...] = ("en", "de", "es", "fr")
    paragraphs: int = 24
    k: int = 20
    batches: tuple[int, ...] = (1, 32)
    probes: tuple[int, ...] = (48, 64, 128)
    faiss_probes: tuple[int, ...] = (128, 512, 2048)
    queries: int = 256
    rounds: int = 3
    json: Path | None = None
    table: Path | None = None


@dataclass(frozen=True)
class Rival:
    """A search to measure, its build time and memory."""

    name: str
    find: Search
    build_seconds: float = 0.0
    megabytes: float = 0.0


def table_rows(options: Options, model: Decoder) -> Float32[np.ndarray, "V D"]:
    """The rows to search.

    Raises:
      InputError: not exactly one of a folder and `--synthetic`.
    """
    if (options.folder is None) == (options.synthetic is None):
        raise InputError("Give either a table's folder or --synthetic ROWS.")
    if options.folder is not None:
        table = open_table(options.folder)
        return np.asarray(table.rows(0, table.config.rows, "output"), np.float32)
    own = np.asarray(model.word_embeddings[...] if model.output_embeddings is None else model.output_embeddings[...])
    rng = np.random.default_rng(0)
    rows = np.empty((options.synthetic or 0, own.shape[1]), np.float32)
    for start in range(0, len(rows), 1 << 15):
        some = rows[start : start + (1 << 15)]
        n_pieces = rng.integers(1, 5, len(some))
        total = np.zeros_like(some)
        for piece in range(4):
            total += own[rng.integers(0, len(own), len(some))] * (piece < n_pieces)[:, None]
        some[:] = total / n_pieces[:, None] * np.exp(0.3 * rng.normal(size=(len(some), 1)))
    return rows


def real_queries(options: Options, model: Decoder, tokenizer: Tokenizer) -> Float32[np.ndarray, "Q D"]:
    """Hidden states with languages alternating, so that both halves have every language, with different texts."""
    sample = load_sample()
    by_turns = zip_longest(*(sample[language][: options.paragraphs] for language in options.languages))
    texts = [text for turn in by_turns for text in turn if text is not None]
    return hidden_queries(model, [tokenizer.encode(text).ids for text in texts])


def ours(rows, queries, n_own: int, options: Options) -> list[Rival]:
    """Exact search, and the index with float32 and with 8-bit rows; the first `n_own` rows are the model's own."""
    table = jnp.asarray(rows)
    exact = jax.jit(partial(exact_search, k=options.k))
    rivals = [Rival("exact", lambda batch: np.asarray(exact(table, batch)[0]), megabytes=rows.nbytes / 1e6)]
    for name, is_8_bit in (("ours", False), ("ours 8-bit", True)):
        started = time.perf_counter()
        built = build_index(rows, queries, n_own=n_own, is_8_bit=is_8_bit)
        seconds = time.perf_counter() - started
        index = jax.tree.map(jnp.asarray, built.index)
        for probe in options.probes:
            if probe <= len(index.blocks):
                find = partial(_search_ours, _compiled_search(options.k, probe), index, table if is_8_bit else None)
                rivals.append(Rival(f"{name}, {probe} blocks", find, seconds, index.n_bytes / 1e6))
    return rivals


def _compiled_search(k, n_probe):
    return jax.jit(lambda index, batch, table: search(index, batch, k, n_probe, table_VD=table)[0])


def _search_ours(compiled, index, table, batch):
    return np.asarray(compiled(index, batch, table))


def faiss_rivals(rows, options: Options) -> list[Rival]:
    """IVF-Flat and IVF-PQ."""
    import faiss  # pyright: ignore[reportMissingImports]  (may not be installed)

    n_cells = max(1, len(rows) // ROWS_PER_CELL)
    sample = rows[np.random.default_rng(0).permutation(len(rows))[: max(FAISS_TRAINING_ROWS * n_cells, 1 << 14)]]
    rivals = []
    for kind, code in (("IVF-Flat", "Flat"), ("IVF-PQ", f"PQ{rows.shape[1] // PQ_WIDTH}")):
        started = time.perf_counter()
        index = faiss.index_factory(rows.shape[1], f"IVF{n_cells},{code}", faiss.METRIC_INNER_PRODUCT)
        index.train(sample)
        index.add(rows)
        seconds = time.perf_counter() - started
        for probe in options.faiss_probes:
            if probe > n_cells:
                continue
            settings = faiss.SearchParametersIVF(nprobe=probe)

            def find(batch, index=index, settings=settings):
                return index.search(batch, options.k, params=settings)[1]

            # the size of its serialized form, without writing a file
            megabytes = len(faiss.serialize_index(index)) / 1e6 if len(rows) <= 200_000 else np.nan
            rivals.append(Rival(f"FAISS {kind}, {probe} of {n_cells} cells", find, seconds, megabytes))
    return rivals


def scann_rival(rows, options: Options) -> Rival:
    """ScaNN with the settings of the paper's code."""
    import scann  # pyright: ignore[reportMissingImports]  (may not be installed)

    share = min(1.0, len(rows) / 1e6)
    leaves, searched = (max(1, round(n * share)) for n in (REFERENCE_LEAVES, REFERENCE_SEARCHED))
    started = time.perf_counter()
    normalised = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    builder = scann.scann_ops_pybind.builder(normalised, REFERENCE_REORDERED, "dot_product")
    builder = builder.tree(leaves, searched, training_sample_size=len(rows))
    searcher = builder.score_ah(3, anisotropic_quantization_threshold=0.2).reorder(REFERENCE_REORDERED).build()
    seconds = time.perf_counter() - started

    def find(batch):
        return searcher.search_batched(batch, final_num_neighbors=options.k)[0]

    return Rival(f"ScaNN, the paper's settings (cosine), {searched} of {leaves} leaves", find, seconds, np.nan)


def bench(rivals: list[Rival], queries, true, options: Options) -> list[Figures]:
    """Recall and times of each, in turns."""
    found: dict[str, Figures] = {
        rival.name: {
            "search": rival.name,
            "recall": recall_of(_in_batches(rival.find, queries, max(options.batches)), true),
            "build_seconds": rival.build_seconds,
            "megabytes": rival.megabytes,
        }
        for rival in rivals
    }
    for size in options.batches:
        batches = [queries[start : start + size] for start in range(0, len(queries) - size + 1, size)]
        for rival in rivals:
            rival.find(batches[0])
        modes = {rival.name: rival.find for rival in rivals}
        runs = take_turns(modes, batches, options.rounds, f"Batches of {size}")
        for name, rounds in runs.items():
            found[name][f"batch{size}_milliseconds"] = 1000 * best_seconds(rounds) / len(batches)
    return list(found.values())


def _in_batches(find: Search, queries, size) -> np.ndarray:
    padded = np.pad(queries, ((0, -len(queries) % size), (0, 0)))
    found = [find(padded[start : start + size]) for start in range(0, len(padded), size)]
    return np.concatenate(found)[: len(queries)]


def markdown_table(found: list[Figures], options: Options) -> str:
    names = [f"batch{size}_milliseconds" for size in options.batches]
    heads = [f"batch {size} | exact ÷" for size in options.batches]
    lines = [f"| search | recall@{options.k} | {' | '.join(heads)} | build | memory |"]
    lines.append("|:--|--:|" + "--:|--:|" * len(names) + "--:|--:|")
    exact = found[0]
    for row in found:
        times = " | ".join(f"{row[name]:.2f} ms | {float(exact[name]) / float(row[name]):.1f} ×" for name in names)
        memory = "" if np.isnan(float(row["megabytes"])) else f"{row['megabytes']:,.0f} MB"
        build = f"{row['build_seconds']:.0f} s" if row["build_seconds"] else ""
        lines.append(f"| {row['search']} | {row['recall']:.3f} | {times} | {build} | {memory} |")
    return "\n".join(lines) + "\n"


def run(options: Options, console: Console) -> Figures:
    """Measures, writes the files that were asked for, and returns the figures."""
    loaded = load_model(options.model, kind="decoder")
    model = loaded.parameters
    rows = table_rows(options, model)
    shaping, held_out = np.array_split(real_queries(options, model, loaded.tokenizer.own), 2)
    rng = np.random.default_rng(0)
    timed = held_out[np.sort(rng.permutation(len(held_out))[: options.queries])]
    n_own = 0 if options.folder is None else len(model.word_embeddings[...])
    rivals = ours(rows, shaping, n_own, options)
    rivals += faiss_rivals(rows, options) if find_spec("faiss") else []
    rivals += [scann_rival(rows, options)] if find_spec("scann") else []
    true = _in_batches(rivals[0].find, timed, max(options.batches))
    found = bench(rivals, timed, true, options)
    norms = np.linalg.norm(rows, axis=1)
    figures: Figures = {"rows": len(rows), "width": rows.shape[1], "queries": len(timed), "cores": os.cpu_count() or 1}
    figures |= {"smallest_norm": float(norms.min()), "largest_norm": float(norms.max())}
    for row in found:
        name = str(row["search"]).replace(", ", "_").replace(" ", "_")
        figures |= {f"{name}_{what}": value for what, value in row.items() if what != "search" and value == value}
    table = markdown_table(found, options)
    return report(figures, table, options, console)


if __name__ == "__main__":
    run_script(run, Options, __doc__)
