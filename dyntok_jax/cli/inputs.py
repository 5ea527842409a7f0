"""The texts that a command reads: plain text, one a line; aligned JSON lines; standard input; the packaged sample."""

import gzip
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dyntok_jax.errors import InputError

STDIN = "-"
ALIGNED_SUFFIXES = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class TextColumn:
    """Texts that belong together: those of one language, or of one file.

    Attributes:
      name: of the language or file.
      language: the code of their language, where the source says.
      texts: the texts.
      index: where each stands in its source, counted from 0: its line, or the paragraph that it translates.
    """

    name: str
    language: str | None
    texts: Sequence[str]
    index: Sequence[int]


def read_columns(file: str | None, only: Sequence[str] = ()) -> list[TextColumn]:
    """Reads the texts of a file by language, or of the packaged sample.

    Args:
      file: plain UTF-8 text with one text a line (`.gz` is unpacked, `-` is standard input), aligned JSON lines
        (`.jsonl`, `.jsonl.gz`), or None for the packaged sample.
      only: codes of the languages wanted; all of them if empty.

    Raises:
      InputError: no such file, an empty one, one that is no text, or one without these languages.
    """
    if file is None:
        from dyntok_jax.assets import load_sample

        columns = [TextColumn(code, code, texts, range(len(texts))) for code, texts in load_sample().items()]
    elif file.endswith(ALIGNED_SUFFIXES):
        from dyntok_jax.text.aligned import read_aligned

        columns = [_present(code, texts) for code, texts in read_aligned(file).items()]
    else:
        if only:
            raise InputError(f"--only chooses languages, and {file} is plain text of one: leave it out.")
        texts = read_lines(file)
        return [TextColumn("stdin" if file == STDIN else Path(file).name, None, texts, range(len(texts)))]
    names = [column.name for column in columns]
    if unknown := [code for code in only if code not in names]:
        raise InputError(f"There is no text in {' '.join(unknown)}: the languages are {' '.join(names)}.")
    return [column for column in columns if not only or column.name in only]


def read_lines(file: str) -> list[str]:
    """Reads UTF-8 text, one text a line; empty lines are empty texts.

    Lines end at a line feed (a carriage return before it goes too), and at no other character that Unicode breaks at.

    Args:
      file: a path, unpacked if it ends in `.gz`, or `-` for standard input.

    Raises:
      InputError: no such file, an empty one, or one that is no UTF-8 text (the line is named).
    """
    lines = _read_bytes(file).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    name = "Standard input" if file == STDIN else file
    if not lines:
        raise InputError(f"{name} is empty: give at least one text, one a line.")
    return [_decode(line.removesuffix(b"\r"), f"{name}, line {number}") for number, line in enumerate(lines, start=1)]


def _present(code: str, texts: Sequence[str | None]) -> TextColumn:
    index = [at for at, text in enumerate(texts) if text is not None]
    return TextColumn(code, code, [texts[at] for at in index], index)


def _decode(line: bytes, where: str) -> str:
    if b"\0" in line:
        raise InputError(f"{where} holds a NUL byte: this is a binary file or UTF-16. Save it as UTF-8 text.")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: byte {error.start + 1} is not UTF-8. Save the file as UTF-8 text.") from None


def _read_bytes(file: str) -> bytes:
    if file == STDIN:
        return sys.stdin.buffer.read()
    try:
        if not file.endswith(".gz"):
            return Path(file).read_bytes()
        with gzip.open(file) as stream:
            return stream.read()
    except FileNotFoundError:
        raise InputError(
            f"There is no file {file}: give a text file with one text a line, an aligned .jsonl file, or - for "
            "standard input."
        ) from None
    except IsADirectoryError:
        raise InputError(f"{file} is a folder: give a file in it.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{file} is not a whole gzip file ({error}): fetch it again, or unpack it.") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}.") from error
