"""Threads may share an encoder, a decoder and a cache: each gets what it would get alone."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from dyntok_jax import DynamicDecoder, DynamicEncoder, Share
from dyntok_jax.assets import load_sample
from dyntok_jax.embedding import EmbeddingCache
from tests.support.tiny import (
    write_tiny_decoder,
    write_tiny_decoder_hypernet,
    write_tiny_encoder,
    write_tiny_hypernet,
)

THREADS = 8
TEXTS = [text[:60] for code in ("en", "de", "el", "tr") for text in load_sample()[code][:6]]


@pytest.fixture(autouse=True)
def _eager_switches():
    """Threads take turns a thousand times more often than by default, so that what is shared shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    write_tiny_encoder(root / "encoder")
    write_tiny_hypernet(root / "encoder-hypernet")
    write_tiny_decoder(root / "decoder")
    write_tiny_decoder_hypernet(root / "decoder-hypernet", root / "decoder", separate_output=True)
    return root


def side_by_side(call: Callable[[int], Any], n_calls: int) -> list[Any]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(call, range(n_calls)))


def test_11_threads_share_a_cache():
    keys = [f"key {n}".encode() for n in range(60)]

    def fetch(turn: int) -> bool:
        some = [keys[n] for n in np.random.default_rng(turn).permutation(60)[:20]]
        rows = cache.fetch(some, lambda missing: np.array([[float(some[at][4:])] for at in missing], np.float32))
        return rows[:, 0].tolist() == [float(key[4:]) for key in some]

    for capacity in (50, 1000):
        cache = EmbeddingCache(capacity, 1)
        assert all(side_by_side(fetch, 400))
        assert cache.hits + cache.misses == 400 * 20
        assert len(cache) <= capacity


@pytest.mark.slow
@pytest.mark.parametrize("cache_rows", [50, 10_000])
def test_11_threads_share_an_encoder(root, cache_rows):
    def load() -> DynamicEncoder:
        return DynamicEncoder.load(root / "encoder", root / "encoder-hypernet", cache_rows=cache_rows)

    encoder = load()
    alone = load().encode(TEXTS).embeddings_ND  # one batch, as every call below has
    calls = [(n, n + 3) for n in range(len(TEXTS) - 3)]
    expected = [load().encode(TEXTS[start:stop]) for start, stop in calls]
    for _ in range(3):
        found = side_by_side(lambda n: encoder.encode(TEXTS[slice(*calls[n])]), len(calls))
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine.embeddings_ND, theirs.embeddings_ND, atol=1e-5)
            assert mine.cache_hits + mine.cache_misses == theirs.cache_hits + theirs.cache_misses
    np.testing.assert_allclose(encoder.encode(TEXTS).embeddings_ND, alone, atol=1e-5)  # and later calls are right, too


@pytest.mark.slow
def test_11_threads_share_a_decoder(root, tmp_path):
    def load() -> DynamicDecoder:
        return DynamicDecoder.load(root / "decoder", root / "decoder-hypernet", cache_rows=50)

    def calls_of(decoder: DynamicDecoder) -> list[Callable[[str, str], Any]]:
        chat = [{"role": "user", "content": "Hello"}]
        full = {"goal": Share(100)}
        return [
            lambda one, _: decoder.read([one], **full).n_tokens.tolist(),
            lambda one, _: [*decoder.read([chat], **full).n_tokens.tolist(), len(one)],
            lambda one, _: decoder.generate([one], max_tokens=3, **full)[0].text,
            lambda one, _: decoder.generate([one], max_tokens=3, vocabulary="prompt", **full)[0].text,
            lambda one, _: "".join(decoder.stream(one, max_tokens=3, **full)),
            lambda one, other: round(float(decoder.score([one], [other], **full)[0].log_probs_O.sum()), 2),
            lambda one, other: decoder.choose([one], [[other, "none"]], **full)[0].best,
            lambda one, other: [tokens.ids() for tokens in decoder.read([one, other], **full).tokens],
        ]

    shared, pairs = load(), list(pairwise(TEXTS))[:5]
    turns = [(call, pair) for pair in pairs for call in range(len(calls_of(shared)))]
    expected = [calls_of(shared_not)[call](*pair) for shared_not in [load()] for call, pair in turns]
    calls = calls_of(shared)
    assert side_by_side(lambda n: calls[turns[n][0]](*turns[n][1]), len(turns)) == expected
    shared.embedder.cache.save(tmp_path / "cache.safetensors")
    EmbeddingCache.load(tmp_path / "cache.safetensors", capacity=50, width=shared.config.width)
