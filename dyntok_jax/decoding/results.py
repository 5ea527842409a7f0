"""The results of decoding: generated texts, scores of continuations, choices among options."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log

import numpy as np
from jaxtyping import Float32, Int32

from dyntok_jax.decoding.prompts import ReadPrompts
from dyntok_jax.decoding.text_stream import Finish
from dyntok_jax.merging import TextTokens


@dataclass(frozen=True, kw_only=True)
class OfPrompt:
    """What every result tells about its prompt.

    Attributes:
      prompts: all prompts of the call.
      row: which of them this is the result of.
    """

    prompts: ReadPrompts = field(repr=False, compare=False)
    row: int = field(repr=False)

    @property
    def prompt_tokens(self) -> TextTokens:
        """The prompt as the model read it."""
        return self.prompts.tokens[self.row]

    @property
    def n_static(self) -> int:
        """Tokens of the prompt by the model's own tokenizer, special tokens not counted; computed on first use."""
        return int(self.prompts.n_static[self.row])

    @property
    def n_tokens(self) -> int:
        """Tokens of the prompt after merging, special tokens not counted."""
        return int(self.prompt_tokens.is_counted_T.sum())


@dataclass(frozen=True, kw_only=True)
class GeneratedText(OfPrompt):
    """The text that a model generated after a prompt.

    Attributes:
      text: without the prompt, special tokens and stop string.
      ids: its tokens in the vocabulary that it was generated in, without the one that ended it.
      n_new: how many of them the model's own vocabulary does not have; None where no other vocabulary was used.
      finish: `end` (an end token), `stop` (a stop string) or `length` (the limit on tokens).
      seconds_to_first: from the call to the first token of its batch; tokenizing and merging included.
      seconds: from the call to the end of its batch.

    >>> from dyntok_jax.options import Share
    >>> (text,) = decoder.generate(["Freiheit und Gleichheit"], goal=Share(100), max_tokens=2)
    >>> text.n_static, text.n_tokens, len(text.ids)
    (7, 5, 2)
    """

    text: str
    ids: Sequence[int]
    n_new: int | None
    finish: Finish | None
    seconds_to_first: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ScoredText(OfPrompt):
    """How probable a text is after a prompt.

    Attributes:
      text: the continuation.
      ids: its tokens in the model's own vocabulary.
      log_probs_O: natural logarithm of each token's probability, given the prompt and the tokens before it.
      greedy_O: the most probable token at each position, which greedy decoding would have chosen.

    >>> (text,) = decoder.score(["All human beings"], [" are born free."])
    >>> len(text.ids), round(text.total), round(text.bits_per_byte, 1)
    (8, -57, 5.5)
    """

    text: str
    ids: Sequence[int]
    log_probs_O: Float32[np.ndarray, "O"]
    greedy_O: Int32[np.ndarray, "O"]

    @property
    def total(self) -> float:
        """Natural logarithm of the whole text's probability."""
        return float(self.log_probs_O.astype(np.float64).sum())

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model needs per byte of the text's UTF-8; 0 for an empty text."""
        n_bytes = len(self.text.encode())
        return -self.total / (n_bytes * log(2)) if n_bytes else 0.0


@dataclass(frozen=True, kw_only=True)
class Choice(OfPrompt):
    """The answer to a multiple-choice question.

    Attributes:
      best: number of the option chosen, from 0; the first among equals.
      scores: log-probability of each option's letter or, for full options, minus its bits per byte.

    >>> (answer,) = decoder.choose(["Which of these is a fruit?"], [["stone", "apple"]])
    >>> answer.best, np.round(answer.scores)  # weights are random here
    (0, array([-6., -7.]))
    """

    best: int
    scores: Sequence[float]
