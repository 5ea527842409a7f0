"""The texts that a command reads: plain text, one per line; aligned JSON lines; standard input; the packaged sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dyntok_jax.errors import InputError
from dyntok_jax.text import STDIN, read_lines

ALIGNED_SUFFIXES = (".jsonl", ".jsonl.gz")
EXAMPLE_PROMPT = "Bioluminescent jellyfish photographed off Valparaíso astonished marine biologists:"


@dataclass(frozen=True)
class TextColumn:
    """Texts that belong together: those of one language, or of one file.

    Attributes:
      name: of the language or file.
      language: the code of their language, if the source names one.
      texts: the texts.
      index: position of each in its source, from 0: its line, or the paragraph that it translates.
    """

    name: str
    language: str | None
    texts: Sequence[str]
    index: Sequence[int]


def read_columns(file: str | None, only: Sequence[str] = ()) -> list[TextColumn]:
    """Reads the texts of a file by language, or of the packaged sample.

    Args:
      file: plain UTF-8 text with one text per line (`.gz` is unpacked, `-` is standard input), aligned JSON lines
        (`.jsonl`, `.jsonl.gz`), or None for the packaged sample.
      only: codes of the languages to read; all if empty.

    Raises:
      InputError: the file is missing, empty, not text, or lacks these languages.
    """
    if file is None:
        from dyntok_jax.assets import load_sample

        columns = [TextColumn(code, code, texts, range(len(texts))) for code, texts in load_sample().items()]
    elif file.endswith(ALIGNED_SUFFIXES):
        from dyntok_jax.text import read_aligned

        columns = [_present(code, texts) for code, texts in read_aligned(file).items()]
    else:
        if only:
            raise InputError(f"--only selects languages, but {file} is plain text without languages: omit --only.")
        texts = read_lines(file)
        return [TextColumn("stdin" if file == STDIN else Path(file).name, None, texts, range(len(texts)))]
    names = [column.name for column in columns]
    if unknown := [code for code in only if code not in names]:
        raise InputError(f"There is no text in {' '.join(unknown)}: the languages are {' '.join(names)}.")
    return [column for column in columns if not only or column.name in only]


def read_prompts(prompt: str | None, file: str | None) -> tuple[list[str], list[str]]:
    """The prompts to continue.

    Args:
      prompt: one prompt, or `-` for all of standard input; its last line ends without a line break.
      file: prompts instead, one per line, unpacked if it ends in `.gz`; `-` is standard input. Blank lines are skipped.

    Returns:
      The prompts (an example if neither was given), and notes on what was skipped.

    Raises:
      InputError: both were given, or as `read_lines`, or every line is blank.
    """
    if file is None:
        return [EXAMPLE_PROMPT if prompt is None else "\n".join(read_lines(STDIN)) if prompt == STDIN else prompt], []
    if prompt is not None:
        raise InputError(f"Both a prompt and --file {file} were given: give one of them.")
    lines = read_lines(file)
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise InputError(f"{file} has only blank lines: give prompts, one per line.")
    n_blank = len(lines) - len(prompts)
    return prompts, [f"Blank lines skipped: {n_blank}."] if n_blank else []


def _present(code: str, texts: Sequence[str | None]) -> TextColumn:
    present = {at: text for at, text in enumerate(texts) if text is not None}
    return TextColumn(code, code, list(present.values()), list(present))
