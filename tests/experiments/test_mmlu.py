"""MMLU on made-up questions and a tiny model: figures agree with one another, and bad files are told."""

import gzip
import json
from importlib import import_module
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from dyntok_jax import DynamicDecoder, Merging, Share
from dyntok_jax.errors import InputError
from dyntok_jax.vocabulary import GrownVocabulary, save_vocabulary
from experiments.shared import entries_of, paired_half_percent, wilson_percent
from experiments.shared.decoders import LongestPrefixDecoder, with_predicted_letters
from experiments.shared.questions import Question, context_of, read_questions
from tests.support.tiny import write_tiny_decoder, write_tiny_decoder_hypernet

SUBJECTS = ("astronomy", "world_religions")


def row(subject, number):
    choices = [f"freedom {number}", "dignity", "Freiheit", "everyone"]
    return {"subject": subject, "question": f"What is {number}?", "choices": choices, "answer": "ABCD"[number % 4]}


def write(path, rows):
    path.write_bytes(gzip.compress("".join(json.dumps(one) + "\n" for one in rows).encode()))


@pytest.fixture(scope="module")
def mmlu():
    return import_module("experiments.mmlu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mmlu")
    write_tiny_decoder(folder / "model", n_layers=1, max_positions=4096, ties_embeddings=True)
    write_tiny_decoder_hypernet(folder / "hypernet", folder / "model")
    write(folder / "test.jsonl.gz", [row(subject, number) for subject in SUBJECTS for number in range(3)])
    write(folder / "dev.jsonl.gz", [row(subject, number) for subject in SUBJECTS for number in range(5, 7)])
    tokenizer = DynamicDecoder.load(folder / "model", None).tokenizer
    pair = tokenizer.byte_level.encode(" dignity", add_special_tokens=False).ids[:2]
    save_vocabulary(folder / "vocabulary", GrownVocabulary(tokenizer, np.array([pair], np.int32), "pretoken"))
    return folder


def options_of(mmlu, folders, **changes):
    named = {"model": str(folders / "model"), "hypernet": str(folders / "hypernet"), "shots": 2, "timed": 0}
    return mmlu.Options(folders, **named | changes)


@pytest.mark.slow
@pytest.mark.parametrize("style", ["letters", "full"])
def test_figures_agree_with_one_another(mmlu, folders, tmp_path, style):
    outputs = {"json": tmp_path / "out.json", "table": tmp_path / "out.md", "plot": tmp_path / "out.png"}
    changes = {"style": style, "shares": (0, 100), "vocabulary": folders / "vocabulary", "timed": 1}
    mmlu.run(options_of(mmlu, folders, **changes, **outputs), Console(file=StringIO()))
    figures = json.loads(outputs["json"].read_text(encoding="utf-8"))
    assert (figures["questions"], figures["questions_STEM"], figures["questions_astronomy"]) == (6, 3, 3)
    names = ["static", *(f"{m}_share{s}" for m in ("fvt", "hypernet") for s in (0, 100))]
    names += ["words", "all_predicted", "longest_prefix", "large_vocabulary"]
    for name in names:
        low, value, high = (figures[f"{name}_accuracy{end}_percent"] for end in ("_low", "", "_high"))
        assert 0 <= low <= value <= high <= 100
        parts = [figures[f"{name}_accuracy_percent_{subject}"] for subject in SUBJECTS]
        assert value == pytest.approx(np.mean(parts), abs=1e-2)
        assert figures[f"{name}_loss_points"] == pytest.approx(figures["static_accuracy_percent"] - value, abs=1e-2)
        assert figures[f"{name}_kl_nats"] >= -1e-6
        assert figures[f"{name}_first_token_seconds"] > 0
    assert figures["static_same_choice_percent"] == 100
    assert figures["static_kl_nats"] == figures["static_loss_points"] == figures["static_reduction_percent"] == 0
    assert figures["fvt_share100_tokens"] < figures["fvt_share0_tokens"]
    assert figures["fvt_share100_tokens"] == figures["hypernet_share100_tokens"] >= figures["words_tokens"]
    assert figures["fvt_share0_kl_nats"] == figures["hypernet_share0_kl_nats"] != figures["all_predicted_kl_nats"]
    table = outputs["table"].read_text(encoding="utf-8")
    assert "`original_tk_hypernet`" in table
    assert f"{figures['words_kl_nats']:.4f}" in table
    assert outputs["plot"].stat().st_size > 1000


@pytest.mark.slow
def test_answers_are_those_of_choose(mmlu, folders):
    options = options_of(mmlu, folders, shares=(100,), others=False, hypernet=None)
    questions, solved = mmlu.load_questions(options)
    settings = mmlu.settings_of(options)
    found = mmlu.answered(settings, questions, solved, options, lambda _: None)["fvt_share100"]
    decoder = DynamicDecoder.load(options.model, None)
    expected = []
    for subject in SUBJECTS:
        some = questions[subject]
        choices = decoder.choose(
            [question.text for question in some],
            [question.options for question in some],
            context=context_of(subject, solved[subject], "letters"),
            merging=Merging(Share(100), scope="batch"),
        )
        expected += choices
    assert found.best_N.tolist() == [choice.best for choice in expected]
    for log_probs, choice in zip(found.log_probs_NO, expected, strict=True):
        np.testing.assert_allclose(log_probs, choice.scores - np.logaddexp.reduce(choice.scores), atol=1e-4)
        assert np.exp(log_probs).sum() == pytest.approx(1)


@pytest.mark.slow
def test_predicted_letters_are_scored_by_predicted_rows(folders):
    decoder = DynamicDecoder.load(str(folders / "model"), str(folders / "hypernet"))
    predicted = with_predicted_letters(decoder, "en")
    question = (["What is free?"], [["a", "b", "c", "d"]])
    own, other = (one.choose(*question)[0].scores for one in (decoder, predicted))
    assert not np.allclose(own, other, atol=1e-4)
    full = [one.score(["x"], [" freedom"])[0] for one in (decoder, predicted)]
    assert np.abs(full[0].log_probs_O - full[1].log_probs_O).max() < 0.1  # other tokens have their own rows


def test_letters_of_a_second_table_need_a_hypernetwork_that_predicts_it(folders, tmp_path):
    write_tiny_decoder(tmp_path, n_layers=1)
    decoder = DynamicDecoder.load(str(tmp_path), str(folders / "hypernet"))
    with pytest.raises(InputError, match="predicts no output rows"):
        with_predicted_letters(decoder, "en")


def test_the_letters_prompt_is_that_of_hendrycks():
    solved = [Question("astronomy", "Why?", ("a", "b", "c", "d"), 2)]
    head = "The following are multiple choice questions (with answers) about world religions.\n\n"
    assert context_of("world_religions", [], "letters") == head
    assert context_of("world_religions", solved, "letters") == f"{head}Why?\nA. a\nB. b\nC. c\nD. d\nAnswer: C\n\n"
    assert context_of("world_religions", solved, "full") == f"{head}Why?\nAnswer: c\n\n"


def test_the_longest_tokens_that_fit_are_read(folders):
    decoder = DynamicDecoder.load(str(folders / "model"), None)
    kept = {"end_ids": decoder.end_ids, "chat": decoder.chat}
    own, large = (
        LongestPrefixDecoder(
            decoder.config, decoder.decoder, decoder.embedder, entries=entries_of(folder, decoder.tokenizer), **kept
        )
        for folder in (None, folders / "vocabulary")
    )
    text = "All dignity, 1234 dignity"
    in_own, in_large = (one.read([text]) for one in (own, large))
    assert (in_own.n_tokens[0] - in_large.n_tokens[0]) in (2, 1, 0)
    for read in (in_own, in_large):
        assert "".join(read.tokens[0].strings(decoder.tokenizer)).strip() == text
        assert not any("12" in token for token in read.tokens[0].strings(decoder.tokenizer))
    assert in_own.tokens.length_M.max() == 1
    entry = list(large.entries.constituents_ES[0])
    assert entry in in_large.tokens[0].ids()
    assert np.isfinite(large.score([text], [" and"])[0].total)


def test_intervals_of_known_counts():
    assert wilson_percent(0, 10) == (pytest.approx(0), pytest.approx(27.75, abs=0.01))
    assert wilson_percent(5, 10) == (pytest.approx(23.66, abs=0.01), pytest.approx(76.34, abs=0.01))
    assert paired_half_percent(0, 0, 10) == 0
    assert paired_half_percent(10, 0, 20) == pytest.approx(100 * 1.959964 * (10 - 100 / 20) ** 0.5 / 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subject": "alchemy"}, "line 1: .*'alchemy' is not a subject of MMLU"),
        ({"choices": ["a"]}, "line 1: .*1 choices instead of 4"),
        ({"answer": "E"}, "line 1: "),
        ({"question": 5}, "line 1: "),
    ],
)
def test_lines_that_are_no_questions_are_named(tmp_path, change, message):
    write(tmp_path / "test.jsonl.gz", [row("astronomy", 1) | change])
    with pytest.raises(InputError, match=message):
        read_questions(tmp_path / "test.jsonl.gz")


def test_what_is_missing_is_told(mmlu, folders, tmp_path):
    with pytest.raises(InputError, match=r"test.jsonl.gz cannot be read: No such file"):
        mmlu.load_questions(mmlu.Options(tmp_path))
    with pytest.raises(InputError, match="has no virology"):
        mmlu.load_questions(options_of(mmlu, folders, subjects=("virology",)))
    with pytest.raises(InputError, match="There are 2 solved examples of astronomy: ask for fewer --shots"):
        mmlu.load_questions(options_of(mmlu, folders, shots=5))
