"""`dyntok train-hypernet` for somebody else's encoder: better than FVT, bit-exact after a kill, clear errors."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from dyntok_jax.assets import load_sample
from dyntok_jax.cli import main
from dyntok_jax.encoding import DynamicEncoder
from tests.support.killed_runs import kill_and_resume, run_to_the_end
from tests.support.tiny import write_tiny_encoder, write_tiny_hypernet

SIZE = ["--layers", "1", "--hidden", "32", "--ffn", "64", "--heads", "4", "--max-length", "48", "--batch-size", "8"]


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """A random encoder, and text whose words are always the same few dozen: what they merge to can be learnt."""
    folder = tmp_path_factory.mktemp("given")
    write_tiny_encoder(folder / "model")
    words = sorted({word for text in load_sample()["de"] for word in text.split() if len(word) > 5})[:60]
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(words, 4)) for _ in range(400)]
    (folder / "de.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def arguments(given: Path, output: Path, *options: str) -> list[str]:
    named = ["--model", str(given / "model"), "--text", str(given / "de.txt"), "--output", str(output)]
    return ["train-hypernet", *named, *SIZE, *options]


def validations(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "validation_loss" in line]


@pytest.mark.slow
def test_training_beats_fvt_on_text_that_was_held_out(given, tmp_path, capsys):
    output = tmp_path / "run"
    options = ["--steps", "120", "--validate-every", "60", "--learning-rate", "3e-3", "--objectives", "sentences"]
    assert main(arguments(given, output, *options)) == 0
    told = capsys.readouterr().out
    assert "Stopped at step 120: all steps done." in told
    assert f"Written: {output / 'hypernet'}" in told
    fvt, *_, last = validations(output)
    assert fvt["step"] == 0  # a fresh residual network is FVT
    assert last["validation_loss"] < 0.5 * fvt["validation_loss"]
    # and so it does where it is used
    texts = (given / "de.txt").read_text().splitlines()[:16]
    far = {}
    for hypernet in (None, str(output / "hypernet")):
        encoder = DynamicEncoder.load(str(given / "model"), hypernet=hypernet)
        static, dynamic = encoder.encode(texts, goal=None), encoder.encode(texts)
        assert dynamic.n_tokens.sum() < static.n_tokens.sum()
        far[hypernet] = float(1 - (static.embeddings_ND * dynamic.embeddings_ND).sum(axis=1).mean())
    assert far[str(output / "hypernet")] < 0.5 * far[None]


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(given, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    often = ("--steps", "40", "--checkpoint-every", "5", "--validate-every", "20", "--pieces-per-batch", "16")
    kill_and_resume(arguments(given, killed, *often), killed, between=(0, 20))
    run_to_the_end(arguments(given, whole, *often))
    ours, theirs = (load_file(folder / "hypernet" / "model.safetensors") for folder in (killed, whole))
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)
    assert validations(killed) == validations(whole)


@pytest.mark.slow
def test_options_may_come_from_a_file(given, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(
        f'model = "{given / "model"}"\ntext = ["{given / "de.txt"}"]\nsteps = 50\nlayers = 1\nhidden = 32\nffn = 64\n'
        "heads = 4\nmax_length = 48\nbatch_size = 8\nheld_out = 0\n"
    )
    options = ["--config", str(config), "--output", str(tmp_path / "run"), "--steps", "2", "--identity-steps", "1"]
    assert main(["train-hypernet", *options, "--objectives", "pieces", "hidden", "--pieces-per-batch", "16"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [sorted(line.keys() & {"pieces", "hidden"}) for line in lines] == [["pieces"], ["hidden", "pieces"]]


@pytest.fixture
def multilingual(given, tmp_path) -> tuple[Path, list[str]]:
    """A hypernetwork with languages, and the arguments of a run that goes on from it, on devices and in two parts."""
    write_tiny_hypernet(tmp_path / "multilingual", n_langs=2, langs=("en", "de"))
    options = ["--start-from", str(tmp_path / "multilingual"), "--steps", "2", "--accumulate", "2", "--mesh", "4x2"]
    return tmp_path / "run", arguments(given, tmp_path / "run", *options, "--validation", str(given / "de.txt"))


@pytest.mark.slow
def test_texts_train_their_own_language(multilingual, tmp_path):
    output, run = multilingual
    assert main(run) == 0
    name = "lang_embeddings.weight"
    before = load_file(tmp_path / "multilingual" / "model.safetensors")[name]
    after = load_file(output / "hypernet" / "model.safetensors")[name]
    assert np.array_equal(after[0], before[0])  # English, of which there was no text
    assert not np.array_equal(after[1], before[1])


@pytest.mark.slow
def test_it_is_contents_that_a_resumed_run_must_share(multilingual, given, tmp_path, capsys):
    _, run = multilingual
    assert main(run) == 0
    moved = tmp_path / "moved" / "de.txt"
    moved.parent.mkdir()
    moved.write_bytes((given / "de.txt").read_bytes())
    elsewhere = [str(moved) if argument == str(given / "de.txt") else argument for argument in run]
    assert main([*elsewhere, "--resume"]) == 0
    for another in (["--validation-texts", "21"], ["--validation", f"en={moved}"]):
        capsys.readouterr()
        assert main([*elsewhere, "--resume", *another]) == 2
        assert "contents of the validation is" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--objectives", "sentence"], "language_model, got 'sentence'"),
        (["--objectives", "hidden=x"], "--objectives must be given numbers, got 'hidden=x'"),
        (["--words-share", "much"], "--words-share must be given numbers, got 'much'"),
        (["--words-share", "de=0.5"], "words_share names de, but there are no words in that language; there are none"),
        (["--language-weights", "fr=2"], "there are de"),
        (["--language-weights", "de=0"], "language_weights of de must be a positive number, got 0.0"),
        (["--identity-steps", "3"], "add pieces to --objectives"),
        (["--objectives", "next_subword"], "compares a decoder's predictions"),
        (["--objectives", "language_model"], "masked-LM head"),
        (["--steps", "0"], "steps must be 1 or more, got 0"),
        (["--held-out", "100000"], "hold out fewer"),
        (["--max-length", "100"], "max_length is 100, but the model has positions for 64"),
        (["--max-length", "1", "--objectives", "pieces", "--validation", "tiny.txt"], "leaves no room for text"),
        (["--share-mean", "101"], "share_mean must be a percentage, from 0 to 100, got 101.0"),
        (["--start-from", "multilingual", "--text", "texts.txt"], "write CODE=FILE, with one of en de"),
        (["--start-from", "multilingual", "--text", "fr=texts.txt"], "has the language 'fr': write CODE=FILE"),
        (["--validation", "de=aligned.jsonl"], "leave de= out"),
        (["--text", "empty.txt"], "empty.txt is empty"),
        (["--text", "latin.txt"], "latin.txt, line 2"),
        (["--text", "tiny.txt"], "a batch needs 8"),
        (["--validation", "nowhere.txt"], "There is no file nowhere.txt"),
        (["--config", "broken.toml"], "broken.toml is not TOML"),
        (["--config", "unknown.toml"], "unknown.toml: Unrecognized options: --stepz"),
        (
            ["--config", "typed.toml"],
            "typed.toml: Error parsing --held-out: invalid literal for int() with base 10: 'eight'",
        ),
    ],
)
def test_mistakes_are_told_in_a_line(given, tmp_path, monkeypatch, capsys, options, told):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("")
    Path("latin.txt").write_bytes(b"abc\nd\xe9f\n")
    Path("tiny.txt").write_text("A single paragraph is no text to train on.\n")
    Path("broken.toml").write_text("steps = \n")
    Path("unknown.toml").write_text("stepz = 3\n")
    Path("aligned.jsonl").write_text('{"de": "das Haus", "en": "the house"}\n')
    Path("typed.toml").write_text('held_out = "eight"\n')
    write_tiny_hypernet(Path("multilingual"), n_langs=2, langs=("en", "de"))
    assert main(arguments(given, tmp_path / "run", *options)) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run" / "hypernet").exists()


def test_nothing_to_train_on_is_told(given, tmp_path, capsys):
    assert main(["train-hypernet", "--model", str(given / "model"), "--output", str(tmp_path / "run")]) == 2
    assert "There is nothing to train on" in capsys.readouterr().err


def test_without_grain_the_extra_to_install_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert main(["train-hypernet", "--text", "de.txt", "--output", str(tmp_path / "run")]) == 2
    assert "pip install 'dyntok_jax[train]'" in capsys.readouterr().err
