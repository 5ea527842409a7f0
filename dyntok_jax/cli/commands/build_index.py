"""`dyntok build-index`: an index over a table of embeddings, and the recall of its searches."""

import time
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from dyntok_jax.cli.shared import OptionalPath, arg, print_out, progress_bar, read_columns, waiting

SAMPLE_LANGUAGES = ("en", "de", "es", "fr")
"""Languages of the packaged sample that decoders such as the packaged one know well."""
MAX_TEXTS = 128
BUILDING_SHARE = 0.75
"""The share of texts that the index is built with; the rest measures its recall."""


@dataclass(frozen=True)
class BuildIndex:
    """Builds the index with which a decoder finds its next token in a large vocabulary.

    Attributes:
      table: folder written by `dyntok embed-vocab`.
      output: folder of the index.
      model: the decoder that will search (default: the one that the table was made for).
      texts: a file of texts; the index is built with the hidden states of the first three quarters, and its recall is
        measured on the rest (default: the packaged sample).
      written_tokens: how many tokens the decoder continues each text's beginning by, to get the hidden states of
        generation too; 0 for only those of reading.
      eight_bit: store 8-bit rows, in a quarter of the memory; candidates are still scored by the table's own rows.
      seed: of the sample of rows that k-means is trained on.
      overwrite: replace another index of that name.
    """

    EXAMPLES: ClassVar[str] = """\
  dyntok build-index table --output index                          built with hidden states on the packaged sample
  dyntok build-index table --output index --texts mine.txt         on texts of your own
  dyntok build-index table --output index --eight-bit              a quarter of the memory
  dyntok build-index table --output index --written-tokens 0       faster, for a vocabulary that only scores texts
"""

    table: tyro.conf.Positional[Annotated[str, arg(metavar="TABLE")]]
    output: Annotated[str, arg(metavar="INDEX")]
    model: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    texts: OptionalPath = None
    written_tokens: Annotated[int, arg(metavar="N")] = 32
    eight_bit: bool = False
    seed: Annotated[int, arg(metavar="N")] = 0
    overwrite: bool = False

    def run(self) -> None:
        """Reads the table, computes hidden states, builds, measures, writes."""
        from dyntok_jax.cli.shared import keep_compiled_programs
        from dyntok_jax.decoding import end_ids
        from dyntok_jax.errors import InputError
        from dyntok_jax.files import check_free, load_model
        from dyntok_jax.vocabulary import open_table, readable_bytes
        from dyntok_jax.vocabulary.index import RECALL_AT, build_index, measure_recall, save_index, table_identity

        keep_compiled_programs()
        check_free(Path(self.output).absolute(), self.overwrite)
        if self.written_tokens < 0:
            raise InputError(f"--written-tokens must be 0 or more, got {self.written_tokens}.")
        table = open_table(self.table)
        given = self._texts()
        loaded = load_model(self.model or table.config.model, kind="decoder")
        tokenizer = loaded.tokenizer
        texts = [ids for text in given if (ids := tokenizer.own.encode(text).ids)]
        ends = end_ids(loaded.folder, tokenizer)
        queries_QD, held_out_QD = self._queries(loaded.parameters, table, texts, tokenizer, ends)
        rows_VD = table.rows(0, table.config.rows, "output")
        began = time.perf_counter()
        with progress_bar("Building", 100) as advance:
            built = build_index(
                rows_VD,
                queries_QD,
                special_ids=ends,
                n_own=tokenizer.n_own,
                is_8_bit=self.eight_bit,
                seed=self.seed,
                progress=_in_steps(advance, 100),
            )
            if held_out_QD is not None:
                built = measure_recall(built, rows_VD, held_out_QD)
        seconds = time.perf_counter() - began
        about = {"model": table.config.model, "vocabulary": table.config.vocabulary}
        save_index(self.output, built, table=table_identity(table.config), about=about, overwrite=self.overwrite)
        blocks = built.index.blocks
        print_out(
            f"{table.config.rows:,} rows in {len(blocks):,} blocks of up to {blocks.size}, "
            f"{readable_bytes(built.index.n_bytes)}, in {seconds:.0f} s.",
            *_measured(built, RECALL_AT),
            f"Written: {self.output}",
        )

    def _queries(self, model, table, texts, tokenizer, ends):
        """Hidden states to build the index with, and those to measure it with, or None if there is only one text."""
        import jax.numpy as jnp
        import numpy as np

        from dyntok_jax.decoding import BATCH, LargeVocabulary, hidden_queries, written_queries
        from dyntok_jax.vocabulary.index import zero_rows

        n_building = max(1, int(BUILDING_SHARE * len(texts)))
        parts = [part for part in (texts[:n_building], texts[n_building:]) if part]
        with waiting("Reading texts"):
            found = [[hidden_queries(model, part)] for part in parts]
        if self.written_tokens:
            input_VD, config = table.to_device(), table.config
            own_VD = table.rows(0, tokenizer.n_own, "output")
            all_rows = LargeVocabulary(
                input_VD=input_VD,
                output_VD=table.to_device(which="output") if config.has_output else None,
                index=None,
                constituents_VS=jnp.full((config.rows, 1), -1, jnp.int32),  # read only by repetition penalties
                banned_E=np.union1d(zero_rows(own_VD), tokenizer.tokenless_ids).astype(np.int32),
                k=1,
            )
            write = partial(written_queries, model, all_rows, end_ids=ends, n_tokens=self.written_tokens)
            with progress_bar("Writing", len(texts)) as advance:
                for part, queries in zip(parts, found, strict=True):
                    for batch in (part[at : at + BATCH] for at in range(0, len(part), BATCH)):
                        queries.append(write(batch))
                        advance(len(batch))
        joined = [np.concatenate(queries) for queries in found]
        return joined[0], joined[1] if len(joined) > 1 else None

    def _texts(self) -> list[str]:
        """Texts with languages alternating, so that building and measuring see every language."""
        columns = read_columns(self.texts, () if self.texts else SAMPLE_LANGUAGES)
        turns = zip_longest(*(column.texts for column in columns))
        return [text for turn in turns for text in turn if text is not None][:MAX_TEXTS]


def _measured(built, recall_at: int) -> list[str]:
    """The measured recall, in a line."""
    if not built.n_held_out:
        return ["Recall is not measured: the only text was needed to build the index. Give more with --texts."]
    shares = ", ".join(
        f"{recall:.1%} ({built.best_found[probe]:.1%}) in {probe}" for probe, recall in built.recall.items()
    )
    return [
        f"Of the {recall_at} best rows (the best one) for {built.n_held_out} held-out states, a search "
        f"finds {shares} blocks."
    ]


def _in_steps(advance, n_steps):
    """A progress callback that advances a bar of whole steps by the share done."""
    done = 0

    def progress(share: float) -> None:
        nonlocal done
        advance(round(share * n_steps) - done)
        done = round(share * n_steps)

    return progress
