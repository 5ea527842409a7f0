"""Positions that count subwords: prompts, what is generated after them, and scores, as in reading everything again."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyntok_jax import DynamicDecoder, Merging, SamplingConfig, Share
from dyntok_jax.decoding import Limits, advance, sampling_of, start
from dyntok_jax.decoding.decode_loop import NO_TOKEN
from dyntok_jax.decoding.vocabularies import LargeVocabulary, PromptVocabulary, shard_vocabulary
from dyntok_jax.errors import TooLongError
from dyntok_jax.models import embed_ids, forward, logits
from dyntok_jax.sharding import make_mesh
from tests.decoding.test_decode_loop import PLAIN, keys_of, prompts, random_decoder
from tests.support.tiny import write_tiny_decoder

GREEK = "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα."
TEXTS = [GREEK, "Alle Menschen sind frei und gleich an Würde geboren.", "x"]
SUBWORDS = Merging(Share(100), positions="subwords")
READ = jax.jit(forward)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("positions")
    write_tiny_decoder(folder)
    return folder


@pytest.fixture(scope="module")
def decoder(folder):
    return DynamicDecoder.load(folder)


def read_again(model, rows_TD, step_T):
    """The logits after the last of some embeddings, everything read at once."""
    n = len(rows_TD)
    padded = jnp.asarray(np.pad(np.stack(rows_TD), ((0, 128 - n), (0, 0))))[None]
    step_1T = jnp.asarray([[*step_T, *[0] * (128 - n)]], jnp.int32)
    hidden = READ(model, padded, jnp.arange(128)[None] < n, step_1T)
    return np.asarray(logits(model, hidden[:, n - 1])[0])


def greedy(decoder, prompt, n_tokens):
    """The most probable tokens after a merged prompt, whose rows are means."""
    table = np.asarray(decoder.decoder.word_embeddings[...])
    tokens = decoder.read([prompt], merging=SUBWORDS).tokens[0]
    rows, steps, found = [table[ids].mean(axis=0) for ids in tokens.ids()], tokens.length_T.tolist(), []
    for _ in range(n_tokens):
        found.append(int(read_again(decoder.decoder, rows, steps).argmax()))
        rows, steps = [*rows, table[found[-1]]], [*steps, 1]
    return found


@pytest.mark.slow
def test_generation_goes_on_where_the_unmerged_prompt_would_end(decoder):
    texts = decoder.generate(TEXTS, merging=SUBWORDS, max_tokens=6)
    for prompt, text in zip(TEXTS, texts, strict=True):
        assert list(text.ids) == greedy(decoder, prompt, 6)[: len(text.ids)]
    counted = decoder.generate(TEXTS, goal=Share(100), max_tokens=6)
    assert [text.ids for text in counted] != [text.ids for text in texts]


def test_an_unmerged_prompt_has_the_same_positions_either_way(decoder):
    options = {"max_tokens": 4, "seed": 2, "sampling": SamplingConfig(1.0)}
    static = decoder.generate(TEXTS, **options)
    counted = decoder.generate(TEXTS, merging=Merging(None, positions="subwords"), **options)
    assert [text.ids for text in static] == [text.ids for text in counted]


def test_scores_are_those_of_reading_everything_again(decoder):
    table = np.asarray(decoder.decoder.word_embeddings[...])
    (scored,) = decoder.score([GREEK], [" και ίσοι"], merging=SUBWORDS)
    tokens = scored.prompt_tokens
    rows, steps = [table[ids].mean(axis=0) for ids in tokens.ids()], tokens.length_T.tolist()
    for index, log_probability in zip(scored.ids, scored.log_probs_O, strict=True):
        expected = jax.nn.log_softmax(read_again(decoder.decoder, rows, steps))[index]
        assert log_probability == pytest.approx(float(expected), abs=1e-4)
        rows, steps = [*rows, table[index]], [*steps, 1]


def test_a_beginning_that_prompts_share_keeps_the_positions(decoder):
    prompts, continuations = [f"{GREEK} {GREEK} {word}" for word in ("ein", "zwei", "drei")], [" a", " b", " c"]
    together = decoder.score(prompts, continuations, merging=SUBWORDS)
    for prompt, text, found in zip(prompts, continuations, together, strict=True):
        (alone,) = decoder.score([prompt], [text], merging=SUBWORDS)
        np.testing.assert_allclose(found.log_probs_O, alone.log_probs_O, atol=1e-5)


@pytest.mark.slow
def test_tokens_of_a_large_vocabulary_take_as_many_positions_as_subwords():
    decoder = random_decoder(PLAIN, seed=1)
    rng = np.random.default_rng(0)
    own = np.asarray(decoder.word_embeddings[...])
    parts = np.full((len(own) + 200, 3), -1, np.int32)
    parts[: len(own), 0] = np.arange(len(own))
    parts[len(own) :, :2] = rng.integers(0, len(own), (200, 2))
    parts[len(own) + 100 :, 2] = rng.integers(0, len(own), 100)
    new_in, new_out = rng.normal(size=(2, 200, own.shape[1])).astype(np.float32)
    output = np.concatenate([np.asarray(decoder.output_embeddings[...]), new_out])
    large = LargeVocabulary(np.concatenate([own, 0.3 * new_in]), output, None, parts, k=8)
    ids, mask = prompts((5,))
    limits, settings = Limits(jnp.array([-1]), jnp.array([8], jnp.int32)), sampling_of([SamplingConfig()])
    step = jnp.where(mask, jnp.array([[1, 3, 2, 1, 4] + [0] * 7], jnp.int32), 0)
    options = {"vocabulary": replace(shard_vocabulary(large, None))}
    embeddings = embed_ids(decoder, ids)
    state = start(decoder, embeddings, mask, None, keys_of(1), settings, limits, step, capacity=32, chunk=4, **options)
    found = [int(state.token_B[0])]
    state, tokens = advance(decoder, state, settings, limits, jnp.int32(7), size=8, **options)
    found += [token for token in np.asarray(tokens)[0].tolist() if token != NO_TOKEN]
    rows, steps = [own[index] for index in ids[0, :5].tolist()], [1, 3, 2, 1, 4]
    for token in found:
        hidden = READ(
            decoder,
            jnp.asarray(np.pad(np.stack(rows), ((0, 128 - len(rows)), (0, 0))))[None],
            jnp.arange(128)[None] < len(rows),
            jnp.asarray([[*steps, *[0] * (128 - len(steps))]], jnp.int32),
        )[0, len(rows) - 1]
        assert token == int((output @ np.asarray(hidden)).argmax())
        rows, steps = [*rows, large.input_VD[token]], [*steps, int((parts[token] >= 0).sum())]
    assert max(found) >= len(own)


def test_the_prompts_own_tokens_take_as_many_positions_as_subwords():
    decoder = random_decoder(PLAIN)
    parts_BNS = jnp.array([[[3, 4, -1], [5, 6, 7]], [[8, 9, -1], [-1, -1, -1]]], jnp.int32)
    vocabulary = PromptVocabulary(jnp.zeros((3, 32)), None, jnp.array([[0, 1], [2, -1]], jnp.int32), parts_BNS)
    count = partial(vocabulary.count_subwords, decoder)
    assert count(jnp.array([60, 59], jnp.int32)).tolist() == [2, 1]
    assert count(jnp.array([61, 60], jnp.int32)).tolist() == [3, 2]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 1), (2, 4)])
def test_on_a_mesh_positions_are_the_same(tmp_path, shape):
    write_tiny_decoder(tmp_path, model_type="mistral", sliding_window=8, n_heads=16, n_kv_heads=8)
    alone, sharded = (DynamicDecoder.load(tmp_path, mesh=mesh) for mesh in (None, make_mesh(*shape)))
    texts = [[text.ids for text in d.generate(TEXTS, merging=SUBWORDS, max_tokens=4)] for d in (alone, sharded)]
    assert texts[0] == texts[1]
    prompts = [f"{GREEK} {GREEK} {word}" for word in ("ein", "zwei", "drei")]
    scores = [[s.total for s in d.score(prompts, [" a"] * 3, merging=SUBWORDS)] for d in (alone, sharded)]
    np.testing.assert_allclose(*scores, atol=1e-4)


def test_the_models_limit_counts_subwords_then(decoder):
    n_tokens, n_subwords = (decoder.read([GREEK], merging=m).n_positions[0] for m in (Merging(Share(100)), SUBWORDS))
    assert n_subwords == decoder.read([GREEK], merging=SUBWORDS).tokens.n_subwords[0] > n_tokens
    room = 512 - int(n_subwords)
    with pytest.raises(TooLongError, match=rf"Prompt 0 has {n_subwords} subwords, which positions count here"):
        decoder.generate([GREEK], merging=SUBWORDS, max_tokens=room + 1)
    with pytest.raises(TooLongError, match="to generate"):  # each token may have several subwords
        decoder.generate([GREEK], merging=SUBWORDS, max_tokens=room, vocabulary="prompt")
    long = GREEK * (512 // int(n_subwords) + 1)
    assert decoder.read([long], goal=Share(100)).n_tokens[0] < 512
    with pytest.raises(TooLongError, match=r"subwords, which positions count here.*count positions in tokens"):
        decoder.read([long], merging=SUBWORDS)
