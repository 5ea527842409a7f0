"""Where training text is read from, what is held out of it, and that a run does not go on with another."""

import gzip
import json
import sys

import jaxtyping
import pytest

from dyntok_jax.errors import CheckpointError, ConfigError, InputError
from dyntok_jax.text import TextEncoder
from dyntok_jax.training.data import (
    DataConfig,
    training_batches,
)
from dyntok_jax.training.data.sources import read_paragraphs
from dyntok_jax.training.data.training_data import (
    load_samples,
    validation_texts,
)

ROWS = [{"text": "one\n two \n", "body": "uno"}, {"text": "three", "body": "tres"}]
PARAGRAPHS = ["one", "two", "three"]


def long_paragraphs(code: str) -> list[str]:
    return [f"paragraph number {number} in {code} is long enough to be held out" for number in range(40)]


@pytest.fixture
def config(tmp_path) -> DataConfig:
    for code in ("en", "tr"):
        lines = [*long_paragraphs(code), "a title", long_paragraphs(code)[0]]
        (tmp_path / f"{code}.txt").write_text("\n".join(lines), encoding="utf-8")
    texts = {code: (str(tmp_path / f"{code}.txt"),) for code in ("en", "tr")}
    return DataConfig(texts, batch_size=4, max_length=48, threads=0, held_out=10, pieces_per_batch=0)


def changed(config: DataConfig, **options) -> DataConfig:
    return DataConfig(**vars(config) | options)


# ---- sources


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_json_lines_are_read(tmp_path, suffix):
    path = tmp_path / f"texts{suffix}"
    content = "\n\n".join(json.dumps(row) for row in ROWS).encode()
    path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    assert read_paragraphs(str(path)) == PARAGRAPHS
    assert read_paragraphs(f"{path}::body") == ["uno", "tres"]


def test_parquet_is_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = str(tmp_path / "texts.parquet")
    parquet.write_table(pyarrow.Table.from_pylist([*ROWS, {"text": None, "body": None}]), path)
    assert read_paragraphs(path) == PARAGRAPHS
    assert read_paragraphs(f"{path}::body") == ["uno", "tres"]
    with pytest.raises(InputError, match="no column 'title': name one of text, body"):
        read_paragraphs(f"{path}::title")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="not a complete parquet file"):
        read_paragraphs(str(tmp_path / "damaged.parquet"))
    with pytest.raises(InputError, match="There is no file"):
        read_paragraphs(str(tmp_path / "missing.parquet"))
    latin = pyarrow.array([b"d\xe9j\xe0"], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": latin}), path)
    with pytest.raises(InputError, match="column text holds text that is not UTF-8"):
        read_paragraphs(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_data_sets_are_read(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "folder"
    folder.mkdir()
    for split in ("train", "test"):
        rows = ROWS if split == "train" else ROWS[1:]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert read_paragraphs(f"hf:{folder}") == PARAGRAPHS
    assert read_paragraphs(f"hf:{folder}:default:test::body") == ["tres"]
    with pytest.raises(InputError, match="no column 'title': name one of text, body"):
        read_paragraphs(f"hf:{folder}::title")
    with pytest.raises(InputError, match="cannot be loaded"):
        read_paragraphs(f"hf:{tmp_path / 'nothing'}")


@pytest.mark.parametrize(("source", "module"), [("texts.parquet", "pyarrow"), ("hf:some/name", "datasets")])
def test_a_missing_package_is_named(monkeypatch, source, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"takes {module}: pip install 'dyntok_jax\[data\]'"):
        read_paragraphs(source)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "fine"', "line 2 is not JSON"),
        (b'["text"]', "line 2 is a list"),
        (b'{"body": "x"}', "line 2 has no field 'text': name one of body"),
        (b"{}", "line 2 has no field 'text': name one of none"),
        (b'{"text": 3}', "line 2 holds a number, not a text"),
        (b'{"text": "\\ud800"}', "line 2 holds a lone surrogate"),
        (b'{"text": "\xff"}', "line 2: byte 11 is not UTF-8"),
    ],
)
def test_a_line_that_is_no_text_is_named(tmp_path, line, message):
    (tmp_path / "texts.jsonl").write_bytes(b'{"text": "fine"}\n' + line)
    with pytest.raises(InputError, match=message):
        read_paragraphs(str(tmp_path / "texts.jsonl"))


def test_plain_text_has_no_fields():
    with pytest.raises(InputError, match="read as plain text"):
        read_paragraphs("de.txt::body")


# ---- what is held out


def test_held_out_paragraphs_are_not_trained_on(config, tokenizer):
    held_out = validation_texts(config)
    assert {code: len(set(texts)) for code, texts in held_out.items()} == {"en": 10, "tr": 10}
    samples = load_samples(config, TextEncoder(tokenizer))
    trained = "\n".join(samples.text(row) for row in range(samples.n_texts))
    for code, texts in held_out.items():
        for paragraph in (*long_paragraphs(code), "a title"):
            assert (paragraph in trained) == (paragraph not in texts)


def test_the_order_of_texts_decides_nothing_about_what_is_held_out(config, tmp_path):
    before = validation_texts(config)
    lines = (tmp_path / "en.txt").read_text(encoding="utf-8").split("\n")
    (tmp_path / "en.txt").write_text("\n".join(reversed(lines)), encoding="utf-8")
    assert validation_texts(config) == before


def test_something_must_be_left_to_train_on(config, tokenizer, tmp_path):
    (tmp_path / "en.txt").write_text("\n".join(long_paragraphs("en")[:10]), encoding="utf-8")
    with pytest.raises(InputError, match="hold out fewer than 10"):
        training_batches(config, tokenizer)
    with pytest.raises(ConfigError, match="set held_out"):
        validation_texts(changed(config, held_out=0))


# ---- states and configs


def test_a_state_names_what_has_changed(config, tokenizer, tmp_path):
    state = json.loads(json.dumps(training_batches(config, tokenizer).get_state()))
    training_batches(changed(config, threads=1, prefetch=2), tokenizer).set_state(state)  # decide nothing
    with pytest.raises(CheckpointError, match="seed was 0 and is 1; share was 'uniform' and is 'fixed'"):
        training_batches(changed(config, seed=1, share="fixed"), tokenizer).set_state(state)
    (tmp_path / "more.txt").write_text("\n".join(["other text"] * 9), encoding="utf-8")
    texts = {**config.text, "tr": (str(tmp_path / "more.txt"),)}
    with pytest.raises(CheckpointError, match="contents of texts was"):
        training_batches(changed(config, text=texts), tokenizer).set_state(state)
    with pytest.raises(CheckpointError, match="not the state of a stream"):
        training_batches(config, tokenizer).set_state({"next_index": 3})


def test_a_corpus_may_move(config, tokenizer, tmp_path):
    state = training_batches(config, tokenizer).get_state()
    (tmp_path / "en.txt").rename(tmp_path / "moved.txt")
    texts = {**config.text, "en": (str(tmp_path / "moved.txt"),)}
    training_batches(changed(config, text=texts), tokenizer).set_state(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": {}, "pieces_per_batch": 0}, "nothing to train on"),
        ({"text": {"en": "en.txt"}}, "put it in a tuple"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"prefetch": 0}, "prefetch must be 1 or more"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"share": "half"}, "share must be one of uniform, gaussian, fixed, got 'half'"),
        ({"boundary": "none"}, "boundary must be one of .*, got 'none'"),
        ({"pieces": "split"}, "pieces must be one of decompose, identity, got 'split'"),
        ({"share_mean": 101.0}, "from 0 to 100"),
        ({"full_probability": 1.5}, "full_probability must be a probability, from 0 to 1, got 1.5"),
        ({"language_exponent": float("nan")}, "language_exponent must be a number that is not negative, got nan"),
        (
            {"words": {"en": ("w.txt",)}, "words_share": {"en": 2.0}},
            "words_share of en must be a part of the samples, from 0 to 1, got 2.0",
        ),
        ({"words_share": {"en": 0.5}}, "words_share names en"),
        ({"language_weights": {"en": float("inf")}}, "language_weights of en must be a positive number, got inf"),
        ({"language_weights": {"tr": 2.0}}, "language_weights names tr"),
    ],
)
def test_values_that_make_no_sense_are_named(monkeypatch, options, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users have no check of types before ours
    with pytest.raises(ConfigError, match=message):
        DataConfig(**{"text": {"en": ("en.txt",)}} | options)


def test_a_length_without_room_for_text_is_named(config, tokenizer):
    with pytest.raises(InputError, match="max_length 2 leaves no room for text"):
        training_batches(changed(config, max_length=2), tokenizer)
