"""Speed of merging on the host and on the device, against the plain algorithm in Python (the tests' oracle).

    python -m experiments.bench_merging --json bench_merging.json

Two CPU cores: 80 seconds. Expect, at 100 merges, the host 350 to 2000 times as fast as the oracle and the device 10 to
50 times, compilation not counted.

The batches are the packaged sample (the Universal Declaration in 15 languages, 750 texts) as e5-small's subwords,
shuffled and concatenated, every row full, no special tokens. The largest size repeats that text 4.4 times (see the
table), so its pairs are fewer and more frequent than in as much new text. All three merge the same batches, without a
limit on the length of tokens, and their results are compared.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from dyntok_jax.assets import load_sample
from dyntok_jax.files import find_model
from dyntok_jax.merging import merge_batch, merge_batch_on_host
from dyntok_jax.options import Merges
from dyntok_jax.text import ByteLevelTokenizer, TextEncoder
from tests.support import oracle

SIZES = ((32, 40), (32, 128), (128, 128), (1024, 128))
ALL = 1_000_000
MERGES = (10, 100, ALL)


@dataclass(frozen=True)
class Options:
    """Times merging.

    Attributes:
      json: where to write the figures, as one flat object.
      repeats: how many runs of host and device to take the median of; the oracle runs 3 times if that is short.
      slow: let the oracle do all merges of the largest size too, which takes 5 to 10 minutes.
    """

    json: Path | None = None
    repeats: int = 9
    slow: bool = False


def main(options: Options) -> None:
    ids_N, segment_N = subwords_of_sample()
    table = Table("batch", "sample ×", "merges", "oracle ms", "host ms", "device ms", "host ×", "device ×")
    figures: dict[str, float] = {}
    for n_rows, width in SIZES:
        copies = n_rows * width / len(ids_N)
        batch = draw_batch(ids_N, segment_N, n_rows, width)
        rows, segments = batch[0].tolist(), batch[1].tolist()
        ids_BL, segment_BL, mask_BL = map(jax.device_put, batch)
        for count in MERGES:
            goal = Merges(count)
            host_s, merged = seconds(lambda: merge_batch_on_host(*batch, goal), options.repeats)  # noqa: B023
            device_s, result = seconds(
                lambda: jax.block_until_ready(merge_batch(ids_BL, segment_BL, mask_BL, goal)),  # noqa: B023
                3 if count == ALL else options.repeats,
            )
            check_equal(merged, result)
            name = f"{n_rows}x{width}_{'all' if count == ALL else count}_merges"
            figures |= {f"{name}_host_ms": host_s * 1e3, f"{name}_device_ms": device_s * 1e3}
            figures[f"{name}_done"] = int(merged.n_merges)
            cells = [f"{n_rows} × {width}", f"{copies:.2f}", str(int(merged.n_merges))]
            if count == ALL and n_rows > 128 and not options.slow:
                table.add_row(*cells, "not run", f"{host_s * 1e3:.2f}", f"{device_s * 1e3:.1f}", "", "")
                continue
            repeats = 1 if count == ALL or n_rows > 128 else 3
            oracle_s, (tokens, n_merges) = seconds(lambda: oracle.merge(rows, segments, goal), repeats, warm=False)  # noqa: B023
            if n_merges != [merged.n_merges] or [len(row) for row in tokens] != merged.mask_BT.sum(axis=1).tolist():
                raise SystemExit("host and oracle differ: a bug")
            figures |= {
                f"{name}_oracle_ms": oracle_s * 1e3,
                f"{name}_host_times_oracle": oracle_s / host_s,
                f"{name}_device_times_oracle": oracle_s / device_s,
            }
            table.add_row(
                *cells,
                f"{oracle_s * 1e3:.0f}",
                f"{host_s * 1e3:.2f}",
                f"{device_s * 1e3:.1f}",
                f"{oracle_s / host_s:.0f}",
                f"{oracle_s / device_s:.1f}",
            )
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def subwords_of_sample() -> tuple[np.ndarray, np.ndarray]:
    """All texts of the sample in random order, without special tokens; segment numbers continue across texts."""
    texts = [text for paragraphs in load_sample().values() for text in paragraphs]
    np.random.default_rng(0).shuffle(texts)
    encoded = TextEncoder(ByteLevelTokenizer.load(find_model("e5-small"))).encode(texts)
    is_text_N = encoded.segment_N >= 0
    sequence_N = np.repeat(np.arange(len(encoded)), encoded.lengths)
    segment_N = (sequence_N * (encoded.segment_N.max() + 1) + encoded.segment_N)[is_text_N]
    return encoded.ids_N[is_text_N], segment_N


def draw_batch(ids_N, segment_N, n_rows: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Full rows of consecutive subwords, in random order; the text repeats when it ends, split at other places."""
    at_BL = np.arange(n_rows * width).reshape(n_rows, width) % len(ids_N)
    at_BL = np.random.default_rng(1).permutation(at_BL)
    ids_BL, segment_BL = ids_N[at_BL].astype(np.int32), segment_N[at_BL].astype(np.int32)
    return ids_BL, segment_BL, np.ones(at_BL.shape, bool)


def seconds(function: Callable, repeats: int, warm: bool = True) -> tuple[float, Any]:
    """The median time of a call, without compilation, and its result."""
    if warm:
        function()
    times, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def check_equal(one, other) -> None:
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if not np.array_equal(left, right):
            raise SystemExit("host and device differ: a bug")


if __name__ == "__main__":
    main(tyro.cli(Options))
