"""Recorded figures are compared as the rules say."""

import json
from io import StringIO

import pytest
from rich.console import Console

from experiments import check_figures
from experiments.check_figures import BENCHMARKS, RESULTS, Benchmark, Options, Rule, compare, main, read_figures


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (Rule("x", tolerance=0.25), (75, 100, 1000), (74, 0)),
        (Rule("x", "equal"), (100,), (99, 101)),
        (Rule("x", "at most"), (1, 100), (101,)),
    ],
    ids=["ratio", "equal", "at most"],
)
def test_a_figure_is_a_miss_where_its_rule_says_so(rule, good, bad):
    for found, is_miss in [*((value, False) for value in good), *((value, True) for value in bad)]:
        (one,) = compare({"x": 100, "y": 1}, {"x": found}, (rule,))
        assert one.is_miss == is_miss
    assert compare({"x": 100}, {}, (rule,))[0].is_miss


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_rule_is_about_recorded_figures(name):
    benchmark = BENCHMARKS[name]
    recorded = read_figures(*(RESULTS / f"{file}.json" for file in benchmark.recorded))
    for rule in benchmark.rules:
        found = compare(recorded, recorded, (rule,))
        assert found
        assert not any(one.is_miss for one in found)


@pytest.mark.parametrize(("merges", "status"), [(10, 0), (11, 1)])
def test_a_miss_is_an_exit_code(monkeypatch, merges, status):
    recorded = json.loads((RESULTS / "bench_merging.json").read_text())

    def run(path):
        path.write_text(json.dumps(recorded | {"32x40_10_merges_done": merges}))

    monkeypatch.setitem(
        check_figures.BENCHMARKS, "merging", Benchmark(run, ("bench_merging",), BENCHMARKS["merging"].rules)
    )
    console = Console(file=StringIO(), width=120)
    assert main(Options(only=("merging",)), console) == status
    assert ("miss" in console.file.getvalue().replace("missed", "")) == bool(status)
