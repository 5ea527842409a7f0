"""The input pipeline: what a batch of texts holds, and that a number and a seed decide it."""

import gzip
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny import tiny_tokenizer

from dyntok_jax.assets import load_sample
from dyntok_jax.errors import InputError
from dyntok_jax.merging import Share, merge_batch_on_host
from dyntok_jax.text.batches import pad_batch, token_spans
from dyntok_jax.text.byte_level import ByteLevelTokenizer
from dyntok_jax.text.encode import TextEncoder
from dyntok_jax.training.data import DataConfig, training_batches
from dyntok_jax.training.text_batch import make_text_batch

LANGUAGES = ("en", "tr", "th")
PREFIX = "query: "


@pytest.fixture(scope="module")
def tokenizer() -> ByteLevelTokenizer:
    return ByteLevelTokenizer.convert(tiny_tokenizer(), pad_token="<pad>")


@pytest.fixture(scope="module")
def text_encoder(tokenizer) -> TextEncoder:
    return TextEncoder(tokenizer)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, tuple[str, ...]]:
    folder = tmp_path_factory.mktemp("texts")
    for code in LANGUAGES:
        (folder / f"{code}.txt").write_text("\n".join(load_sample()[code]), encoding="utf-8")
    return {code: (str(folder / f"{code}.txt"),) for code in LANGUAGES}


def config_of(files, **options) -> DataConfig:
    return DataConfig(**{"texts": files, "batch_size": 4, "max_length": 48, "threads": 0} | options)


def assert_same(one, other) -> None:
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(left, right)


def batch_of(texts, text_encoder, **options):
    given = {"goal": Share(100), "max_subwords": 7, "max_length": 512, "prefix": PREFIX} | options
    return make_text_batch(texts, np.zeros(len(texts), np.int32), text_encoder, **given)


def test_a_seed_decides_the_batches(files, tokenizer):
    streams = [training_batches(config_of(files, seed=seed), tokenizer) for seed in (3, 3, 4)]
    first, again, other = ([next(stream) for _ in range(20)] for stream in streams)
    assert_same(first, again)
    assert any(a.texts.row_BT.shape != b.texts.row_BT.shape or (a.texts.row_BT != b.texts.row_BT).any()
               for a, b in zip(first, other, strict=True))  # fmt: skip


@pytest.mark.parametrize("threads", [0, 2])
def test_a_stream_resumes_where_it_was_left(files, tokenizer, threads):
    config = config_of(files, threads=threads, mask_probability=0.2)
    stream = training_batches(config, tokenizer)
    for _ in range(17):
        next(stream)
    state = json.dumps(stream.get_state())
    expected = [next(stream) for _ in range(20)]
    resumed = training_batches(config, tokenizer)
    next(resumed)
    resumed.set_state(json.loads(state))
    assert_same(expected, [next(resumed) for _ in range(20)])


def test_rows_are_the_tokens_of_the_texts(text_encoder):
    texts = load_sample()["tr"][:6]
    batch = batch_of(texts, text_encoder)
    subwords = pad_batch(text_encoder.encode(texts, prefix=PREFIX), np.arange(6), pad_id=1)
    merged = merge_batch_on_host(subwords.ids_BL, subwords.segment_BL, subwords.mask_BL, Share(100), max_subwords=7)
    n_forms = len(batch.forms.language_P)
    for row in range(6):
        tokens = [
            subwords.ids_BL[row, start : start + length].tolist()
            for start, length in zip(merged.start_BT[row], merged.length_BT[row], strict=True)
            if length
        ]
        written = [
            [int(batch.kept_K[at - n_forms])]
            if at >= n_forms
            else batch.forms.surface_PS[at][batch.forms.is_subword_PS[at]].tolist()
            for at in batch.row_BT[row][batch.mask_BT[row]]
        ]
        assert written == tokens


@pytest.mark.parametrize("code", ["tr", "th", "hi"])
def test_aligned_tokens_end_at_the_same_character(text_encoder, code):
    texts = load_sample()[code][:8]
    batch = batch_of(texts, text_encoder, goal=Share(60))
    static = pad_batch(text_encoder.encode_static(texts, prefix=PREFIX), np.arange(8), pad_id=1)
    subwords = pad_batch(text_encoder.encode(texts, prefix=PREFIX), np.arange(8), pad_id=1)
    merged = merge_batch_on_host(subwords.ids_BL, subwords.segment_BL, subwords.mask_BL, Share(60), max_subwords=7)
    ends_BT = token_spans(subwords, merged)[..., 1]
    rows, tokens = np.nonzero(batch.aligned_BT >= 0)
    np.testing.assert_array_equal(ends_BT[rows, tokens], static.span_BL2[rows, batch.aligned_BT[rows, tokens], 1])
    assert len(rows) > 0.6 * batch.mask_BT.sum()
    for row in range(8):  # each subword at most once, in order
        aligned = batch.aligned_BT[row][batch.aligned_BT[row] >= 0]
        assert (np.diff(aligned) > 0).all()


def test_each_new_token_comes_once(text_encoder):
    batch = batch_of(load_sample()["ru"][:8], text_encoder, predict_all=True)
    used = batch.forms.is_subword_PS.any(axis=1)
    forms = [tuple(form[keep]) for form, keep in zip(batch.forms.surface_PS, batch.forms.is_subword_PS, strict=True)]
    assert len(set(np.array(forms, object)[used])) == used.sum()
    kept = batch.kept_K[: int(batch.n_kept)]
    assert set(kept.tolist()) == {0, 2}  # <s> and </s>


def test_texts_longer_than_there_is_room_for_are_cut(text_encoder):
    batch = batch_of([" ".join(load_sample()["en"][:9]), "short"], text_encoder, max_length=40)
    assert batch.static_BL.shape == (2, 40)
    assert batch.mask_BT.sum(axis=1).max() <= 40
    assert batch.static_BL[0, -1] == 2  # the end of the sequence is still said


def test_few_shapes_come_out(files, tokenizer):
    stream = training_batches(config_of(files), tokenizer)
    shapes = set()
    for _ in range(60):
        texts = next(stream).texts
        shapes.add((texts.static_BL.shape, texts.row_BT.shape, texts.forms.surface_PS.shape))
    assert len(shapes) <= 12


def test_gzip_files_are_read(tmp_path, files, tokenizer):
    path = tmp_path / "en.txt.gz"
    path.write_bytes(gzip.compress(Path(files["en"][0]).read_bytes()))
    plain = training_batches(config_of({"en": files["en"]}), tokenizer)
    packed = training_batches(config_of({"en": (str(path),)}), tokenizer)
    assert_same(next(plain), next(packed))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "no text in language en"),
        (b"one text\n", "give more text"),
        (b"fine\nbad \xff\n", "line 2: byte 5 is not UTF-8"),
        (None, "There is no file"),
    ],
)
def test_bad_texts_are_named(tmp_path, tokenizer, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        training_batches(config_of({"en": (str(path),)}), tokenizer)


def test_a_language_the_hypernetwork_has_not_is_named(files, tokenizer):
    with pytest.raises(InputError, match="'th'"):
        training_batches(config_of(files), tokenizer, ("en", "tr"))
