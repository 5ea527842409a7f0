"""Texts encoded with dynamic and with static tokenization, and the time of both."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int

from dyntok_jax.cli.shared.compile_clock import CompileClock
from dyntok_jax.cli.shared.figures import RunFigures
from dyntok_jax.cli.shared.text_inputs import TextColumn
from dyntok_jax.encoding import DynamicEncoder, EncodedTexts
from dyntok_jax.errors import TooLongError
from dyntok_jax.options import Merging


@dataclass(frozen=True)
class EncodedColumn:
    """A column of texts and its encoding.

    Attributes:
      column: the texts.
      result: with dynamic tokenization.
      n_static: subwords of each text in static tokenization, special tokens and prefix not counted.
      n_cut: number of truncated texts.
      figures: counts and seconds of both.
    """

    column: TextColumn
    result: EncodedTexts
    n_static: Int[np.ndarray, "texts"]
    n_cut: int
    figures: RunFigures


@dataclass(frozen=True)
class Comparison:
    """All columns, and facts that concern all of them.

    Attributes:
      columns: in the order given.
      compile_seconds: how long JAX compiled; not part of any column's seconds.
      has_static: whether static tokenization was timed.
    """

    columns: Sequence[EncodedColumn]
    compile_seconds: float
    has_static: bool

    @property
    def figures(self) -> list[RunFigures]:
        """The figures of each column."""
        return [column.figures for column in self.columns]

    def notes(self) -> list[str]:
        """What the table's numbers mean, in sentences."""
        notes = [
            "static: subwords of the model's own tokenizer; tokens: after merging; without special tokens and prefix.",
            "texts/s: from text to embedding: tokenization, merging, new embeddings, model; "
            f"compiling ({self.compile_seconds:.1f} s, once) not counted.",
        ]
        if n_cut := sum(column.n_cut for column in self.columns):
            notes.append(f"Texts truncated to the model's positions: {n_cut}; what was cut off is not counted.")
        if too_long := [of.column.name for of in self.columns if self.has_static and of.figures.static_seconds is None]:
            notes.append(
                f"{', '.join(too_long)}: a text fits the model only when merged, so static tokenization was not timed."
            )
        return notes


def encode_columns(
    encoder: DynamicEncoder,
    columns: Sequence[TextColumn],
    languages: Sequence[str | None],
    merging: Merging,
    *,
    with_static: bool,
    on_progress: Callable[[int], None],
    **shared: Any,
) -> Comparison:
    """Encodes column by column, so that a batch holds texts of one language.

    Args:
      encoder: the model.
      columns: the texts.
      languages: of each column, for the hypernetwork.
      merging: how to merge.
      with_static: run static tokenization too, for its time.
      on_progress: called with the number of texts of each batch, twice per text if static runs too.
      shared: options of `DynamicEncoder.encode` that both runs take: prefix, pooling, truncate_dim, batch_size,
        truncate.

    Raises:
      TooLongError: a text is longer than the model's positions; the error names its column.
    """
    encoded = []
    with CompileClock() as clock:

        def timed(texts: Sequence[str], **options: Any) -> tuple[EncodedTexts, float]:
            compiled, started = clock.seconds, time.perf_counter()
            result = encoder.encode(texts, **shared | options)
            return result, time.perf_counter() - started - (clock.seconds - compiled)

        # the first call also pays for everything loaded on first use: make it an empty text's
        timed([""], merging=merging, language=languages[0], truncate=True)
        if with_static:
            timed([""], goal=None, language=languages[0], truncate=True)
        for column, language in zip(columns, languages, strict=True):
            options = {"language": language, "on_progress": on_progress}
            try:
                result, seconds = timed(column.texts, merging=merging, **options)
            except TooLongError as error:
                raise TooLongError(f"{column.name}: {error}") from error
            of = _with_counts(encoder, column, result, seconds, shared)
            if with_static:
                try:
                    _, static_seconds = timed(column.texts, goal=None, **options)
                    of = replace(of, figures=replace(of.figures, static_seconds=static_seconds))
                except TooLongError:  # it fits only when merged: not the user's fault
                    on_progress(len(column.texts))
            encoded.append(of)
        return Comparison(encoded, clock.seconds, with_static)


def _with_counts(
    encoder: DynamicEncoder, column: TextColumn, result: EncodedTexts, seconds: float, shared: dict[str, Any]
) -> EncodedColumn:
    n_static = count_static(encoder, column.texts, prefix=shared.get("prefix"), truncate=shared.get("truncate", False))
    n_kept = [int(of_text.length_T[of_text.is_counted_T].sum()) for of_text in result.tokens]
    figures = RunFigures(
        name=column.name,
        n_texts=len(column.texts),
        static_tokens=int(n_static.sum()),
        tokens=int(result.n_tokens.sum()),
        seconds=seconds,
        static_seconds=None,
        cache_hits=int(result.cache_hits),
        cache_misses=int(result.cache_misses),
    )
    return EncodedColumn(column, result, n_static, int((np.array(n_kept) < result.n_subwords).sum()), figures)


def count_static(
    encoder: DynamicEncoder, texts: Sequence[str], *, prefix: str | None = None, truncate: bool = False
) -> Int[np.ndarray, "texts"]:
    """Subwords of each text in static tokenization, special tokens and prefix not counted.

    Args:
      encoder: the model.
      texts: strings.
      prefix: put before each text; None for what the model expects.
      truncate: count no more than the model has positions for.
    """
    subwords = encoder.reader.encode_static(texts, prefix=encoder.prefix if prefix is None else prefix)
    n_counted = subwords.counts
    if truncate:
        n_counted = np.minimum(n_counted, encoder.max_tokens - (subwords.lengths - n_counted))
    return n_counted
