"""Decoding in a large vocabulary: the plain loop's tokens where it is the model's own, its own rows where it is not."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyntok_jax.decoding import LargeVocabulary, Limits, SamplingConfig, advance, sampling_of, start
from dyntok_jax.decoding.decode_loop import NO_TOKEN
from dyntok_jax.decoding.vocabularies import shard_vocabulary
from dyntok_jax.errors import InputError
from dyntok_jax.models import embed_ids, forward
from dyntok_jax.sharding import make_mesh, shard_batch, shardings_for
from dyntok_jax.vocabulary.index import build_index
from tests.decoding.test_decode_loop import N_TOKENS, PLAIN, WIDE, generated, keys_of, prompts, random_decoder

TIED = replace(PLAIN, ties_embeddings=True)
GEMMA = replace(TIED, model_type="gemma3_text", sliding_window=8, full_layers=(1,))
ALL = 10_000
"""More blocks than any index here has."""


def large_of(decoder, *, n_more=0, is_indexed=True, is_8_bit=False, special=()):
    """The model's own vocabulary, with tokens of two subwords each behind it; embedded by the mean of their rows."""
    own_in = np.asarray(decoder.word_embeddings[...])
    own_out = np.asarray(decoder.output_embeddings[...])
    rng = np.random.default_rng(3)
    pairs = rng.integers(0, len(own_in), (n_more, 2)).astype(np.int32)
    singles = np.stack([np.arange(len(own_in)), np.full(len(own_in), -1)], axis=1).astype(np.int32)
    parts = np.concatenate([singles, pairs])
    input_VD, output_VD = (np.concatenate([table, table[pairs].mean(axis=1)]) for table in (own_in, own_out))
    queries = rng.normal(size=(64, own_in.shape[1])).astype(np.float32)
    built = build_index(output_VD, queries, special_ids=special, is_8_bit=is_8_bit) if is_indexed else None
    return LargeVocabulary(input_VD, output_VD, built.index if built else None, parts)


def written(
    decoder, large, ids, mask, sampling, *, k=20, n_probe=ALL, end=-1, seen=None, mesh=None, chunk=5, n_tokens=N_TOKENS
):
    limits = Limits(jnp.array([end], jnp.int32), jnp.full(len(ids), n_tokens, jnp.int32))
    settings = sampling_of([sampling] * len(ids))
    options = {"vocabulary": replace(shard_vocabulary(large, mesh), k=k, n_probe=n_probe), "mesh": mesh}
    embeddings = embed_ids(decoder, ids)
    keys = keys_of(len(ids))
    state = start(decoder, embeddings, mask, seen, keys, settings, limits, capacity=32, chunk=4, **options)
    columns = [np.asarray(state.token_B)[:, None]]
    while not np.asarray(state.is_done_B).all():
        state, tokens = advance(decoder, state, settings, limits, jnp.int32(chunk), size=8, **options)
        columns.append(np.asarray(tokens))
    return [row[row != NO_TOKEN].tolist() for row in np.concatenate(columns, axis=1)], state


def oracle(decoder, large, ids, n_tokens, *, penalty=1.0):
    """Greedy choice over all rows for one sequence, everything read again at each step; a token is its constituents."""
    ids, rows = list(ids), [np.asarray(decoder.word_embeddings[...])[index] for index in ids]
    seen, found, read = set(ids), [], jax.jit(forward)
    for _ in range(n_tokens):
        padded = np.zeros((1, 32, len(rows[0])), np.float32)
        padded[0, : len(rows)] = rows
        hidden = np.asarray(read(decoder, jnp.asarray(padded), jnp.arange(32)[None] < len(rows)))[0, len(rows) - 1]
        scores = large.output_VD @ hidden
        for token, parts in enumerate(large.constituents_VS.tolist()):
            if penalty != 1 and set(parts) - {-1} <= seen:
                scores[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
        token = int(scores.argmax())
        found.append(token)
        rows.append(large.input_VD[token])
        seen |= set(large.constituents_VS[token].tolist()) - {-1}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("is_indexed", [True, False], ids=["index", "exact"])
def test_the_models_own_vocabulary_gives_the_plain_loops_text(is_indexed):
    decoder = random_decoder(PLAIN)
    ids, mask = prompts()
    found, _ = written(decoder, large_of(decoder, is_indexed=is_indexed, special=(1,)), ids, mask, SamplingConfig())
    assert found == generated(decoder, ids, mask, SamplingConfig())[0]


@pytest.mark.slow
@pytest.mark.parametrize("config", [TIED, GEMMA], ids=["llama", "gemma, which scales what it reads"])
def test_tied_tables_are_one(config):
    decoder = random_decoder(config)
    own = np.asarray(decoder.word_embeddings[...])
    parts = np.arange(len(own), dtype=np.int32)[:, None]
    queries = np.random.default_rng(0).normal(size=(8, own.shape[1])).astype(np.float32)
    large = LargeVocabulary(own, None, build_index(own, queries).index, parts)
    ids, mask = prompts()
    assert written(decoder, large, ids, mask, SamplingConfig())[0] == generated(decoder, ids, mask, SamplingConfig())[0]


@pytest.mark.slow
@pytest.mark.parametrize("is_8_bit", [False, True])
@pytest.mark.parametrize("penalty", [1.0, 2.5])
def test_new_tokens_are_read_and_written_and_penalised_by_their_string(penalty, is_8_bit):
    decoder = random_decoder(PLAIN, seed=1)
    large = large_of(decoder, n_more=600, is_8_bit=is_8_bit)
    large = scaled(large, 1.6)
    ids, mask = prompts((5,))
    seen = jnp.zeros((1, 60), bool).at[0, ids[0, :5]].set(True) if penalty != 1 else None
    # a penalty lowers rows after the search, so that more candidates are needed to hold the best
    found, state = written(
        decoder, large, ids, mask, SamplingConfig(repetition_penalty=penalty), k=200, seen=seen, n_tokens=8
    )
    assert found[0] == oracle(decoder, large, ids[0, :5].tolist(), 8, penalty=penalty)
    assert max(found[0]) >= 60
    if penalty != 1:
        expected = set(ids[0, :5].tolist()) | set(large.constituents_VS[found[0]].ravel().tolist()) - {-1}
        assert set(np.flatnonzero(state.seen_BV[0]).tolist()) == expected


def scaled(large, factor):
    """New tokens with larger output rows, so that some are chosen; the index made anew."""
    output_VD = large.output_VD.copy()
    output_VD[60:] *= factor
    queries = np.random.default_rng(0).normal(size=(64, output_VD.shape[1])).astype(np.float32)
    is_8_bit = large.index.blocks.scale is not None
    index = build_index(output_VD, queries, is_8_bit=is_8_bit).index
    return LargeVocabulary(large.input_VD, output_VD, index, large.constituents_VS)


def test_a_special_token_ends_a_text_though_its_block_is_not_probed():
    decoder = random_decoder(PLAIN)
    ids, mask = prompts((5,))
    end = generated(decoder, ids, mask, SamplingConfig())[0][0][0]
    large = large_of(decoder, n_more=900, special=(end,))
    found, _ = written(decoder, large, ids, mask, SamplingConfig(), n_probe=1, end=end)
    assert found == [[end]]


@pytest.mark.slow
def test_drawn_tokens_are_among_the_candidates_and_depend_on_the_seed_alone():
    decoder = random_decoder(PLAIN)
    large = large_of(decoder, n_more=400)
    ids, mask = prompts()
    sampling = SamplingConfig(1.5, top_k=10, min_p=0.01)
    together, _ = written(decoder, large, ids, mask, sampling)
    again, _ = written(decoder, large, ids, mask, sampling, chunk=2)
    assert together == again
    first = set()
    for seed in range(20):
        limits = Limits(jnp.array([-1], jnp.int32), jnp.ones(1, jnp.int32))
        state = start(
            decoder,
            embed_ids(decoder, ids[:1]),
            mask[:1],
            None,
            jax.random.split(jax.random.key(seed), 1),
            sampling_of([SamplingConfig(5.0)]),
            limits,
            vocabulary=replace(shard_vocabulary(large, None), k=3, n_probe=ALL),
            capacity=32,
            chunk=4,
        )
        first.add(int(state.token_B[0]))
    hidden = forward(decoder, embed_ids(decoder, ids[:1, :5]), mask[:1, :5])[0, 4]
    best = np.argsort(-(large.output_VD @ np.asarray(hidden)), kind="stable")[:3]
    assert first == set(best.tolist())


@pytest.mark.slow
def test_logits_that_are_no_numbers_end_a_sequence():
    decoder = random_decoder(PLAIN)
    large = large_of(decoder, n_more=100)
    large.input_VD[:] = np.nan
    _, state = written(decoder, large, *prompts((5,)), SamplingConfig())
    assert np.asarray(state.is_bad_B).all()
    assert int(state.n_chosen_B[0]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 4), (1, 8)])
def test_sharded_decoding_is_unsharded_decoding(shape):
    decoder = random_decoder(WIDE)
    large = large_of(decoder, n_more=700, special=(1,))
    ids, mask = prompts((5, 12, 1, 7))
    mesh = make_mesh(*shape)
    placed = jax.device_put(decoder, shardings_for(decoder, mesh))
    found, _ = written(placed, large, shard_batch(ids, mesh), shard_batch(mask, mesh), SamplingConfig(), mesh=mesh)
    assert found == written(decoder, large, ids, mask, SamplingConfig())[0]


def test_a_mesh_that_does_not_divide_the_rows_is_told():
    large = LargeVocabulary(np.ones((3, 6), np.float32), None, None, np.zeros((3, 1), np.int32))
    with pytest.raises(InputError, match="4 devices on the mesh axis 'model' do not divide rows of width 6"):
        shard_vocabulary(large, make_mesh(2, 4))
