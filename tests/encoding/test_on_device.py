"""One program on the device: the same tokens and embeddings as by way of the host."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from dyntok_jax import Budget, DynamicEncoder, Merges, Merging, Share, learn_merges
from dyntok_jax.assets import load_sample
from dyntok_jax.embedding import (
    HypernetConfig,
    RowPredictor,
    TokenInputs,
    constituents,
    empty_device_cache,
    init_hypernet,
)
from dyntok_jax.encoding import OnDeviceMerging, OnDeviceModel, Room, device_runs, encode_batch, encode_subwords
from dyntok_jax.errors import InputError, NotANumberError, TooLongError
from dyntok_jax.merging import FirstMerges, longest_token, merge_batch_on_host, merge_fully
from dyntok_jax.models import Encoder, EncoderConfig, SentenceHead
from dyntok_jax.sharding import batch_sharding, constrain_by_rules, make_mesh, shardings_for
from dyntok_jax.text import pad_batch
from dyntok_jax.types import SubwordBatch
from tests.support.merging_cases import WIDTH, goals, golden_cases, limits, pad, rows, scopes, tokens_of
from tests.support.tiny import write_tiny_encoder, write_tiny_hypernet

N_OWN, N_ALL = 600, 650
TEXTS = [
    "All human beings are born free and equal in dignity.",
    "Freiheit",
    "",
    "世界人权宣言 🙂",
    "x",
    "Menschenrechtserklärungsgesetzgebungsverfahren und Menschenrechtserklärung",
]


@pytest.fixture(scope="module")
def model():
    config = EncoderConfig("bert", N_OWN, 16, 1, 4, 24, 128)
    encoder = Encoder(config, jax.random.key(0))
    hypernet = init_hypernet(HypernetConfig(16, 16, 24, 2, 4, N_OWN, N_ALL - N_OWN), jax.random.key(1))
    predictor = RowPredictor(encoder.word_embeddings[...], hypernet, None, None, N_OWN)
    return OnDeviceModel(encoder, predictor, SentenceHead(), None)


def batch_of(ids, segments, pretokens=None, **shape):
    ids_BL, segment_BL, mask_BL = pad(ids, segments, **shape)
    pretoken_BL = segment_BL if pretokens is None else pad(pretokens, segments, **shape)[0]
    type_BL = (np.arange(ids_BL.shape[1])[None] % 3 == 2).astype(np.int32) * mask_BL
    span_BL2 = np.zeros((*ids_BL.shape, 2), np.int32)
    return SubwordBatch(ids_BL, segment_BL, pretoken_BL, mask_BL, type_BL, type_BL, span_BL2, type_BL, mask_BL)


def by_way_of_the_host(model, batch, merging, width):
    """Tokens, and the encoder on rows that are predicted for every token alone."""
    first = FirstMerges(batch.pretoken_BL, merging.pretoken_merges) if merging.pretoken_merges else None
    merged = merge_batch_on_host(
        *(batch.ids_BL, batch.segment_BL, batch.mask_BL, merging.goal),
        max_subwords=merging.max_subwords,
        scope=merging.scope,
        first=first,
        over_budget="keep",
    )
    surface_BTS, is_subword_BTS = constituents(batch.ids_BL, merged, width=width)
    n = merged.mask_BT.size
    forms = surface_BTS.reshape(n, width), is_subword_BTS.reshape(n, width)
    first_BT = np.take_along_axis(batch.ids_BL, merged.start_BT, axis=1)
    is_new_BT = (merged.length_BT > 1) | (first_BT >= N_OWN)
    inputs = TokenInputs(
        ids_BT=np.minimum(first_BT, N_OWN - 1),
        row_BT=np.where(is_new_BT, np.arange(n, dtype=np.int32).reshape(is_new_BT.shape), -1),
        rows_RD=PREDICT(model.predictor, *forms, np.zeros(n, np.int32)),
        mask_BT=merged.mask_BT,
        step_BT=merged.length_BT if merging.positions == "subwords" else None,
    )
    type_BT = np.take_along_axis(batch.type_BL, merged.start_BT, axis=1)
    return merged, encode_batch(model.encoder, inputs, type_BT, model.head)


PREDICT = jax.jit(RowPredictor.predict)


def check(model, batch, merging, width, room=None):
    language_B = np.zeros(len(batch.ids_BL), np.int32)
    n = batch.ids_BL.size
    room = room or Room(batch.ids_BL.shape[1], n, n, n, width)
    found = encode_subwords(model, batch, language_B, OnDeviceMerging.of(merging), room=room)
    merged, expected = by_way_of_the_host(model, batch, merging, width)
    assert tokens_of(batch.ids_BL, found.merged) == tokens_of(batch.ids_BL, merged)
    np.testing.assert_allclose(found.result, expected, rtol=0, atol=1e-5)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "index"), [(name, index) for name in ("xlmr", "mistral") for index in range(24)])
def test_golden_cases(model, name, index):
    """With the trace's goal, and merged fully with a limit and without one."""
    case = golden_cases(name)[index]
    # a few subwords are bytes that the model has no row for
    ids = [[subword % N_ALL for subword in row] for row in case["ids"]]
    batch = batch_of(ids, case["segments"], n_rows=32, width=128)
    for merging in (
        Merging(case["goal"], scope="batch", max_subwords=None),
        Merging(scope="batch", max_subwords=None),
        Merging(scope="batch", max_subwords=3),
        Merging(scope="example", max_subwords=4),
    ):
        check(model, batch, merging, width=7)


@settings(max_examples=200, deadline=None)
@given(rows(), goals, limits, scopes)
def test_generated_batches(model, batch, goal, max_subwords, scope):
    check(model, batch_of(*batch, width=WIDTH), Merging(goal, scope=scope, max_subwords=max_subwords), width=4)


def test_two_stages_and_positions_of_subwords(model):
    row, pretoken = [0, 1, 2, 0, 1, 3, 0, 1, 4], [0, 0, 0, 1, 2, 2, 3, 4, 4]
    batch = batch_of([row] * 2, [[0] * 9] * 2, [pretoken] * 2, width=WIDTH)
    for positions in ("tokens", "subwords"):
        merging = Merging(scope="batch", max_subwords=4, pretoken_merges=1, positions=positions)
        check(model, batch, merging, width=4)


def test_what_a_batch_needs_is_told(model):
    ids = [[1, 2, 3, 4, 5], [1, 2, 6, 7]]
    batch = batch_of(ids, [[0, 0, 0, 1, 1], [0, 0, 1, 2]], width=WIDTH)
    merging = OnDeviceMerging.of(Merging(scope="batch", max_subwords=2))
    rooms = (Room(2, 1, 1, 2, 2), Room(16, 32, 32, 32, 2))
    of_rooms = [encode_subwords(model, batch, np.zeros(2, np.int32), merging, room=room).needed for room in rooms]
    # [1 2] [3] [4 5] and [1 2] [6] [7]: two distinct new tokens; the long segment's subwords and those of `1 2`
    assert [int(number) for number in of_rooms[1]] == [3, 2, 2, 5]
    assert int(of_rooms[0].looped) == 5
    assert rooms[0].grown(of_rooms[1], rooms[1]) == Room(16, 2, 2, 8, 2)
    assert rooms[1].grown(of_rooms[1], rooms[1]) == rooms[1]


def test_a_sequence_that_is_too_long_spoils_no_other(model):
    batch = batch_of([[1, 2, 3, 4, 5], [8, 9]], [[0, 0, 1, 2, 3], [0, 0]], width=WIDTH)
    merging = Merging(scope="batch", max_subwords=2)
    room = Room(2, 32, 32, 32, 2)
    found = encode_subwords(model, batch, np.zeros(2, np.int32), OnDeviceMerging.of(merging), room=room)
    _, expected = by_way_of_the_host(model, batch, merging, 2)
    assert int(found.needed.tokens) == 4
    np.testing.assert_allclose(found.result[1], expected[1], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 1), (2, 4)])
@pytest.mark.parametrize("scope", ["batch", "example"])
@pytest.mark.parametrize("goal", [Share(100), Merges(20)])
def test_sharded_equals_unsharded(model, shape, scope, goal):
    case = next(case for case in golden_cases("mistral") if len(case["ids"]) == 16)
    batch = batch_of([row[:32] for row in case["ids"]], [row[:32] for row in case["segments"]], width=32)
    batch = replace(batch, ids_BL=batch.ids_BL % N_ALL)
    merging = OnDeviceMerging.of(Merging(goal, scope=scope, max_subwords=3))
    room, mesh, language_B = Room(32, 256, 256, 256, 3), make_mesh(*shape), np.zeros(16, np.int32)
    expected = encode_subwords(model, batch, language_B, merging, empty_device_cache(1024, 4, 16), room=room)
    encoder, hypernet = (
        jax.device_put(each, shardings_for(each, mesh)) for each in (model.encoder, model.predictor.hypernet)
    )
    predictor = replace(model.predictor, hypernet=hypernet, source_VM=encoder.word_embeddings[...])
    sharded = replace(model, encoder=encoder, predictor=predictor)
    split = jax.device_put((batch, language_B), batch_sharding(mesh))
    cache = constrain_by_rules(empty_device_cache(1024, 4, 16), mesh)
    for turn in range(2):
        found = encode_subwords(sharded, *split, merging, cache, room=room, mesh=mesh)
        assert tokens_of(batch.ids_BL, found.merged) == tokens_of(batch.ids_BL, expected.merged)
        np.testing.assert_allclose(found.result, expected.result, rtol=0, atol=1e-5)
        assert found.result.sharding.spec[0] == "data"
        assert int(found.needed.forms) == int(expected.needed.forms) > 10
        assert int(found.needed.predicted) == (0 if turn else int(expected.needed.predicted))
        cache = found.cache
    np.testing.assert_array_equal(cache.key_GWK, expected.cache.key_GWK)


@pytest.mark.slow
def test_without_jit_the_result_is_the_same(model):
    batch = jax.tree.map(jnp.asarray, batch_of([[1, 2, 3], [1, 2]], [[0, 0, 0], [0, 0]], width=4))
    merging = jax.tree.map(jnp.asarray, OnDeviceMerging.of(Merging(scope="batch", max_subwords=2)))
    arguments = model, batch, jnp.zeros(2, jnp.int32), merging
    expected = encode_subwords(*arguments, room=Room(4, 8, 8, 8, 2))
    with jax.disable_jit():
        found = encode_subwords(*arguments, room=Room(4, 8, 8, 8, 2))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    write_tiny_encoder(root / "model")
    write_tiny_hypernet(root / "plain")
    write_tiny_hypernet(root / "languages", n_langs=26)
    return root


@pytest.fixture(scope="module")
def encoder(folders):
    return DynamicEncoder.load(folders / "model", folders / "plain")


def same(found, expected):
    assert [tokens.ids() for tokens in found.tokens] == [tokens.ids() for tokens in expected.tokens]
    if expected.hidden is None:
        np.testing.assert_allclose(found.embeddings_ND, expected.embeddings_ND, rtol=0, atol=1e-5)
    for ours, theirs in zip(found.hidden or (), expected.hidden or (), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("merging", "options"),
    [
        (Merging(), {}),
        (Merging(scope="example", max_subwords=3), {"pooling": "none"}),
        (Merging(Share(50), boundary="word", merge_last=False), {"batch_size": 4, "prefix": "query: "}),
        (Merging(Budget(12), max_subwords=None), {"truncate": True}),
    ],
)
def test_texts_are_encoded_as_by_way_of_the_host(encoder, merging, options):
    expected = encoder.encode(TEXTS, merging=merging, **options)
    done = []
    same(encoder.encode(TEXTS, merging=merging, on_device=True, on_progress=done.append, **options), expected)
    assert sum(done) == len(TEXTS)


@pytest.mark.slow
def test_fvt_languages_and_predict_all_are_as_by_way_of_the_host(folders):
    for hypernet, options, language in (
        (None, {}, None),
        ("languages", {}, ["en", "de"] * 3),
        ("plain", {"predict_all": True}, None),
    ):
        encoder = DynamicEncoder.load(folders / "model", hypernet and folders / hypernet, **options)
        expected = encoder.encode(TEXTS, language=language)
        same(encoder.encode(TEXTS, language=language, on_device=True), expected)


@pytest.mark.slow
def test_over_a_mesh_too(folders, encoder):
    sharded = DynamicEncoder.load(folders / "model", folders / "plain", mesh=make_mesh(2, 4))
    same(sharded.encode(TEXTS, on_device=True), encoder.encode(TEXTS))


def test_rooms_that_are_too_small_grow_and_are_remembered(encoder, monkeypatch):
    monkeypatch.setattr(device_runs, "LEAST_LOOPED", 2)
    monkeypatch.setattr(device_runs, "LEAST_FORMS", 1)
    runs = device_runs.DeviceRuns(encoder.encoder, encoder.embedder, None)
    monkeypatch.setattr(encoder, "_device_runs", runs, raising=False)
    calls = []
    monkeypatch.setattr(
        device_runs, "encode_subwords", lambda *args, **options: calls.append(1) or encode_subwords(*args, **options)
    )
    merging, texts = Merging(max_subwords=2), TEXTS[:2] + TEXTS[5:]
    same(encoder.encode(texts, merging=merging, on_device=True), encoder.encode(texts, merging=merging))
    assert len(calls) > 1
    calls.clear()
    encoder.encode(texts, merging=merging, on_device=True)
    assert len(calls) == 1


@pytest.mark.parametrize("cache_rows", [1000, 5])
def test_cached_rows_change_nothing(folders, encoder, cache_rows):
    """Nor does a cache that is smaller than what a batch needs."""
    cached = DynamicEncoder.load(folders / "model", folders / "plain", cache_rows=cache_rows)
    turns = [cached.encode(texts, on_device=True) for texts in (TEXTS, TEXTS, TEXTS[:2])]
    for found, texts in zip(turns, (TEXTS, TEXTS, TEXTS[:2]), strict=True):
        same(found, encoder.encode(texts))
    n_forms = turns[0].cache_misses
    assert n_forms > 5
    hits = n_forms if cache_rows == 1000 else 5
    assert (turns[0].cache_hits, turns[1].cache_hits, turns[1].cache_misses) == (0, hits, n_forms - hits)
    assert cached.cache is not None
    assert len(cached.cache) == 0  # the host's is another


def test_a_run_that_is_interrupted_spoils_no_later_one(folders, monkeypatch):
    encoder = DynamicEncoder.load(folders / "model", folders / "plain")
    wanted = encoder.encode(TEXTS, on_device=True).embeddings_ND

    def interrupted(*arguments, **options):
        encode_subwords(*arguments, **options)  # which takes the cache
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(device_runs, "encode_subwords", interrupted)
        with pytest.raises(KeyboardInterrupt):
            encoder.encode(TEXTS, on_device=True)
    np.testing.assert_allclose(encoder.encode(TEXTS, on_device=True).embeddings_ND, wanted, atol=1e-5)


def test_rows_that_are_not_finite_are_told_and_not_cached(folders):
    broken = DynamicEncoder.load(folders / "model", folders / "plain")
    hypernet = broken.embedder.predictor.hypernet
    hypernet.input_linear.bias[...] = jnp.full_like(hypernet.input_linear.bias[...], jnp.nan)
    for _ in range(2):
        with pytest.raises(NotANumberError, match="for text"):
            broken.encode(TEXTS, on_device=True)
    assert not broken._device_runs._cache.used_GW.any()


def test_long_texts_are_told_and_cut_only_when_asked(encoder):
    texts = ["x", "Freiheit und Gleichheit " * 60]
    with pytest.raises(TooLongError, match=r"Text 1 has \d+ tokens after merging.*room for 64"):
        encoder.encode(texts, on_device=True)
    same(encoder.encode(texts, on_device=True, truncate=True), encoder.encode(texts, truncate=True))


def test_nothing_to_encode_is_no_error(encoder):
    assert len(encoder.encode([], on_device=True).embeddings_ND) == 0


def test_what_needs_the_host_is_refused(folders, encoder):
    batch = pad_batch(encoder.text_encoder.encode(TEXTS), np.arange(len(TEXTS)), pad_id=1)
    merges = learn_merges([batch], 20, tokenizer=encoder.tokenizer.fingerprint, boundary="pretoken", max_subwords=7)
    retokenized = DynamicEncoder.load(folders / "model", folders / "plain", surface="retokenized")
    for one, options, reason in (
        (encoder, {"goal": None}, "merges nothing"),
        (encoder, {"merging": Merging(merge_list=merges)}, "merge list is applied on the host"),
        (retokenized, {}, "retokenized on the host"),
    ):
        with pytest.raises(InputError, match=reason):
            one.encode(TEXTS, on_device=True, **options)


@pytest.mark.packaged
def test_only_texts_without_spaces_merge_step_by_step(e5_small_folder):
    """At full merging, of the sample of 15 languages; and their tokens are the host's."""
    encoder, looped = DynamicEncoder.load(e5_small_folder, None), set()
    merge = jax.jit(merge_fully, static_argnames=("scope", "size"))
    for code, texts in load_sample().items():
        subwords = encoder.text_encoder.encode(texts)
        batch = pad_batch(subwords, np.arange(len(texts)), pad_id=1, length=128, n_batch=50)
        arrays = batch.ids_BL, batch.segment_BL, batch.mask_BL
        merged, n_looped = merge(*arrays, longest_token(7), scope="batch", size=50 * 128)
        expected = merge_batch_on_host(*arrays, Share(100), max_subwords=7)
        assert tokens_of(batch.ids_BL, merged) == tokens_of(batch.ids_BL, expected)
        looped |= {code} if n_looped.any() else set()
    assert looped == {"th", "zh"}
