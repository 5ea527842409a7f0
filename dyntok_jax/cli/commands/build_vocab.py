"""`dyntok build-vocab`: a model's vocabulary grown on text, for `dyntok embed-vocab`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from dyntok_jax.cli.shared import (
    ALIGNED_SUFFIXES,
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
    DEFAULT_DECODER,
    Boundary,
)

if TYPE_CHECKING:
    from dyntok_jax.text import TextEncoder
    from dyntok_jax.vocabulary import GrownVocabulary

HELD_OUT_EVERY = 50
"""At most one line in this many is held out."""


@dataclass(frozen=True)
class BuildVocab:
    """Grows a model's vocabulary by byte-pair encoding on text; its own entries keep their ids.

    Attributes:
      files: UTF-8 text, one text per line (.gz too), aligned JSON lines (.jsonl, .jsonl.gz), or - for standard input.
      size: number of entries of the vocabulary, the model's own included; fewer if no pair is left.
      output: folder to create: tokenizer.json, entries.safetensors, config.json.
      words: lists of words that count as text: files (per line a word, a tab, how often it occurs), or wordfreq:CODE.
      model: whose tokenizer: a folder, a Hugging Face Hub id, or a packaged model.
      boundary: what no entry crosses.
      max_subwords: the longest entry, in subwords (default: 7).
      min_count: how often a pair must occur to become an entry.
      held_out: lines, equally many of each file, that are held out to count tokens on.
      overwrite: replace the output folder if it is one that this command wrote.
    """

    EXAMPLES: ClassVar[str] = """\
  dyntok build-vocab corpus.txt --size 200000 --output vocab
  dyntok build-vocab de.txt.gz fr.txt.gz --size 1000000 --output vocab --words wordfreq:de wordfreq:fr
  dyntok embed-vocab vocab --output table               the next step: its rows
"""

    files: tyro.conf.Positional[
        Annotated[tuple[str, ...], arg(name="text", metavar="TEXT [TEXT ...]", help_behavior_hint="")]
    ]
    size: Annotated[int, arg(metavar="N")]
    output: Annotated[str, arg(metavar="FOLDER")]
    words: Annotated[tuple[str, ...], arg(metavar="FILE|wordfreq:CODE ...", help_behavior_hint="")] = ()
    model: Model = DEFAULT_DECODER
    boundary: Boundary = DEFAULT_BOUNDARY
    max_subwords: MaxSubwords = None
    min_count: Annotated[int, arg(metavar="N")] = 2
    held_out: Annotated[int, arg(metavar="N")] = 1000
    overwrite: bool = False

    def run(self) -> None:
        """Reads, grows, writes, counts."""
        if not self.files and not self.words:
            raise InputError("Give at least one file to grow on, - for standard input, or lists of words (--words).")
        if self.held_out < 0:
            raise InputError(f"--held-out must be 0 or more, got {self.held_out}.")

        from dyntok_jax.embedding import DEFAULT_MAX_SUBWORDS
        from dyntok_jax.files import check_free, find_model
        from dyntok_jax.text import ByteLevelTokenizer, TextEncoder
        from dyntok_jax.vocabulary import (
            GrownVocabulary,
            count_segments,
            grow_entries,
            load_word_list,
            save_vocabulary,
            word_texts,
        )

        check_free(Path(self.output).absolute(), self.overwrite)
        limit = limit_of(self.max_subwords)
        limit = DEFAULT_MAX_SUBWORDS if limit == "auto" else limit
        tokenizer = ByteLevelTokenizer.load(find_model(self.model, kind="tokenizer"))
        wanted = self.size - tokenizer.vocab_size
        if wanted < 1:
            raise InputError(
                f"--size must be more than the {tokenizer.vocab_size:,} entries of {self.model}, which are kept, "
                f"got {self.size}."
            )
        encoder, texts = TextEncoder(tokenizer), _Texts(self.files, self.held_out)
        words = word_texts(load_word_list(self.words), tokenizer) if self.words else ()
        with progress_bar("Reading files", len(self.files)) as advance:
            counts = count_segments(chain(texts.read(advance), words), encoder, boundary=self.boundary)
        with progress_bar("Growing", wanted) as advance:
            entries = grow_entries(
                counts, tokenizer, wanted, max_subwords=limit, min_count=self.min_count, progress=advance
            )
        vocabulary = GrownVocabulary.from_entries(tokenizer, entries, self.boundary)
        save_vocabulary(self.output, vocabulary, model=self.model, overwrite=self.overwrite)
        print_out(*_summary(vocabulary, self.size, self.min_count), *_compared(vocabulary, encoder, texts.held_out))
        print_out(f"Written: {self.output}. Embed it with `dyntok embed-vocab {self.output} --output TABLE`.")


@dataclass
class _Texts:
    """The texts of files, some of which are held out.

    Attributes:
      files: to read.
      n_held_out: how many texts to hold out for counting tokens, equally many of each file.
      held_out: those held out so far.
    """

    files: tuple[str, ...]
    n_held_out: int
    held_out: list[str] = field(default_factory=list)

    def read(self, advance: Callable[[int], None]) -> Iterator[str]:
        """The texts that are not held out, one by one."""
        for number, file in enumerate(self.files, start=1):
            quota = self.n_held_out * number // len(self.files)
            for row, text in enumerate(_texts_of(file), start=1):
                if row % HELD_OUT_EVERY == 0 and len(self.held_out) < quota and text:
                    self.held_out.append(text)
                else:
                    yield text
            advance(1)


def _texts_of(file: str) -> Iterator[str]:
    if file.endswith(ALIGNED_SUFFIXES):
        return (text for column in read_columns(file) for text in column.texts)

    from dyntok_jax.text import stream_lines

    return stream_lines(file)


def _summary(vocabulary: "GrownVocabulary", wanted: int, min_count: int) -> list[str]:
    """The numbers of entries, and the longest one."""
    from dyntok_jax.vocabulary import readable

    n_new = vocabulary.size - vocabulary.n_own
    lines = [f"{vocabulary.size:,} entries: {vocabulary.n_own:,} of the model, {n_new:,} new."]
    if vocabulary.size < wanted:
        often = "once" if min_count == 1 else f"{min_count} times"
        lines.append(f"No other pair occurs {often}, so there are fewer than {wanted:,}: give more text or --words.")
    if n_new:
        longest = max(map(readable, vocabulary.new_strings), key=len)
        lines.append(f"The longest has {len(longest)} characters: {longest!r}.")
    return lines


def _compared(vocabulary: "GrownVocabulary", encoder: "TextEncoder", texts: list[str]) -> list[str]:
    """Tokens of the held-out texts before and after."""
    if not texts:
        return ["No line was held out, so tokens were not counted."]
    static = int(encoder.encode_static(texts).counts.sum())
    after = vocabulary.encode(texts)
    tokens = int(after.counts.sum())
    new = int((after.ids_N >= vocabulary.n_own).sum())
    return [
        f"On {len(texts):,} texts held out: {static / len(texts):.1f} static tokens per text before, "
        f"{tokens / len(texts):.1f} after ({100 * (1 - tokens / max(static, 1)):.1f} % fewer), "
        f"{100 * new / max(tokens, 1):.1f} % of them new entries."
    ]
