"""The topic probe: it learns what is linear, keeps its rows apart, and its figures agree with one another."""

import gzip
import json
from importlib import import_module
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dyntok_jax.errors import InputError
from tests.support.tiny import write_tiny_encoder, write_tiny_hypernet

ROUNDING = 1e-2


@pytest.fixture
def topics():
    return import_module("experiments.topics")


def write_split(folder: Path, language: str, split: str, rows: list[dict]) -> None:
    with gzip.open(folder / f"{language}.{split}.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_language(folder: Path, language: str, words: dict[str, str]) -> None:
    for split, count in (("train", 4), ("dev", 2), ("test", 3)):
        rows = [
            {"text": f"{word} {number}", "category": category}
            for number in range(count)
            for category, word in words.items()
        ]
        write_split(folder, language, split, rows)


def test_a_probe_separates_what_a_plane_separates(topics):
    draw = np.random.default_rng(0)
    category_N = np.arange(60) % 3
    rows_ND = (np.eye(3)[category_N] + 0.1 * draw.standard_normal((60, 3))).astype(np.float32)
    probe = topics.fit_probe(rows_ND, category_N, 3, penalty=0.1)
    assert probe.accuracy(rows_ND, category_N) == 100


def test_a_probe_solves_ridge_regression_with_a_free_intercept(topics):
    draw = np.random.default_rng(0)
    rows_ND, category_N = draw.standard_normal((20, 4)).astype(np.float32), np.arange(20) % 2
    probe = topics.fit_probe(rows_ND, category_N, 2, penalty=0.5)
    residual_NC = rows_ND @ probe.weight_DC + probe.bias_C - np.eye(2)[category_N]
    np.testing.assert_allclose(rows_ND.T @ residual_NC + 0.5 * probe.weight_DC, 0, atol=1e-5)
    np.testing.assert_allclose(residual_NC.sum(axis=0), 0, atol=1e-5)


def test_only_languages_with_all_three_files_are_found(topics, tmp_path):
    write_language(tmp_path, "deu_Latn", {"sport": "Ball"})
    write_split(tmp_path, "tur_Latn", "train", [{"text": "top", "category": "sport"}])
    assert topics.languages_in(tmp_path) == ["deu_Latn"]


def test_a_folder_without_files_is_refused(topics, tmp_path):
    with pytest.raises(InputError, match="no language with files for train, dev, test"):
        topics.languages_in(tmp_path)


def test_a_category_that_training_lacks_is_named(topics, tmp_path):
    write_language(tmp_path, "deu_Latn", {"sport": "Ball"})
    write_split(tmp_path, "deu_Latn", "test", [{"text": "Berg", "category": "travel"}])
    with pytest.raises(InputError, match="training texts of deu_Latn have no travel"):
        topics.load_splits(tmp_path, "deu_Latn")


def test_a_row_without_a_category_is_named(topics, tmp_path):
    write_language(tmp_path, "deu_Latn", {"sport": "Ball"})
    write_split(tmp_path, "deu_Latn", "dev", [{"text": "Ball", "category": "sport"}, {"text": "Berg"}])
    with pytest.raises(InputError, match=r"Row 2 of .*deu_Latn\.dev"):
        topics.load_splits(tmp_path, "deu_Latn")


@pytest.mark.slow
def test_topics_writes_agreeing_figures(topics, tmp_path):
    write_tiny_encoder(tmp_path / "model", max_tokens=512)
    write_tiny_hypernet(tmp_path / "hypernet")
    write_language(tmp_path, "deu_Latn", {"rights": "Freiheit und Recht", "work": "Arbeit und Beruf"})
    write_language(tmp_path, "tha_Thai", {"rights": "สิทธิ", "work": "งาน"})
    outputs = {kind: tmp_path / f"out.{kind}" for kind in ("json", "md")}
    options = topics.Options(
        data=tmp_path,
        model=str(tmp_path / "model"),
        hypernet=str(tmp_path / "hypernet"),
        json=outputs["json"],
        table=outputs["md"],
    )
    topics.run(options, Console(file=StringIO()))
    figures = json.loads(outputs["json"].read_text(encoding="utf-8"))
    assert (figures["test_texts"], figures["languages_in_mean"]) == (12, 1)
    assert figures["static_flips_percent_deu_Latn"] == figures["static_reduction_percent_deu_Latn"] == 0
    for name in ("fvt_share50", "fvt_share100", "hypernet_share50", "hypernet_share100"):
        lost = figures["static_accuracy_percent_deu_Latn"] - figures[f"{name}_accuracy_percent_deu_Latn"]
        assert figures[f"{name}_loss_points_deu_Latn"] == pytest.approx(lost, abs=ROUNDING)
        assert figures[f"{name}_loss_points_mean"] == figures[f"{name}_loss_points_deu_Latn"]
        assert abs(lost) <= figures[f"{name}_flips_percent_deu_Latn"] + ROUNDING
    assert figures["fvt_share100_reduction_percent_deu_Latn"] == figures["hypernet_share100_reduction_percent_deu_Latn"]
    assert f"{figures['static_accuracy_percent_mean']:.1f} %" in outputs["md"].read_text(encoding="utf-8")
