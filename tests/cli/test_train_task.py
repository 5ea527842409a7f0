"""`dyntok train-task` and `dyntok predict` as users run them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from dyntok_jax.assets import load_sample
from dyntok_jax.cli.entry import run
from tests.support.killed_runs import kill_and_resume, run_to_the_end
from tests.support.tiny import write_tiny_decoder, write_tiny_encoder, write_tiny_hypernet

SIZE = ["--learning-rate", "0.01", "--warmup", "0", "--rank", "2", "--max-length", "48"]


@pytest.fixture(scope="module")
def common(tmp_path_factory) -> list[str]:
    """A random encoder and hypernetwork, as options."""
    folder = tmp_path_factory.mktemp("task")
    write_tiny_encoder(folder / "model")
    write_tiny_hypernet(folder / "hypernet")
    return ["--model", str(folder / "model"), "--hypernet", str(folder / "hypernet")]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_a_users_file_is_trained_on_and_labelled(common, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "ner.jsonl", [{"tokens": ["Anna", "und", "Freiheit"], "tags": ["B-PER", "O", "O"]}] * 4)
    steps = ["--steps", "100", "--batch-size", "4", *SIZE]
    assert run(["train-task", "--task", "ner", "--train", "ner.jsonl", "--output", "run", *steps, *common]) == 0
    assert "dyntok predict FILE --adapter run/adapter" in capsys.readouterr().out
    written = ["--output", "labels.jsonl", "--json", "figures.json"]
    assert run(["predict", "ner.jsonl", "--adapter", "run/adapter", *common, *written]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["dynamic_entity_f1"] == 100.0
    assert "static_entity_f1" in figures
    assert figures["dynamic_tokens"] < figures["static_tokens"]
    assert read(tmp_path / "labels.jsonl")[0]["entities"] == [{"kind": "PER", "start": 0, "end": 4, "text": "Anna"}]


@pytest.mark.slow
def test_pairs_are_trained_on_and_labelled_under_both_tokenizations(common, tmp_path, monkeypatch, capsys):
    """A hypothesis says whether it is entailed: four words of the packaged sample, beside three others as premises."""
    monkeypatch.chdir(tmp_path)
    words = {"entailment": ("Freiheit", "Gleichheit"), "contradiction": ("Recht", "Menschen")}
    assert {word for several in words.values() for word in several} <= set(
        re.findall(r"\w+", " ".join(load_sample()["de"]))
    )
    rows = [
        {"premise": premise, "hypothesis": f"{word} und", "label": label}
        for label, several in words.items()
        for word in several
        for premise in ("Würde", "Rechten", "alle")
    ]
    write(tmp_path / "pairs.jsonl", rows)
    write(tmp_path / "unlabelled.jsonl", [{name: row[name] for name in ("premise", "hypothesis")} for row in rows])
    steps = ["--steps", "150", "--batch-size", "8", "--alpha", "4", "--per", "sample", *SIZE]
    assert run(["train-task", "--task", "nli", "--train", "pairs.jsonl", "--output", "run", *steps, *common]) == 0
    capsys.readouterr()
    predict = ["--adapter", "run/adapter", *common, "--output", "labels.jsonl", "--json", "figures.json"]
    assert run(["predict", "pairs.jsonl", *predict]) == 0
    assert [row["label"] for row in read(tmp_path / "labels.jsonl")] == [row["label"] for row in rows]
    figures = json.loads((tmp_path / "figures.json").read_text())
    head, static, dynamic = (line.split() for line in capsys.readouterr().out.splitlines()[:3])
    assert head[:3] == ["tokens", "seconds", "accuracy"]
    assert static[0] == "static"
    assert dynamic[0] == "dynamic"
    for name, line in (("static", static), ("dynamic", dynamic)):
        assert line[3] == f"{figures[f'{name}_accuracy']:.2f}"
    assert figures["dynamic_accuracy"] == 100.0
    assert figures["static_accuracy"] > 75
    # without labels the same labels, and nothing about accuracy
    assert run(["predict", "unlabelled.jsonl", *predict, "--no-static"]) == 0
    assert [row["label"] for row in read(tmp_path / "labels.jsonl")] == [row["label"] for row in rows]
    assert json.loads((tmp_path / "figures.json").read_text()).keys() == {"texts", "dynamic_tokens", "dynamic_seconds"}


@pytest.mark.slow
def test_a_decoder_is_trained_on_chats_and_generates_with_the_adapter(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_tiny_decoder(tmp_path / "model")
    turns = [{"role": "user", "content": "Gleichheit?"}, {"role": "assistant", "content": "Recht"}]
    file = write(tmp_path / "chats.jsonl", [{"messages": turns}])
    model = ["--model", "model", "--hypernet", "none"]
    steps = ["--steps", "40", "--batch-size", "2", "--distill", "0.1", *SIZE]
    assert run(["train-task", "--task", "lm", "--train", file, "--output", "run", *steps, *model]) == 0
    assert "dyntok generate PROMPT --adapter run/adapter" in capsys.readouterr().out
    generate = ["generate", "--chat", "Gleichheit?", "--share", "100", "--max-tokens", "8", "--output", "texts.jsonl"]
    assert run([*generate, *model, "--adapter", "run/adapter"]) == 0
    assert read(tmp_path / "texts.jsonl")[0]["text"] == "Recht"
    assert run(["predict", file, "--adapter", "run/adapter", *model]) == 2
    assert "An adapter of --task lm is for `dyntok generate`" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(common, tmp_path):
    rows = [{"text": text[:60], "label": code} for code in ("de", "en") for text in load_sample()[code][1:9]]
    file = write(tmp_path / "texts.jsonl", rows)
    often = ["--steps", "60", "--checkpoint-every", "5", "--validate-every", "20", "--batch-size", "4", *SIZE]
    options = ["train-task", "--task", "classify", "--train", file, "--validation", file, "--per", "sample"]
    folders = tmp_path / "killed", tmp_path / "whole"
    killed, whole = ([*options, *often, *common, "--output", str(folder)] for folder in folders)
    kill_and_resume(killed, folders[0], between=(0, 30))
    run_to_the_end(whole)
    ours, theirs = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in folders)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)


def test_a_folder_that_is_no_task_is_refused(tmp_path, capsys):
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}')
    assert run(["predict", str(tmp_path / "texts.jsonl"), "--adapter", str(tmp_path)]) == 2
    assert "has no dyntok_task.json" in capsys.readouterr().err


def test_training_without_files_is_refused(capsys):
    assert run(["train-task", "--task", "nli", "--output", "run"]) == 2
    assert "nothing to train on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--merges", "20"], "merges 20 does nothing with draw uniform: give --draw merges"),
        (["--draw", "merges"], "draw merges needs their number: give --merges, such as --merges 20"),
        (["--draw", "static", "--per", "sample"], "per sample does nothing with draw static"),
        (["--head-learning-rate", "0"], "head_learning_rate must be a positive number, got 0.0"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, told, capsys):
    assert run(["train-task", "--task", "nli", "--train", "pairs.jsonl", "--output", "run", *options]) == 2
    assert told in capsys.readouterr().err
