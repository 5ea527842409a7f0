import gzip
import hashlib
import json
from importlib.resources import files
from unicodedata import is_normalized

import pytest

from dyntok_jax.assets import load_sample, xlmr_charsmap
from dyntok_jax.errors import InputError
from dyntok_jax.text import read_aligned, read_rows

XNLI_LANGUAGES = ["en", "ar", "bg", "de", "el", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"]


def test_sample_has_50_paragraphs_in_the_15_languages_of_xnli():
    sample = load_sample()
    assert list(sample) == XNLI_LANGUAGES
    assert {len(texts) for texts in sample.values()} == {50}
    assert all(text.strip() and is_normalized("NFC", text) for texts in sample.values() for text in texts)


def test_sample_is_in_the_order_of_the_document():
    first, *_, last = load_sample()["en"]
    assert first.startswith("All human beings are born free and equal in dignity and rights.")
    assert last.startswith("Nothing in this Declaration may be interpreted")


def test_packaged_files_are_the_ones_we_know():
    sizes_and_hashes = {
        "udhr_sample.jsonl": (212_885, "28bf8b6c27aab912fb2cd8333d844e71aa76c4b0b3615e5db86ca22d09ff8b82"),
        "xlmr_charsmap.bin": (237_539, "0942789e0111452f1cc446f70036e26d24458c3c7858c53cc12ca4d87531279b"),
    }
    for name, (size, sha256) in sizes_and_hashes.items():
        content = (files("dyntok_jax.assets") / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (size, sha256)
    assert len(xlmr_charsmap()) == 237_539


def test_notice_names_every_packaged_file():
    folder = files("dyntok_jax.assets")
    notice = (folder / "NOTICE").read_text(encoding="utf-8")
    data_files = {path.name for path in folder.iterdir() if path.is_file()} - {"NOTICE", "__init__.py"}
    assert all(name in notice for name in data_files)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_aligned_texts_become_one_column_a_language(tmp_path, suffix):
    rows = [{"key": "1", "en": "one", "de": "eins"}, {"de": "zwei", "fr": ""}, {"en": "three\u2028", "fr": None}]
    content = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    path = tmp_path / f"texts{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else b"\xef\xbb\xbf" + content + b"\r\n")
    expected = {"en": ["one", None, "three\u2028"], "de": ["eins", "zwei", None], "fr": [None, None, None]}
    assert read_aligned(path) == {"en": expected["en"], "de": expected["de"], "fr": expected["fr"]}
    assert read_rows(str(path))[0] == rows[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no texts"),
        (b"\n \n", "holds no texts"),
        (b'{"key": "1"}\n', "holds no texts"),
        (b'{"en": "a"}\n{"en": "\xff"}\n', "line 2: byte 9 is not UTF-8"),
        (b'\n{"en": "a"\n', "line 2 is not JSON"),
        (b"[" * 100_000, "line 1 is not JSON"),
        (b'["a", "b"]\n', "line 1 is a list, not an object"),
        (b'{"en": "a"}\n{"en": 3}\n', "line 2: field 'en' is a number"),
        (b'{"en": "\\ud83d"}\n', "line 1: field 'en' holds a lone surrogate"),
    ],
)
def test_unusable_aligned_files_are_refused_with_the_line(tmp_path, content, message):
    path = tmp_path / "texts.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_aligned(path)


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no file .*nothing\.jsonl"):
        read_aligned(tmp_path / "nothing.jsonl")
    with pytest.raises(InputError, match="is a folder"):
        read_aligned(tmp_path)
    whole = gzip.compress(b'{"en": "a"}' * 100)
    for broken in (b"plain text", whole[:-12], whole[:12] + b"\xff" * 8 + whole[20:]):
        (tmp_path / "texts.jsonl.gz").write_bytes(broken)
        with pytest.raises(InputError, match="not a whole gzip file"):
            read_aligned(tmp_path / "texts.jsonl.gz")
