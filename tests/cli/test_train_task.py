"""`dyntok train-task` and `dyntok predict` as users run them."""

import json

import pytest

from dyntok_jax.cli.entry import run
from tests.support.tiny import write_tiny_encoder, write_tiny_hypernet


@pytest.mark.slow
def test_a_users_file_is_trained_on_and_labelled(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_tiny_encoder(tmp_path / "model")
    write_tiny_hypernet(tmp_path / "hypernet")
    rows = [{"tokens": ["Anna", "und", "Freiheit"], "tags": ["B-PER", "O", "O"]}] * 4
    (tmp_path / "ner.jsonl").write_text("\n".join(map(json.dumps, rows)))
    common = ["--model", "model", "--hypernet", "hypernet"]
    steps = [
        "--steps",
        "100",
        "--batch-size",
        "4",
        "--learning-rate",
        "0.01",
        "--warmup",
        "0",
        "--rank",
        "2",
        "--max-length",
        "32",
    ]
    assert run(["train-task", "--task", "ner", "--train", "ner.jsonl", "--output", "run", *steps, *common]) == 0
    assert "dyntok predict FILE --adapter run/adapter" in capsys.readouterr().out
    written = ["--output", "labels.jsonl", "--json", "figures.json"]
    assert run(["predict", "ner.jsonl", "--adapter", "run/adapter", *common, *written]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["dynamic_entity_f1"] == 100.0
    assert "static_entity_f1" in figures
    assert figures["dynamic_tokens"] < figures["static_tokens"]
    first = json.loads((tmp_path / "labels.jsonl").read_text().splitlines()[0])
    assert first["entities"] == [{"kind": "PER", "start": 0, "end": 4, "text": "Anna"}]


def test_a_folder_that_is_no_task_is_refused(tmp_path, capsys):
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}')
    assert run(["predict", str(tmp_path / "texts.jsonl"), "--adapter", str(tmp_path)]) == 2
    assert "has no dyntok_task.json" in capsys.readouterr().err


def test_training_without_files_is_refused(capsys):
    assert run(["train-task", "--task", "nli", "--output", "run"]) == 2
    assert "nothing to train on" in capsys.readouterr().err
