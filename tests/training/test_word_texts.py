"""Pseudo-texts of random words: for languages with little running text."""

import sys
from collections import Counter

import numpy as np
import pytest

from dyntok_jax.errors import InputError
from dyntok_jax.text import TextEncoder
from dyntok_jax.training.data import (
    DataConfig,
    training_batches,
)
from dyntok_jax.training.data.order import mixed_rows
from dyntok_jax.training.data.training_data import (
    load_samples,
)
from dyntok_jax.training.data.word_texts import make_word_texts
from dyntok_jax.vocabulary import WordList, load_word_list

WORDS = "the\t100\nof\t50\nhouse\t10\nwindow\t5\nriver\nsummer\t0.5\n"


@pytest.fixture
def word_file(tmp_path) -> str:
    (tmp_path / "words.txt").write_text(WORDS, encoding="utf-8")
    return str(tmp_path / "words.txt")


def texts_of(code: str, words: dict[str, float], tokenizer, *, exponent: float = 1.0, seed: int = 0):
    word_list = WordList(tuple(words), np.array(list(words.values()), np.float64))
    return make_word_texts(code, word_list, TextEncoder(tokenizer), exponent=exponent, longest=40, seed=seed)


def bare_words(text: str) -> list[str]:
    return [word.strip(".,").lower() for word in text.split()]


def test_a_word_comes_as_often_as_its_weight_says(tokenizer):
    for exponent, expected in [(1.0, 9.0), (0.5, 3.0), (0.0, 1.0)]:
        texts = texts_of("en", {"often": 9.0, "seldom": 1.0}, tokenizer, exponent=exponent)
        counts = Counter(word for index in range(200) for word in bare_words(texts.text(index)))
        assert counts["often"] / counts["seldom"] == pytest.approx(expected, rel=0.25)


def test_a_seed_and_an_index_decide_a_text(tokenizer):
    words = {"house": 1.0, "window": 2.0, "river": 3.0}
    one, same, other = (texts_of("en", words, tokenizer, seed=seed) for seed in (1, 1, 2))
    written = [one.text(index) for index in range(20)]
    assert written == [same.text(index) for index in range(20)]
    assert len(set(written)) == 20
    assert written != [other.text(index) for index in range(20)]


def test_languages_without_spaces_get_none(tokenizer):
    texts = [texts_of("zh", {"房子": 1.0, "河": 1.0}, tokenizer).text(index) for index in range(20)]
    assert not any(" " in text for text in texts)
    assert any("。" in text for text in texts)


def test_lengths_are_near_what_is_promised(tokenizer, word_file):
    config = DataConfig({}, words={"en": (word_file,)}, batch_size=4, max_length=48)
    encoder = TextEncoder(tokenizer)
    samples = load_samples(config, encoder)
    rows = np.array(samples.word_rows("en")[:50])
    true = encoder.encode_static([samples.text(row) for row in rows.tolist()]).counts
    assert np.abs(true - samples.lengths(rows)).mean() < 4
    assert (true > 46).mean() < 0.05


def test_pseudo_texts_make_up_their_share(tmp_path, tokenizer, word_file):
    for code in ("en", "tr"):
        lines = [f"this is line {number} of a text in {code}" for number in range(40)]
        (tmp_path / code).write_text("\n".join(lines), encoding="utf-8")
    texts = {code: (str(tmp_path / code),) for code in ("en", "tr")}
    words = dict.fromkeys(("tr", "ar"), (word_file,))
    config = DataConfig(
        texts, words=words, words_share={"tr": 0.75}, batch_size=4, language_exponent=0.0, max_length=48, held_out=0
    )
    samples = load_samples(config, TextEncoder(tokenizer))
    rows = mixed_rows(samples, config)
    drawn = [rows[index] for index in range(1200)]
    counts = Counter((samples.language(row), row >= samples.n_texts) for row in drawn)
    expected = {("en", False): 400, ("tr", False): 100, ("tr", True): 300, ("ar", True): 400}
    assert counts == pytest.approx(expected, abs=4)
    new = [row for row in drawn if row >= samples.n_texts]
    assert len(set(new)) == len(new)


def test_a_language_is_drawn_as_often_as_its_weight_says(tmp_path, tokenizer):
    for code, n_lines in (("en", 16), ("tr", 64)):
        lines = [f"this is line {number} of a longer text in {code}" for number in range(n_lines)]
        (tmp_path / code).write_text("\n".join(lines), encoding="utf-8")
    texts = {code: (str(tmp_path / code),) for code in ("en", "tr")}
    config = DataConfig(
        texts, batch_size=4, language_exponent=0.5, language_weights={"en": 3.0}, max_length=48, held_out=0
    )
    samples = load_samples(config, TextEncoder(tokenizer))
    ratio = 3 * (len(samples.text_rows("en")) / len(samples.text_rows("tr"))) ** 0.5
    rows = mixed_rows(samples, config)
    n_english = sum(samples.language(rows[index]) == "en" for index in range(1000))
    assert n_english == pytest.approx(1000 * ratio / (1 + ratio), abs=3)


def test_words_alone_make_batches(tokenizer, word_file):
    stream = training_batches(DataConfig({}, words={"en": (word_file,)}, batch_size=4, max_length=48), tokenizer)
    assert next(stream).texts.mask_BT.shape[0] == 4
    stream.close()


def test_lists_are_joined(tmp_path, word_file):
    (tmp_path / "more.txt").write_text("house\t5\nnew\t2\n", encoding="utf-8")
    both = load_word_list((word_file, str(tmp_path / "more.txt")))
    weights = dict(zip(both.words, both.weight_W.tolist(), strict=True))
    assert (weights["house"], weights["new"], weights["river"]) == (15, 2, 1)


@pytest.mark.parametrize("line", ["word\tmany", "word\t-1", "word\t0", "word\tnan", "word\t1\t2"])
def test_a_weight_that_is_none_is_named(tmp_path, line):
    (tmp_path / "words.txt").write_text(f"fine\t1\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"line 2: the weight must be a positive number"):
        load_word_list((str(tmp_path / "words.txt"),))


def test_wordfreq_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    with pytest.raises(InputError, match="pip install"):
        load_word_list(("wordfreq:ar",))


def test_words_of_wordfreq():
    pytest.importorskip("wordfreq")
    greek = load_word_list(("wordfreq:el",))
    assert "ο" in greek.words
    assert "ασφαλείας" in greek.words
    assert not any(word.endswith("σ") for word in greek.words if len(word) > 1)
    with pytest.raises(InputError, match="no list for 'th'"):
        load_word_list(("wordfreq:th",))
