"""The cache never returns another token's row, whatever is evicted, saved, or shared in name only."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from safetensors.numpy import load_file, save_file

from dyntok_jax.embedding import (
    EmbeddingCache,
    collect,
    predict_in_buckets,
)
from dyntok_jax.embedding.cache import (
    FORMAT,
    namespace,
    token_keys,
)
from dyntok_jax.embedding.surface import pad_forms
from dyntok_jax.errors import CheckpointError, InputError
from dyntok_jax.text import PREDICTED_ROW_BUCKETS, SURFACE_BUCKETS, buckets_up_to

WIDTH = 4


def row_of(key: bytes) -> np.ndarray:
    """The row that a key must always get."""
    return np.random.default_rng(list(key)).normal(size=WIDTH).astype(np.float32)


def fetch(cache, keys):
    return cache.fetch(keys, lambda missing: np.stack([row_of(keys[position]) for position in missing]))


keys_strategy = st.lists(st.integers(0, 30).map(lambda n: f"key {n}".encode()), unique=True, max_size=12)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 10), st.lists(keys_strategy, max_size=12))
def test_every_row_is_its_key_s_own_under_eviction(capacity, requests):
    cache = EmbeddingCache(capacity, WIDTH)
    for keys in requests:
        rows = fetch(cache, keys)
        assert len(cache) <= capacity
        for key, row in zip(keys, rows, strict=True):
            np.testing.assert_array_equal(row, row_of(key))


def test_the_least_recently_used_goes_first():
    cache = EmbeddingCache(2, WIDTH)
    fetch(cache, [b"a", b"b"])
    fetch(cache, [b"a"])
    fetch(cache, [b"c"])  # b goes
    cache.reset_counts()
    fetch(cache, [b"a", b"c"])
    assert (cache.hits, cache.misses) == (2, 0)
    fetch(cache, [b"b"])
    assert (cache.hits, cache.misses) == (2, 1)


def test_a_saved_cache_answers_as_before(tmp_path):
    path = tmp_path / "rows.safetensors"
    cache = EmbeddingCache(8, WIDTH)
    keys = [f"token {n}".encode() * (n + 1) for n in range(6)]
    fetch(cache, keys)
    cache.save(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    loaded = EmbeddingCache.load(path, capacity=8, width=WIDTH)
    rows = loaded.fetch(keys, lambda _: pytest.fail("a saved row was predicted again"))
    np.testing.assert_array_equal(rows, np.stack([row_of(key) for key in keys]))
    smaller = EmbeddingCache.load(path, capacity=2, width=WIDTH)
    smaller.fetch(keys[-2:], lambda _: pytest.fail("the most recent rows were not kept"))


def test_an_empty_cache_can_be_saved(tmp_path):
    EmbeddingCache(8, WIDTH).save(tmp_path / "rows")
    assert len(EmbeddingCache.load(tmp_path / "rows", capacity=8, width=WIDTH)) == 0


def test_bad_caches_are_named(tmp_path):
    path = tmp_path / "rows"
    with pytest.raises(InputError, match="no embedding cache"):
        EmbeddingCache.load(path, capacity=8, width=WIDTH)
    path.write_bytes(b"not a cache")
    with pytest.raises(CheckpointError, match="damaged"):
        EmbeddingCache.load(path, capacity=8, width=WIDTH)
    EmbeddingCache(8, WIDTH).save(path)
    with pytest.raises(CheckpointError, match="4 wide and the model is 5"):
        EmbeddingCache.load(path, capacity=8, width=5)
    path.write_bytes(path.read_bytes().replace(b"dyntok-embedding-cache 1", b"dyntok-embedding-cache 0"))
    with pytest.raises(CheckpointError, match="not an embedding cache of this version"):
        EmbeddingCache.load(path, capacity=8, width=WIDTH)
    with pytest.raises(InputError, match="must be 1 or more"):
        EmbeddingCache(0, WIDTH)


@pytest.mark.parametrize(
    "damage",
    [
        lambda arrays: {"rows": arrays["rows"][:-1]},
        lambda arrays: {"key_ends": arrays["key_ends"][:-1]},
        lambda arrays: {"key_bytes": arrays["key_bytes"][:-1]},
        lambda arrays: {"key_bytes": np.zeros_like(arrays["key_bytes"])},  # two keys in one
        lambda arrays: {"key_ends": arrays["key_ends"].astype(np.float32)},
        lambda _: {"rows": np.zeros((), np.float32)},
    ],
)
def test_arrays_that_disagree_are_damage(tmp_path, damage):
    path = tmp_path / "rows"
    cache = EmbeddingCache(8, WIDTH)
    fetch(cache, [b"key 1", b"key 2"])
    cache.save(path)
    arrays = load_file(path)
    save_file(arrays | damage(arrays), path, metadata={"format": FORMAT})
    with pytest.raises(CheckpointError, match="is damaged"):
        EmbeddingCache.load(path, capacity=8, width=WIDTH)


def test_a_cache_that_cannot_be_written_says_so_and_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    cache = EmbeddingCache(8, WIDTH)
    for path in (tmp_path / "file" / "rows", tmp_path):
        with pytest.raises(InputError, match=r"cannot be written to .* name a file in a folder"):
            cache.save(path)

    def full_disk(path, *_):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("dyntok_jax.embedding.cache.save_arrays", full_disk)
    with pytest.raises(InputError, match="no space left"):
        cache.save(tmp_path / "rows")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_models_and_languages_share_no_key():
    forms, masks = pad_forms([[1, 2], [1, 2, 0], [1]], 3)
    spaces = [namespace(weights="a", language=code) for code in ("en", "de")] + [namespace(weights="b", language="en")]
    keys = {key for space in spaces for key in token_keys([space] * 3, forms, masks)}
    assert len(keys) == 9  # [1, 2] and [1, 2, 0] differ too


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=80), st.integers(0, 3))
def test_every_form_is_predicted_once_in_few_shapes(lengths, extra):
    """The prediction tells which form it was given, so a row in a wrong place shows."""
    forms, masks = pad_forms([[n + 1] * length for n, length in enumerate(lengths)], 9 + extra)
    shapes = set()

    def predict(surface_US, is_subword_US, language_U):
        shapes.add(surface_US.shape)
        return jnp.asarray(np.stack([surface_US[:, 0], is_subword_US.sum(axis=1), language_U], axis=1), jnp.float32)

    language_U = np.arange(len(lengths), dtype=np.int32)
    pending = predict_in_buckets(predict, forms, masks, language_U)
    rows = collect(pending, len(lengths), 3)
    np.testing.assert_array_equal(rows, [[n + 1, length, n] for n, length in enumerate(lengths)] or np.zeros((0, 3)))
    assert {rows for rows, _ in shapes} <= set(PREDICTED_ROW_BUCKETS)
    assert {width for _, width in shapes} <= set(buckets_up_to(9 + extra, SURFACE_BUCKETS))
