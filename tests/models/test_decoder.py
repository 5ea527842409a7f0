"""Mistral and Llama: the same numbers whichever way the tokens are read."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyntok_jax.errors import ConfigError, TooLongError
from dyntok_jax.models import (
    Decoder,
    DecoderConfig,
    LinearScaling,
    Rope,
    embed_ids,
    empty_cache,
    extend,
    forward,
    logits,
    prefill,
    unstacked,
)
from dyntok_jax.models.layer_kinds import scaled_embeddings

PLAIN = DecoderConfig("llama", 60, 32, 2, 4, 2, 8, 48, max_positions=2048)
RING = DecoderConfig("mistral", 60, 32, 2, 4, 2, 8, 48, max_positions=2048, sliding_window=8)
QWEN2 = DecoderConfig("qwen2", 60, 32, 2, 4, 2, 8, 48, max_positions=2048)
QWEN3 = DecoderConfig(
    "qwen3", 60, 32, 3, 4, 2, 16, 48, max_positions=2048, sliding_window=8, full_layers=(0,), ties_embeddings=True
)
GEMMA = DecoderConfig(
    *("gemma3_text", 60, 32, 5, 4, 1, 16, 48),
    max_positions=2048,
    rope=Rope(1e6, LinearScaling(2.0)),
    sliding_rope=Rope(1e4),
    sliding_window=8,
    full_layers=(1, 4),
    query_scalar=24,
    ties_embeddings=True,
)
CONFIGS = {"plain": PLAIN, "ring": RING, "qwen2": QWEN2, "qwen3": QWEN3, "gemma": GEMMA}
LENGTHS = (1, 17, 40, 6)


def of_all(configs=CONFIGS):
    return pytest.mark.parametrize("config", configs.values(), ids=configs)


def random_decoder(config, dtype=jnp.float32):
    decoder = Decoder(config, jax.random.key(0), dtype)
    keys = iter(jax.random.split(jax.random.key(1), 100))
    return jax.tree.map(lambda x: (0.3 * jax.random.normal(next(keys), x.shape)).astype(x.dtype), decoder)


def batch(lengths=LENGTHS, width=40, seed=0):
    mask = np.arange(width)[None] < np.array(lengths)[:, None]
    ids = np.random.default_rng(seed).integers(0, 60, mask.shape).astype(np.int32) * mask
    return jnp.asarray(ids), jnp.asarray(mask)


def close(ours, theirs, tolerance=1e-5):
    ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def all_logits(decoder, ids, mask):
    return logits(decoder, forward(decoder, embed_ids(decoder, ids), mask))


@pytest.mark.slow
@of_all()
@pytest.mark.parametrize("is_stacked", [True, False], ids=["stacked", "apart"])
def test_cached_decoding_is_the_full_forward(config, is_stacked):
    decoder = random_decoder(config)
    ids, mask = batch()
    expected = forward(decoder, embed_ids(decoder, ids), mask)
    if not is_stacked:
        decoder = unstacked(decoder)
    cache = empty_cache(decoder, len(ids), 48)
    assert cache.capacity == (8 if config is RING else 48)
    step = jax.jit(extend)
    for t in range(ids.shape[1]):
        hidden, cache = step(decoder, embed_ids(decoder, ids[:, t : t + 1]), mask[:, t : t + 1], cache)
        close(hidden[mask[:, t], 0], expected[mask[:, t], t])
    assert cache.length_B.tolist() == list(LENGTHS)


@pytest.mark.slow
@of_all()
@pytest.mark.parametrize(("chunk", "last"), [(5, None), (40, None), (20, 5), (8, 8)])
def test_prompts_read_by_chunks_are_the_full_forward(config, chunk, last):
    decoder = random_decoder(config)
    ids, mask = batch()
    expected = forward(decoder, embed_ids(decoder, ids), mask)
    read = jax.jit(partial(prefill, chunk=chunk, last_chunk=last))
    hidden, cache = read(decoder, embed_ids(decoder, ids), mask, empty_cache(decoder, len(ids), 48))
    close(hidden[mask], expected[mask])
    more, more_mask = batch([3, 1, 2, 0], width=4, seed=1)
    hidden, _ = jax.jit(extend)(decoder, embed_ids(decoder, more), more_mask, cache)
    joined, lengths = np.zeros((4, 48), np.int32), np.array([LENGTHS, (3, 1, 2, 0)]).T
    for row, (before, behind) in enumerate(lengths):
        joined[row, : before + behind] = [*ids[row, :before], *more[row, :behind]]
    joined, whole_mask = jnp.asarray(joined), jnp.asarray(np.arange(48)[None] < lengths.sum(1)[:, None])
    whole = forward(decoder, embed_ids(decoder, joined), whole_mask)
    for row, before in enumerate(LENGTHS):
        n = int(more_mask[row].sum())
        np.testing.assert_allclose(hidden[row, :n], whole[row, before : before + n], atol=1e-5 * float(whole.max()))


@pytest.mark.slow
@of_all()
def test_a_padded_batch_is_each_sequence_alone(config):
    decoder = random_decoder(config)
    ids, mask = batch()
    together = all_logits(decoder, ids, mask)
    for row, length in enumerate(LENGTHS):
        close(together[row, :length], all_logits(decoder, ids[row : row + 1, :length], mask[row : row + 1, :length])[0])


@pytest.mark.slow
@pytest.mark.parametrize("is_stacked", [True, False], ids=["stacked", "apart"])
def test_layers_with_a_window_keep_no_more_than_it(is_stacked):
    decoder = random_decoder(GEMMA)
    decoder = decoder if is_stacked else unstacked(decoder)
    key = empty_cache(decoder, 2, 48).key
    slots = [array.shape[-2] for array in key]
    assert slots == ([48, 8] if is_stacked else [8, 48, 8, 8, 48])
    n_rows = sum(array.size for array in key)
    assert n_rows == (2 * 48 + 3 * 8) * 2 * GEMMA.n_kv_heads * GEMMA.head_width


def test_word_embeddings_are_scaled_by_the_decoder_that_reads_them():
    """So rows of the table, predicted rows and means of rows are all in one unit."""
    decoder, plain = (Decoder(config, jax.random.key(0)) for config in (GEMMA, PLAIN))
    ids, _ = batch((3,), width=3)
    for model in (decoder, plain):
        np.testing.assert_array_equal(embed_ids(model, ids), model.word_embeddings[...][ids])
    rows = jnp.ones((1, 3, 32))
    np.testing.assert_allclose(scaled_embeddings(rows, GEMMA), 32**0.5 * rows, rtol=1e-7)
    np.testing.assert_array_equal(scaled_embeddings(rows, PLAIN), rows)


@pytest.mark.slow
def test_long_sequences_attend_by_chunks():
    decoder = random_decoder(PLAIN)
    ids, mask = batch([1100, 700], width=1100)
    by_cache = jax.jit(partial(prefill, chunk=100))(
        decoder, embed_ids(decoder, ids), mask, empty_cache(decoder, 2, 1100)
    )[0]
    close(forward(decoder, embed_ids(decoder, ids), mask)[mask], by_cache[mask])


def test_no_array_of_all_pairs_lies_in_memory():
    """At 16,384 tokens the scores of one head alone would take 1 GiB."""
    config = DecoderConfig("llama", 60, 32, 2, 4, 2, 8, 48, max_positions=2**15)
    decoder = jax.eval_shape(partial(Decoder, config), jax.random.key(0))
    length = 2**14
    embeddings = jax.ShapeDtypeStruct((1, length, 32), jnp.float32)
    compiled = jax.jit(forward).lower(decoder, embeddings, jax.ShapeDtypeStruct((1, length), bool)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**29


@pytest.mark.slow
@of_all({"plain": PLAIN, "gemma": GEMMA})
def test_gradients_are_those_of_layers_apart_and_of_finite_differences(config):
    decoder = random_decoder(config)
    ids, mask = batch()

    def loss(embeddings, model):
        return jnp.where(mask[..., None], jnp.sin(forward(model, embeddings, mask)), 0).sum()

    embeddings = embed_ids(decoder, ids)
    gradient = jax.grad(loss)(embeddings, decoder)
    close(gradient, jax.grad(loss)(embeddings, unstacked(decoder)))
    assert not np.asarray(gradient)[~mask].any()
    direction = jax.random.normal(jax.random.key(2), embeddings.shape)
    ahead, behind = (float(loss(embeddings + s * 1e-3 * direction, decoder)) for s in (1, -1))
    assert (ahead - behind) / 2e-3 == pytest.approx(float((gradient * direction).sum()), rel=2e-2)


def test_bfloat16_is_near_float32_and_stays_bfloat16():
    decoder = random_decoder(PLAIN)
    ids, mask = batch()
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), decoder)
    hidden = forward(half, embed_ids(half, ids), mask)
    assert hidden.dtype == jnp.bfloat16
    assert logits(half, hidden).dtype == jnp.float32
    wide = forward(decoder, embed_ids(decoder, ids), mask)
    a, b = np.asarray(hidden, np.float32)[mask], np.asarray(wide)[mask]
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.98


def test_what_is_longer_than_the_positions_is_refused():
    decoder = random_decoder(DecoderConfig("llama", 60, 32, 1, 4, 2, 8, 48, max_positions=16))
    ids, mask = batch([17], width=17)
    with pytest.raises(TooLongError, match="17 tokens does not fit: the model has positions for 16"):
        forward(decoder, embed_ids(decoder, ids), mask)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_kv_heads": 3}, "3 key/value heads do not divide 4"),
        ({"head_width": 7}, "odd"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"model_type": "gpt2"}, "'gpt2' is not supported"),
        ({"width": 0}, "width is 0"),
        ({"sliding_window": 8}, "A llama model cannot have a sliding window"),
        ({"model_type": "mistral", "sliding_window": 8, "full_layers": (0,)}, "cannot have layers of two kinds"),
        ({"model_type": "qwen2", "full_layers": (0,)}, r"full_layers are \(0,\)"),
        ({"model_type": "qwen2", "sliding_window": 8, "full_layers": (0, 1)}, "some of the 2 layers"),
        ({"model_type": "qwen2", "sliding_window": 8, "full_layers": (2,)}, "some of the 2 layers"),
        ({"sliding_rope": Rope(1e4)}, "cannot have rotary positions by kind of layer"),
        ({"query_scalar": 24}, "cannot have a query_scalar"),
        ({"model_type": "gemma3_text", "query_scalar": 0}, "query_scalar is 0"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    fields = {**vars(PLAIN), **change}
    with pytest.raises(ConfigError, match=message):
        DecoderConfig(**fields)
