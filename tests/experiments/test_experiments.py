"""The experiments' scripts on tiny models: the figures they write are there and agree with one another."""

import json
from importlib import import_module
from io import StringIO
from math import isfinite

import pytest
from rich.console import Console

from dyntok_jax.errors import InputError
from tests.support.tiny import write_tiny_decoder, write_tiny_decoder_hypernet, write_tiny_encoder, write_tiny_hypernet

ROUNDING = 1e-2


@pytest.fixture(scope="module")
def tiny_folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_encoder(folder / "model", max_tokens=512)
    write_tiny_hypernet(folder / "hypernet")
    return str(folder / "model"), str(folder / "hypernet")


@pytest.fixture(scope="module")
def tiny_decoder_folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny_decoder")
    write_tiny_decoder(folder / "model", max_positions=4096)
    write_tiny_decoder_hypernet(folder / "hypernet", folder / "model")
    return str(folder / "model"), str(folder / "hypernet")


@pytest.fixture
def bitext():
    return import_module("experiments.bitext")


@pytest.fixture
def bench_data():
    return import_module("experiments.bench_data")


@pytest.fixture
def retention():
    return import_module("experiments.retention")


def quiet() -> Console:
    return Console(file=StringIO())


@pytest.mark.slow
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


def test_bench_data_writes_agreeing_figures(bench_data, tiny_folders, tmp_path):
    options = bench_data.Options(
        model=tiny_folders[0], batch_size=4, batches=3, step_seconds=2.0, json=tmp_path / "out.json"
    )
    bench_data.run(options, quiet())
    figures = json.loads(options.json.read_text(encoding="utf-8"))
    assert figures["texts_per_s"] == pytest.approx(4 * figures["batches_per_s"], rel=ROUNDING)
    assert figures["batches_a_step"] == pytest.approx(figures["step_s"] * figures["batches_per_s"], rel=ROUNDING)


def test_a_stream_of_real_text_compiles_few_programs(e5_small_folder):
    figures = import_module("experiments.bench_encoder").bench_stream(str(e5_small_folder), 25)
    counts = [count for name, count in figures.items() if name.endswith("_compiled_programs")]
    assert len(counts) == 4
    assert all(0 < count <= 12 for count in counts)


@pytest.mark.slow
def test_retention_writes_agreeing_figures(retention, tiny_decoder_folders, tmp_path):
    model, hypernet = tiny_decoder_folders
    languages = ("en", "de")
    outputs = {kind: tmp_path / f"out.{kind}" for kind in ("json", "md", "png")}
    options = retention.Options(
        languages=languages,
        limit=6,
        min_static=100,
        stride=2,
        model=model,
        hypernet=hypernet,
        shares=(0, 100),
        json=outputs["json"],
        table=outputs["md"],
        plot=outputs["png"],
    )
    retention.run(options, quiet())
    figures = json.loads(outputs["json"].read_text(encoding="utf-8"))
    for language in languages:
        assert figures[f"static_agreement_percent_{language}"] == figures[f"static_kept_percent_{language}"] == 100
        assert figures[f"static_reduction_percent_{language}"] == 0
        static, floor = (figures[f"{name}_bits_per_byte_{language}"] for name in ("static", "floor"))
        for name in ("fvt_share0", "fvt_share100", "hypernet_share0", "hypernet_share100"):
            bits, kept = (figures[f"{name}_{quantity}_{language}"] for quantity in ("bits_per_byte", "kept_percent"))
            assert kept == pytest.approx(100 * (floor - bits) / (floor - static), rel=ROUNDING, abs=1)
            assert 0 <= figures[f"{name}_agreement_percent_{language}"] <= 100
        assert (
            figures[f"fvt_share100_reduction_percent_{language}"] > figures[f"fvt_share0_reduction_percent_{language}"]
        )
    fvt, hypernet = (figures[f"{method}_share100_reduction_percent_de"] for method in ("fvt", "hypernet"))
    assert fvt == hypernet
    assert f"{figures['fvt_share100_bits_per_byte_de']:.3f}" in outputs["md"].read_text(encoding="utf-8")
    assert outputs["png"].stat().st_size > 1000


def test_halves_are_the_whole_text_cut_at_a_border_near_its_middle(retention, tiny_decoder_folders):
    decoder = retention.DynamicDecoder.load(tiny_decoder_folders[0])
    text = "one two three four five six seven"
    assert retention.cut_in_half([text, "one"], decoder.text_encoder, "pretoken") == [
        ("one two three four", " five six seven")
    ]


def test_texts_are_joined_until_they_are_long_enough(retention):
    assert retention.join_paragraphs(["a", "b", "c", "d"], [4, 3, 5, 2], 7, 1) == ["a\n\nb", "b\n\nc", "c\n\nd"]
    assert retention.join_paragraphs(["a", "b", "c", "d"], [4, 3, 5, 2], 7, 2) == ["a\n\nb", "c\n\nd"]


def test_retention_says_where_there_is_too_little_text(retention, tiny_decoder_folders):
    options = retention.Options(languages=("en",), limit=2, min_static=10_000, model=tiny_decoder_folders[0])
    with pytest.raises(InputError, match="no text of 10000 tokens in en"):
        retention.run(options, quiet())


def test_a_session_of_real_prompts_compiles_few_programs(smollm2_folder):
    bench_decoder = import_module("experiments.bench_decoder")
    decoder = bench_decoder.DynamicDecoder.load(smollm2_folder)
    figures = bench_decoder.bench_session(decoder, 50)
    assert figures["session_different_lengths"] > 40
    assert figures["session_compiled_programs"] == figures["session_compiled_by_xla"] <= 10


@pytest.mark.slow
def test_bench_startup_times_processes(tiny_folders, tiny_decoder_folders, tmp_path):
    bench_startup = import_module("experiments.bench_startup")
    options = bench_startup.Options(
        json=tmp_path / "out.json", encoder=tiny_folders[0], decoder=tiny_decoder_folders[0], repeats=1, max_tokens=4
    )
    figures = bench_startup.run(options, quiet())
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == figures
    assert 0 < figures["python_seconds"] < figures["import_seconds"] < figures["generate_later_seconds"]
    assert figures["generate_later_seconds"] < figures["generate_first_seconds"]


def test_bench_startup_says_which_command_failed():
    bench_startup = import_module("experiments.bench_startup")
    with pytest.raises(InputError, match="failed: ValueError: no such luck"):
        bench_startup.start(("-c", "raise ValueError('no such luck')"), {})
