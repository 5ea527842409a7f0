"""The result of encoding texts: embeddings or hidden states, tokens, counts; and a stopwatch for its stages."""

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
    """A stopwatch for `DynamicEncoder.encode`: seconds spent in each stage.

    Attributes:
      tokenize: texts to subwords.
      merge: subwords to tokens.
      embed: finding distinct tokens, the cache, prediction.
      model: the device's work on each batch, and fetching the results.

    >>> stopwatch = Timings()
    >>> _ = encoder.encode(["Freiheit"], stopwatch=stopwatch)
    >>> stopwatch.tokenize > 0, stopwatch.total > stopwatch.model
    (True, True)
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
      embeddings_ND: pooled sentence embeddings; None with pooling `none`.
      hidden: hidden states (T_i, D) of each text's tokens; None with other pooling.
      tokens: the tokens of all texts; `tokens[i]` is a view of those of one.
      padded_tokens: all tokens that the model read, padding and special tokens included.
      cache_hits: tokens whose embedding was in the cache.
      cache_misses: tokens whose embedding was predicted.

    >>> texts = encoder.encode(["Freiheit und Gleichheit"], pooling="none")
    >>> texts.hidden[0].shape, texts.tokens[0].strings(encoder.tokenizer)
    ((6, 32), ['<s>', ' Freiheit', ' und', ' Gleichhe', 'it', '</s>'])
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
        """Tokens of each text after merging, special tokens and prefix not counted."""
        return self.tokens.counts
