"""What decoding gives: generated texts, scores of continuations, choices among options."""

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
    """What every result says of its prompt.

    Attributes:
      prompts: all that were read together.
      row: which of them this one answers.
    """

    prompts: ReadPrompts = field(repr=False, compare=False)
    row: int = field(repr=False)

    @property
    def prompt_tokens(self) -> TextTokens:
        """The prompt as the model read it."""
        return self.prompts.tokens[self.row]

    @property
    def n_static(self) -> int:
        """Tokens of the prompt to the model's own tokenizer, special tokens not counted; found when first asked."""
        return int(self.prompts.n_static[self.row])

    @property
    def n_tokens(self) -> int:
        """Tokens of the prompt after merging, counted alike."""
        return int(self.prompt_tokens.is_counted_T.sum())


@dataclass(frozen=True, kw_only=True)
class GeneratedText(OfPrompt):
    """The text that a model wrote behind a prompt.

    Attributes:
      text: without the prompt, special tokens and stop string; what was written so far, while it is streamed.
      ids: its tokens in the vocabulary that it was written in, without the one that ended it.
      n_new: how many of them the model's own vocabulary does not have; None where it was written in that.
      finish: `end` (the model ended it), `stop` (a stop string was met) or `length`; None while it is streamed.
      seconds_to_first: from the call to the first token of its batch; tokenizing and merging included.
      seconds: from the call to the end of its batch.
    """

    text: str
    ids: Sequence[int]
    n_new: int | None
    finish: Finish | None
    seconds_to_first: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ScoredText(OfPrompt):
    """How probable a text is behind a prompt.

    Attributes:
      text: the continuation.
      ids: its tokens in the model's own vocabulary.
      log_probs_O: natural logarithm of each token's probability, given the prompt and the tokens before it.
      greedy_O: the most probable token at each place; where it is the text's own, greedy choice would have written it.
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
        """Bits that the model needs to write the text, a byte of its UTF-8; 0 for an empty one."""
        n_bytes = len(self.text.encode())
        return -self.total / (n_bytes * log(2)) if n_bytes else 0.0


@dataclass(frozen=True, kw_only=True)
class Choice(OfPrompt):
    """The answer to a multiple-choice question.

    Attributes:
      best: number of the option chosen, from 0; the first among equals.
      scores: log-probability of each option's letter or, for full options, minus its bits a byte.
    """

    best: int
    scores: Sequence[float]
