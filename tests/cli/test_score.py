"""`dyntok score` tells what the library computes: behind static prompts and, if asked, merged ones beside them."""

import gzip
import io
import json
import sys
from math import log

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dyntok_jax import DynamicDecoder, Merges, Merging, Share
from dyntok_jax.assets import load_sample
from dyntok_jax.cli import main
from tests.support.tiny import write_tiny_decoder

PARAGRAPHS = load_sample()["en"][:3]
FULL = Merging()
PAIRS = [(text[:60], text[60:260]) for text in PARAGRAPHS]
QUESTIONS = [
    {"question": "Who is born free?", "options": [PARAGRAPHS[1], "no one"], "answer": 0},
    {"question": "Wer ist frei?", "options": ["alle"], "answer": "A"},
    {"question": "Who?", "options": ["everyone"], "answer": 0},
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_tiny_decoder(folder / "model", n_layers=1)
    write_tiny_decoder(folder / "damaged", n_layers=1)
    path = folder / "damaged" / "model.safetensors"
    save_file(load_file(path) | {"model.norm.weight": np.full(32, np.nan, np.float32)}, path, {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def decoder(tiny):
    return DynamicDecoder.load(tiny / "model")


@pytest.fixture
def run(tiny, tmp_path, monkeypatch, capsys):
    """Runs `dyntok score` in an empty folder; gives what it printed, after the status was looked at."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pairs.jsonl", [{"prompt": a, "continuation": b} for a, b in PAIRS])
    write(tmp_path / "questions.jsonl", QUESTIONS)

    def score(*options, status=0):
        assert main(["score", "--model", str(tiny / "model"), *map(str, options)]) == status
        out, err = capsys.readouterr()
        assert err.count("\n") == (status != 0)
        return err if status else out

    return score


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def scored(decoder, pairs=PAIRS, merging=FULL):
    """After merged prompts and after static ones."""
    prompts, continuations = zip(*pairs, strict=True)
    return [decoder.score(prompts, continuations, merging=one) for one in (merging, Merging(None))]


def test_without_a_goal_prompts_are_the_tokenizers_own_and_nothing_is_beside(run, decoder, tmp_path):
    out = run("--file", "pairs.jsonl", "--output", "out.jsonl", "--json", "figures.json")
    static = decoder.score(*zip(*PAIRS, strict=True), goal=None)
    for line, (prompt, continuation), text in zip(lines(tmp_path / "out.jsonl"), PAIRS, static, strict=True):
        ids = decoder.tokenizer.own.encode(prompt).ids
        assert line == {
            "prompt": prompt,
            "continuation": continuation,
            "n_static": len(ids),
            "n_tokens": len(ids),
            "log_probability": text.total,
            "bits_per_byte": text.bits_per_byte,
            "tokens": [decoder.tokenizer.token_text([index]) for index in ids],
        }
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["log_probability"] == pytest.approx(sum(text.total for text in static))
    assert not {"reduction_percent", "static_bits_per_byte", "agreement_percent"} & figures.keys()
    row = [f"{figures['tokens']}", f"{figures['log_probability']:.2f}", f"{figures['bits_per_byte']:.3f}"]
    assert [line.split() for line in out.splitlines()[1:4:2]] == [["tokens", "log-prob", "bits/byte"], row]


@pytest.mark.parametrize(
    ("options", "merging"),
    [
        (["--share", "100"], Merging()),
        (["--share", "40"], Merging(Share(40))),
        (["--merges", "2", "--boundary", "word", "--merge-last"], Merging(Merges(2), "word", merge_last=True)),
        (["--share", "100", "--protect", "none"], Merging(protect=None)),
        (["--share", "100", "--protect", "[a-z]+"], Merging(protect="[a-z]+")),
        (["--share", "100", "--max-subwords", "2", "--scope", "batch"], Merging(max_subwords=2, scope="batch")),
    ],
)
def test_lines_hold_what_the_library_computes(run, decoder, tmp_path, options, merging):
    run("--file", "pairs.jsonl", "--output", "out.jsonl", *options)
    written, expected = lines(tmp_path / "out.jsonl"), scored(decoder, merging=merging)
    for line, (prompt, continuation), text, static in zip(written, PAIRS, *expected, strict=True):
        assert line == {
            "prompt": prompt,
            "continuation": continuation,
            "n_static": static.n_static,
            "n_tokens": int(text.prompt_tokens.is_counted_T.sum()),
            "log_probability": text.total,
            "bits_per_byte": text.bits_per_byte,
            "tokens": text.prompt_tokens.strings(decoder.tokenizer),
            "static_log_probability": static.total,
            "static_bits_per_byte": static.bits_per_byte,
            "agreement_percent": 100 * np.mean(text.greedy_O == static.greedy_O),
        }


def test_the_table_sums_over_all_bytes_and_tokens(run, decoder, tmp_path):
    out = run("--file", "pairs.jsonl", "--share", "100", "--json", "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    dynamic, static = scored(decoder)
    n_bytes = sum(len(continuation.encode()) for _, continuation in PAIRS)
    n_static, n_tokens = (sum(len(text.prompt_tokens) for text in texts) for texts in (static, dynamic))
    total, static_total = (sum(text.total for text in texts) for texts in (dynamic, static))
    same = np.concatenate([a.greedy_O == b.greedy_O for a, b in zip(dynamic, static, strict=True)])
    assert figures == {
        "texts": 3,
        "bytes": n_bytes,
        "continuation_tokens": len(same),
        "static_tokens": n_static,
        "tokens": n_tokens,
        "reduction_percent": pytest.approx(100 * (1 - n_tokens / n_static)),
        "log_probability": pytest.approx(total),
        "bits_per_byte": pytest.approx(-total / log(2) / n_bytes),
        "static_log_probability": pytest.approx(static_total),
        "static_bits_per_byte": pytest.approx(-static_total / log(2) / n_bytes),
        "agreement_percent": pytest.approx(100 * same.mean()),
    }
    rows = [line.split() for line in out.splitlines() if line.startswith((" static ", " dynamic "))]
    assert rows[0][1:] == [f"{n_static}", "–", f"{static_total:.2f}", f"{figures['static_bits_per_byte']:.3f}", "–"]
    assert rows[1][1] == f"{n_tokens}"
    assert rows[1][4:6] == [f"{total:.2f}", f"{figures['bits_per_byte']:.3f}"]


@pytest.mark.slow
def test_two_texts_are_scored_as_a_line_of_a_file_is(run, tmp_path):
    run(*PAIRS[0], "--output", "one.jsonl")
    run("--file", "pairs.jsonl", "--output", "all.jsonl")
    (one,), first = lines(tmp_path / "one.jsonl"), lines(tmp_path / "all.jsonl")[0]
    assert one.keys() == first.keys()
    assert one["tokens"] == first["tokens"]
    assert one["log_probability"] == pytest.approx(first["log_probability"], rel=1e-5)


def test_without_texts_there_is_an_example(run, tmp_path):
    run("--output", "out.jsonl")
    written = lines(tmp_path / "out.jsonl")
    sample = load_sample()
    texts = [line["prompt"] + line["continuation"] for line in written]
    assert texts == [sample[code][0] for code in ("en", "es", "de")]
    assert all(line["continuation"].startswith(" ") for line in written)


@pytest.mark.parametrize("style", ["letters", "full"])
def test_questions_are_answered_and_counted(run, decoder, tmp_path, style):
    command = ("--file", "questions.jsonl", "--style", style, "--output", "out.jsonl", "--json", "figures.json")
    out = run(*command, "--share", "100")
    asked = [row["question"] for row in QUESTIONS], [row["options"] for row in QUESTIONS]
    dynamic, static = (decoder.choose(*asked, style=style, goal=goal) for goal in (Share(100), None))
    written, figures = lines(tmp_path / "out.jsonl"), json.loads((tmp_path / "figures.json").read_text())
    assert [line["choice"] for line in written] == [choice.best for choice in dynamic]
    assert [line["static_scores"] for line in written] == [list(choice.scores) for choice in static]
    assert [line["answer"] for line in written] == [0, 0, 0]
    right = 100 * np.mean([choice.best == 0 for choice in dynamic])
    assert figures["questions"] == 3
    assert figures["accuracy_percent"] == pytest.approx(right)
    assert f"{right:.1f} %" in out
    assert "agreement" not in run(*command)
    assert [line["scores"] for line in lines(tmp_path / "out.jsonl")] == [list(choice.scores) for choice in static]


def test_a_file_may_be_zipped_or_come_by_standard_input(run, tmp_path, monkeypatch):
    content = b"\xef\xbb\xbf" + (tmp_path / "pairs.jsonl").read_bytes() + b"\n"
    (tmp_path / "pairs.jsonl.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert run("--file", "pairs.jsonl.gz") == run("--file", "pairs.jsonl") == run("--file", "-")


def test_prompts_that_fit_only_when_merged_are_scored_without_comparison(run, tmp_path):
    prompts = [f"{number}{' qzqzqz' * 80}" for number in range(3)]
    write(tmp_path / "long.jsonl", [{"prompt": prompt, "continuation": PAIRS[1][1]} for prompt in prompts])
    out = run("--file", "long.jsonl", "--share", "100", "--json", "figures.json", "--output", "out.jsonl")
    assert "fits the model only when merged" in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["static_tokens"] > 512 > figures["tokens"] / 3
    assert not {"static_bits_per_byte", "agreement_percent"} & figures.keys()
    assert "static_bits_per_byte" not in lines(tmp_path / "out.jsonl")[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["x"], "a prompt without a continuation"),
        (["", "y"], "The prompt must be a non-empty text"),
        (["x", ""], "The continuation must be a non-empty text"),
        (["x", "\udc80"], "is not UTF-8"),
        (["x", "y", "--file", "pairs.jsonl"], "give one of them"),
        (["--file", "gone.jsonl"], "There is no file gone.jsonl"),
        (["--file", "blank.jsonl"], "holds no rows"),
        (["--file", "both.jsonl"], "each kind a file of its own"),
        (["--file", "text.jsonl"], "text.jsonl, line 2 is not JSON"),
        (["--file", "list.jsonl"], "line 1 is a list, not an object"),
        (["--file", "other.jsonl"], "line 1 has the fields text"),
        (["--file", "number.jsonl"], "prompt must be a non-empty text, got 1"),
        (["--file", "half.jsonl"], "line 1: continuation holds a lone surrogate"),
        (["--file", "none.jsonl"], "options must be a list of texts"),
        (["--file", "answer.jsonl"], "give a number from 0 to 1, or a letter"),
        (["--file", "many.jsonl"], "give 1 to 26"),
        (["many different words " * 200, " and more"], "room for 512: shorten it"),
        (["x", "y", "--share", "101"], "from 0 to 100"),
        (["x", "y", "--merge-last"], "--merge-last would have no effect: turn merging on"),
        (["x", "y", "--batch-size", "0"], "1 or more"),
        (["x", "y", "--json", "."], "is a folder"),
        (["--file", "pairs.jsonl", "--model", "DAMAGED"], "NaN or infinite"),
    ],
)
def test_what_a_user_can_put_right_is_one_line_and_nothing_is_written(run, tiny, tmp_path, options, said):
    question = {"question": "a", "options": ["b", "c"], "answer": "C"}
    files = {
        "blank": "\n \n",
        "both": json.dumps({"prompt": "a", "continuation": "b"}) + "\n" + json.dumps(question | {"answer": 0}),
        "text": '{"prompt": "a", "continuation": "b"}\nplain',
        "list": "[1]",
        "other": '{"text": "a"}',
        "number": '{"prompt": 1, "continuation": "b"}',
        "half": '{"prompt": "a", "continuation": "\\ud800"}',
        "none": json.dumps(question | {"options": []}),
        "answer": json.dumps(question),
        "many": json.dumps(question | {"options": [str(number) for number in range(27)]}),
    }
    for name, content in files.items():
        (tmp_path / f"{name}.jsonl").write_text(content)
    before = sorted(path.name for path in tmp_path.iterdir())
    options = [str(tiny / "damaged") if option == "DAMAGED" else option for option in options]
    assert said in run("--output", "out.jsonl", *options, status=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
