"""Options from a TOML file: read as those of the command line are, which win; and what is said where they cannot be."""

import json
import tomllib
from pathlib import Path

import pytest

from dyntok_jax import assets
from dyntok_jax.cli import main
from dyntok_jax.cli.commands import TrainHypernet
from dyntok_jax.cli.entry import _parse
from dyntok_jax.training import NetworkConfig, Objectives, RunConfig
from dyntok_jax.training.data import DataConfig
from tests.support.tiny import write_tiny_decoder

SHIPPED = sorted((Path(assets.__file__).parent / "hypernets").glob("*/*.toml"))


@pytest.fixture
def read(tmp_path):
    def read(text: str, *arguments: str) -> TrainHypernet:
        file = tmp_path / "run.toml"
        file.write_text(text, encoding="utf-8")
        return _parse(["train-hypernet", "--config", str(file), *arguments])

    return read


def test_options_of_every_type(read):
    found = read(
        'output = "run"\nmesh = "4x2"\nobjectives = ["hidden", "pieces=0.1"]\nplain = true\n'
        'text = ["de.txt", "fr=a.txt"]\n'
        'words = ["de=w.txt"]\nwords_share = ["0.25", "de=0.5"]\nshare = "fixed"\nprefix = "--"\nlearning_rate = 1\n'
        "clip = 0.5\nsteps = 3\nresume = false\n"
    )
    assert (found.output, found.mesh, found.resume) == ("run", "4x2", False)
    assert found.training.objectives == Objectives(hidden=1.0, pieces=0.1)
    assert found.training.network == NetworkConfig(plain=True)
    assert found.training.data == DataConfig(
        text={"de": ("de.txt",), "fr": ("a.txt",)},
        words={"de": ("w.txt",)},
        words_share={"": 0.25, "de": 0.5},
        share="fixed",
        prefix="--",
    )
    assert (found.training.optimizer.learning_rate, found.training.optimizer.clip) == (1.0, 0.5)
    assert found.training.run == RunConfig(steps=3)


def test_the_command_line_wins(read):
    found = read('output = "run"\nsteps = 3\ntext = ["de.txt"]\nlayers = 1\n', "--steps", "5", "--text", "fr.txt")
    assert (found.output, found.training.network.layers) == ("run", 1)
    assert (found.training.run.steps, found.training.data.text) == (5, {"fr": ("fr.txt",)})


def test_what_the_file_lacks_is_asked_for(read, capsys):
    with pytest.raises(SystemExit) as exit_:
        read("steps = 3")
    assert exit_.value.code == 2
    assert "--output" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("stepz = 3", "Unrecognized options: --stepz"),
        ('learning_rate = "fast"', "Error parsing --learning-rate: could not convert string to float: 'fast'"),
        ("steps = 2.5", "Error parsing --steps: invalid literal for int() with base 10: '2.5'"),
        ("steps = true", "Missing value for argument '--steps'"),
        ("steps = [3, 4]", "Unrecognized options: 4"),
        ('resume = "no"', "Unrecognized options: no"),
        (
            'share = "half"',
            "invalid choice 'half' for argument '--share'. Expected one of ('uniform', 'gaussian', 'fixed')",
        ),
        ("[data]\nsteps = 3", "remove data"),
        ("config = 'other.toml'", "remove config"),
        ("threads = 2", "threads"),  # code alone sets it
        ("steps = 0", "steps must be 1 or more, got 0"),
        ("objectives = ['sentence']", "language_model, got 'sentence'"),
        ("objectives = ['hidden=-1']", "The weight of hidden must be a positive number"),
        ("steps = ", "is not TOML"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_line(tmp_path, capsys, line, told):
    file = tmp_path / "run.toml"
    file.write_text(line, encoding="utf-8")
    assert main(["train-hypernet", "--config", str(file), "--output", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert str(file) in err
    assert err.count("\n") == 1


def test_a_missing_file_is_told(tmp_path, capsys):
    assert main(["train-hypernet", f"--config={tmp_path / 'nowhere.toml'}"]) == 2
    assert capsys.readouterr().err.endswith("nowhere.toml cannot be read: No such file or directory.\n")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_files_that_trained_the_packaged_networks_are_read(file):
    options = tomllib.loads(file.read_text(encoding="utf-8"))
    found = _parse(["train-hypernet", "--config", str(file)])
    training, shape = found.training, json.loads((file.parent / "config.json").read_text(encoding="utf-8"))
    assert (found.output, training.model) == (options["output"], file.parent.name)
    assert training.data.max_subwords == shape["hn_surface_maxlen"]
    assert training.network.layers == shape["hn_n_layers"]
    assert len(training.data.text) == len(options["text"])  # a language each
    assert training.run.steps == options["steps"]
    assert f"--config {file.name}" in (file.parent / "README.md").read_text(encoding="utf-8")


def test_each_stage_starts_from_the_one_before():
    stages = [tomllib.loads(file.read_text(encoding="utf-8")) for file in SHIPPED if file.parent.name == "e5-small"]
    by_seed = sorted(stages, key=lambda stage: stage["seed"])
    assert [stage.get("start_from") for stage in by_seed] == [
        None,
        *(f"{stage['output']}/hypernet" for stage in by_seed[:-1]),
    ]


@pytest.mark.slow
def test_a_shipped_file_trains(tmp_path, monkeypatch):
    (file,) = (file for file in SHIPPED if file.parent.name == "smollm2")
    monkeypatch.chdir(tmp_path)
    write_tiny_decoder(Path("model"), ties_embeddings=True)
    sample = assets.load_sample()
    for code in ("en", "de"):
        Path(f"{code}.txt").write_text("\n".join(sample[code]), encoding="utf-8")
    size = ["--steps", "2", "--layers", "1", "--hidden", "32", "--ffn", "64", "--heads", "4"]
    assert main(["train-hypernet", "--config", str(file), "--model", "model", "--text", "en.txt", "de.txt", *size]) == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if "language_model" in line and "loss" in line] == [1, 2]
    assert Path("run/hypernet/model.safetensors").exists()
