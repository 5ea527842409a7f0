"""`DynamicEncoder`: static means static, new tokens get their rows, and no option changes what it should not."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dyntok_jax import Budget, DynamicEncoder, Merges, Merging, Share, learn_merges
from dyntok_jax.convert import load_hypernet, save_hypernet
from dyntok_jax.embedding import EmbeddingCache, TokenEmbedder
from dyntok_jax.errors import ConfigError, InputError, TooLongError
from dyntok_jax.models import encode, encode_ids
from dyntok_jax.sharding import make_mesh
from dyntok_jax.text import bucket, pad_batch
from tests.support.tiny import WIDTH, write_tiny_encoder, write_tiny_hypernet

ALONE = Merging(scope="example")
TEXTS = [
    "All human beings are born free and equal in dignity.",
    "Freiheit",
    "",
    "世界人权宣言 🙂",
    "x",
    "Hür ve eşit doğarlar.",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    write_tiny_encoder(root / "model")
    write_tiny_hypernet(root / "plain")
    write_tiny_hypernet(root / "other", seed=1)
    write_tiny_hypernet(root / "languages", n_langs=26)
    write_tiny_hypernet(root / "residual", residual=True)
    write_tiny_hypernet(root / "wide", width=2 * WIDTH)
    return root


@pytest.fixture(scope="module")
def fvt(folders):
    return DynamicEncoder.load(folders / "model")


@pytest.fixture
def with_hypernet(folders):
    return DynamicEncoder.load(folders / "model", folders / "plain")


def close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.slow
def test_static_is_the_model_on_its_own_ids(fvt):
    found = fvt.encode(TEXTS, goal=None, pooling="none")
    for text, tokens, hidden in zip(TEXTS, found.tokens, found.hidden, strict=True):
        own = fvt.tokenizer.own.encode(text)
        assert [token for (token,) in tokens.ids()] == own.ids
        ids_BT = np.array([own.ids], np.int32)
        expected = encode_ids(fvt.encoder, jnp.asarray(ids_BT), jnp.asarray(ids_BT >= 0), jnp.zeros_like(ids_BT))
        close(hidden, np.asarray(expected)[0])


def test_static_adds_nothing_to_the_model(fvt):
    """On the very batch that the encoder makes, the numbers are those of the model to the last bit."""
    text = TEXTS[0]
    found = fvt.encode([text], goal=None, pooling="none").hidden[0]
    subwords, length = fvt.text_encoder.encode_static([text]), bucket(len(found))
    batch = pad_batch(subwords, np.array([0]), pad_id=fvt.tokenizer.pad_id, length=length)
    expected = jax.jit(encode_ids)(fvt.encoder, batch.ids_BL, batch.mask_BL, batch.type_BL)
    np.testing.assert_array_equal(found, np.asarray(expected)[0, : len(found)])


def test_no_merges_leave_the_subwords(fvt):
    text = "All human beings are born free"  # plain words: byte-level form splits them as the model does
    none, static = (fvt.encode([text], goal=goal, pooling="none") for goal in (Merges(0), None))
    assert none.tokens[0].ids() == static.tokens[0].ids()
    close(none.hidden[0], static.hidden[0], 1e-6)


def test_merged_tokens_are_embedded_as_the_mean_of_their_subwords(fvt):
    """The device sees exactly the mean: checked by running the model on rows put together by hand."""
    found = fvt.encode([TEXTS[0]], pooling="none")
    tokens = found.tokens[0]
    assert any(len(token) > 1 for token in tokens.ids())
    table = np.asarray(fvt.encoder.word_embeddings[...])
    rows_TD = np.stack([table[[i if i < fvt.tokenizer.n_own else 3 for i in token]].mean(0) for token in tokens.ids()])
    mask = jnp.ones((1, len(tokens)), bool)
    close(found.hidden[0], np.asarray(encode(fvt.encoder, jnp.asarray(rows_TD)[None], mask, mask.astype(jnp.int32)))[0])


@pytest.mark.parametrize("goal", [None, Merges(5), Share(50), Share(100), Budget(40)])
def test_every_text_keeps_its_place(fvt, goal):
    whole = fvt.encode(TEXTS, merging=Merging(goal, scope="example"))
    assert whole.embeddings_ND.shape == (len(TEXTS), WIDTH)
    np.testing.assert_allclose(np.linalg.norm(whole.embeddings_ND, axis=1), 1, rtol=1e-5)
    for row, text in enumerate(TEXTS):  # scope `example`: no text depends on its neighbours
        alone = fvt.encode([text], merging=Merging(goal, scope="example"), batch_size=1)
        assert alone.tokens[0].ids() == whole.tokens[row].ids()
        close(alone.embeddings_ND[0], whole.embeddings_ND[row])
        assert alone.n_tokens[0] == whole.n_tokens[row] <= whole.n_subwords[row]


def test_spans_give_back_the_text(fvt):
    found = fvt.encode(TEXTS, prefix="query: ")
    for text, tokens in zip(TEXTS, found.tokens, strict=True):
        assert "".join(text[a:b] for a, b in tokens.span_T2[tokens.is_counted_T]) == text.replace("\u3000", " ")
        assert "query" in "".join(tokens.strings(fvt.tokenizer))


def test_merging_shortens_and_pooling_first_takes_the_first(fvt):
    dynamic, static = fvt.encode(TEXTS, pooling="none"), fvt.encode(TEXTS, goal=None, pooling="none")
    assert dynamic.n_tokens.sum() < static.n_tokens.sum()
    first = fvt.encode(TEXTS, pooling="first", normalize=False)
    close(first.embeddings_ND, np.stack([hidden[0] for hidden in dynamic.hidden]))


def test_nothing_to_encode_is_no_error(fvt):
    for goal in (None, Share(100)):
        assert fvt.encode([], goal=goal).embeddings_ND.shape == (0, WIDTH)
        empty = fvt.encode([""], goal=goal)
        assert empty.n_tokens.tolist() == [0]
        assert np.isfinite(empty.embeddings_ND).all()


def test_pairs_and_words_survive_merging(fvt):
    pair = fvt.encode([("All human beings", "are born free")]).tokens[0]
    assert pair.strings(fvt.tokenizer)[:1] == ["<s>"]
    words = ["All", "human", "beings", "(born)", "free"]
    tokens = fvt.encode([words]).tokens[0]
    spelt = {}
    for word, text in zip(tokens.word_T, tokens.strings(fvt.tokenizer), strict=True):
        spelt[word] = spelt.get(word, "") + text
    assert [spelt[word].strip() for word in range(len(words))] == words


def test_long_texts_are_told_and_cut_only_when_asked(fvt):
    text = "Freiheit und Gleichheit " * 60
    with pytest.raises(TooLongError, match=r"Text 1 has \d+ tokens after merging.*room for 64"):
        fvt.encode(["x", text])
    for goal in (Share(100), None):
        cut = fvt.encode(["x", text], goal=goal, truncate=True, pooling="none")
        assert cut.hidden[1].shape == (64, WIDTH)
        assert cut.tokens[1].strings(fvt.tokenizer)[-1] == "</s>"
    own = fvt.tokenizer.own.encode(text).ids
    assert [token for (token,) in cut.tokens[1].ids()] == [*own[:63], 2]


def test_special_tokens_within_a_text_are_cut_with_it(fvt):
    cut = fvt.encode(["a </s>" * 70], truncate=True)
    assert len(cut.tokens[0]) == 64


@pytest.mark.parametrize("goal", [None, Share(100)])
def test_14_4_a_mask_in_a_text_is_text_if_asked(folders, fvt, goal):
    mask = fvt.tokenizer.own.token_to_id("<mask>")
    as_text = DynamicEncoder.load(folders / "model", special_tokens="text")
    for encoder, is_special in ((fvt, True), (as_text, False)):
        tokens = encoder.encode(["a <mask> b"], goal=goal).tokens[0]
        assert (mask in tokens.subword_L) == is_special
        assert tokens.span_T2[1:-1].min() == 0
        assert tokens.span_T2[1:-1].max() == len("a <mask> b")
        marked = tokens.span_T2[[ids == [mask] for ids in tokens.ids()]].tolist()
        assert marked == ([[2, 8]] if is_special else [])
    with pytest.raises(InputError, match="private-use character"):
        as_text.encode([fvt.text_encoder.special_names.swap("<mask>")])


def test_a_budget_that_cannot_be_met_is_told(fvt):
    with pytest.raises(TooLongError, match="Text 34 "):
        fvt.encode(["x"] * 34 + [TEXTS[0]], goal=Budget(3))
    assert len(fvt.encode([TEXTS[0]], goal=Budget(3), truncate=True).tokens[0]) == 3


def test_cache_cold_and_warm_give_the_same(with_hypernet):
    cold = with_hypernet.encode(TEXTS)
    warm = with_hypernet.encode(TEXTS)
    assert cold.cache_misses > 0
    assert (warm.cache_hits, warm.cache_misses) == (cold.cache_hits + cold.cache_misses, 0)
    np.testing.assert_array_equal(cold.embeddings_ND, warm.embeddings_ND)
    with_hypernet.cache = EmbeddingCache(3, WIDTH)  # smaller than a batch needs
    close(with_hypernet.encode(TEXTS).embeddings_ND, cold.embeddings_ND)


def test_hypernetworks_never_share_rows(folders, with_hypernet):
    """Two hypernetworks on one cache: the second must not see the first one's rows."""
    first = with_hypernet.encode(TEXTS)
    other = DynamicEncoder.load(folders / "model", folders / "other")
    expected = other.encode(TEXTS)
    other.cache = with_hypernet.cache
    shared = other.encode(TEXTS)
    assert shared.cache_hits == expected.cache_hits
    np.testing.assert_array_equal(shared.embeddings_ND, expected.embeddings_ND)
    assert np.abs(shared.embeddings_ND - first.embeddings_ND).max() > 1e-3


def test_fvt_takes_no_cache_and_no_cache_of_another_width_is_taken(fvt, with_hypernet):
    """Rows of FVT would carry no mark of their model."""
    with pytest.raises(InputError, match="nothing to cache"):
        fvt.cache = EmbeddingCache(8, WIDTH)
    with pytest.raises(InputError, match="rows are 5 wide"):
        with_hypernet.cache = EmbeddingCache(8, 5)


def test_hypernetworks_of_one_weight_and_two_configs_share_no_rows(with_hypernet):
    expected = with_hypernet.encode(TEXTS)
    config, hypernet = with_hypernet.embedder.hypernet
    changed = dataclasses.replace(config, norm_eps=0.1)
    twin = nnx.merge(nnx.graphdef(hypernet), nnx.state(hypernet))
    twin.config = changed
    embedder = TokenEmbedder(
        with_hypernet.tokenizer, with_hypernet.encoder.word_embeddings[...], (changed, twin), cache_rows=1000
    )
    other = DynamicEncoder(with_hypernet.config, with_hypernet.encoder, embedder)
    other.cache = with_hypernet.cache
    found = other.encode(TEXTS)
    assert found.cache_hits == 0
    assert np.abs(found.embeddings_ND - expected.embeddings_ND).max() > 1e-5


def test_a_hypernetwork_s_own_languages_survive_saving(folders, tmp_path):
    write_tiny_hypernet(tmp_path / "first", n_langs=3, langs=("de", "el", "en"))
    save_hypernet(tmp_path / "second", *load_hypernet(tmp_path / "first"))
    encoder = DynamicEncoder.load(folders / "model", tmp_path / "second")
    assert encoder.embedder.languages == ("de", "el", "en")
    assert encoder.encode(["x"], goal=None).cache_misses == 0  # static needs no language


def test_a_table_smaller_than_the_vocabulary_is_refused(fvt):
    with pytest.raises(ConfigError, match="resize the model's embeddings"):
        TokenEmbedder(fvt.tokenizer, fvt.encoder.word_embeddings[...][:-1])


@pytest.mark.parametrize("options", [{"pooling": "median"}, {"batch_size": 0}])
def test_options_of_the_wrong_kind_are_refused(fvt, options):
    """Without the type checks of the tests, as a user calls it."""
    with pytest.raises(InputError):
        inspect.unwrap(DynamicEncoder.encode)(fvt, TEXTS, **options)


@pytest.mark.slow
def test_bfloat16_models_give_float32_results(folders):
    encoder = DynamicEncoder.load(folders / "model", folders / "plain", dtype=jnp.bfloat16)
    found = encoder.encode(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(found.embeddings_ND, axis=1), 1, rtol=1e-5)
    exact = DynamicEncoder.load(folders / "model", folders / "plain").encode(TEXTS)
    assert (found.embeddings_ND * exact.embeddings_ND).sum(axis=1).min() > 0.99


def test_languages_are_chosen_once_or_per_text(folders):
    encoder = DynamicEncoder.load(folders / "model", folders / "languages")
    english, german = (encoder.encode(TEXTS, language=code, merging=ALONE).embeddings_ND for code in ("en", "de"))
    assert np.abs(english - german).max() > 1e-4
    mixed = encoder.encode(TEXTS, language=["en", "de"] * 3, merging=ALONE).embeddings_ND
    close(mixed[::2], english[::2])
    close(mixed[1::2], german[1::2])
    with pytest.raises(InputError, match="multilingual"):
        encoder.encode(TEXTS)
    with pytest.raises(InputError, match="was not trained for the language 'zz'"):
        encoder.encode(TEXTS, language="zz")
    with pytest.raises(InputError, match="6 texts and 1 languages"):
        encoder.encode(TEXTS, language=["en"])


def test_a_residual_hypernetwork_starts_at_fvt(folders, fvt):
    encoder = DynamicEncoder.load(folders / "model", folders / "residual")
    texts = TEXTS[:3]  # every subword is the model's own
    close(encoder.encode(texts).embeddings_ND, fvt.encode(texts).embeddings_ND)


def test_predict_all_predicts_single_subwords_too(folders, with_hypernet):
    encoder = DynamicEncoder.load(folders / "model", folders / "plain", predict_all=True)
    some, every = with_hypernet.encode(["a b c"]), encoder.encode(["a b c"])
    assert every.cache_misses > some.cache_misses
    assert np.abs(some.embeddings_ND - every.embeddings_ND).max() > 1e-4


def test_retokenized_surface_forms_are_their_own_cache_space(folders, with_hypernet):
    encoder = DynamicEncoder.load(folders / "model", folders / "plain", surface="retokenized")
    encoder.cache = with_hypernet.cache
    with_hypernet.encode(TEXTS)
    assert encoder.encode(TEXTS).cache_misses > 0


def test_a_hypernetwork_of_another_width_is_refused(folders):
    with pytest.raises(ConfigError, match="width 64 and the model's width is 32"):
        DynamicEncoder.load(folders / "model", folders / "wide")


def test_merge_lists_keep_to_the_hypernetwork_s_limit(with_hypernet):
    subwords = with_hypernet.text_encoder.encode(TEXTS)
    batch = pad_batch(subwords, np.arange(len(TEXTS)), pad_id=1)
    merges = learn_merges([batch], 20, tokenizer=with_hypernet.tokenizer.fingerprint, boundary="pretoken")
    with pytest.raises(InputError, match="max_subwords=7"):
        with_hypernet.encode(TEXTS, merging=Merging(merge_list=merges))


def test_learnt_merges_are_applied(fvt):
    subwords = fvt.text_encoder.encode(TEXTS)
    batch = pad_batch(subwords, np.arange(len(TEXTS)), pad_id=1)
    merges = learn_merges([batch], 20, tokenizer=fvt.tokenizer.fingerprint, boundary="pretoken")
    learnt, direct = (
        fvt.encode(TEXTS, merging=one) for one in (Merging(merge_list=merges), Merging(Merges(20), max_subwords=None))
    )
    assert [tokens.ids() for tokens in learnt.tokens] == [tokens.ids() for tokens in direct.tokens]
    with pytest.raises(InputError, match="boundary"):
        fvt.encode(TEXTS, merging=Merging(boundary="word", merge_list=merges))
    with pytest.raises(InputError, match="give it without a goal"):
        fvt.encode(TEXTS, merging=Merging(Share(50), merge_list=merges))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 1), (2, 4)])
def test_sharded_is_unsharded(folders, with_hypernet, shape):
    sharded = DynamicEncoder.load(folders / "model", folders / "plain", mesh=make_mesh(*shape))
    assert len(sharded.encoder.word_embeddings[...].sharding.device_set) == 8
    for goal in (None, Share(100)):
        close(sharded.encode(TEXTS, goal=goal).embeddings_ND, with_hypernet.encode(TEXTS, goal=goal).embeddings_ND)


SUBWORDS = Merging(Share(100), positions="subwords")


def test_positions_that_count_subwords_are_those_of_the_unmerged_text(fvt):
    found = fvt.encode([TEXTS[0]], merging=SUBWORDS, pooling="none")
    tokens = found.tokens[0]
    table = np.asarray(fvt.encoder.word_embeddings[...])
    rows_TD = np.stack([table[[i if i < fvt.tokenizer.n_own else 3 for i in token]].mean(0) for token in tokens.ids()])
    mask, step = jnp.ones((1, len(tokens)), bool), jnp.asarray(tokens.length_T)[None]
    expected = encode(fvt.encoder, jnp.asarray(rows_TD)[None], mask, jnp.zeros_like(step), step)
    close(found.hidden[0], np.asarray(expected)[0])
    counted = fvt.encode([TEXTS[0]], pooling="none")
    assert np.abs(counted.hidden[0] - found.hidden[0]).max() > 1e-3


def test_positions_that_count_subwords_leave_unmerged_texts_as_they_are(fvt):
    static = fvt.encode(TEXTS, goal=None).embeddings_ND
    close(fvt.encode(TEXTS, merging=Merging(None, positions="subwords")).embeddings_ND, static)


def test_where_positions_count_subwords_a_texts_limit_does_too(fvt):
    text = "Freiheit und Gleichheit " * 11
    assert len(fvt.encode([text]).tokens[0]) < 64
    with pytest.raises(TooLongError, match=r"Text 1 has \d+ subwords, which positions count here.*room for 64"):
        fvt.encode(["x", text], merging=SUBWORDS)
    pair = ("Freiheit " * 9, text)
    for texts in (["x", text], [pair, pair]):
        cut = fvt.encode(texts, merging=SUBWORDS, truncate=True)
        whole = fvt.encode(texts, merging=Merging(Share(100)), truncate=True)
        for row in range(2):
            n_subwords = int(cut.tokens.n_subwords[row])
            kept, complete = cut.tokens[row].ids(), whole.tokens[row].ids()
            assert n_subwords <= 64
            if len(kept) < len(complete):  # one token more would not fit
                assert n_subwords + max(map(len, complete)) > 64
            assert kept[-1] == complete[-1]
