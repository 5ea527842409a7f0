"""How the next token is chosen: greedily, or sampled with temperature, top-k, top-p and min-p.

The order is that of Hugging Face's `generate`: repetition penalty, temperature, top-k, top-p, min-p. Every cut keeps
the scores from a threshold upwards. The threshold is found bit by bit (`largest_threshold`) instead of by sorting the
vocabulary, so scores equal to the threshold are all kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float32, Int32, Key, UInt32

from dyntok_jax.errors import InputError
from dyntok_jax.options import is_real, whole_number
from dyntok_jax.types import EXCLUDED, AnyArray


@dataclass(frozen=True)
class SamplingConfig:
    """How to choose tokens, checked.

    Attributes:
      temperature: scores are divided by it; 0 is greedy.
      top_k: sample from the k most probable tokens only.
      top_p: sample from the fewest tokens whose probabilities together reach p (Holtzman et al. 2020).
      min_p: sample only from tokens at least min_p times as probable as the best one (Nguyen et al. 2024).
      repetition_penalty: scores of subwords that are in the prompt or the text so far are divided by it where positive
        and multiplied where negative (Keskar et al. 2019); 1 is none.

    Raises:
      InputError: a number is out of range, or a cut-off is given with greedy choice, where it has no effect.

    >>> SamplingConfig(temperature=0.8, top_p=0.95)
    SamplingConfig(temperature=0.8, top_k=None, top_p=0.95, min_p=None, repetition_penalty=1.0)
    >>> SamplingConfig(top_p=1.5)
    Traceback (most recent call last):
    dyntok_jax.errors.InputError: top_p must be more than 0 and at most 1, got 1.5.
    """

    temperature: float | int = 0.0
    top_k: int | None = None
    top_p: float | int | None = None
    min_p: float | int | None = None
    repetition_penalty: float | int = 1.0

    def __post_init__(self):
        for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
            value = getattr(self, name)
            if value is None and name in ("top_p", "min_p"):
                continue
            if not is_real(value):
                raise InputError(f"{name} must be a number, not {value!r}.")
            object.__setattr__(self, name, value if isinstance(value, int) else float(value))
        if self.top_k is not None:
            object.__setattr__(self, "top_k", whole_number("top_k", self.top_k))
        _check("temperature", self.temperature, self.temperature >= 0, "0 (greedy) or more")
        _check("top_p", self.top_p, self.top_p is None or 0 < self.top_p <= 1, "more than 0 and at most 1")
        _check("min_p", self.min_p, self.min_p is None or 0 <= self.min_p <= 1, "from 0 to 1")
        _check("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0, "more than 0 (1 is none)")
        cuts = [name for name in ("top_k", "top_p", "min_p") if getattr(self, name) is not None]
        if self.temperature == 0 and cuts:
            raise InputError(
                f"Temperature 0 always takes the most probable token, so {' and '.join(cuts)} can have no effect: give "
                "a temperature above 0, such as 0.8, or leave them out."
            )


def _check(name: str, value: float | int | None, is_fine: bool, range_: str) -> None:
    if not is_fine or (value is not None and not isfinite(value)):
        raise InputError(f"{name} must be {range_}, got {value}.")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sampling:
    """`SamplingConfig` as arrays, one entry a sequence, so that one compiled program serves every setting.

    Attributes:
      temperature_B: 0 is greedy.
      top_k_B: V or more for no cut.
      top_p_B: 1 for no cut.
      min_p_B: 0 for no cut.
      penalty_B: 1 for none.
    """

    temperature_B: Float32[AnyArray, "B"]
    top_k_B: Int32[AnyArray, "B"]
    top_p_B: Float32[AnyArray, "B"]
    min_p_B: Float32[AnyArray, "B"]
    penalty_B: Float32[AnyArray, "B"]


def sampling_of(configs: Sequence[SamplingConfig]) -> Sampling:
    """The settings of each sequence as numpy arrays.

    >>> sampling_of([SamplingConfig(), SamplingConfig(temperature=0.8)]).temperature_B
    array([0. , 0.8], dtype=float32)
    """
    no_limit = np.iinfo(np.int32).max
    return Sampling(
        temperature_B=np.array([config.temperature for config in configs], np.float32),
        top_k_B=np.array([min(config.top_k or no_limit, no_limit) for config in configs], np.int32),
        top_p_B=np.array([1.0 if config.top_p is None else config.top_p for config in configs], np.float32),
        min_p_B=np.array([config.min_p or 0.0 for config in configs], np.float32),
        penalty_B=np.array([config.repetition_penalty for config in configs], np.float32),
    )


def step_keys(key_B: Key[Array, "B"], step_B: Int32[Array, "B"]) -> Key[Array, "B"]:
    """The keys of a step. They depend on a sequence's own key and count alone, not on the rest of the batch."""
    return jax.vmap(jax.random.fold_in)(key_B, step_B)


def mark_seen(
    seen_BV: Bool[Array, "B V"], token_B: Int32[Array, "B"], is_active_B: Bool[Array, "B"]
) -> Bool[Array, "B V"]:
    """Adds each active sequence's token to the tokens it has seen."""
    row_B = jnp.arange(len(token_B), dtype=jnp.int32)
    return seen_BV.at[row_B, token_B].max(is_active_B)


def is_bad_row(logits_BV: Float32[Array, "B V"]) -> Bool[Array, "B"]:
    """Whether a sequence's scores have a NaN or an infinity, so that no choice means anything."""
    return ~jnp.isfinite(logits_BV).all(axis=1)


def choose_tokens(
    logits_BV: Float32[Array, "B V"],
    seen_BV: Bool[Array, "B V"] | None,
    key_B: Key[Array, "B"],
    sampling: Sampling,
) -> Int32[Array, "B"]:
    """Chooses a token for each sequence.

    Args:
      logits_BV: scores of the vocabulary.
      seen_BV: subwords that the repetition penalty applies to; None where there is none.
      key_B: one key a sequence, consumed here.
      sampling: how to choose.

    Returns:
      Ids: the most probable (the first of equals) where the temperature is 0, else sampled by the Gumbel-max trick.
    """
    if seen_BV is not None:
        logits_BV = penalize(logits_BV, seen_BV, jnp.asarray(sampling.penalty_B))
    greedy_B = logits_BV.argmax(axis=1).astype(jnp.int32)
    is_greedy_B = jnp.asarray(sampling.temperature_B) == 0

    def draw() -> Int32[Array, "B"]:
        cut_BV = truncated_logits(logits_BV, sampling)
        noise_BV = jax.vmap(lambda key: jax.random.gumbel(key, cut_BV.shape[1:], jnp.float32))(key_B)
        drawn_B = jnp.where(cut_BV > EXCLUDED, cut_BV + noise_BV, EXCLUDED).argmax(axis=1).astype(jnp.int32)
        return jnp.where(is_greedy_B, greedy_B, drawn_B)

    return lax.cond(is_greedy_B.all(), lambda: greedy_B, draw)


def penalize(
    logits_BV: Float32[Array, "B V"], seen_BV: Bool[Array, "B V"], penalty_B: Float32[Array, "B"]
) -> Float32[Array, "B V"]:
    """Lowers the scores of subwords seen so far (Keskar et al. 2019, §4.1; negative scores are multiplied)."""
    penalty_B1 = penalty_B[:, None]
    return jnp.where(seen_BV, jnp.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1), logits_BV)


def truncated_logits(logits_BV: Float32[Array, "B V"], sampling: Sampling) -> Float32[Array, "B V"]:
    """Scores divided by the temperature (1 where it is 0), `EXCLUDED` where top-k, top-p or min-p cut a token off.

    Each cut works on what the last one kept; one that cuts nothing in any sequence costs nothing.
    """
    temperature_B1 = jnp.asarray(sampling.temperature_B)[:, None]
    scores_BV = logits_BV / jnp.where(temperature_B1 > 0, temperature_B1, 1)

    def keep_from(scores_BV, threshold_B):
        return jnp.where(ordered_bits(scores_BV) >= threshold_B[:, None], scores_BV, EXCLUDED)

    def cut_k(scores_BV):
        wanted_B = jnp.asarray(sampling.top_k_B).astype(jnp.float32)
        threshold_B = largest_threshold(scores_BV, lambda kept_BV: kept_BV.sum(axis=1, dtype=jnp.float32) >= wanted_B)
        return keep_from(scores_BV, threshold_B)

    def cut_p(scores_BV):
        probability_BV = jax.nn.softmax(scores_BV, axis=1)
        mass_B = jnp.asarray(sampling.top_p_B) * probability_BV.sum(axis=1)
        threshold_B = largest_threshold(
            scores_BV, lambda kept_BV: jnp.where(kept_BV, probability_BV, 0).sum(axis=1) >= mass_B
        )
        is_uncut_B1 = (jnp.asarray(sampling.top_p_B) >= 1)[:, None]
        return jnp.where(is_uncut_B1, scores_BV, keep_from(scores_BV, threshold_B))

    n_vocabulary = logits_BV.shape[1]
    scores_BV = lax.cond((jnp.asarray(sampling.top_k_B) < n_vocabulary).any(), cut_k, lambda s: s, scores_BV)
    scores_BV = lax.cond((jnp.asarray(sampling.top_p_B) < 1).any(), cut_p, lambda s: s, scores_BV)
    # p ≥ min_p · p_best, in logarithms; log 0 = -inf keeps all
    floor_B1 = scores_BV.max(axis=1, keepdims=True) + jnp.log(jnp.asarray(sampling.min_p_B))[:, None]
    return jnp.where(scores_BV >= floor_B1, scores_BV, EXCLUDED)


def ordered_bits(values_BV: Float32[Array, "B V"]) -> UInt32[Array, "B V"]:
    """Integers in the same order as the values: their bits, with the sign bit flipped or all bits inverted."""
    bits_BV = lax.bitcast_convert_type(values_BV, jnp.uint32)
    top = jnp.uint32(1 << 31)
    return jnp.where(bits_BV >= top, ~bits_BV, bits_BV | top)


def largest_threshold(
    values_BV: Float32[Array, "B V"], is_enough: Callable[[Bool[Array, "B V"]], Bool[Array, "B"]]
) -> UInt32[Array, "B"]:
    """The largest threshold such that the values from it upwards are enough, in `ordered_bits`; 0 if none is.

    Found bit by bit from the top, 32 passes over the values, where sorting takes far longer.

    Args:
      values_BV: the values.
      is_enough: whether the values kept are enough; it must be monotone, so that more values are enough, too.
    """
    bits_BV = ordered_bits(values_BV)

    def decide(step, threshold_B):
        tried_B = threshold_B | lax.shift_left(jnp.uint32(1), jnp.uint32(31) - step.astype(jnp.uint32))
        return jnp.where(is_enough(bits_BV >= tried_B[:, None]), tried_B, threshold_B)

    return lax.fori_loop(0, 32, decide, jnp.zeros(len(values_BV), jnp.uint32))
