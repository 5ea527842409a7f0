"""The decoding loop: the tokens of a loop without a cache, wherever it comes up for air and whatever stands beside."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from dyntok_jax.decoding import (
    Limits,
    SamplingConfig,
    advance,
    sampling_of,
    sequence_keys,
    start,
)
from dyntok_jax.decoding.decode_loop import (
    NO_TOKEN,
    stop_sequences,
)
from dyntok_jax.decoding.sampling import (
    choose_tokens,
    step_keys,
)
from dyntok_jax.decoding.scoring import EmbeddedTokens, score_continuations, target_log_probabilities
from dyntok_jax.errors import ConfigError
from dyntok_jax.models import Decoder, DecoderConfig, Rope, embed_ids, empty_cache, forward, logits, prefill, unstacked
from dyntok_jax.sharding import constrain_cache, make_mesh, shard_batch, shardings_for, under_explicit_mesh

PLAIN = DecoderConfig("llama", 60, 32, 2, 4, 2, 8, 48, max_positions=256)
RING = DecoderConfig("mistral", 60, 32, 2, 4, 2, 8, 48, max_positions=256, sliding_window=8)
LENGTHS = (5, 12, 1)
N_TOKENS = 12


def random_decoder(config, seed=0):
    shapes = jax.eval_shape(partial(Decoder, config), jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes)


def prompts(lengths=LENGTHS, width=12, seed=0):
    mask = np.arange(width)[None] < np.array(lengths)[:, None]
    ids = np.random.default_rng(seed).integers(0, 60, mask.shape).astype(np.int32) * mask
    return jnp.asarray(ids), jnp.asarray(mask)


def keys_of(count):
    return sequence_keys(np.full(count, 7, np.uint32), np.arange(count, dtype=np.uint32))


def generated(decoder, ids, mask, sampling, *, chunk=5, end=-1, max_tokens=N_TOKENS, keys=None, seen=None, mesh=None):
    """Runs the loop and returns the tokens of each sequence."""
    count = len(ids)
    limits = Limits(jnp.array([end], jnp.int32), jnp.broadcast_to(jnp.asarray(max_tokens, jnp.int32), (count,)))
    settings, keys = sampling_of([sampling] * count), keys_of(count) if keys is None else keys
    state = start(decoder, embed_ids(decoder, ids), mask, seen, keys, settings, limits, capacity=32, chunk=4, mesh=mesh)
    columns = [np.asarray(state.token_B)[:, None]]
    while not np.asarray(state.is_done_B).all():
        state, tokens = advance(decoder, state, settings, limits, jnp.int32(chunk), size=8, mesh=mesh)
        columns.append(np.asarray(tokens))
    return [row[row != NO_TOKEN].tolist() for row in np.concatenate(columns, axis=1)], state


READ, CHOOSE = jax.jit(forward), jax.jit(choose_tokens)


def without_cache(decoder, ids, sampling, key, *, n_tokens=N_TOKENS, seen=None):
    """The same for one sequence, reading everything again at each step."""
    ids, found = list(ids), []
    for step in range(n_tokens):
        padded = jnp.asarray([ids + [0] * (32 - len(ids))], jnp.int32)
        hidden = READ(decoder, embed_ids(decoder, padded), jnp.arange(32)[None] < len(ids))
        scores = logits(decoder, hidden[:, len(ids) - 1])
        keys = step_keys(key[None], jnp.array([step], jnp.int32))
        token = int(CHOOSE(scores, seen, keys, sampling_of([sampling]))[0])
        seen = None if seen is None else seen.at[0, token].set(True)
        ids.append(token)
        found.append(token)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("config", [PLAIN, RING], ids=["plain", "ring"])
@pytest.mark.parametrize(
    "sampling", [SamplingConfig(), SamplingConfig(1.5, top_k=20, min_p=0.01)], ids=["greedy", "drawn"]
)
def test_the_loop_is_reading_everything_again_at_each_step(config, sampling):
    decoder = random_decoder(config)
    ids, mask = prompts()
    found, _ = generated(decoder, ids, mask, sampling)
    for row, length in enumerate(LENGTHS):
        assert found[row] == without_cache(decoder, ids[row, :length].tolist(), sampling, keys_of(3)[row])


@pytest.mark.slow
def test_layers_apart_write_the_same():
    decoder = random_decoder(PLAIN)
    stacked, _ = generated(decoder, *prompts(), SamplingConfig())
    apart, _ = generated(unstacked(decoder), *prompts(), SamplingConfig())
    assert apart == stacked


def test_where_the_loop_comes_up_for_air_changes_nothing():
    decoder = random_decoder(PLAIN)
    found = [generated(decoder, *prompts(), SamplingConfig(1.0), chunk=chunk)[0] for chunk in (1, 3, 8)]
    assert found[0] == found[1] == found[2]


def test_a_sequence_does_not_depend_on_its_neighbours():
    decoder = random_decoder(PLAIN)
    ids, mask = prompts()
    together, _ = generated(decoder, ids, mask, SamplingConfig(1.0))
    for row in range(3):
        one = slice(row, row + 1)
        alone, _ = generated(decoder, ids[one], mask[one], SamplingConfig(1.0), keys=keys_of(3)[one])
        assert alone == [together[row]]


def test_sequences_end_at_their_own_limits_and_tokens():
    decoder = random_decoder(PLAIN)
    ids, mask = prompts()
    free, _ = generated(decoder, ids, mask, SamplingConfig())
    end = free[0][4]
    found, state = generated(decoder, ids, mask, SamplingConfig(), end=end, max_tokens=[N_TOKENS, 3, 0])
    assert found[0] == free[0][: free[0].index(end) + 1]
    assert found[1][:3] == free[1][: len(found[1])][:3]
    assert len(found[1]) <= 3
    assert state.n_chosen_B.tolist() == [len(found[0]), len(found[1]), 0]


@pytest.mark.slow
def test_penalised_subwords_are_those_of_prompt_and_text():
    decoder = random_decoder(PLAIN)
    ids, mask = prompts((5,))
    seen = jnp.zeros((1, 60), bool).at[0, ids[0, :5]].set(True)
    sampling = SamplingConfig(repetition_penalty=3.0)
    found, _ = generated(decoder, ids, mask, sampling, seen=seen)
    assert found[0] == without_cache(decoder, ids[0, :5].tolist(), sampling, keys_of(1)[0], seen=seen)
    assert len(set(found[0])) > len(set(generated(decoder, ids, mask, SamplingConfig())[0][0]))


def test_stopped_sequences_choose_no_more():
    decoder = random_decoder(PLAIN)
    ids, mask = prompts()
    limits = Limits(jnp.array([-1], jnp.int32), jnp.full(3, 20, jnp.int32))
    settings = sampling_of([SamplingConfig()] * 3)
    state = start(decoder, embed_ids(decoder, ids), mask, None, keys_of(3), settings, limits, capacity=32, chunk=12)
    state = stop_sequences(state, jnp.array([False, True, False]))
    _, tokens = advance(decoder, state, settings, limits, jnp.int32(4), size=8)
    assert ((np.asarray(tokens) != NO_TOKEN).sum(axis=1)).tolist() == [4, 0, 4]


def test_numbers_that_are_none_end_their_sequence_alone():
    decoder = random_decoder(PLAIN)
    ids, mask = prompts()
    embeddings = embed_ids(decoder, ids).at[1, 0].set(jnp.nan)
    limits = Limits(jnp.array([-1], jnp.int32), jnp.full(3, 20, jnp.int32))
    settings = sampling_of([SamplingConfig()] * 3)
    state = start(decoder, embeddings, mask, None, keys_of(3), settings, limits, capacity=32, chunk=12)
    assert state.is_bad_B.tolist() == [False, True, False]
    assert state.is_done_B.tolist() == [False, True, False]


def test_equal_prompts_and_seeds_have_equal_keys_and_others_do_not():
    keys = sequence_keys(np.array([1, 1, 1, 2], np.uint32), np.array([5, 5, 6, 5], np.uint32))
    data = [tuple(row) for row in np.asarray(jax.random.key_data(keys)).tolist()]
    assert data[0] == data[1]
    assert len(set(data)) == 3


@pytest.mark.slow
def test_continuations_have_the_probabilities_of_the_full_forward():
    decoder = random_decoder(PLAIN)
    ids, mask = prompts((5, 12))
    owner, lengths = [0, 1, 1, 0], (3, 8, 1, 0)
    behind, behind_mask = prompts(lengths, width=8, seed=1)
    log_BO, greedy_BO = jax.jit(partial(score_continuations, capacity=32, chunk=4))(
        decoder, EmbeddedTokens(embed_ids(decoder, ids), mask), jnp.array(owner, jnp.int32), behind, behind_mask
    )
    for row, (of, length) in enumerate(zip(owner, lengths, strict=True)):
        n = (5, 12)[of]
        whole = jnp.asarray([[*ids[of, :n].tolist(), *behind[row, :length].tolist()]], jnp.int32)
        scores = logits(decoder, forward(decoder, embed_ids(decoder, whole), whole >= 0))[0, n - 1 : n - 1 + length]
        expected = jax.nn.log_softmax(scores)[jnp.arange(length), whole[0, n:]]
        np.testing.assert_allclose(log_BO[row, :length], expected, atol=1e-4)
        assert greedy_BO[row, :length].tolist() == scores.argmax(axis=1).tolist()
    assert not np.asarray(log_BO)[~np.asarray(behind_mask)].any()


def test_many_positions_are_scored_a_few_at_a_time():
    decoder = random_decoder(PLAIN)
    hidden = jax.random.normal(jax.random.key(0), (2, 75, 32))
    target, mask = prompts((75, 40), width=75)
    log_BO, greedy_BO = target_log_probabilities(decoder, hidden, target, mask)
    expected = jnp.take_along_axis(jax.nn.log_softmax(logits(decoder, hidden)), target[..., None], axis=2)[..., 0]
    np.testing.assert_allclose(log_BO[mask], expected[mask], atol=1e-5)
    assert jnp.array_equal(greedy_BO[mask], logits(decoder, hidden).argmax(axis=2)[mask])


WIDE = DecoderConfig("mistral", 64, 64, 2, 16, 8, 4, 64, max_positions=256, sliding_window=8)
MIXED = replace(WIDE, model_type="gemma3_text", full_layers=(1,), sliding_rope=Rope(100.0))
BIASED = replace(WIDE, model_type="qwen2", sliding_window=None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "shape"),
    [(WIDE, (8, 1)), (WIDE, (2, 4)), (WIDE, (1, 8)), (MIXED, (2, 4)), (BIASED, (2, 4))],
)
def test_sharded_decoding_is_unsharded_decoding(config, shape):
    decoder = random_decoder(config)
    ids, mask = prompts((5, 12, 1, 7, 3, 12, 9, 2))
    mesh = make_mesh(*shape)
    placed = jax.device_put(decoder, shardings_for(decoder, mesh))
    cache = jax.jit(lambda: constrain_cache(empty_cache(decoder, 8, 16), mesh))()
    read = jax.jit(partial(prefill, chunk=4))
    hidden, cache = read(placed, embed_ids(placed, shard_batch(ids, mesh)), shard_batch(mask, mesh), cache)
    expected, whole = read(decoder, embed_ids(decoder, ids), mask, empty_cache(decoder, 8, 16))
    np.testing.assert_allclose(hidden[mask], expected[mask], atol=2e-5 * float(jnp.abs(expected).max()))
    for key, expected in zip(jax.tree.leaves(cache.key), jax.tree.leaves(whole.key), strict=True):
        np.testing.assert_allclose(key, expected, atol=2e-5 * float(jnp.abs(expected).max()))
        if shape == (2, 4):
            assert key.sharding.shard_shape(key.shape)[1:3] == (4, 2)  # of 8 sequences and 8 heads
    for sampling in (SamplingConfig(), SamplingConfig(1.0, top_p=0.9)):
        found, _ = generated(placed, shard_batch(ids, mesh), shard_batch(mask, mesh), sampling, mesh=mesh)
        assert found == generated(decoder, ids, mask, sampling)[0]


@pytest.mark.slow
def test_forward_is_the_same_under_explicit_axes():
    decoder = random_decoder(WIDE)
    ids, mask = prompts((5, 12, 1, 7, 3, 12, 9, 2))
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    placed = jax.device_put(decoder, shardings_for(decoder, mesh))
    embeddings = embed_ids(decoder, ids)
    with jax.set_mesh(mesh):
        found = jax.jit(under_explicit_mesh(forward, mesh))(
            placed, shard_batch(embeddings, mesh), shard_batch(mask, mesh)
        )
    expected = forward(decoder, embeddings, mask)
    np.testing.assert_allclose(np.asarray(found)[mask], expected[mask], atol=2e-5 * float(jnp.abs(expected).max()))


def test_heads_that_the_mesh_does_not_divide_are_told():
    decoder = jax.eval_shape(partial(Decoder, PLAIN), jax.random.key(0))
    with pytest.raises(ConfigError, match=r"axis 2 of layers.key.kernel has 2 entries"):
        shardings_for(decoder, make_mesh(2, 4))
