"""Retrieval and prices by language: figures agree with one another, and with what the words for them say."""

import json
from importlib import import_module
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dyntok_jax.errors import InputError
from experiments.shared import Score, Setting, accuracy, load_pairs, spaced
from tests.support.tiny import write_tiny_encoder, write_tiny_hypernet

ROUNDING = 1e-2


@pytest.fixture
def retrieval():
    return import_module("experiments.retrieval")


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


def score(accuracy: float = 90.0, tokens: int = 30) -> Score:
    return Score(
        accuracy=accuracy, cosine=1.0, tokens=tokens, static_tokens=40, english_tokens=15, static_english_tokens=20
    )


def test_pools_are_the_english_of_a_languages_own_pairs(retrieval, tmp_path):
    _, rows = load_pairs(str(aligned_file(tmp_path)), retrieval.Options())
    assert {language: of_language.tolist() for language, of_language in rows.items()} == {"de": [0, 1], "fr": [0, 2]}


def test_pools_have_at_most_the_pairs_that_are_asked_for(retrieval, tmp_path):
    _, rows = load_pairs(str(aligned_file(tmp_path)), retrieval.Options(limit=1))
    assert {language: of_language.tolist() for language, of_language in rows.items()} == {"de": [0], "fr": [0]}


def test_languages_that_are_not_there_are_named(retrieval, tmp_path):
    with pytest.raises(InputError, match="has no xx"):
        load_pairs(str(aligned_file(tmp_path)), retrieval.Options(languages=("xx",)))


def test_accuracy_counts_rows_nearest_to_their_own():
    english = np.eye(4, dtype=np.float32)
    assert accuracy(english, english) == 100
    assert accuracy(english[[0, 1, 3, 2]], english) == 50


def test_prices_compare_with_static_english_and_premiums_with_english_of_the_setting():
    assert (score().price, score().premium, score().reduction) == (1.5, 2.0, 25.0)


def test_means_leave_out_languages_without_spaces():
    assert spaced(["en", "de", "th", "tha_Thai", "zho_Hans", "swh_Latn"]) == ["de", "swh_Latn"]


def test_the_share_within_the_tolerance_ends_before_the_first_larger_loss(retrieval):
    columns = [Setting("fvt", share) for share in (25.0, 50.0, 100.0)]
    lost = dict(zip(columns, (1.0, 3.0, 2.0), strict=True))
    scores = {(column, "de"): score(90 - points) for column, points in lost.items()}
    scores[Setting("static"), "de"] = score(90)
    assert [retrieval.share_within(scores, columns, "de", tolerance) for tolerance in (0.5, 2, 3)] == [0, 25, 100]


@pytest.mark.slow
def test_retrieval_writes_agreeing_figures(retrieval, tmp_path):
    write_tiny_encoder(tmp_path / "model", max_tokens=512)
    write_tiny_hypernet(tmp_path / "hypernet")
    outputs = {kind: tmp_path / f"out.{kind}" for kind in ("json", "md", "png")}
    options = retrieval.Options(
        languages=("de", "zh", "tr"),
        limit=6,
        model=str(tmp_path / "model"),
        hypernet=str(tmp_path / "hypernet"),
        json=outputs["json"],
        table=outputs["md"],
        plot=outputs["png"],
    )
    retrieval.run(options, Console(file=StringIO()))
    figures = json.loads(outputs["json"].read_text(encoding="utf-8"))
    assert figures["languages_in_mean"] == 2
    for name in ("fvt_share50", "fvt_share100", "hypernet_share50", "hypernet_share100"):
        for language in ("de", "zh", "tr", "mean"):
            lost = figures[f"static_accuracy_percent_{language}"] - figures[f"{name}_accuracy_percent_{language}"]
            assert figures[f"{name}_loss_points_{language}"] == pytest.approx(lost, abs=ROUNDING)
        price, static = figures[f"{name}_price_de"], figures["static_price_de"]
        assert price == pytest.approx(static * (1 - figures[f"{name}_reduction_percent_de"] / 100), rel=ROUNDING)
        assert price / figures[f"{name}_price_en"] == pytest.approx(figures[f"{name}_premium_de"], rel=ROUNDING)
        assert price == pytest.approx(figures[f"{name.replace('hypernet', 'fvt')}_price_de"])
    assert figures["static_price_en"] == 1
    assert figures["fvt_share100_price_de"] < figures["fvt_share50_price_de"] < figures["static_price_de"]
    assert figures["static_highest_price"] == max(figures[f"static_price_{code}"] for code in ("de", "zh", "tr"))
    table = outputs["md"].read_text(encoding="utf-8")
    assert f"| {figures['static_price_de']:.2f} | {figures['fvt_share100_price_de']:.2f} |" in table
    assert outputs["png"].stat().st_size > 1000
