"""`dyntok build-vocab` and `dyntok embed-vocab`: what the library makes, said in sentences; nothing half-written."""

import gzip
import json
import re

import numpy as np
import pytest
from tokenizers import Tokenizer

from dyntok_jax.assets import load_sample
from dyntok_jax.cli import main
from dyntok_jax.cli.commands import build_vocab
from dyntok_jax.convert import load_decoder, load_tables
from dyntok_jax.text import ByteLevelTokenizer, TextEncoder
from dyntok_jax.vocabulary import (
    GrownVocabulary,
    count_segments,
    grow_entries,
    load_vocabulary,
    load_word_list,
    open_table,
    word_texts,
)
from tests.support.tiny import write_tiny_decoder, write_tiny_decoder_hypernet

DE, EL = (load_sample()[code] for code in ("de", "el"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_tiny_decoder(folder / "tied", n_layers=1, ties_embeddings=True)
    write_tiny_decoder(folder / "untied", n_layers=1)
    write_tiny_decoder(folder / "other", n_layers=1, begins=True)
    write_tiny_decoder_hypernet(folder / "hypernet", folder / "untied", separate_output=True)
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs `dyntok` in a folder with texts; gives what it printed, after the status was looked at."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "de.txt").write_text("\n".join(DE) + "\n", encoding="utf-8")
    with gzip.open(tmp_path / "el.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(EL) + "\n")
    (tmp_path / "words.tsv").write_text("Freiheit\t30\nMenschenrechte\t20\n", encoding="utf-8")

    def dyntok(*arguments, status=0):
        assert main([*map(str, arguments)]) == status
        out, err = capsys.readouterr()
        assert err.count("\n") == (status != 0)
        return err if status else out

    return dyntok


@pytest.fixture
def build(run, tiny):
    def build(*options, model="untied", size=900, status=0):
        named = ["--size", size, "--output", "vocab", "--model", tiny / model]
        return run("build-vocab", *options, *named, status=status)

    return build


@pytest.mark.slow
def test_the_folder_holds_what_the_library_grows(build, tiny, tmp_path):
    out = build("de.txt", "el.txt.gz", "--held-out", 0, "--words", "words.tsv", "--max-subwords", 4)
    tokenizer = ByteLevelTokenizer.load(tiny / "untied")
    words = word_texts(load_word_list([str(tmp_path / "words.tsv")]), tokenizer)
    counts = count_segments([*DE, *EL, *words], TextEncoder(tokenizer))
    expected = GrownVocabulary.from_entries(tokenizer, grow_entries(counts, tokenizer, 300, max_subwords=4), "pretoken")
    assert load_vocabulary(tmp_path / "vocab", tokenizer).fingerprint == expected.fingerprint
    assert Tokenizer.from_file(str(tmp_path / "vocab" / "tokenizer.json")).get_vocab_size() == 900
    assert "900 entries: 600 of the model, 300 new." in out
    assert "No line was held out" in out
    assert "Written: vocab." in out


@pytest.mark.slow
def test_held_out_lines_of_every_file_tell_what_is_saved(build, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(build_vocab, "HELD_OUT_EVERY", 4)
    out = build("de.txt", "el.txt.gz", "--held-out", 6)
    held_out = DE[3:12:4] + EL[3:12:4]
    tokenizer = ByteLevelTokenizer.load(tiny / "untied")
    grown_on = [text for text in [*DE, *EL] if text not in held_out]
    entries = grow_entries(count_segments(grown_on, TextEncoder(tokenizer)), tokenizer, 300, max_subwords=7)
    vocabulary = load_vocabulary(tmp_path / "vocab", tokenizer)
    assert vocabulary.fingerprint == GrownVocabulary.from_entries(tokenizer, entries, "pretoken").fingerprint
    before = TextEncoder(tokenizer).encode_static(held_out).counts.mean()
    after = vocabulary.encode(held_out).counts.mean()
    assert f"On 6 texts held out: {before:.1f} static tokens per text before, {after:.1f} after" in out
    assert after < before


@pytest.mark.slow
def test_aligned_texts_and_boundaries(build, tiny, tmp_path):
    rows = [{"de": de, "el": el} for de, el in zip(DE, EL, strict=True)]
    (tmp_path / "both.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    out = build("both.jsonl", "--boundary", "sentence", "--min-count", 3, size=10**6)
    vocabulary = load_vocabulary(tmp_path / "vocab", ByteLevelTokenizer.load(tiny / "untied"))
    assert vocabulary.boundary == "sentence"
    assert "No other pair occurs 3 times, so there are fewer than 1,000,000" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "Give at least one file to grow on"),
        (["missing.txt"], "There is no file missing.txt"),
        (["de.txt", "--size", "600"], "--size must be more than the 600 entries of .*, got 600"),
        (["de.txt", "--max-subwords", "1"], "max_subwords must be 2 or more"),
        (["de.txt", "--min-count", "0"], "min_count must be 1 or more"),
        (["de.txt", "--held-out", "-1"], "--held-out must be 0 or more"),
        (["--words", "missing.tsv"], "There is no file missing.tsv"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(run, tiny, tmp_path, options, said):
    size = [] if "--size" in options else ["--size", "900"]
    err = run("build-vocab", *options, *size, "--output", "vocab", "--model", tiny / "untied", status=2)
    assert re.search(said, err)
    assert not (tmp_path / "vocab").exists()


def test_another_vocabulary_is_replaced_only_when_asked_for(build, tmp_path):
    build("de.txt")
    before = (tmp_path / "vocab" / "tokenizer.json").read_bytes()
    assert "exists already" in build("el.txt.gz", status=2)
    assert (tmp_path / "vocab" / "tokenizer.json").read_bytes() == before
    build("el.txt.gz", "--overwrite")
    assert (tmp_path / "vocab" / "tokenizer.json").read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["de.txt", "el.txt.gz", "vocab", "words.tsv"]


def test_tables_of_every_kind(build, run, tiny, tmp_path):
    build("de.txt", size=700)
    out = run("embed-vocab", "vocab", "--output", "fvt")
    assert "700 entries (100 new) have an input and an output row, 32 wide, float32" in out
    vocabulary = load_vocabulary(tmp_path / "vocab", ByteLevelTokenizer.load(tiny / "untied"))
    source, output = map(np.asarray, load_tables(tiny / "untied"))
    fvt = open_table(tmp_path / "fvt", vocabulary_hash=vocabulary.fingerprint)
    parts = vocabulary.constituents_ES[7]
    np.testing.assert_allclose(fvt.rows(607, 608)[0], source[parts[parts >= 0]].mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(fvt.rows(0, 600, "output"), output)

    run("embed-vocab", "vocab", "--output", "predicted", "--hypernet", tiny / "hypernet", "--dtype", "bfloat16")
    predicted = open_table(tmp_path / "predicted")
    assert predicted.config.dtype == "bfloat16"
    assert predicted.config.hypernetwork != fvt.config.hypernetwork
    assert not np.allclose(predicted.rows(607, 608).astype(np.float32), fvt.rows(607, 608), atol=1e-2)
    assert "differs in hypernetwork, dtype" in run("embed-vocab", "vocab", "--output", "predicted", status=2)


def test_tied_tables_have_one_row_an_entry(build, run, tmp_path):
    build("de.txt", size=650, model="tied")
    assert "have one row for input and output" in run("embed-vocab", "vocab", "--output", "table", "--mesh", "2x2")
    assert not open_table(tmp_path / "table").config.has_output


def test_vocabularies_and_models_must_fit(build, run, tiny):
    build("de.txt", size=650)
    assert "built for another tokenizer" in run(
        "embed-vocab", "vocab", "--output", "table", "--model", tiny / "other", status=2
    )
    assert "There is no" in run("embed-vocab", "nowhere", "--output", "table", status=2)


def test_tables_are_those_of_the_whole_model(tiny):
    for name in ("tied", "untied"):
        _, decoder = load_decoder(tiny / name)
        source, output = load_tables(tiny / name)
        np.testing.assert_array_equal(source, decoder.word_embeddings[...])
        assert (output is None) == (name == "tied")
    np.testing.assert_array_equal(output, decoder.output_embeddings[...])
