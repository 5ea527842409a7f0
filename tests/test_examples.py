"""The programs in `examples/` run, and do what they say."""

import runpy
from pathlib import Path

import pytest

from dyntok_jax.assets import load_sample
from tests.support.tiny import write_tiny_decoder, write_tiny_encoder, write_tiny_hypernet

EXAMPLES = Path(__file__).parent.parent / "examples"
TINY = ("--layers", "1", "--hidden", "32", "--ffn", "64", "--heads", "4", "--max-length", "48", "--batch-size", "8")


def load(name: str) -> dict:
    """The functions of an example."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_a_line_is_found_by_itself(tmp_path):
    write_tiny_encoder(tmp_path / "model", max_tokens=512)
    lines = load_sample()["de"][:6]
    (tmp_path / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    search = load("encode_and_search")["search"]
    options = {"file": tmp_path / "lines.txt", "model": str(tmp_path / "model"), "results": 3}
    found = search(lines[5], **options)
    assert len(found) == 3
    assert found[0] == max(found)
    assert found[0][1] == lines[5]


@pytest.mark.slow
def test_a_question_finds_its_article(e5_small_folder, capsys):
    found = load("encode_and_search")["search"]("Who may vote?", model=str(e5_small_folder))
    assert "Wahlen" in found[0][1]
    assert "tokens" in capsys.readouterr().out


def test_a_chat_remembers_its_turns(tmp_path, monkeypatch, capsys):
    write_tiny_decoder(tmp_path, max_positions=512)
    said = iter(["Was ist Freiheit?", "Und Würde?", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(said))
    turns = load("stream_chat")["chat"](str(tmp_path), max_tokens=5)
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2
    shown = capsys.readouterr().out
    assert all(turn["content"] in shown for turn in turns if turn["role"] == "assistant")


@pytest.mark.slow
def test_one_program_merges_at_all_shares(tmp_path, capsys):
    write_tiny_encoder(tmp_path / "model", max_tokens=512)
    write_tiny_hypernet(tmp_path / "hypernet", residual=True)
    counts = load("merge_on_device")["run"](str(tmp_path / "model"), str(tmp_path / "hypernet"), texts=4)
    assert sorted(counts.values(), reverse=True) == list(counts.values())
    assert counts[100] < counts[50] < counts[0]
    assert "distinct tokens" in capsys.readouterr().out


@pytest.mark.slow
def test_some_training_is_better_than_none(tmp_path):
    write_tiny_encoder(tmp_path / "model", max_tokens=512)
    options = (*TINY, "--learning-rate", "3e-3")
    run = load("train_hypernet")["run"]
    cosines = run(tmp_path / "out", str(tmp_path / "model"), steps=60, languages=("de",), options=options)
    assert cosines["hypernetwork"] > cosines["FVT"]
