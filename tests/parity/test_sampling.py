"""Sampling: the cuts and the penalty of Hugging Face's `generate`."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from hypothesis import given, settings, strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from dyntok_jax.decoding import (
    SamplingConfig,
    sampling_of,
)
from dyntok_jax.decoding.sampling import (
    choose_tokens,
    truncated_logits,
)
from dyntok_jax.types import (
    EXCLUDED,
)
from tests.decoding.test_sampling import N_WORDS, keys_of, scores


def theirs(logits, config):
    """What Hugging Face's processors leave, in the order that `generate` runs them."""
    found, ids = torch.tensor(np.array(logits)), torch.zeros((len(logits), 1), dtype=torch.long)
    found = TemperatureLogitsWarper(float(config.temperature))(ids, found)
    for name, warper in (("top_k", TopKLogitsWarper), ("top_p", TopPLogitsWarper), ("min_p", MinPLogitsWarper)):
        value = getattr(config, name)
        found = found if value is None else warper(value)(ids, found)
    return found.numpy()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.none() | st.integers(1, N_WORDS + 5),
    top_p=st.none() | st.floats(0.05, 1.0),
    min_p=st.none() | st.floats(0.0, 0.9),
)
def test_cuts_are_those_of_generate(seed, temperature, top_k, top_p, min_p):
    config = SamplingConfig(temperature, top_k, top_p, min_p)
    logits = scores(seed=seed)
    found = np.asarray(jax.jit(truncated_logits)(logits, sampling_of([config] * 3)))
    expected = theirs(logits, config)
    np.testing.assert_array_equal(found > EXCLUDED, np.isfinite(expected))
    kept = np.isfinite(expected)
    np.testing.assert_allclose(found[kept], expected[kept], rtol=1e-6)


def test_repetition_penalty_is_that_of_generate():
    logits = scores()
    seen = jnp.asarray(np.random.default_rng(1).random(logits.shape) < 0.3)
    config = SamplingConfig(repetition_penalty=1.7)
    found = choose_tokens(logits, seen, keys_of(3), sampling_of([config] * 3))
    for row in range(3):
        ids = torch.tensor(np.flatnonzero(np.asarray(seen[row])))[None]
        penalised = RepetitionPenaltyLogitsProcessor(1.7)(ids, torch.tensor(np.array(logits[row : row + 1])))
        assert int(found[row]) == int(penalised.argmax())
