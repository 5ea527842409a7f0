"""`dyntok encode` writes what the library computes, prints the figures of DESIGN, and compares honestly."""

import gzip
import io
import json
import re
import shutil
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from dyntok_jax.assets import load_sample
from dyntok_jax.cli import main
from dyntok_jax.cli.shared.compile_clock import CompileClock
from dyntok_jax.convert.bert_checkpoint import save_encoder
from dyntok_jax.encoding import DynamicEncoder
from dyntok_jax.models import Encoder, EncoderConfig
from dyntok_jax.options import Budget, Merges, Merging, Share
from tests.support.tiny import write_tiny_encoder, write_tiny_hypernet

SAMPLE_FIGURES = """en 1723 1505 12.7 · ar 1755 1138 35.2 · bg 2031 1580 22.2 · de 1964 1440 26.7 · el 2519 1675 33.5
· es 1938 1655 14.6 · fr 2201 1817 17.4 · hi 2131 1713 19.6 · ru 1979 1433 27.6 · sw 1947 1482 23.9 · th 1900 248 86.9
· tr 1916 1210 36.8 · ur 2036 1811 11.1 · vi 2147 2101 2.1 · zh 1449 320 77.9"""
TEXTS = ["All human beings are born free", "", "é", "dignity and rights, dignity and rights", "\U0001f600 \u200b"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_tiny_encoder(folder / "model")
    write_tiny_hypernet(folder / "mono")
    write_tiny_hypernet(folder / "langs", n_langs=26)
    write_tiny_hypernet(folder / "narrow", width=16)
    return folder


@pytest.fixture
def run(tiny, tmp_path, monkeypatch, capsys):
    """Runs `dyntok encode` in an empty folder; gives what it printed, after the status was looked at."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")

    def encode(*options, status=0):
        options = [str(option) for option in options]
        assert main(["encode", "--model", str(tiny / "model"), *options]) == status
        out, err = capsys.readouterr()
        err = re.sub(r"^Encoding: .*\n", "", err, flags=re.MULTILINE)  # shown every 10 s, on a busy machine
        assert (err == "") == (status == 0)
        assert err.count("\n") == (status != 0)
        return err if status else out

    return encode


def token_lines(folder):
    with (folder / "tokens.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def e5_tokenizer_folder(e5_small_folder, tmp_path_factory):
    """The real tokenizer on a model small enough to run the whole sample in seconds: tokens need no good weights."""
    folder = tmp_path_factory.mktemp("e5")
    sizes = {"width": 8, "n_layers": 1, "n_heads": 1, "ffn_width": 8, "n_token_types": 1}
    config = EncoderConfig(model_type="bert", vocab_size=250037, **sizes)
    shapes = jax.eval_shape(lambda key: Encoder(config, key), jax.random.key(0))
    save_encoder(folder, config, jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01, leaf.dtype), shapes))
    for name in ("tokenizer.json", "tokenizer_config.json", "config_sentence_transformers.json"):
        shutil.copyfile(e5_small_folder / name, folder / name)
    return folder


def test_the_sample_without_limit_gives_the_figures_of_the_design(e5_tokenizer_folder, tmp_path, capsys):
    options = ["--max-subwords", "none", "--no-static", "--output", str(tmp_path), "--json", str(tmp_path / "f.json")]
    assert main(["encode", "--model", str(e5_tokenizer_folder), *options]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    figures = json.loads((tmp_path / "f.json").read_text())
    for row in SAMPLE_FIGURES.split("·"):
        language, n_static, n_tokens, reduction = row.split()
        assert [language, "50", n_static, n_tokens, reduction, "%"] in [line[:6] for line in table]
        assert figures[f"{language}_tokens"] == int(n_tokens)
    assert ["all", "750", "29636", "21128"] in [line[:4] for line in table]
    assert f"{figures['all_reduction_percent']:.1f}" == "28.7"
    embeddings = load_file(tmp_path / "embeddings.safetensors")
    assert {name: rows.shape for name, rows in embeddings.items()} == dict.fromkeys(load_sample(), (50, 8))


@pytest.mark.slow
def test_files_hold_what_the_library_computes(run, tiny, tmp_path):
    out = run("texts.txt", "--share", 60, "--hypernet", tiny / "mono", "--output", "out")
    encoder = DynamicEncoder.load(tiny / "model", tiny / "mono")
    expected = encoder.encode(TEXTS, goal=Share(60))
    static = encoder.encode(TEXTS, goal=None)
    embeddings = load_file(tmp_path / "out" / "embeddings.safetensors")
    np.testing.assert_array_equal(embeddings.pop("embeddings"), expected.embeddings_ND)
    assert not embeddings
    with safe_open(tmp_path / "out" / "embeddings.safetensors", "np") as file:
        assert file.metadata()["goal"] == "Share(percent=60.0)"
        assert file.metadata()["model"] == str(tiny / "model")
    for row, line in enumerate(token_lines(tmp_path / "out")):
        assert line["index"] == line["row"] == row
        assert line["tokens"] == expected.tokens[row].strings(encoder.tokenizer)
        assert line["spans"] == expected.tokens[row].span_T2.tolist()
        assert line["n_static"] == static.n_tokens[row]
        assert line["n_tokens"] == expected.n_tokens[row] == len(line["tokens"]) - len(line["uncounted"])
    assert [str(static.n_tokens.sum()), str(expected.n_tokens.sum())] == out.splitlines()[3].split()[2:4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "texts.txt"]


@pytest.mark.parametrize(
    ("options", "library"),
    [
        (["--merges", "3"], {"goal": Merges(3)}),
        (["--budget", "20"], {"goal": Budget(20)}),
        (["--boundary", "word", "--scope", "example"], {"merging": Merging(boundary="word", scope="example")}),
        (["--max-subwords", "2", "--batch-size", "2"], {"merging": Merging(max_subwords=2), "batch_size": 2}),
        (
            ["--pretoken-merges", "3", "--positions", "subwords"],
            {"merging": Merging(pretoken_merges=3, positions="subwords")},
        ),
        (["--prefix", "query: ", "--pooling", "first"], {"prefix": "query: ", "pooling": "first"}),
        (["--pooling", "max", "--truncate-dim", "5"], {"pooling": "max", "truncate_dim": 5}),
        (["--protect", "[a-z]+"], {"merging": Merging(protect="[a-z]+")}),
        (["--mesh", "2x1"], {}),
    ],
)
def test_options_reach_the_library(run, tiny, tmp_path, options, library):
    run("texts.txt", "--no-static", *options)
    expected = DynamicEncoder.load(tiny / "model").encode(TEXTS, **library)
    embeddings = load_file(tmp_path / "dyntok-output" / "embeddings.safetensors")["embeddings"]
    np.testing.assert_allclose(embeddings, expected.embeddings_ND, atol=1e-5)
    assert [line["n_tokens"] for line in token_lines(tmp_path / "dyntok-output")] == expected.n_tokens.tolist()


def test_14_1_a_prompt_goes_by_its_name(tiny, run, tmp_path):
    shutil.copytree(tiny / "model", tmp_path / "model")
    prompts = {"prompts": {"query": "query: "}}
    (tmp_path / "model" / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    run("texts.txt", "--no-static", "--model", tmp_path / "model", "--prompt-name", "query")
    expected = DynamicEncoder.load(tmp_path / "model").encode(TEXTS, prefix="query: ").embeddings_ND
    embeddings = load_file(tmp_path / "dyntok-output" / "embeddings.safetensors")["embeddings"]
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    assert "--prefix is a text" in run("texts.txt", "--prefix", "x", "--prompt-name", "query", status=2)
    assert "declares no prompt 'query'" in run("texts.txt", "--prompt-name", "query", status=2)


def test_14_4_special_tokens_are_text_if_asked(run, tmp_path):
    (tmp_path / "special.txt").write_text("a <mask> b\n")
    for options, is_special in (([], True), (["--special-tokens", "text"], False)):
        run("special.txt", "--no-static", *options)
        (line,) = token_lines(tmp_path / "dyntok-output")
        assert (2 in line["uncounted"]) == is_special == (line["n_tokens"] < 3)


def test_hidden_states_are_one_tensor_a_text(run, tmp_path):
    run("texts.txt", "--pooling", "none", "--no-static")
    hidden = load_file(tmp_path / "dyntok-output" / "embeddings.safetensors")
    lines = token_lines(tmp_path / "dyntok-output")
    assert {name: len(rows) for name, rows in hidden.items()} == {
        f"hidden/{line['row']}": len(line["tokens"]) for line in lines
    }


def test_plain_text_may_be_zipped_or_come_by_standard_input(run, tmp_path, monkeypatch):
    content = "\ufeffone two\r\n\r\nthree\u2028four".encode()
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(content))
    run("a.txt.gz", "--no-static")
    zipped = token_lines(tmp_path / "dyntok-output")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    run("-", "--no-static")
    piped = token_lines(tmp_path / "dyntok-output")
    assert len(zipped) == 3
    assert zipped[1]["tokens"] == ["<s>", "</s>"]
    assert [line | {"source": "stdin"} for line in zipped] == piped


@pytest.mark.slow
def test_aligned_files_are_encoded_by_language_each_with_its_own_code(run, tiny, tmp_path):
    rows = [{"en": "human rights", "de": "Menschenrechte"}, {"en": "freedom"}, {"de": "Freiheit", "en": "born free"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = run("a.jsonl", "--hypernet", tiny / "langs")
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines if line.strip()[:3] in ("en ", "de ", "all")] == [
        ["en", "3"],
        ["de", "2"],
        ["all", "5"],
    ]
    assert [(line["source"], line["index"], line["row"]) for line in token_lines(tmp_path / "dyntok-output")] == [
        ("en", 0, 0),
        ("en", 1, 1),
        ("en", 2, 2),
        ("de", 0, 0),
        ("de", 2, 1),
    ]
    encoder = DynamicEncoder.load(tiny / "model", tiny / "langs")
    embeddings = load_file(tmp_path / "dyntok-output" / "embeddings.safetensors")
    german = encoder.encode(["Menschenrechte", "Freiheit"], language="de").embeddings_ND
    np.testing.assert_array_equal(embeddings["de"], german)
    run("a.jsonl", "--hypernet", tiny / "langs", "--only", "de", "--language", "en", "--no-static")
    embeddings = load_file(tmp_path / "dyntok-output" / "embeddings.safetensors")
    assert embeddings.keys() == {"de"}
    assert np.abs(embeddings["de"] - german).max() > 1e-4


def test_the_cache_file_makes_the_second_run_warm(run, tiny):
    options = [
        "texts.txt",
        "--hypernet",
        tiny / "mono",
        "--cache",
        "deep/rows.cache",
        "--json",
        "f.json",
        "--no-static",
    ]
    first = run(*options)
    assert "cache hits" in first
    assert "0.0 %" in first
    assert "100.0 %" in run(*options)


def test_texts_that_fit_only_when_merged_are_encoded_and_static_is_left_out_of_the_comparison(run, tmp_path):
    (tmp_path / "long.txt").write_text("dignity " * 40)
    out = run("long.txt")
    assert "fits the model only when merged" in out
    assert token_lines(tmp_path / "dyntok-output")[0]["n_static"] > 62


def test_too_long_texts_are_told_and_cut_only_when_asked(run, tmp_path):
    (tmp_path / "long.txt").write_text("short\n" + "many different words " * 100)
    assert "Text 1 has" in run("long.txt", status=2)
    assert not (tmp_path / "dyntok-output").exists()
    out = run("long.txt", "--truncate")
    assert "Texts truncated to the model's positions: 1" in out
    line = token_lines(tmp_path / "dyntok-output")[1]
    assert line["n_static"] == line["n_tokens"] == 62


@pytest.mark.slow
def test_a_line_of_a_megabyte_is_no_error_where_truncation_is_allowed(run, tmp_path):
    (tmp_path / "long.txt").write_text("The quick brown fox, 你好 " * 40_000, encoding="utf-8")
    started = time.perf_counter()
    run("long.txt", "--truncate", "--no-static")
    assert time.perf_counter() - started < 60


def test_learnt_merges_are_applied_and_foreign_ones_refused(run, tiny, tmp_path):
    (tmp_path / "corpus.txt").write_text("dignity and rights\n" * 5)
    learn = ["learn-merges", str(tmp_path / "corpus.txt"), "--output", "merges.jsonl", "--merges", "50"]
    assert main([*learn, "--model", str(tiny / "model"), "--boundary", "word"]) == 0
    run("corpus.txt", "--merge-list", "merges.jsonl", "--no-static")
    assert token_lines(tmp_path / "dyntok-output")[0]["n_tokens"] == 3
    assert "omit --boundary" in run("corpus.txt", "--merge-list", "merges.jsonl", "--boundary", "pretoken", status=2)
    assert "omit --share" in run("corpus.txt", "--merge-list", "merges.jsonl", "--share", 50, status=2)
    header, _, rest = (tmp_path / "merges.jsonl").read_text().partition("\n")
    (tmp_path / "foreign.jsonl").write_text(json.dumps(json.loads(header) | {"tokenizer": "other"}) + "\n" + rest)
    assert "another tokenizer" in run("corpus.txt", "--merge-list", "foreign.jsonl", status=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["gone.txt"], "There is no file gone.txt"),
        (["empty.txt"], "empty.txt is empty"),
        (["."], "is a folder"),
        (["binary"], "binary, line 2 holds a NUL byte"),
        (["latin1.txt"], "latin1.txt, line 2: byte 4 is not UTF-8"),
        (["surrogate.jsonl"], "lone surrogate"),
        (["cut.txt.gz"], "not a whole gzip file"),
        (["texts.txt", "--share", "101"], "from 0 to 100"),
        (["texts.txt", "--share", "nan"], "from 0 to 100"),
        (["texts.txt", "--share", "50", "--merges", "3"], "give one of them"),
        (["texts.txt", "--budget", "2"], "room for 2"),
        (["texts.txt", "--max-subwords", "0"], "1 or more"),
        (["texts.txt", "--batch-size", "0"], "1 or more"),
        (["texts.txt", "--mesh", "4"], "DATAxMODEL"),
        (["texts.txt", "--mesh", "100x100"], "does not fit"),
        (["texts.txt", "--only", "de"], "omit --only"),
        (["--only", "xx"], "no text in xx"),
        (["texts.txt", "--cache", "x"], "without a hypernetwork"),
        (["texts.txt", "--output", "texts.txt"], "not a folder"),
        (["texts.txt", "--json", "."], "is a folder"),
        (["texts.txt", "--merge-list", "gone.jsonl"], "cannot be read"),
        (["texts.txt", "--model", "./gone"], "There is no folder"),
        (["texts.txt", "--model", "bare"], "is not a model: it lacks config.json, weights"),
        (["texts.txt", "--hypernet", "NARROW"], "width 16"),
        (["texts.txt", "--hypernet", "LANGS"], "--language"),
        (["--hypernet", "LANGS"], "was not trained for the language 'th'"),
        (["texts.txt", "--hypernet", "LANGS", "--language", "tlh"], "was not trained for the language 'tlh'"),
    ],
)
def test_what_a_user_can_put_right_is_one_line_and_nothing_is_written(run, tiny, tmp_path, options, said):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary").write_bytes(b"ab\n\0\xff")
    (tmp_path / "latin1.txt").write_bytes("ab\ncaf\xe9\n".encode("latin1"))
    (tmp_path / "surrogate.jsonl").write_text('{"en": "\\ud800"}')
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"abc" * 100)[:-10])
    (tmp_path / "bare").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    names = {"NARROW": tiny / "narrow", "LANGS": tiny / "langs"}
    assert said in run(*(names.get(option, option) for option in options), status=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_failed_write_keeps_the_files_that_were_there(run, tmp_path, monkeypatch):
    run("texts.txt", "--no-static")
    before = {path.name: path.read_bytes() for path in (tmp_path / "dyntok-output").iterdir()}
    monkeypatch.setattr("dyntok_jax.cli.shared.encoded_files.save_arrays", _no_space)
    assert "No space left" in run("texts.txt", "--no-static", "--merges", 1, status=2)
    assert {path.name: path.read_bytes() for path in (tmp_path / "dyntok-output").iterdir()} == before


def _no_space(*_, **__):
    raise OSError(28, "No space left on device")


def test_the_clock_counts_compilation_once_and_nothing_else():
    with CompileClock() as clock:
        started = time.perf_counter()
        program = jax.jit(lambda x: jax.jit(jnp.sin)(x) @ x)
        x = jnp.ones((300, 300))
        program(x).block_until_ready()
        passed = time.perf_counter() - started
        compiled = clock.seconds
        assert 0 < compiled <= passed
        program(x).block_until_ready()
        assert clock.seconds == compiled
    jax.jit(jnp.cos)(x)
    assert clock.seconds == compiled
