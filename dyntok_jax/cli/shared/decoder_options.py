"""Groups of options that the commands for decoders share. Nothing here imports JAX before it is called."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import tyro

from dyntok_jax.cli.shared.option_types import (
    DEFAULT_HYPERNET,
    Count,
    HypernetName,
    MaxSubwords,
    Model,
    OptionalBoundary,
    OptionalPath,
    Protect,
    arg,
    goal_of,
    hypernet_of,
    merging_of,
    mesh_shape,
)
from dyntok_jax.errors import InputError
from dyntok_jax.options import DEFAULT_DECODER, STATIC, Merging, Positions, Scope, SpecialTokens

if TYPE_CHECKING:
    from dyntok_jax.decoding import DynamicDecoder, VocabularyChoice

flattened = tyro.conf.arg(name="")
"""Adds a group's options to the command's own: `--share`, not `--merging.share`."""

GOALS = ("share", "merges", "budget", "merge_list")
"""Options that turn merging on."""
MERGING_DETAILS = ("boundary", "scope", "max_subwords", "protect", "merge_last", "pretoken_merges", "positions")
"""Options for how prompts are merged, if they are."""


@dataclass(frozen=True)
class Reading:
    """The options of `DynamicDecoder.read`.

    Attributes:
      merging: how prompts are merged, if they are.
      language: code of their language, for a multilingual hypernetwork.
      batch_size: prompts per batch.
    """

    merging: Merging
    language: str | None = None
    batch_size: int = 8


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and where it runs.

    Attributes:
      model: a folder, a GGUF file, a Hugging Face Hub id, or a packaged model.
      hypernet: folder or Hub id of a ZeTT hypernetwork; auto: the one that comes with the model, if any; none: a new
        token is the mean of its subwords (FVT).
      adapter: folder of peft with a LoRA adapter of the model.
      language: code of the prompts' language, for a multilingual hypernetwork.
      special_tokens: special tokens that are written in prompts, such as </s>: read them as such, or as text; auto: as
        text in chats, as such in plain texts.
      dtype: of parameters and computation.
      mesh: devices that share the batches × devices that share the model, such as 4x2.
    """

    model: Model = DEFAULT_DECODER
    hypernet: HypernetName = DEFAULT_HYPERNET
    adapter: OptionalPath = None
    language: Annotated[str | None, arg(metavar="CODE", help_behavior_hint="")] = None
    special_tokens: SpecialTokens = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    mesh: Annotated[str | None, arg(metavar="DATAxMODEL", help_behavior_hint="")] = None

    def load(self, *, is_merging: bool) -> "DynamicDecoder":
        """Loads the model, and its hypernetwork if prompts are merged; keeps compiled programs for the next run.

        Raises:
          DyntokError: what `DynamicDecoder.load` and `make_mesh` raise.
        """
        from dyntok_jax.cli.shared.compile_clock import keep_compiled_programs
        from dyntok_jax.decoding import DynamicDecoder
        from dyntok_jax.sharding import make_mesh

        keep_compiled_programs()
        shape = mesh_shape(self.mesh)
        mesh = None if shape is None else make_mesh(*shape)
        hypernet = hypernet_of(self.hypernet) if is_merging else None
        return DynamicDecoder.load(
            self.model,
            hypernet,
            adapter=self.adapter,
            dtype=self.dtype,
            mesh=mesh,
            special_tokens=self.special_tokens,
        )


@dataclass(frozen=True)
class VocabularyOptions:
    """The vocabulary to write in, if not the model's own.

    Attributes:
      prompt_vocab: write in the tokens that the prompt was merged to, too; needs --share or another goal.
      vocab: write in the grown vocabulary of this folder, which `dyntok build-vocab` wrote; needs --table.
      table: with --vocab, its rows: a folder that `dyntok embed-vocab` wrote.
      index: with --vocab, what finds the next token without scoring all rows: a folder that `dyntok build-index` wrote.
      candidates: with --vocab, how many of the best tokens each step chooses among (default: 64).
      probes: with --index, blocks of it that each step reads; more miss fewer tokens and take longer (default: 48).
    """

    prompt_vocab: bool = False
    vocab: OptionalPath = None
    table: OptionalPath = None
    index: OptionalPath = None
    candidates: Count = None
    probes: Count = None

    def check(self, *, is_merging: bool) -> None:
        """Raises InputError if an option that another needs is missing."""
        if self.prompt_vocab and self.vocab is not None:
            raise InputError("--prompt-vocab and --vocab are different vocabularies to write in: give one of them.")
        if self.prompt_vocab and not is_merging:
            raise InputError(
                "--prompt-vocab writes in the tokens that the prompt was merged to, and prompts are static by default: "
                "give a goal too, such as --share 100."
            )
        for name in ("table", "index", "candidates", "probes"):
            if self.vocab is None and getattr(self, name) is not None:
                raise InputError(
                    f"--{name} needs a large vocabulary: give --vocab too, a folder of `dyntok build-vocab`."
                )
        if self.vocab is not None and self.table is None:
            raise InputError(
                "--vocab needs the rows of its entries: give --table too, a folder of `dyntok embed-vocab`."
            )
        if self.probes is not None and self.index is None:
            raise InputError("--probes needs an index to read: give --index too, or omit --probes.")

    def load(self, decoder: "DynamicDecoder") -> "VocabularyChoice":
        """The argument `vocabulary` of `DynamicDecoder.generate`.

        Raises:
          DyntokError: what `DynamicDecoder.load_vocabulary` raises.
        """
        if self.vocab is None:
            return "prompt" if self.prompt_vocab else None
        assert self.table is not None, "`check` requires it"
        given = {"k": self.candidates, "n_probe": self.probes}
        given = {name: value for name, value in given.items() if value is not None}
        return decoder.load_vocabulary(self.vocab, self.table, self.index, **given)


@dataclass(frozen=True)
class MergingOptions:
    """Whether and how prompts are merged.

    Attributes:
      share: merge prompts until this share of the maximum reduction is reached; 100 merges fully. Without this,
        --merges, --budget or --merge-list, prompts are static, since merged words lose most of their meaning today.
        Over 120 English words that SmolLM2's tokenizer splits into 2 to 4 subwords, in "The word X means", the greedy
        continuation of the merged prompt begins with the static one's first word in 13.3 % of cases (FVT 12.5 %), and
        with its first five tokens in 3.3 % (FVT 0.8 %).
      merges: merge this many times per prompt (with --scope batch, per batch).
      budget: merge until every prompt has at most this many tokens, special tokens included.
      merge_list: apply the merges that `dyntok learn-merges` wrote to this file.
      boundary: what merging may not cross (default: pretoken, or the merge list's own).
      scope: count pairs over a batch, or in each prompt separately (default: example).
      max_subwords: the longest token, in subwords (default: what the hypernetwork was trained for, or 7).
      protect: text that keeps its own subwords: digits, a regular expression, or none (default: digits).
      merge_last: let a prompt's last segment merge too, although the continuation may begin in mid-word.
      pretoken_merges: the first so many merges stay within pretokens, later ones only within the boundary.
      positions: what the model's positions count: tokens, or subwords, so that what follows a merged token lies as far
        from the beginning as unmerged (default: tokens).
      batch_size: prompts per batch.
    """

    share: Annotated[float | None, arg(metavar="PERCENT", help_behavior_hint="")] = None
    merges: Count = None
    budget: Annotated[int | None, arg(metavar="TOKENS", help_behavior_hint="")] = None
    merge_list: OptionalPath = None
    boundary: OptionalBoundary = None
    scope: Annotated[Scope | None, arg(metavar=f"{{{','.join(get_args(Scope))}}}", help_behavior_hint="")] = None
    max_subwords: MaxSubwords = None
    protect: Protect = None
    merge_last: bool = False
    pretoken_merges: Count = None
    positions: Annotated[
        Positions | None, arg(metavar=f"{{{','.join(get_args(Positions))}}}", help_behavior_hint="")
    ] = None
    batch_size: Annotated[int, arg(metavar="N")] = 8

    @property
    def is_merging(self) -> bool:
        """Whether prompts are to be merged; otherwise they are static."""
        return bool(self._given(GOALS))

    @property
    def given(self) -> list[str]:
        """The flags that were given of these options."""
        return self._given((*GOALS, *MERGING_DETAILS))

    def check(self, source: ModelOptions) -> None:
        """Raises InputError for options that have no effect because prompts are not merged."""
        given = self._given(MERGING_DETAILS)
        given += ["--language"] if source.language is not None else []
        given += ["--hypernet"] if source.hypernet not in (DEFAULT_HYPERNET, "none") else []
        if given and not self.is_merging:
            flags = ", ".join(given)
            raise InputError(
                f"Prompts are static by default, so {flags} would have no effect: turn merging on, for example with "
                f"--share 100, or omit {flags}."
            )

    def _given(self, names: Sequence[str]) -> list[str]:
        return [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) not in (None, False)]

    def reading(self, language: str | None) -> Reading:
        """These options as the library takes them.

        Raises:
          InputError: options contradict each other, or the merge list has another boundary.
        """
        if not self.is_merging:
            return Reading(STATIC, language, self.batch_size)
        merging = merging_of(
            goal_of(self.share, self.merges, self.budget),
            is_goal_given=(self.share, self.merges, self.budget) != (None, None, None),
            boundary=self.boundary,
            max_subwords=self.max_subwords,
            merge_list=self.merge_list,
            scope=self.scope or "auto",
            merge_last=self.merge_last or "auto",
            protect=self.protect,
        )
        merging = replace(merging, pretoken_merges=self.pretoken_merges or 0, positions=self.positions or "tokens")
        return Reading(merging, language, self.batch_size)
