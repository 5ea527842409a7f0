"""What users choose: goals of merging, boundaries, scopes, pooling, defaults. Nothing here imports JAX."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from dyntok_jax.errors import InputError

if TYPE_CHECKING:
    from dyntok_jax.merging import MergeList

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

CANDIDATES = 64
"""Tokens that a step in a large vocabulary chooses among."""

PROBES = 48
"""Blocks of its index that a step reads."""

FULL = Share(100)
"""Full merging."""


@dataclass(frozen=True)
class Merging:
    """What merging may do to texts: one object, from the command line to the kernels.

    `auto` leaves a choice to what the texts are read by; `merging.resolve_merging` fills it in.

    Attributes:
      goal: when merging stops; None is static tokenization: the model's own tokenizer and ids.
      boundary: what merging may not cross.
      scope: count pairs over the sequences of a batch (`batch`, what encoders do), or in each alone (`example`, what
        decoders do with prompts).
      max_subwords: the most subwords a token; None for no limit, `auto` for the length that the hypernetwork was
        trained for, 7 under FVT.
      merge_list: apply these merges instead of finding the texts' own; goal and limit are then the list's.
      merge_last: let a text's last segment merge: `auto` for texts that are whole, not for prompts, which may go on in
        mid-word.

    Raises:
      InputError: a value that is none of these, or a merge list with a goal or limit beside it.

    >>> Merging(Share(50), boundary="word").scope
    'auto'
    """

    goal: Goal | None = FULL
    boundary: Boundary = "pretoken"
    scope: Scope | Literal["auto"] = "auto"
    max_subwords: int | Literal["auto"] | None = "auto"
    merge_list: "MergeList | None" = None
    merge_last: bool | Literal["auto"] = "auto"

    def __post_init__(self):
        if not isinstance(self.goal, Goal | None):
            raise InputError(
                f"goal must be a Merges, Share or Budget, or None for static tokenization, got {self.goal!r}."
            )
        _check_choice("boundary", self.boundary, get_args(Boundary))
        _check_choice("scope", self.scope, (*get_args(Scope), "auto"))
        if isinstance(self.max_subwords, int) and self.max_subwords < 1:
            raise InputError(f"max_subwords must be 1 or more, None for no limit, or 'auto', got {self.max_subwords}.")
        if self.merge_list is not None and self.goal != FULL:
            raise InputError("A merge list says itself how far to merge: give no goal beside it.")

    @property
    def is_static(self) -> bool:
        """Whether nothing is to be merged."""
        return self.goal is None


def one_merging(goal: Goal | None, merging: Merging | None, default: Goal | None) -> Merging:
    """What a caller asked for by `goal`, the short form, or by `merging`.

    Raises:
      InputError: by both.
    """
    if merging is None:
        return Merging(goal)
    if goal != default:
        raise InputError("Give goal or merging, not both: goal=Share(50) is short for merging=Merging(Share(50)).")
    return merging


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")


STATIC = Merging(goal=None)
"""The model's own tokenizer and its own ids."""
