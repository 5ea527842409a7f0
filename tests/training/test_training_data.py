"""The input pipeline: what a batch of texts holds, and that a number and a seed decide it."""

import gzip
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyntok_jax.assets import load_sample
from dyntok_jax.embedding import Hypernet, HypernetConfig, TokenEmbedder, init_hypernet, predict_embeddings
from dyntok_jax.errors import InputError
from dyntok_jax.merging import merge_batch_on_host, merge_texts
from dyntok_jax.options import FULL, Merging, Share
from dyntok_jax.text import pad_batch, token_spans
from dyntok_jax.training.data import DataConfig, training_batches
from dyntok_jax.training.data.text_batch import make_text_batch

LANGUAGES = ("en", "tr", "th")
PREFIX = "query: "


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, tuple[str, ...]]:
    folder = tmp_path_factory.mktemp("texts")
    for code in LANGUAGES:
        (folder / f"{code}.txt").write_text("\n".join(load_sample()[code]), encoding="utf-8")
    return {code: (str(folder / f"{code}.txt"),) for code in LANGUAGES}


def config_of(files, **options) -> DataConfig:
    given = {"text": files, "batch_size": 4, "max_length": 48, "threads": 0, "held_out": 0, "pieces_per_batch": 0}
    return DataConfig(**given | options)


def assert_same(one, other) -> None:
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(left, right)


def batch_of(texts, text_encoder, *, goal=FULL, language_B=None, **options):
    config = DataConfig(**{"max_length": 512, "prefix": PREFIX} | options)
    language_B = np.zeros(len(texts), np.int32) if language_B is None else language_B
    return make_text_batch(texts, language_B, text_encoder, config, goal=goal, rng=np.random.default_rng(0))


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


def test_forms_have_the_language_of_their_text(text_encoder):
    texts = [load_sample()["en"][0], load_sample()["tr"][0], load_sample()["en"][0]]
    batch = batch_of(texts, text_encoder, language_B=np.array([4, 7, 2], np.int32), prefix="")
    n_forms = len(batch.forms.language_P)
    for row, language in enumerate([4, 7, 2]):
        predicted = batch.row_BT[row][batch.mask_BT[row] & (batch.row_BT[row] < n_forms)]
        assert set(batch.forms.language_P[predicted].tolist()) == {language}
    # the same token in two languages is two tokens
    surfaces = [batch.forms.surface_PS[batch.forms.language_P == language] for language in (4, 2)]
    used = [surface[surface.any(axis=1)] for surface in surfaces]
    np.testing.assert_array_equal(*used)


def test_a_stream_counts_languages_as_the_hypernetwork_does(files, tokenizer):
    languages = ("th", "xx", "tr", "en")
    for code, index in [("th", 0), ("tr", 2), ("en", 3)]:
        config = config_of({code: files[code]}, pieces_per_batch=8)
        batch = next(training_batches(config, tokenizer, languages))
        used = batch.texts.forms.is_subword_PS.any(axis=1)
        assert set(batch.texts.forms.language_P[used].tolist()) == {index}
        assert set(batch.pieces.forms.language_P.tolist()) == {index}


def test_text_tokens_alone_are_hidden(text_encoder):
    texts = load_sample()["ru"][:12]
    batch = batch_of(texts, text_encoder, goal=Share(0), mask_probability=1.0)
    subwords = pad_batch(text_encoder.encode(texts, prefix=PREFIX), np.arange(12), pad_id=1)
    np.testing.assert_array_equal(batch.is_masked_BT.sum(axis=1), subwords.is_counted_BL.sum(axis=1))
    assert not (batch.is_masked_BT & ~batch.mask_BT).any()


def test_as_many_tokens_are_hidden_as_asked_for(text_encoder):
    texts = load_sample()["ru"][:40]
    all_hidden, some = (
        batch_of(texts, text_encoder, mask_probability=probability).is_masked_BT for probability in (1.0, 0.15)
    )
    assert some.sum() / all_hidden.sum() == pytest.approx(0.15, abs=0.03)
    assert not (some & ~all_hidden).any()
    assert not batch_of(texts, text_encoder).is_masked_BT.any()


def random_hypernet(tokenizer) -> tuple[HypernetConfig, Hypernet]:
    """One of three languages; drawn by numpy, for there is nothing to compile."""
    config = HypernetConfig(
        width=16,
        hidden_width=16,
        ffn_width=32,
        n_layers=1,
        n_heads=2,
        vocab_size=tokenizer.n_own,
        n_extra_tokens=tokenizer.vocab_size - tokenizer.n_own,
        n_langs=3,
        langs=LANGUAGES,
        predict_bias=False,
    )
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(partial(init_hypernet, config), jax.random.key(0))
    return config, jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), shapes)


def test_rows_are_those_of_the_embedder(tokenizer, text_encoder):
    config, hypernet = random_hypernet(tokenizer)
    source_VD = jnp.asarray(np.random.default_rng(1).normal(size=(tokenizer.n_own, config.width)), jnp.float32)
    embedder = TokenEmbedder(tokenizer, source_VD, (config, hypernet))
    texts = [load_sample()[code][3] for code in LANGUAGES]
    language_B = np.arange(3, dtype=np.int32)
    batch = batch_of(texts, text_encoder, goal=Share(70), language_B=language_B, prefix="")
    predicted = jax.jit(predict_embeddings)(
        hypernet, batch.forms.surface_PS, batch.forms.is_subword_PS, source_VD, batch.forms.language_P
    )
    rows_RD = np.concatenate([predicted.input_UD, source_VD[batch.kept_K]])

    merging = embedder.resolve(Merging(Share(70), max_subwords=7), scope="batch", merge_last=True)
    tokens = merge_texts(text_encoder.encode(texts), merging, batch_size=3, limit=512, truncate=False)
    new_M, new_UD = embedder.new_rows(tokens, language_B)
    first_M = tokens.subwords.ids_N[tokens.start_M]
    kept_MD = np.asarray(source_VD)[np.minimum(first_M, tokenizer.n_own - 1)]
    expected_MD = np.where(new_M[:, None] >= 0, new_UD[np.maximum(new_M, 0)], kept_MD)
    np.testing.assert_array_equal(batch.mask_BT.sum(axis=1), tokens.lengths)
    np.testing.assert_allclose(rows_RD[batch.row_BT[batch.mask_BT]], expected_MD, rtol=1e-5, atol=1e-5)
