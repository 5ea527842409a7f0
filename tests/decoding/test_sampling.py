"""Sampling: the right frequencies, and keys that decide alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dyntok_jax.decoding import (
    SamplingConfig,
    sampling_of,
)
from dyntok_jax.decoding.sampling import (
    choose_tokens,
    is_bad_row,
    largest_threshold,
    ordered_bits,
    step_keys,
    truncated_logits,
)
from dyntok_jax.errors import InputError
from dyntok_jax.types import (
    EXCLUDED,
)

N_WORDS = 50


def scores(n_batch=3, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(0, 3, (n_batch, N_WORDS)), jnp.float32)


def row_of(*values):
    return jnp.array([values], jnp.float32)


def keys_of(count):
    return jax.random.split(jax.random.key(0), count)


def test_each_sequence_has_its_own_settings():
    configs = [SamplingConfig(1.0, top_k=2), SamplingConfig(0.5, top_p=0.5), SamplingConfig(2.0, min_p=0.3)]
    logits = scores()
    together = truncated_logits(logits, sampling_of(configs))
    for row, config in enumerate(configs):
        alone = truncated_logits(logits[row : row + 1], sampling_of([config]))
        np.testing.assert_array_equal(np.asarray(together)[row], np.asarray(alone)[0])


def test_scores_equal_to_the_last_one_kept_are_kept():
    found = truncated_logits(row_of(1.0, 2.0, 2.0, 3.0), sampling_of([SamplingConfig(1.0, top_k=2)]))
    assert (np.asarray(found) > EXCLUDED).tolist() == [[False, True, True, True]]


def test_drawn_tokens_have_the_frequencies_of_the_distribution():
    logits = row_of(0.0, 1.0, 2.0, -1.0, 0.5)
    config = SamplingConfig(1.3, top_k=4)
    probability = jax.nn.softmax(jnp.where(logits > -1, logits / 1.3, -jnp.inf)[0])  # top_k cuts off the smallest
    count = 20_000
    drawn = choose_tokens(jnp.repeat(logits, count, axis=0), None, keys_of(count), sampling_of([config] * count))
    found = np.bincount(np.asarray(drawn), minlength=5) / count
    np.testing.assert_allclose(found, probability, atol=0.012)
    assert found[3] == 0


def test_a_draw_depends_on_its_own_key_alone():
    config = SamplingConfig(1.0)
    logits, keys = scores(), keys_of(3)
    together = choose_tokens(logits, None, keys, sampling_of([config, SamplingConfig(), config]))
    for row in (0, 2):
        alone = choose_tokens(logits[row : row + 1], None, keys[row : row + 1], sampling_of([config]))
        assert int(together[row]) == int(alone[0])
    assert int(together[1]) == logits[1].argmax()
    steps = step_keys(keys, jnp.arange(3, dtype=jnp.int32))
    assert jnp.array_equal(steps[1], jax.random.fold_in(keys[1], 1))


def test_greedy_takes_the_first_of_the_best():
    greedy = sampling_of([SamplingConfig()])
    assert choose_tokens(row_of(1.0, 5.0, 5.0), None, keys_of(1), greedy).tolist() == [1]


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_subnormal=False), min_size=1, max_size=8))
def test_bits_have_the_order_of_the_numbers(values):
    bits = np.asarray(ordered_bits(row_of(*values)))[0].tolist()
    # a device may take subnormal numbers for 0; and -0 and 0 have different bits
    pairs = list(zip(values, bits, strict=True))
    assert all((a < b) == (x < y) for a, x in pairs for b, y in pairs if a != b)


def test_the_threshold_is_the_largest_that_is_enough():
    values = row_of(5.0, -1.0, 3.0, 0.0)
    threshold = largest_threshold(values, lambda kept: kept.sum(axis=1) >= 2)
    assert (ordered_bits(values) >= threshold[:, None]).tolist() == [[True, False, True, False]]


def test_rows_that_hold_no_number_are_told():
    logits = scores().at[0, 3].set(jnp.nan).at[2, 0].set(jnp.inf)
    assert is_bad_row(logits).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"temperature": float("inf")}, "temperature must be"),
        ({"temperature": 1.0, "top_k": 0}, "top_k must be 1 or more, got 0"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p must be more than 0"),
        ({"temperature": 1.0, "top_p": 1.1}, "top_p must be"),
        ({"temperature": 1.0, "min_p": -0.5}, "min_p must be from 0 to 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be more than 0"),
        (
            {"top_k": 5, "top_p": 0.9},
            "Temperature 0 always takes the most probable token, so top_k and top_p can have no effect",
        ),
    ],
)
def test_settings_out_of_range_or_against_each_other_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        SamplingConfig(**options)
