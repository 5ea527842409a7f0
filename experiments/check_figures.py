"""Checks that the cheap benchmarks still give the ratios recorded in `experiments/results`.

    python -m experiments.check_figures
    python -m experiments.check_figures --only merging

Two CPU cores, otherwise idle: 7 minutes (merging 1.5, data 3, encoder 2.5). Times differ between machines,
so ratios of times from the same run are compared:

- merging: the plain algorithm in Python ÷ host, and ÷ device; a ratio may be half the recorded one, because Python and
  compiled code do not slow down alike;
- data: batches in the time of a training step, which may be half; and with vocabulary pieces ÷ without, minus 25 %;
- encoder, on 10 paragraphs per language: FVT's speed-up ÷ the ratio of padded tokens, a warm hypernetwork ÷ FVT, and
  our forward pass ÷ PyTorch's; each minus 20 %.

Better ratios pass. Numbers of merges must equal the recorded ones, and 100 batches of the encoder's stream must compile
at most as many programs as 500 did. On a miss the exit code is 1, and the table names every miss.
"""

import json
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from experiments import bench_data, bench_encoder, bench_merging

RESULTS = Path(__file__).parent / "results"
Recorded = dict[str, Any]
"""Figures as JSON gives them."""
Kind = Literal["ratio", "equal", "at most"]


@dataclass(frozen=True)
class Rule:
    """How figures with matching names must compare with the recorded ones.

    Attributes:
      name: a regular expression for the whole name.
      kind: a ratio may fall short by `tolerance`; a count must be equal, or at most the recorded one.
      tolerance: the share by which a ratio may fall short.
    """

    name: str
    kind: Kind = "ratio"
    tolerance: float = 0.0

    def holds(self, recorded: float, found: float) -> bool:
        """Whether the rule is kept."""
        match self.kind:
            case "ratio":
                return found >= (1 - self.tolerance) * recorded
            case "equal":
                return found == recorded
            case "at most":
                return found <= recorded

    @property
    def bound(self) -> str:
        """The rule in words."""
        return f"- {100 * self.tolerance:.0f} %" if self.kind == "ratio" else self.kind


@dataclass(frozen=True)
class Checked:
    """A figure and the recorded one; None if it is missing."""

    name: str
    recorded: float
    found: float | None
    rule: Rule

    @property
    def is_miss(self) -> bool:
        """Whether the rule is broken."""
        return self.found is None or not self.rule.holds(self.recorded, self.found)


def compare(recorded: Recorded, found: Recorded, rules: tuple[Rule, ...]) -> list[Checked]:
    """Every recorded figure with a rule, and the figure found."""
    return [
        Checked(name, value, found.get(name), rule)
        for name, value in recorded.items()
        for rule in rules
        if re.fullmatch(rule.name, name)
    ]


def merging(path: Path) -> None:
    """Host and device against the oracle."""
    bench_merging.main(bench_merging.Options(json=path))


def data(path: Path) -> None:
    """The input pipeline against a training step."""
    bench_data.run(bench_data.Options(json=path), Console())


def encoder(path: Path) -> None:
    """Modes of the encoder compared with one another, and programs that a stream compiles."""
    bench_encoder.run(bench_encoder.Options(rounds=2, per_language=10, stream=100, json=path), Console())


@dataclass(frozen=True)
class Benchmark:
    """A benchmark, the recorded files to compare with, and the rules."""

    run: Callable[[Path], None]
    recorded: tuple[str, ...]
    rules: tuple[Rule, ...]


BENCHMARKS = {
    "merging": Benchmark(
        merging, ("bench_merging",), (Rule(r".*_times_oracle", tolerance=0.5), Rule(r".*_merges_done", "equal"))
    ),
    "data": Benchmark(
        data, ("bench_data",), (Rule("batches_a_step", tolerance=0.5), Rule("pieces_per_plain", tolerance=0.25))
    ),
    "encoder": Benchmark(
        encoder,
        ("bench_encoder", "bench_stream"),
        (
            Rule("throughput_gain_per_padded_token_ratio", tolerance=0.2),
            Rule("throughput_hypernet_warm_per_fvt", tolerance=0.2),
            Rule("throughput_static_forward_ours_per_torch", tolerance=0.2),
            Rule("stream_.*_compiled_programs", "at most"),
        ),
    ),
}


def read_figures(*paths: Path) -> Recorded:
    """The figures of some files, with the ratio that `bench_data` does not write."""
    figures: Recorded = {}
    for path in paths:
        figures |= json.loads(path.read_text(encoding="utf-8"))
    pieces = f"with_{bench_data.PIECES}_pieces_batches_per_s"
    if pieces in figures:
        figures["pieces_per_plain"] = figures[pieces] / figures["batches_per_s"]
    return figures


def check(name: str) -> list[Checked]:
    """Runs one of `BENCHMARKS`."""
    benchmark = BENCHMARKS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        benchmark.run(path)
        found = read_figures(path)
    recorded = read_figures(*(RESULTS / f"{file}.json" for file in benchmark.recorded))
    return compare(recorded, found, benchmark.rules)


def print_table(checked: list[Checked], console: Console) -> None:
    table = Table("figure", "recorded", "found", "may be", "")
    for one in checked:
        found = "missing" if one.found is None else f"{one.found:.4g}"
        table.add_row(one.name, f"{one.recorded:.4g}", found, one.rule.bound, "[red]miss" if one.is_miss else "")
    console.print(table)


@dataclass(frozen=True)
class Options:
    """Runs cheap benchmarks again.

    Attributes:
      only: which ones; by default all.
    """

    only: tuple[Literal["merging", "data", "encoder"], ...] = ("merging", "data", "encoder")


def main(options: Options, console: Console) -> int:
    checked = [one for name in options.only for one in check(name)]
    print_table(checked, console)
    n_misses = sum(one.is_miss for one in checked)
    console.print(f"{n_misses} of {len(checked)} figures missed")
    return int(n_misses > 0)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__), Console()))
