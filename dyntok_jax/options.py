"""What users choose: goals of merging, boundaries, scopes, pooling, defaults. Nothing here imports JAX."""

import re
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Literal, TypeGuard, TypeVar, get_args

from dyntok_jax.errors import DyntokError, InputError

if TYPE_CHECKING:
    from dyntok_jax.merging import MergeList

Boundary = Literal["pretoken", "word", "word_hyphen", "sentence"]

Scope = Literal["batch", "example"]
"""`batch`: the sequences of a batch are counted together (the paper). `example`: each sequence is merged by itself."""

Positions = Literal["tokens", "subwords"]
"""What a model's positions count: the tokens before, or their subwords."""


def whole_number(
    name: str, value: object, *, least: int = 1, or_else: str = "", error: type[DyntokError] = InputError
) -> int:
    """A whole number that a caller gave: Python's or NumPy's, but no float and no truth value.

    Args:
      name: what it is, for the error.
      value: what was given.
      least: the smallest that is allowed.
      or_else: what else is allowed, for the error.
      error: its type.

    Raises:
      InputError: it is none, or less than `least`; or what `error` says.

    >>> whole_number("batch_size", np.int64(8))
    8
    """
    allowed = f"{least} or more{f', {or_else}' if or_else else ''}"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise error(f"{name} must be a whole number, {allowed}, got {value!r}.")
    if value < least:
        raise error(f"{name} must be {allowed}, got {value}.")
    return int(value)


def is_real(value: object) -> TypeGuard[float]:
    """Whether a caller gave a number of any kind, but no truth value.

    >>> is_real(np.float32(0.5)), is_real("0.5")
    (True, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def take_whole_numbers(options: object, least: Mapping[str, int], error: type[DyntokError]) -> None:
    """Checks fields of a frozen dataclass that are whole numbers, in its `__post_init__`, and makes them Python's.

    Args:
      options: the dataclass.
      least: of each field the smallest that is allowed.
      error: what is raised.

    >>> from dyntok_jax.training import RunConfig
    >>> RunConfig(steps=0)
    Traceback (most recent call last):
    dyntok_jax.errors.ConfigError: steps must be 1 or more, got 0.
    """
    for name, low in least.items():
        object.__setattr__(options, name, whole_number(name, getattr(options, name), least=low, error=error))


@dataclass(frozen=True)
class Merges:
    """Stop after `count` merges: of the batch, or of each sequence in scope `example`.

    Raises:
      InputError: `count` is negative or not a whole number.

    >>> from dyntok_jax.merging import merge_batch_on_host
    >>> rows = batch.ids_BL, batch.segment_BL, batch.mask_BL
    >>> int(merge_batch_on_host(*rows, Merges(5)).n_merges)
    5
    """

    count: int

    def __post_init__(self):
        object.__setattr__(self, "count", whole_number("The number of merges", self.count, least=0))


@dataclass(frozen=True)
class Share:
    """Stop at `percent` % of the maximum reduction, that of merging every segment as far as the limit allows.

    Counted to a ten-thousandth of a percent. Under a limit, greedy merging may run out of pairs a little earlier.

    Raises:
      InputError: `percent` is not a number from 0 to 100.

    >>> from dyntok_jax.merging import merge_batch_on_host
    >>> rows = batch.ids_BL, batch.segment_BL, batch.mask_BL
    >>> merge_batch_on_host(*rows, Share(100)).mask_BT.sum(axis=1)  # a token for each pretoken
    array([5, 9, 3])
    """

    percent: float | int

    def __post_init__(self):
        if not is_real(self.percent) or not 0 <= self.percent <= 100:
            raise InputError(f"The share of the maximum reduction must be from 0 to 100 %, got {self.percent!r}.")
        object.__setattr__(self, "percent", self.percent if isinstance(self.percent, int) else float(self.percent))


@dataclass(frozen=True)
class Budget:
    """Stop once every sequence has at most `tokens` tokens, special tokens included.

    Raises:
      InputError: `tokens` is less than 1 or not a whole number.

    >>> from dyntok_jax.merging import merge_batch_on_host
    >>> rows = batch.ids_BL, batch.segment_BL, batch.mask_BL
    >>> int(merge_batch_on_host(*rows, Budget(9)).mask_BT.sum(axis=1).max())
    9
    """

    tokens: int

    def __post_init__(self):
        object.__setattr__(self, "tokens", whole_number("The token budget", self.tokens))


Goal = Merges | Share | Budget

SurfaceMode = Literal["constituents", "retokenized"]

Pooling = Literal["auto", "mean", "first", "max", "last", "weighted_mean", "mean_sqrt", "none"]
"""How the hidden states of a text's tokens become one row: their mean; that of the first token (`cls`) or of the last;
their largest numbers; their mean weighted by position; their sum divided by the root of their number. `auto`: as the
model's folder declares, the mean if it declares nothing. `none`: not at all."""

Style = Literal["letters", "full"]
"""Whether the answer is a letter after the listed options (Hendrycks et al. 2021), or the option itself."""

SpecialTokens = Literal["auto", "special", "text"]
"""How special tokens that are written in a text (`</s>`) are read: as such, or as text like any other. `auto`: in plain
texts as such, as the model's own tokenizer reads them; in chats, where only the template's own are meant, as text."""

DEFAULT_MODEL = "e5-small"

DEFAULT_DECODER = "smollm2"

AUTO = "auto"
"""As a hypernetwork's name: the one that comes with the model, or none."""

CANDIDATES = 64
"""Candidates of a step in a large vocabulary: the tokens it chooses from."""

PROBES = 48
"""Blocks of the index that a step reads."""

FULL = Share(100)
"""Full merging."""

PROTECTED = {"digits": r"\d+"}
"""Regular expressions that `Merging.protect` has a name for."""


@dataclass(frozen=True)
class Merging:
    """What merging may do to texts: one object, from the command line to the kernels.

    `auto` leaves a choice to the encoder or decoder; `merging.resolve_merging` fills it in.

    Attributes:
      goal: when merging stops; None is static tokenization: the model's own tokenizer and ids.
      boundary: what merging may not cross.
      scope: count pairs over the sequences of a batch (`batch`, what encoders do), or in each alone (`example`, what
        decoders do with prompts).
      max_subwords: the most subwords a token; None for no limit, `auto` for the length that the hypernetwork was
        trained for, 7 under FVT.
      merge_list: apply these merges instead of finding the texts' own; goal and limit are then the list's.
      protect: text that keeps its own subwords: a regular expression, or `digits`, so that `1234567` is never one
        token; None for nothing; `auto`: digits for decoders, nothing for encoders.
      merge_last: let a text's last segment merge (where the whole text is one, its last pretoken); `auto`: yes for
        whole texts, no for prompts, whose last word may be unfinished.
      pretoken_merges: the first so many merges stay within pretokens, all later ones only within the boundary; fewer
        where pretokens have no pair left. In scope `example` they are counted in each sequence.
      positions: what the model's positions count. `tokens`: a merged token takes one position, like any other.
        `subwords`: each token takes the position of its first subword, so that text after a merged token lies as far
        from the beginning as unmerged; the model's limit then counts subwords, too.

    Raises:
      InputError: a value is not one of these, or a merge list is given together with a goal or stages of its own, or
        `protect` is not a regular expression.

    >>> Merging(Share(50), boundary="word").scope
    'auto'
    """

    goal: Goal | None = FULL
    boundary: Boundary = "pretoken"
    scope: Scope | Literal["auto"] = "auto"
    max_subwords: int | Literal["auto"] | None = "auto"
    merge_list: "MergeList | None" = None
    merge_last: bool | Literal["auto"] = "auto"
    protect: str | None = "auto"
    pretoken_merges: int = 0
    positions: Positions = "tokens"

    def __post_init__(self):
        if not isinstance(self.goal, Goal | None):
            raise InputError(
                f"goal must be a Merges, Share or Budget, or None for static tokenization, got {self.goal!r}."
            )
        check_choice("boundary", self.boundary, get_args(Boundary))
        check_choice("scope", self.scope, (*get_args(Scope), "auto"))
        if self.max_subwords is not None and self.max_subwords != "auto":
            limit = whole_number("max_subwords", self.max_subwords, or_else="None for no limit, or 'auto'")
            object.__setattr__(self, "max_subwords", limit)
        if self.merge_list is not None and self.goal != FULL:
            raise InputError("A merge list decides itself how far to merge: give it without a goal.")
        least = whole_number("pretoken_merges", self.pretoken_merges, least=0)
        object.__setattr__(self, "pretoken_merges", least)
        if self.merge_list is not None and least:
            raise InputError("A merge list decides itself in which order to merge: give it without pretoken_merges.")
        check_choice("positions", self.positions, get_args(Positions))
        if self.protect is not None:
            protected_pattern(self.protect)

    @property
    def is_static(self) -> bool:
        """Whether nothing is to be merged."""
        return self.goal is None


def protected_pattern(protect: str) -> re.Pattern[str]:
    """The regular expression that `Merging.protect` stands for.

    Raises:
      InputError: it is none.

    >>> protected_pattern("digits").findall("10 of 1234567")
    ['10', '1234567']
    """
    try:
        return re.compile(PROTECTED.get(protect, protect))
    except re.error as error:
        names = ", ".join(PROTECTED)
        raise InputError(f"protect must be a regular expression, or {names}, got {protect!r} ({error}).") from None


def one_merging(goal: Goal | None, merging: Merging | None, default: Goal | None) -> Merging:
    """The merging that a caller gave, as `goal` (the short form) or as `merging`.

    Raises:
      InputError: both are given, or `merging` is no `Merging`.

    >>> one_merging(Share(50), None, default=FULL).goal
    Share(percent=50)
    """
    if merging is None:
        return Merging(goal)
    if not isinstance(merging, Merging):
        raise InputError(f"merging must be a Merging, got {merging!r}: goal=Share(50) is short for Merging(Share(50)).")
    if goal != default:
        raise InputError("Give goal or merging, not both: goal=Share(50) is short for merging=Merging(Share(50)).")
    return merging


Choice = TypeVar("Choice")


def check_choice(name: str, value: Choice, choices: tuple[object, ...]) -> Choice:
    """The value, checked to be one of the choices.

    Raises:
      InputError: it is none of them.

    >>> check_choice("scope", "batch", ("batch", "example"))
    'batch'
    """
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}.")
    return value


def check_list(name: str, values: object) -> None:
    """Refuses a single text, or what has no length, where a list of texts is expected.

    Raises:
      InputError: it is a string, a generator or no collection at all.

    >>> check_list("prompts", "Hello")
    Traceback (most recent call last):
    dyntok_jax.errors.InputError: prompts must be a list, got one text: put it in a list.
    """
    if isinstance(values, str):
        raise InputError(f"{name} must be a list, got one text: put it in a list.")
    if not isinstance(values, Sized):
        raise InputError(f"{name} must be a list, got {type(values).__name__}: give list({name}).")


STATIC = Merging(goal=None)
"""The model's own tokenizer and its own ids."""
