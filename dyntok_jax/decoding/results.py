"""What decoding gives: generated texts, scores of continuations, choices among options."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from jaxtyping import Float32, Int32

from dyntok_jax.decoding.text_stream import Finish
from dyntok_jax.merging import TextTokens


@dataclass(frozen=True)
class GeneratedText:
    """The text that a model wrote behind a prompt.

    Attributes:
      text: without the prompt, special tokens and stop string; what was written so far, while it is streamed.
      ids: its tokens in the vocabulary that it was written in, without the one that ended it.
      n_new: how many of them the model's own vocabulary does not have; None where it was written in that.
      finish: `end` (the model ended it), `stop` (a stop string was met) or `length`; None while it is streamed.
      prompt_tokens: the prompt as the model read it.
      n_static: tokens of the prompt to the model's own tokenizer, special tokens not counted.
      seconds_to_first: from the call to the first token of its batch; tokenizing and merging included.
      seconds: from the call to the end of its batch.
    """

    text: str
    ids: Sequence[int]
    n_new: int | None
    finish: Finish | None
    prompt_tokens: TextTokens
    n_static: int
    seconds_to_first: float
    seconds: float

    @property
    def n_tokens(self) -> int:
        """Tokens of the prompt after merging, counted as `n_static` does."""
        return int(self.prompt_tokens.is_counted_T.sum())


@dataclass(frozen=True)
class ScoredText:
    """How probable a text is behind a prompt.

    Attributes:
      text: the continuation.
      ids: its tokens in the model's own vocabulary.
      log_probs_O: natural logarithm of each token's probability, given the prompt and the tokens before it.
      greedy_O: the most probable token at each place; where it is the text's own, greedy choice would have written it.
      prompt_tokens: the prompt as the model read it.
      n_static: tokens of the prompt to the model's own tokenizer, special tokens not counted.
    """

    text: str
    ids: Sequence[int]
    log_probs_O: Float32[np.ndarray, "O"]
    greedy_O: Int32[np.ndarray, "O"]
    prompt_tokens: TextTokens
    n_static: int

    @property
    def n_tokens(self) -> int:
        """Tokens of the prompt after merging, counted as `n_static` does."""
        return int(self.prompt_tokens.is_counted_T.sum())

    @property
    def total(self) -> float:
        """Natural logarithm of the whole text's probability."""
        return float(self.log_probs_O.astype(np.float64).sum())

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model needs to write the text, a byte of its UTF-8; nan for an empty one."""
        n_bytes = len(self.text.encode())
        return -self.total / (n_bytes * log(2)) if n_bytes else float("nan")


@dataclass(frozen=True)
class Choice:
    """The answer to a multiple-choice question.

    Attributes:
      best: number of the option chosen, from 0; the first among equals.
      scores: log-probability of each option's letter or, for full options, minus its bits a byte.
      prompt_tokens: the question as the model read it.
      n_static: tokens of the question to the model's own tokenizer, special tokens not counted.
    """

    best: int
    scores: Sequence[float]
    prompt_tokens: TextTokens
    n_static: int

    @property
    def n_tokens(self) -> int:
        """Tokens of the question after merging, counted as `n_static` does."""
        return int(self.prompt_tokens.is_counted_T.sum())
