"""Plain text files: UTF-8, one text a line, unpacked if they end in `.gz`."""

import gzip
import sys
import zlib
from pathlib import Path

from dyntok_jax.errors import InputError

STDIN = "-"


def read_lines(file: str) -> list[str]:
    """Reads UTF-8 text, one text a line; empty lines are empty texts.

    Lines end at a line feed (a carriage return before it goes too), and at no other character that Unicode breaks at.

    Args:
      file: a path, unpacked if it ends in `.gz`, or `-` for standard input.

    Raises:
      InputError: no such file, an empty one, or one that is no UTF-8 text (the line is named).
    """
    lines = read_bytes(file).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    name = "Standard input" if file == STDIN else file
    if not lines:
        raise InputError(f"{name} is empty: give at least one text, one a line.")
    return [
        decode_line(line.removesuffix(b"\r"), f"{name}, line {number}") for number, line in enumerate(lines, start=1)
    ]


def decode_line(line: bytes, where: str) -> str:
    """A line as text.

    Raises:
      InputError: it holds a NUL byte, or is no UTF-8; `where` is named.
    """
    if b"\0" in line:
        raise InputError(f"{where} holds a NUL byte: this is a binary file or UTF-16. Save it as UTF-8 text.")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: byte {error.start + 1} is not UTF-8. Save the file as UTF-8 text.") from None


def read_bytes(file: str) -> bytes:
    """The whole file, unpacked.

    Raises:
      InputError: no such file, a folder, a damaged gzip file, or one that may not be read.
    """
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
