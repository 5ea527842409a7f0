"""What encoding texts gives: embeddings or hidden states, tokens, counts; and what times its stages."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int

from dyntok_jax.merging import RaggedTokens


@dataclass
class Timings:
    """A stopwatch for `DynamicEncoder.encode`: seconds spent in each stage, one after the other.

    Attributes:
      tokenize: texts to subwords.
      merge: subwords to tokens.
      embed: distinct tokens, cache, prediction.
      model: the device's work on each batch, and fetching what comes back.
    """

    tokenize: float = 0.0
    merge: float = 0.0
    embed: float = 0.0
    model: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return self.tokenize + self.merge + self.embed + self.model


@contextmanager
def timed(stopwatch: Timings | None, stage: Literal["tokenize", "merge", "embed", "model"]) -> Iterator[None]:
    """Adds the seconds of a block to a stage; does nothing without a stopwatch."""
    started = time.perf_counter()
    yield
    if stopwatch is not None:
        setattr(stopwatch, stage, getattr(stopwatch, stage) + time.perf_counter() - started)


@dataclass(frozen=True)
class EncodedTexts:
    """The result of `DynamicEncoder.encode`, in the order of the texts.

    Attributes:
      embeddings_ND: pooled sentence embeddings; None where hidden states were asked for.
      hidden: hidden states (T_i, D) of each text's tokens; None where embeddings were asked for.
      tokens: the tokens of all texts; `tokens[i]` is a view of those of one.
      padded_tokens: tokens that the model was fed in all, padding and special tokens included.
      cache_hits: tokens whose embedding the cache held.
      cache_misses: tokens whose embedding was predicted.
    """

    embeddings_ND: Float32[np.ndarray, "texts D"] | None
    hidden: Sequence[Float32[np.ndarray, "_ D"]] | None
    tokens: RaggedTokens
    padded_tokens: int
    cache_hits: int = 0
    cache_misses: int = 0

    @property
    def n_subwords(self) -> Int[np.ndarray, "texts"]:
        """Subwords of each text before merging, special tokens and prefix not counted."""
        return self.tokens.subwords.counts

    @property
    def n_tokens(self) -> Int[np.ndarray, "texts"]:
        """Tokens of each text, counted alike."""
        return self.tokens.counts
