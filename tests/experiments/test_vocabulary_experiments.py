"""The experiments on large vocabularies, on tiny models: their figures are there and agree with one another."""

import gzip
import json
from importlib import import_module
from io import StringIO
from math import isfinite

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from dyntok_jax import DynamicDecoder
from dyntok_jax.assets import load_sample
from dyntok_jax.models import embed_ids, forward, logits
from tests.decoding.test_loaded_vocabulary import write_large
from tests.support.tiny import write_tiny_decoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    write_tiny_decoder(folder / "model", n_layers=1)
    write_large(folder, folder / "model")
    return folder


def named(folder):
    return {"vocabulary": str(folder / "vocab"), "rows": str(folder / "table"), "index": str(folder / "index")}


@pytest.mark.slow
def test_bench_vocabulary(folder, tmp_path):
    bench = import_module("experiments.bench_vocabulary")
    paths = {"json": tmp_path / "figures.json", "table": tmp_path / "table.md"}
    sizes = {"batches": (2,), "probes": (1,), "candidates": 20, "steps": 3, "rounds": 2}
    options = bench.Options(**named(folder), model=str(folder / "model"), **sizes, **paths)
    bench.run(options, Console(file=StringIO()))
    figures = json.loads(paths["json"].read_text())
    assert (figures["own"], figures["large"]) == (600, 900)
    for way in ("own", "own_+_prompt", "1_blocks", "exact"):
        assert figures[f"batch2_{way}_milliseconds"] > 0
        ratio = figures[f"batch2_{way}_milliseconds"] / figures["batch2_own_milliseconds"]
        assert figures[f"batch2_{way}_ratio"] == pytest.approx(ratio, rel=1e-3)
    assert paths["table"].read_text().count("\n") == 4 + 4


@pytest.mark.slow
def test_generation_quality(folder, tmp_path):
    quality = import_module("experiments.generation_quality")
    paths = {"json": tmp_path / "figures.json", "table": tmp_path / "table.md"}
    sizes = {"languages": ("de",), "paragraphs": 2, "prompt_words": 6, "max_tokens": 8}
    sizes |= {"agreement_prompts": 3, "agreement_after": 40, "agreement_steps": 4, "agreement_probes": (1, 0)}
    options = quality.Options(**named(folder), model=str(folder / "model"), **sizes, **paths)
    quality.run(options, Console(file=StringIO()))
    figures = json.loads(paths["json"].read_text())
    assert figures["entries"] == 900
    for setting in ("greedy", "sampled"):
        for vocabulary in ("own", "own_prompt", "large"):
            some = {what: figures[f"{setting}_{vocabulary}_{what}"] for what in ("distinct_2", "new_percent")}
            assert all(isfinite(value) for value in some.values())
        assert figures[f"{setting}_own_new_percent"] == 0
    all_blocks, one_block = ("all_blocks", "1_blocks")
    assert figures["every_row_the_text_read_again_same_steps_percent"] == 100
    assert (figures[f"{all_blocks}_same_steps_percent"], figures[f"{all_blocks}_same_texts_percent"]) == (100, 100)
    assert 0 < figures[f"{one_block}_same_steps_percent"] < 100
    assert 0 < figures[f"{one_block}_steps"] <= 12
    # entries beside the model's own only take probability away, and longer tokens are fewer
    assert figures["own_bits_per_byte"] < figures["own_tokens_large_softmax_bits_per_byte"]
    assert figures["own_bytes_per_token"] < figures["large_bytes_per_token"]
    decoder = DynamicDecoder.load(folder / "model")
    assert figures["own_bits_per_byte"] == pytest.approx(bits_per_byte(decoder, load_sample()["de"][:2]), rel=1e-4)


def bits_per_byte(decoder, texts):
    """The same by the whole softmax at once."""
    total = 0.0
    for text in texts:
        ids = np.array(
            [decoder.end_ids[0], *decoder.tokenizer.own.encode(text, add_special_tokens=False).ids], np.int32
        )
        embedded = embed_ids(decoder.decoder, jnp.asarray(ids[None]))
        hidden = forward(decoder.decoder, embedded, jnp.ones((1, len(ids)), bool))
        scores = np.asarray(logits(decoder.decoder, hidden)[0], np.float64)
        log_z = np.log(np.exp(scores).sum(axis=1))
        total -= (scores[np.arange(len(ids) - 1), ids[1:]] - log_z[:-1]).sum() / np.log(2)
    return total / sum(len(text.encode()) for text in texts)


@pytest.mark.slow
def test_million_demo(folder, tmp_path, capsys):
    demo = import_module("experiments.million_demo")
    with gzip.open(tmp_path / "de.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(load_sample()["de"][:20]))
    options = {"output": tmp_path / "out", "size": 700, "words": (), "model": str(folder / "model"), "max_tokens": 4}
    demo.demo((tmp_path / "de.txt.gz",), **options)
    first = capsys.readouterr()
    assert first.err.count("dyntok ") >= 4
    demo.demo((tmp_path / "de.txt.gz",), **options)  # what is there is used again
    again = capsys.readouterr()
    assert again.out.splitlines()[-1] == first.out.splitlines()[-1]
    assert "exists already" in again.err


@pytest.mark.slow
@pytest.mark.parametrize("is_real", [True, False], ids=["table", "synthetic"])
def test_bench_index(folder, tmp_path, monkeypatch, is_real):
    bench = import_module("experiments.bench_index")
    monkeypatch.setattr(bench, "find_spec", lambda _: None)
    paths = {"json": tmp_path / "figures.json", "table": tmp_path / "table.md"}
    sizes = {"languages": ("de",), "paragraphs": 4, "probes": (1, 3), "batches": (1, 4), "queries": 8, "rounds": 1}
    rows = {"folder": str(folder / "table")} if is_real else {"synthetic": 900}
    bench.run(bench.Options(**rows, model=str(folder / "model"), **sizes, **paths), Console(file=StringIO()))
    figures = json.loads(paths["json"].read_text())
    assert (figures["rows"], figures["exact_recall"]) == (900, 1)
    for kind in ("ours", "ours_8-bit"):
        assert 0 < figures[f"{kind}_1_blocks_recall"] < figures[f"{kind}_3_blocks_recall"] <= 1
        assert figures[f"{kind}_1_blocks_batch4_milliseconds"] > 0
    assert figures["ours_8-bit_1_blocks_megabytes"] < figures["ours_1_blocks_megabytes"]
    assert paths["table"].read_text().count("\n") == 2 + 1 + 4
