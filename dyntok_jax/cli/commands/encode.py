"""`dyntok encode`: texts in, embeddings and tokens out, and a table of the reduction."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from dyntok_jax.cli.shared import (
    DEFAULT_HYPERNET,
    Count,
    HypernetName,
    MaxSubwords,
    Model,
    OptionalBoundary,
    OptionalPath,
    Percent,
    Protect,
    TextColumn,
    arg,
    goal_of,
    hypernet_of,
    merging_of,
    mesh_shape,
    print_out,
    progress_bar,
    read_columns,
    write_json,
    written_together,
)
from dyntok_jax.errors import InputError
from dyntok_jax.options import (
    DEFAULT_MODEL,
    Pooling,
    Positions,
    Scope,
    SurfaceMode,
)
from dyntok_jax.storage import check_writable

if TYPE_CHECKING:
    from dyntok_jax.encoding import DynamicEncoder

EMBEDDINGS, TOKENS = "embeddings.safetensors", "tokens.jsonl"


@dataclass(frozen=True)
class Encode:
    """Encodes texts with dynamic tokenization, and reports the reduction.

    Attributes:
      file: UTF-8 text with one text a line (.gz too), aligned JSON lines (.jsonl, .jsonl.gz; one field a language), or
        - for standard input. Left out: the packaged sample.
      model: a folder, a Hugging Face Hub id, or a packaged model.
      hypernet: folder or Hub id of a ZeTT hypernetwork; auto: the one that comes with the model, if any; none: a new
        token is the mean of its subwords (FVT).
      adapter: folder of peft with a LoRA adapter of the model.
      share: merge until this share of the maximum reduction is reached.
      merges: merge this many times in each batch.
      budget: merge until every text has at most this many tokens, special tokens included.
      merge_list: apply the merges that `dyntok learn-merges` wrote to this file.
      boundary: what merging may not cross (default: pretoken, or the merge list's own).
      scope: count pairs over a batch, or in each text alone.
      max_subwords: the longest token, in subwords (default: what the hypernetwork was trained for, or 7).
      protect: text that keeps its own subwords: digits, a regular expression, or none (default: none).
      pretoken_merges: the first so many merges stay within pretokens, later ones only within the boundary.
      positions: what the model's positions count: tokens, or subwords, so that what follows a merged token lies as far
        from the beginning as unmerged.
      only: codes of the languages to read, from those in the file.
      language: code of the texts' language, for a multilingual hypernetwork (default: the file's own codes).
      special_tokens: special tokens that are written in texts, such as <mask>: read them as such, or as text.
      surface: the surface form of a token that the hypernetwork reads.
      predict_all: predict the embeddings of single subwords too, as the paper does.
      pooling: how tokens become an embedding (auto: as the model's folder declares, mean if it declares nothing), or
        none (hidden states).
      truncate_dim: keep only so many leading dimensions, of a model that was trained for that (Matryoshka).
      prefix: put before each text (default: what the model expects).
      prompt_name: name of a prompt of the model to put before each text instead, such as query or document.
      batch_size: texts a batch.
      truncate: cut texts that are longer than the model's positions, instead of stopping.
      output: folder for embeddings.safetensors and the token report, tokens.jsonl.
      cache: file of predicted embeddings; read if it exists, written at the end.
      mesh: devices that share the batches × devices that share the model, such as 4x2.
      no_static: skip the comparison with static tokenization.
      json: file for the table's figures.
    """

    EXAMPLES: ClassVar[str] = """\
  dyntok encode                                    the packaged sample: 15 languages, 50 paragraphs each
  dyntok encode reviews.txt --share 50             one text a line; half of the possible reduction
  cat log.txt | dyntok encode - --merges 100       standard input; the 100 most frequent merges of a batch
  dyntok encode de.txt --language de --model xlm-roberta-base \\
    --hypernet benjamin/zett-hypernetwork-xlm-roberta-base --cache de.cache
"""

    file: tyro.conf.Positional[Annotated[str | None, arg(metavar="[FILE]", help_behavior_hint="")]] = None
    model: Model = DEFAULT_MODEL
    hypernet: HypernetName = DEFAULT_HYPERNET
    adapter: OptionalPath = None
    share: Percent = None
    merges: Count = None
    budget: Annotated[int | None, arg(metavar="TOKENS", help_behavior_hint="")] = None
    merge_list: OptionalPath = None
    boundary: OptionalBoundary = None
    scope: Scope = "batch"
    max_subwords: MaxSubwords = None
    protect: Protect = None
    pretoken_merges: Annotated[int, arg(metavar="N")] = 0
    positions: Positions = "tokens"
    only: Annotated[tuple[str, ...], arg(metavar="[CODE ...]", help_behavior_hint="")] = ()
    language: Annotated[str | None, arg(metavar="CODE", help_behavior_hint="")] = None
    special_tokens: Literal["special", "text"] = "special"
    surface: SurfaceMode = "constituents"
    predict_all: bool = False
    pooling: Pooling = "auto"
    truncate_dim: Count = None
    prefix: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")] = None
    prompt_name: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    batch_size: Annotated[int, arg(metavar="N")] = 32
    truncate: bool = False
    output: Annotated[str, arg(metavar="FOLDER")] = "dyntok-output"
    cache: OptionalPath = None
    mesh: Annotated[str | None, arg(metavar="DATAxMODEL", help_behavior_hint="")] = None
    no_static: bool = False
    json: OptionalPath = None

    def run(self) -> None:
        """Reads, encodes, writes, prints."""
        goal = goal_of(self.share, self.merges, self.budget)
        shape = mesh_shape(self.mesh)
        if self.batch_size < 1:
            raise InputError(f"--batch-size must be 1 or more, got {self.batch_size}.")
        if self.prefix is not None and self.prompt_name is not None:
            raise InputError("--prefix is a text and --prompt-name the name of one of the model's: give one of them.")
        columns = read_columns(self.file, self.only)
        outputs = [Path(self.output) / EMBEDDINGS, Path(self.output) / TOKENS]
        for path in [*outputs, *(Path(path) for path in (self.json, self.cache) if path is not None)]:
            check_writable(path)

        from dyntok_jax.cli.shared import encode_columns, run_figures, run_table, write_embeddings, write_tokens

        encoder = self._load(shape)
        merging = merging_of(
            goal,
            is_goal_given=(self.share, self.merges, self.budget) != (None, None, None),
            boundary=self.boundary,
            max_subwords=self.max_subwords,
            merge_list=self.merge_list,
            scope=self.scope,
            protect=self.protect,
        )
        merging = replace(merging, pretoken_merges=self.pretoken_merges, positions=self.positions)
        languages = [self._language(encoder, column) for column in columns]
        n_runs = sum(len(column.texts) for column in columns) * (1 if self.no_static else 2)
        with progress_bar("Encoding", n_runs) as advance:
            comparison = encode_columns(
                encoder,
                columns,
                languages,
                merging,
                with_static=not self.no_static,
                on_progress=advance,
                prefix=self.prefix if self.prompt_name is None else encoder.prompt(self.prompt_name),
                pooling=self.pooling,
                truncate_dim=self.truncate_dim,
                batch_size=self.batch_size,
                truncate=self.truncate,
            )
        with written_together(outputs) as (embeddings_part, tokens_part):
            write_embeddings(embeddings_part, comparison.columns, self._metadata(str(merging.goal)))
            write_tokens(tokens_part, comparison.columns, encoder.tokenizer)
        if self.cache is not None:
            assert encoder.cache is not None, "`_load` asks for it"
            encoder.cache.save(self.cache)
        if self.json is not None:
            write_json(Path(self.json), run_figures(comparison.figures))
        print_out(run_table(comparison.figures), *comparison.notes(), f"Written: {outputs[0]} and {outputs[1]}")

    def _load(self, shape: tuple[int, int] | None) -> "DynamicEncoder":
        from dyntok_jax.embedding import EmbeddingCache
        from dyntok_jax.encoding import DynamicEncoder
        from dyntok_jax.sharding import make_mesh

        mesh = None if shape is None else make_mesh(*shape)
        encoder = DynamicEncoder.load(
            self.model,
            hypernet_of(self.hypernet),
            adapter=self.adapter,
            mesh=mesh,
            special_tokens=self.special_tokens,
            surface=self.surface,
            predict_all=self.predict_all,
        )
        if self.cache is None:
            return encoder
        if encoder.cache is None:
            raise InputError(
                "--cache stores predicted embeddings, and without a hypernetwork nothing is predicted: leave --cache "
                "out, or give --hypernet."
            )
        if Path(self.cache).exists():
            capacity, width = encoder.cache.capacity, encoder.config.width
            encoder.cache = EmbeddingCache.load(self.cache, capacity=capacity, width=width)
        return encoder

    def _language(self, encoder: "DynamicEncoder", column: TextColumn) -> str | None:
        """The language code for a column's texts; None where the hypernetwork has no languages."""
        own = column.language if encoder.embedder.languages else None
        try:
            encoder.embedder.language_indices(self.language or own, 1)
        except InputError as error:
            hint = "Give one for all texts with --language, or read only some of the languages with --only."
            raise InputError(f"{column.name}: {error} {hint}") from error
        return self.language or own

    def _metadata(self, goal: str) -> dict[str, str]:
        """The options that the embeddings depend on."""
        names = ("model", "hypernet", "boundary", "scope", "max_subwords", "protect", "merge_list", "language")
        names += ("special_tokens", "surface", "predict_all", "pooling", "truncate_dim", "prefix", "prompt_name")
        names += ("truncate",)
        options = {name: str(getattr(self, name)) for name in names if getattr(self, name) is not None}
        return options | {"goal": goal}
