"""Sums in merged prompts, on a tiny model: protected digits stay, others merge."""

import json
from importlib import import_module
from io import StringIO

import pytest
from rich.console import Console

from tests.support.tiny import write_tiny_decoder


@pytest.fixture(scope="module")
def arithmetic():
    return import_module("experiments.arithmetic")


@pytest.mark.slow
def test_digits_merge_only_where_they_are_not_protected(arithmetic, tmp_path):
    write_tiny_decoder(tmp_path / "model", n_layers=1)
    options = arithmetic.Options(sums=3, model=str(tmp_path / "model"), hypernet=None, json=tmp_path / "figures.json")
    arithmetic.run(options, Console(file=StringIO()))
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["static_as_static_percent"] == 100
    assert figures["static_reduction_percent"] == 0
    protected, merged = (figures[f"fvt_share100_{way}_reduction_percent"] for way in ("protected", "unprotected"))
    assert merged > protected
    assert figures["fvt_share100_protected_as_static_percent"] >= figures["fvt_share100_unprotected_as_static_percent"]


def test_sums_depend_on_the_seed_alone_and_are_solved_before_the_question(arithmetic):
    sums = arithmetic.random_sums(50, 0)
    assert sums == arithmetic.random_sums(50, 0) != arithmetic.random_sums(50, 1)
    assert all(10 <= number < 10_000 for pair in sums for number in pair)
    assert {len(str(number)) for pair in sums for number in pair} == {2, 3, 4}
    assert arithmetic.prompt_of((10, 99)).startswith("12 + 7 = 19\n345 + 86 = 431\n4096 + 1023 = 5119\n10 + 99 =")
