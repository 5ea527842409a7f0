"""The experiments' scripts on tiny models: the figures they write are there and agree with one another."""

import json
from importlib import import_module
from io import StringIO
from math import isfinite
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tiny import write_tiny_encoder, write_tiny_hypernet

from dyntok_jax.errors import InputError

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
ROUNDING = 1e-2


@pytest.fixture(scope="module")
def tiny_folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_encoder(folder / "model", max_tokens=512)
    write_tiny_hypernet(folder / "hypernet")
    return str(folder / "model"), str(folder / "hypernet")


@pytest.fixture
def bitext(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    return import_module("bitext")


@pytest.fixture
def bench_encoder(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    return import_module("bench_encoder")


@pytest.fixture
def bench_data(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    return import_module("bench_data")


def quiet() -> Console:
    return Console(file=StringIO())


def aligned_file(folder: Path) -> Path:
    path = folder / "some.jsonl"
    rows = [
        {"en": "All are born free.", "de": "Alle sind frei geboren.", "fr": "Tous naissent libres."},
        {"en": "Everyone has the right to life.", "de": "Jeder hat das Recht auf Leben."},
        {"en": "No one shall be held in slavery.", "fr": "Nul ne sera tenu en esclavage."},
        {"de": "Niemand darf gefoltert werden."},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_bitext_writes_agreeing_figures(bitext, tiny_folders, tmp_path):
    model, hypernet = tiny_folders
    languages, shares = ("de", "zh", "tr"), (0, 100)
    outputs = {kind: tmp_path / f"out.{kind}" for kind in ("json", "md", "png")}
    options = bitext.Options(
        languages=languages,
        limit=6,
        model=model,
        hypernet=hypernet,
        shares=shares,
        json=outputs["json"],
        table=outputs["md"],
        plot=outputs["png"],
    )
    bitext.run(options, quiet())
    figures = json.loads(outputs["json"].read_text(encoding="utf-8"))
    assert {figures[f"pool_paragraphs_{language}"] for language in languages} == {6}
    assert figures["languages_in_mean"] == 2
    for name in ("static", "fvt_share0", "fvt_share100", "hypernet_share0", "hypernet_share100"):
        for quantity, top in (("accuracy_percent", 100), ("reduction_percent", 100), ("cosine", 1.00001)):
            de, tr, mean = (figures[f"{name}_{quantity}_{language}"] for language in ("de", "tr", "mean"))
            assert isfinite(mean)
            assert mean <= top
            assert mean == pytest.approx((de + tr) / 2, abs=ROUNDING)
        assert f"{name}_accuracy_percent_en" not in figures
    assert figures["static_cosine_mean"] == pytest.approx(1, abs=1e-4)
    assert figures["static_reduction_percent_de"] == 0
    assert figures["fvt_share100_reduction_percent_mean"] > figures["fvt_share0_reduction_percent_mean"]
    assert figures["fvt_share100_reduction_percent_de"] == figures["hypernet_share100_reduction_percent_de"]
    table = outputs["md"].read_text(encoding="utf-8")
    assert f"{figures['static_accuracy_percent_mean']:.1f}" in table
    assert outputs["png"].stat().st_size > 1000


def test_bitext_pools_are_the_english_of_a_languages_own_pairs(bitext, tmp_path):
    _, rows = bitext.load_pairs(str(aligned_file(tmp_path)), (), None)
    assert {language: of_language.tolist() for language, of_language in rows.items()} == {"de": [0, 1], "fr": [0, 2]}


def test_bitext_names_languages_that_are_not_there(bitext, tmp_path):
    with pytest.raises(InputError, match="has no xx"):
        bitext.load_pairs(str(aligned_file(tmp_path)), ("xx",), None)


def test_accuracy_counts_rows_nearest_to_their_own(bitext):
    english = np.eye(4, dtype=np.float32)
    assert bitext.accuracy(english, english) == 100
    assert bitext.accuracy(english[[0, 1, 3, 2]], english) == 50


def test_bench_encoder_writes_agreeing_figures(bench_encoder, tiny_folders, tmp_path):
    paths = {"json": tmp_path / "out.json", "table": tmp_path / "out.md"}
    options = bench_encoder.Options(model=tiny_folders[0], rounds=1, per_language=3, stream=0, **paths)
    bench_encoder.run(options, quiet())
    figures = json.loads(paths["json"].read_text(encoding="utf-8"))
    assert figures["texts"] == 45
    for mode in ("static", "fvt", "hypernet_cold", "hypernet_warm"):
        assert figures[f"{mode}_texts_per_second"] == pytest.approx(45 / figures[f"{mode}_seconds"], rel=ROUNDING)
        stages = [figures[f"{mode}_{stage}_percent_of_time"] for stage in ("tokenize", "merge", "embed", "model")]
        assert 0 < sum(stages) <= 100
    assert figures["fvt_padded_tokens"] == figures["hypernet_warm_padded_tokens"] < figures["static_padded_tokens"]
    assert figures["forward_padded_tokens"] == figures["static_padded_tokens"]
    assert figures["forward_largest_difference_relative"] < 1e-5
    ratio = figures["static_seconds"] / figures["fvt_seconds"]
    assert figures["throughput_fvt_per_static"] == pytest.approx(ratio, rel=ROUNDING)
    assert figures["hypernet_warm_cache_hit_percent"] == 100
    assert figures["hypernet_cold_cache_hit_percent"] < 100
    assert "| fvt |" in paths["table"].read_text(encoding="utf-8")


def test_bench_data_writes_agreeing_figures(bench_data, tiny_folders, tmp_path):
    options = bench_data.Options(
        model=tiny_folders[0], batch_size=4, batches=3, step_seconds=2.0, json=tmp_path / "out.json"
    )
    bench_data.run(options, quiet())
    figures = json.loads(options.json.read_text(encoding="utf-8"))
    assert figures["texts_per_s"] == pytest.approx(4 * figures["batches_per_s"], rel=ROUNDING)
    assert figures["batches_a_step"] == pytest.approx(figures["step_s"] * figures["batches_per_s"], rel=ROUNDING)


def test_a_stream_of_real_text_compiles_few_programs(bench_encoder, e5_small_folder):
    figures = bench_encoder.bench_stream(str(e5_small_folder), 25)
    counts = [count for name, count in figures.items() if name.endswith("_compiled_programs")]
    assert len(counts) == 4
    assert all(0 < count <= 12 for count in counts)
