"""`dyntok learn-merges`: merges learnt on a corpus once, for `dyntok encode --merge-list`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from dyntok_jax.cli.shared import (
    DEFAULT_BOUNDARY,
    MaxSubwords,
    Model,
    arg,
    limit_of,
    print_out,
    progress_bar,
    read_columns,
)
from dyntok_jax.errors import InputError
from dyntok_jax.options import (
    DEFAULT_MODEL,
    Boundary,
)
from dyntok_jax.storage import check_writable

if TYPE_CHECKING:
    import numpy as np

    from dyntok_jax.text import RaggedSubwords, TextEncoder
    from dyntok_jax.types import SubwordBatch

LINES_AT_ONCE = 1000
PADDED_SUBWORDS = 1 << 20
"""The most subwords per batch, padding included: one very long line must not pad a thousand short ones."""


@dataclass(frozen=True)
class LearnMerges:
    """Learns the most frequent merges of a corpus and writes them to a readable file.

    Attributes:
      files: UTF-8 text, one text per line (.gz too), aligned JSON lines (.jsonl, .jsonl.gz), or - for standard input.
      output: file for the merges, JSON lines.
      merges: how many to learn; fewer if no pair is left.
      model: whose tokenizer: a folder, a Hugging Face Hub id, or a packaged model.
      boundary: what merging may not cross.
      max_subwords: the longest token, in subwords (default: 7).
    """

    EXAMPLES: ClassVar[str] = """\
  dyntok learn-merges corpus.txt --output merges.jsonl --merges 1000
  dyntok learn-merges de.txt.gz fr.txt.gz --output merges.jsonl --merges 5000 --boundary word
  dyntok encode new.txt --merge-list merges.jsonl      the next step: to use them
"""

    files: tyro.conf.Positional[Annotated[tuple[str, ...], arg(metavar="FILE [FILE ...]", help_behavior_hint="")]]
    output: Annotated[str, arg(metavar="PATH")]
    merges: Annotated[int, arg(metavar="N")]
    model: Model = DEFAULT_MODEL
    boundary: Boundary = DEFAULT_BOUNDARY
    max_subwords: MaxSubwords = None

    def run(self) -> None:
        """Reads, learns, writes."""
        if not self.files:
            raise InputError("Give at least one file to learn from, or - for standard input.")
        if self.merges < 0:
            raise InputError(f"--merges must be 0 or more, got {self.merges}.")
        check_writable(Path(self.output))
        texts = [text for file in self.files for column in read_columns(file) for text in column.texts]

        from dyntok_jax.embedding import DEFAULT_MAX_SUBWORDS
        from dyntok_jax.files import find_model
        from dyntok_jax.merging import learn_merges
        from dyntok_jax.text import ByteLevelTokenizer, TextEncoder

        limit = limit_of(self.max_subwords)
        limit = DEFAULT_MAX_SUBWORDS if limit == "auto" else limit
        tokenizer = ByteLevelTokenizer.load(find_model(self.model, kind="tokenizer"))
        with progress_bar("Reading and learning", len(texts)) as advance:
            batches = _batches(TextEncoder(tokenizer), texts, self.boundary, advance)
            learnt = learn_merges(
                batches,
                self.merges,
                tokenizer=tokenizer.fingerprint,
                boundary=self.boundary,
                max_subwords=limit,
            )
        learnt.save(self.output, tokenizer.pieces.__getitem__)
        print_out(f"{len(learnt.pairs)} merges learnt on {len(texts)} texts. Written: {self.output}")


def _batches(
    encoder: "TextEncoder", texts: Sequence[str], boundary: Boundary, advance: Callable[[int], None]
) -> Iterator["SubwordBatch[np.ndarray]"]:
    """The texts as batches, in their order."""
    import numpy as np

    from dyntok_jax.text import pad_batch

    for at in range(0, len(texts), LINES_AT_ONCE):
        subwords = encoder.encode(texts[at : at + LINES_AT_ONCE], boundary=boundary)
        for first, end in _row_ranges(subwords):
            yield pad_batch(subwords, np.arange(first, end), pad_id=encoder.tokenizer.pad_id)
        advance(len(subwords))


def _row_ranges(subwords: "RaggedSubwords") -> Iterator[tuple[int, int]]:
    first, longest = 0, 0
    for row, length in enumerate(subwords.lengths.tolist()):
        if row > first and (row + 1 - first) * max(longest, length) > PADDED_SUBWORDS:
            yield first, row
            first, longest = row, 0
        longest = max(longest, length)
    yield first, len(subwords)
