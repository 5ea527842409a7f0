"""Which language a file is in, and how the hypernetwork counts it."""

import pytest

from dyntok_jax.errors import InputError
from dyntok_jax.training.data import (
    by_language,
)
from dyntok_jax.training.data.text_languages import index_of_language
from dyntok_jax.training.data.written_options import UNNAMED, language_and_file


@pytest.mark.parametrize(
    ("given", "code", "file"),
    [
        ("de.txt.gz", "de", "de.txt.gz"),
        ("folder/zh.jsonl::body", "zh", "folder/zh.jsonl::body"),
        ("en=wiki.txt", "en", "wiki.txt"),
        ("zh-Hant=wiki=new.txt", "zh-Hant", "wiki=new.txt"),
        ("en=hf:wikipedia:en:train", "en", "hf:wikipedia:en:train"),
        ("german=wiki.txt", "german", "wiki.txt"),
        ("/data/lang=de/part.txt", UNNAMED, "/data/lang=de/part.txt"),
        ("reviews.txt", UNNAMED, "reviews.txt"),
    ],
)
def test_the_language_of_a_file(given, code, file):
    assert language_and_file(given) == (code, file)


def test_files_are_sorted_by_language():
    assert by_language(["de.txt", "en=a", "de=b", "c.txt"]) == {
        "de": ("de.txt", "b"),
        "en": ("a",),
        UNNAMED: ("c.txt",),
    }


def test_languages_are_counted_as_the_hypernetwork_does():
    assert index_of_language("de", ("en", "de")) == 1
    assert index_of_language("de", ()) == index_of_language(UNNAMED, ()) == 0
    with pytest.raises(InputError, match="write CODE=FILE, with one of en de"):
        index_of_language(UNNAMED, ("en", "de"))
    with pytest.raises(InputError, match="has the language 'fr': write CODE=FILE"):
        index_of_language("fr", ("en", "de"))


def test_a_file_that_is_there_is_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert language_and_file("lang=de/part.jsonl::body") == ("lang", "de/part.jsonl::body")
    (tmp_path / "lang=de").mkdir()
    (tmp_path / "lang=de" / "part.jsonl").touch()
    assert language_and_file("lang=de/part.jsonl::body") == (UNNAMED, "lang=de/part.jsonl::body")
