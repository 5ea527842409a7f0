"""What encoding texts gives: embeddings or hidden states, tokens, counts, timings."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Int

from dyntok_jax.merging import TextTokens


@dataclass
class Timings:
    """Seconds spent in each stage, one after the other.

    Attributes:
      tokenize: texts to subwords.
      merge: subwords to tokens.
      embed: distinct tokens, cache, prediction.
      model: the device's work on each batch, and fetching what comes back.
      total: the whole call.
    """

    tokenize: float = 0.0
    merge: float = 0.0
    embed: float = 0.0
    model: float = 0.0
    total: float = 0.0


@dataclass(frozen=True)
class EncodedTexts:
    """The result of `DynamicEncoder.encode`, in the order of the texts.

    Attributes:
      embeddings_ND: pooled sentence embeddings; None where hidden states were asked for.
      hidden: hidden states (T_i, D) of each text's tokens; None where embeddings were asked for.
      tokens: the tokens of each text.
      n_subwords: subwords of each text before merging, special tokens and prefix not counted.
      n_tokens: tokens of each text, counted alike.
      padded_tokens: tokens that the model was fed in all, padding and special tokens included.
      cache_hits: tokens whose embedding the cache held.
      cache_misses: tokens whose embedding was predicted.
      timings: seconds a stage.
    """

    embeddings_ND: Float32[np.ndarray, "texts D"] | None
    hidden: Sequence[Float32[np.ndarray, "_ D"]] | None
    tokens: Sequence[TextTokens]
    n_subwords: Int[np.ndarray, "texts"]
    n_tokens: Int[np.ndarray, "texts"]
    padded_tokens: int
    cache_hits: int = 0
    cache_misses: int = 0
    timings: Timings = field(default_factory=Timings)
