"""What users choose: goals of merging, boundaries, scopes, pooling, defaults. Nothing here imports JAX."""

from dataclasses import dataclass
from typing import Literal

from dyntok_jax.errors import InputError

Boundary = Literal["pretoken", "word", "word_hyphen", "sentence"]

Scope = Literal["batch", "example"]
"""`batch`: the sequences of a batch are counted together (the paper). `example`: each sequence is merged alone."""


@dataclass(frozen=True)
class Merges:
    """Stop after `count` merges: of the batch, or of each sequence in scope `example`.

    Raises:
      InputError: `count` is negative.
    """

    count: int

    def __post_init__(self):
        if self.count < 0:
            raise InputError(f"The number of merges must be 0 or more, not {self.count}.")


@dataclass(frozen=True)
class Share:
    """Stop at `percent` % of the maximum reduction, that of merging every segment as far as the limit allows.

    Counted to a ten-thousandth of a percent. Under a limit, greedy merging may run out of pairs a little earlier.

    Raises:
      InputError: `percent` is not from 0 to 100.
    """

    percent: float | int

    def __post_init__(self):
        if not 0 <= self.percent <= 100:
            raise InputError(f"The share of the maximum reduction must be from 0 to 100 %, not {self.percent}.")


@dataclass(frozen=True)
class Budget:
    """Stop once every sequence has at most `tokens` tokens, special tokens included.

    Raises:
      InputError: `tokens` is less than 1.
    """

    tokens: int

    def __post_init__(self):
        if self.tokens < 1:
            raise InputError(f"The token budget must be 1 or more, not {self.tokens}.")


Goal = Merges | Share | Budget

SurfaceMode = Literal["constituents", "retokenized"]

Pooling = Literal["mean", "first", "none"]

Style = Literal["letters", "full"]
"""Whether a letter behind the listed options answers (Hendrycks et al. 2021), or the option itself."""

DEFAULT_MODEL = "e5-small"

DEFAULT_DECODER = "smollm2"

AUTO = "auto"
"""As a hypernetwork's name: the one that comes with the model, or none."""

FULL = Share(100)

CANDIDATES = 64
"""Tokens that a step in a large vocabulary chooses among."""

PROBES = 48
"""Blocks of its index that a step reads."""
