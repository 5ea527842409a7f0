"""`dyntok build-index`: a table of embeddings laid out for search, and how much of the truth a search finds."""

import time
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from dyntok_jax.cli.shared import OptionalPath, arg, print_out, progress_bar, read_columns, waiting

SAMPLE_LANGUAGES = ("en", "de", "es", "fr")
"""Those of the packaged sample that a decoder such as the packaged one reads well."""
MOST_TEXTS = 128
SHAPING = 0.75
"""The part of the texts that shapes the index; the rest measures it."""


@dataclass(frozen=True)
class BuildIndex:
    """Builds the index by which a decoder finds its next token among a large vocabulary.

    Attributes:
      table: folder that `dyntok embed-vocab` wrote.
      output: folder of the index.
      model: the decoder that will search (default: the one that the table was made for).
      texts: a file whose texts' hidden states shape the index, and the last quarter measure it. Left out: the packaged
        sample.
      written_tokens: how far the decoder writes on from each text's beginning, for the hidden states by which it
        chooses; 0 to take only those of reading.
      eight_bit: keep 8-bit rows, a quarter of the memory; candidates are still scored by the table's own rows.
      seed: of the rows that cells are trained on.
      overwrite: replace another index of that name.
    """

    EXAMPLES: ClassVar[str] = """\
  dyntok build-index table --output index                          shaped by hidden states on the packaged sample
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
        """Reads the table, takes hidden states, builds, writes, says what the build measured."""
        from dyntok_jax.cli.shared import keep_compiled_programs
        from dyntok_jax.decoding import end_ids
        from dyntok_jax.errors import InputError
        from dyntok_jax.files import check_free, load_model
        from dyntok_jax.vocabulary import open_table, readable_bytes
        from dyntok_jax.vocabulary.index import RECALL_AT, build_index, measure_recall, save_index, table_identity

        keep_compiled_programs()
        check_free(Path(self.output).absolute(), self.overwrite)
        if self.written_tokens < 0:
            raise InputError(f"--written-tokens takes a number from 0 on, not {self.written_tokens}.")
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
        """Hidden states that shape the index, and those that measure it: None where there is only one text."""
        import jax.numpy as jnp
        import numpy as np

        from dyntok_jax.decoding import BATCH, LargeVocabulary, hidden_queries, written_queries
        from dyntok_jax.vocabulary.index import zero_rows

        n_shaping = max(1, int(SHAPING * len(texts)))
        parts = [part for part in (texts[:n_shaping], texts[n_shaping:]) if part]
        with waiting("Reading texts"):
            found = [[hidden_queries(model, part)] for part in parts]
        if self.written_tokens:
            input_VD, config = table.to_device(), table.config
            own_VD = table.rows(0, tokenizer.n_own, "output")
            appended = np.arange(tokenizer.n_own, tokenizer.vocab_size, dtype=np.int32)
            all_rows = LargeVocabulary(
                input_VD=input_VD,
                output_VD=table.to_device(which="output") if config.has_output else None,
                index=None,
                constituents_VS=jnp.full((config.rows, 1), -1, jnp.int32),  # that only a penalty looks at
                barred_E=np.concatenate([zero_rows(own_VD), appended]),
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
        """Texts in turns by language, so that those that shape and those that measure have all of them."""
        columns = read_columns(self.texts, () if self.texts else SAMPLE_LANGUAGES)
        turns = zip_longest(*(column.texts for column in columns))
        return [text for turn in turns for text in turn if text is not None][:MOST_TEXTS]


def _measured(built, recall_at: int) -> list[str]:
    """What the build measured, in a line."""
    if not built.n_held_out:
        return ["Recall is not measured: there is one text, which shapes the index. Give more with --texts."]
    shares = ", ".join(f"{recall:.1%} ({built.first[probe]:.1%}) in {probe}" for probe, recall in built.recall.items())
    return [
        f"Of the {recall_at} best rows (the best one) of {built.n_held_out} states that shaped nothing, a search "
        f"finds {shares} blocks."
    ]


def _in_steps(advance, n_steps):
    """Advances a bar of whole steps by a share of it that is done."""
    done = 0

    def progress(share: float) -> None:
        nonlocal done
        advance(round(share * n_steps) - done)
        done = round(share * n_steps)

    return progress
