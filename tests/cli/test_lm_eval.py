"""`dyntok lm-eval` is lm-evaluation-harness with our model; what a user gets wrong is told in one line."""

import json
import subprocess
import sys

import pytest

from dyntok_jax.cli import main
from dyntok_jax.cli.commands.lm_eval import LmEval, _with_model
from tests.support.harness_tasks import write_harness_tasks
from tests.support.tiny import write_tiny_decoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    write_tiny_decoder(folder)
    return folder


def run(*arguments):
    """In a process of its own, for the harness sets up logging and seeds."""
    program = "import sys; from dyntok_jax.cli import main; sys.exit(main())"
    options = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in options.items():
            patch.setenv(name, value)
        command = [sys.executable, "-c", program, "lm-eval", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_it_evaluates_and_writes_results(folder, tmp_path):
    _, _, asks = write_harness_tasks(tmp_path)
    arguments = f"pretrained={folder},hypernet=none,share=50"
    done = run("--tasks", asks, "--model_args", arguments, "--output_path", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    assert "local_asks" in done.stdout
    (path,) = (tmp_path / "results").rglob("results_*.json")
    config = json.loads(path.read_text())["config"]
    assert (config["model"], config["model_args"]["share"]) == ("dyntok", 50)
    assert config["dyntok_tokens"] < config["dyntok_static_tokens"]


@pytest.mark.slow
def test_wrong_arguments_are_told_in_one_line(folder, tmp_path):
    _, _, asks = write_harness_tasks(tmp_path)
    done = run("--tasks", asks, "--model_args", f"pretrained={folder},share=101")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "dyntok: error: The share of the maximum reduction must be from 0 to 100 %, got 101."
    )


def test_without_the_harness_it_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert main(["lm-eval", "--tasks", "quiz.yaml"]) == 2
    assert "not installed: pip install 'dyntok_jax[lm-eval]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--tasks", "quiz"], ["run", "--model", "dyntok", "--tasks", "quiz"]),
        (["run", "--tasks", "quiz"], ["run", "--model", "dyntok", "--tasks", "quiz"]),
        (["--model=hf", "--tasks", "quiz"], ["run", "--model=hf", "--tasks", "quiz"]),
        (["--config", "run.yaml"], ["run", "--config", "run.yaml"]),
        (["ls", "tasks"], ["ls", "tasks"]),
        (["run", "--help"], ["run", "--help"]),
    ],
)
def test_our_model_is_the_default(given, expected):
    assert _with_model(given) == expected


def test_arguments_are_the_harness_s_but_for_help():
    assert LmEval.completed(["--help"]) == ["--help"]
    assert LmEval.completed(["run", "--help"]) == ["--", "run", "--help"]
