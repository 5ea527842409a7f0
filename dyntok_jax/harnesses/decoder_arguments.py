"""`--model_args` of lm-evaluation-harness for the model `dyntok`: what may be given, checked."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

import jax

from dyntok_jax.decoding import DynamicDecoder
from dyntok_jax.errors import InputError
from dyntok_jax.merging import load_merges
from dyntok_jax.options import (
    AUTO,
    DEFAULT_DECODER,
    FULL,
    STATIC,
    Boundary,
    Budget,
    Merges,
    Merging,
    Positions,
    Share,
    check_choice,
    whole_number,
)

GOALS = {"share": Share, "merges": Merges, "budget": Budget}
DETAILS = ("boundary", "max_subwords", "protect", "merge_last", "pretoken_merges", "positions", "language")
"""Arguments for how prompts are merged, if they are."""
DTYPES = ("float32", "bfloat16", "float16")
BATCH_SIZE = 8
HARNESS_DEVICE = "cuda:0"
"""What the harness passes where its user names no device."""
PLATFORMS = {"cuda": "gpu"}
"""JAX's name of a platform, where it differs."""


@dataclass(frozen=True)
class DecoderArguments:
    """What `--model_args` may hold, and what the harness adds.

    Attributes:
      pretrained: a folder, a Hub id, or a packaged model.
      hypernet: a folder or Hub id of a ZeTT hypernetwork; `auto` for the one that comes with the model, if any; None
        for FVT.
      adapter: a folder of peft with a LoRA adapter of the model.
      dtype: of parameters and computation: `float32`, `bfloat16` or `float16`.
      share: merge prompts until this share of the maximum reduction, in percent; None, like the other goals, is static.
      merges: or until so many merges a prompt.
      budget: or until a prompt has at most so many tokens.
      merge_list: or apply the merges that `dyntok learn-merges` wrote to this file.
      boundary: what merging may not cross; None for `pretoken`, or the merge list's own.
      max_subwords: the most subwords a token; None for no limit.
      protect: a regular expression of text that keeps its own subwords, or `digits`; None for nothing.
      merge_last: let a prompt's last segment merge, too.
      pretoken_merges: the first so many merges of a prompt stay within pretokens, later ones within the boundary.
      positions: what the model's positions count, `tokens` or `subwords`.
      language: code of the prompts' language, for a multilingual hypernetwork.
      batch_size: prompts a batch; `auto` is 8.
      max_length: the most tokens a sequence; None for as many as the model has positions.
      max_gen_toks: tokens to generate where a task does not say.
      seed: of the first request's sampling; each further request has the next one.
      device: the platform that JAX must run on, such as `cpu`; it is chosen by `JAX_PLATFORMS`, not here.

    Raises:
      InputError: a value cannot be used.

    >>> DecoderArguments(share=50).merging.goal
    Share(percent=50)
    """

    pretrained: str = DEFAULT_DECODER
    hypernet: str | None = AUTO
    adapter: str | None = None
    dtype: str = "float32"
    share: float | int | None = None
    merges: int | None = None
    budget: int | None = None
    merge_list: str | None = None
    boundary: Boundary | None = None
    max_subwords: int | Literal["auto"] | None = "auto"
    protect: str | None = "auto"
    merge_last: bool | Literal["auto"] = "auto"
    pretoken_merges: int = 0
    positions: Positions = "tokens"
    language: str | None = None
    batch_size: int | str = BATCH_SIZE
    max_length: int | None = None
    max_gen_toks: int = 256
    seed: int = 0
    device: str | None = None

    def __post_init__(self):
        for name in ("pretrained", "hypernet", "adapter", "merge_list", "protect", "language", "device"):
            value = getattr(self, name)
            if not isinstance(value, str) and (value is not None or name == "pretrained"):
                raise InputError(f"{name} must be a text, got {value!r}: on a command line, put it in quotes.")
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("boundary", self.boundary, (*get_args(Boundary), None))
        check_choice("merge_last", self.merge_last, (True, False, "auto"))
        size = BATCH_SIZE if self.batch_size == "auto" else self.batch_size
        size = int(size) if isinstance(size, str) and size.isascii() and size.isdigit() else size
        object.__setattr__(self, "batch_size", whole_number("batch_size", size, or_else="or auto"))
        whole_number("max_gen_toks", self.max_gen_toks)
        whole_number("seed", self.seed, least=0)
        if self.max_length is not None:
            whole_number("max_length", self.max_length, least=2)
        self._check_goal()
        self._check_device()

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "DecoderArguments":
        """The arguments that a user gave by name; `none` is None.

        Raises:
          InputError: a name is unknown, or a value cannot be used.

        >>> DecoderArguments.of({"pretrained": "smollm2", "shares": 50})
        Traceback (most recent call last):
        dyntok_jax.errors.InputError: The model dyntok has no argument shares: did you mean share? ...
        """
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in given if name not in known]:
            close = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f"did you mean {close[0]}? It" if close else "it"
            raise InputError(f"The model dyntok has no argument {', '.join(unknown)}: {hint} takes {', '.join(known)}.")
        values: dict[str, Any] = {name: None if value in ("none", "None") else value for name, value in given.items()}
        return cls(**values)

    @property
    def n_batch(self) -> int:
        """Prompts a batch."""
        return int(self.batch_size)

    @cached_property
    def merging(self) -> Merging:
        """How prompts are merged, if they are."""
        given = self._goals()
        if not given:
            return STATIC
        ((name, value),) = given.items()
        listed = None if self.merge_list is None else load_merges(self.merge_list)
        if listed is not None and self.boundary not in (None, listed.boundary):
            raise InputError(
                f"{self.merge_list} was learnt with boundary={listed.boundary}, not {self.boundary}: leave out "
                "boundary, or learn a list for it."
            )
        return Merging(
            FULL if listed is not None else GOALS[name](value),
            boundary=self.boundary or ("pretoken" if listed is None else listed.boundary),
            max_subwords=self.max_subwords,
            merge_list=listed,
            merge_last=self.merge_last,
            protect=self.protect,
            pretoken_merges=self.pretoken_merges,
            positions=self.positions,
        )

    def load(self) -> DynamicDecoder:
        """Loads the model, and its hypernetwork if prompts are merged.

        Raises:
          DyntokError: what `DynamicDecoder.load` raises.
        """
        hypernet = None if self.merging.is_static else self.hypernet
        return DynamicDecoder.load(self.pretrained, hypernet, adapter=self.adapter, dtype=self.dtype)

    def _goals(self) -> dict[str, Any]:
        names = (*GOALS, "merge_list")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _check_goal(self) -> None:
        if len(given := self._goals()) > 1:
            raise InputError(f"{' and '.join(given)} are different goals for merging: give one of them.")
        if self.merge_list is not None and self.max_subwords != "auto":
            raise InputError("The merge list decides how long tokens get: leave out max_subwords.")
        _ = self.merging  # its own checks
        if not given:
            details = [field.name for field in fields(self) if field.name in DETAILS]
            idle = [name for name in details if getattr(self, name) != getattr(type(self), name)]
            idle += ["hypernet"] if self.hypernet not in (AUTO, None) else []
            if idle:
                names = " and ".join(idle)
                raise InputError(
                    f"Prompts are static by default, so {names} would have no effect: give a goal, such as share=100, "
                    f"or leave out {names}."
                )

    def _check_device(self) -> None:
        """The harness passes a device of PyTorch's, also where its user named none."""
        if self.device is None or self.device == HARNESS_DEVICE:
            return
        platform = self.device.partition(":")[0]
        if PLATFORMS.get(platform, platform) != jax.default_backend():
            raise InputError(
                f"device={self.device} is not what JAX runs on here ({jax.default_backend()}): leave it out, or choose "
                "by JAX_PLATFORMS."
            )
