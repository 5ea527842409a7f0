"""The benchmarks that run beside PyTorch transformers, on tiny models: their figures are there and agree."""

import json
from importlib import import_module
from io import StringIO

import pytest
from rich.console import Console

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
def bench_encoder():
    return import_module("experiments.bench_encoder")


@pytest.fixture
def bench_decoder():
    return import_module("experiments.bench_decoder")


def quiet() -> Console:
    return Console(file=StringIO())


@pytest.mark.slow
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


@pytest.mark.slow
def test_bench_decoder_writes_agreeing_figures(bench_decoder, tiny_decoder_folders, tmp_path):
    paths = {"json": tmp_path / "out.json", "table": tmp_path / "out.md"}
    options = bench_decoder.Options(
        model=tiny_decoder_folders[0],
        rounds=2,
        batches=(1, 2),
        prompt_tokens=16,
        new_tokens=(2, 10),
        prefill_tokens=40,
        languages=("el", "en"),
        merged_prompts=(100,),
        session=4,
        bandwidth_megabytes=4,
        **paths,
    )
    bench_decoder.run(options, quiet())
    figures = json.loads(paths["json"].read_text(encoding="utf-8"))
    for n_batch in options.batches:
        name = f"decode_batch{n_batch}"
        assert figures[f"{name}_same_tokens_percent"] == 100
        rate, step = figures[f"{name}_ours_tokens_per_second"], figures[f"{name}_ours_step_milliseconds"]
        assert rate == pytest.approx(1e3 * n_batch / step, rel=ROUNDING)
    read = figures["weights_megabytes"] / figures["decode_batch1_ours_step_milliseconds"]
    assert figures["decode_batch1_gigabytes_per_second"] == pytest.approx(read, rel=ROUNDING)
    assert figures["prefill_same_token"] == 1
    for language in options.languages:
        name = f"first_token_{language}_100"
        assert figures[f"{name}_static_tokens"] == 100 > figures[f"{name}_dynamic_tokens"]
        ratio = figures[f"{name}_static_seconds"] / figures[f"{name}_dynamic_seconds"]
        assert figures[f"{name}_time_ratio"] == pytest.approx(ratio, rel=ROUNDING)
    assert 0 < figures["session_compiled_programs"] <= 10
    assert figures["session_different_lengths"] == 4
    assert "| decoding, batch 2 |" in paths["table"].read_text(encoding="utf-8")
