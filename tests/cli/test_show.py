"""`dyntok show` and `dyntok learn-merges` need a tokenizer and no weights."""

import io
import sys

import pytest

from dyntok_jax.cli import main
from dyntok_jax.merging import load_merges
from tests.support.tiny import tiny_tokenizer

TEXT = "All human beings are born free and equal in dignity and rights."


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def show(tokenizer_folder, capsys):
    def run(text, *options, status=0):
        assert main(["show", text, "--model", str(tokenizer_folder), *map(str, options)]) == status
        out, err = capsys.readouterr()
        assert err.count("\n") == (status != 0)
        return err if status else out

    return run


def tokens_of(line):
    return line.strip("|").split("|")


def test_tokens_before_and_after_are_told_apart_without_colours(show):
    lines = show(TEXT).splitlines()
    static, merged = tokens_of(lines[1]), tokens_of(lines[4])
    assert "".join(static) == "".join(merged) == f" {TEXT}"
    assert len(merged) < len(static)
    assert " dignity" in merged
    table = [line.split() for line in lines if "%" in line and line.startswith(" share")]
    assert [row[1] for row in table] == ["0", "25", "50", "75", "100"]
    counts = [int(row[3]) for row in table]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == len(merged)
    assert f"{100 * (1 - counts[-1] / len(static)):.1f}" == table[-1][4]


def test_colours_stand_in_for_separators_where_there_are_some(show, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = show(TEXT)
    assert "|" not in out
    assert "\x1b[" in out


@pytest.mark.parametrize(
    ("options", "n_tokens"),
    [
        (["--boundary", "sentence", "--max-subwords", "none"], 1),
        (["--boundary", "sentence", "--max-subwords", "none", "--pretoken-merges", 5], 1),
        (["--merges", 0], None),
        (["--max-subwords", 1], None),
    ],
)
def test_options_decide_how_far_merging_goes(show, options, n_tokens):
    lines = show(TEXT, *options).splitlines()
    assert len(tokens_of(lines[4])) == (n_tokens or len(tokens_of(lines[1])))


def test_standard_input_is_one_text(show, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"free\nand equal\n")))
    lines = show("-", "--boundary", "sentence", "--max-subwords", "none").splitlines()
    assert [token.strip() for token in tokens_of(lines[4])] == ["free and equal"]


@pytest.mark.parametrize("text", ["", " ", "a", "\U0001f600", "\x1b[31mred\x07", "e\u0301\u200d", "\ufffe"])
def test_any_text_can_be_shown_and_commands_no_terminal(show, text):
    assert "\x1b" not in show(text)


def test_lone_surrogates_are_told(show):
    assert "is not UTF-8" in show("\udc80", status=2)


def test_learnt_merges_show_as_they_apply(show, tokenizer_folder, tmp_path, capsys):
    (tmp_path / "a.txt").write_text(f"{TEXT}\n" * 3 + "x" * 100_000 + "\n")
    (tmp_path / "b.jsonl").write_text('{"en": "dignity", "de": "Würde"}\n')
    learn = ["learn-merges", str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl"), "--model", str(tokenizer_folder)]
    output = tmp_path / "new" / "merges.jsonl"
    assert main([*learn, "--output", str(output), "--merges", "400", "--boundary", "word"]) == 0
    learnt = load_merges(output)
    assert f"{len(learnt.pairs)} merges learnt on 6 texts" in capsys.readouterr().out
    assert (learnt.boundary, learnt.max_subwords) == ("word", 7)
    lines = show(TEXT, "--merge-list", output).splitlines()
    assert tokens_of(lines[4]) == [f" {word}" for word in TEXT.split()]
    assert "omit --boundary" in show(TEXT, "--merge-list", output, "--boundary", "pretoken", status=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["gone.txt", "--output", "m.jsonl", "--merges", "5"], "There is no file gone.txt"),
        (["a.txt", "--output", "m.jsonl", "--merges", "-1"], "0 or more"),
        (["a.txt", "--output", "a.txt/m.jsonl", "--merges", "5"], "is not a folder"),
        (["a.txt", "--output", ".", "--merges", "5"], "is a folder"),
        (["a.txt", "--output", "m.jsonl", "--merges", "5", "--max-subwords", "0"], "1 or more"),
        (["a.txt", "--output", "m.jsonl", "--merges", "5", "--model", "."], "no tokenizer.json"),
    ],
)
def test_learning_says_what_is_wrong_and_writes_nothing(options, said, tokenizer_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("text\n")
    assert main(["learn-merges", "--model", str(tokenizer_folder), *options]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
