"""Plain text files: UTF-8, one text a line, unpacked if they end in `.gz`."""

import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from dyntok_jax.errors import InputError
from dyntok_jax.storage import check_not_lfs_pointer

STDIN = "-"


def read_lines(file: str) -> list[str]:
    """Reads UTF-8 text, one text a line; empty lines are empty texts.

    Lines end at a line feed (a carriage return before it is dropped too), and not at Unicode's other line breaks.

    Args:
      file: a path, unpacked if it ends in `.gz`, or `-` for standard input.

    Raises:
      InputError: there is no such file, it is empty, or it is not UTF-8 text (the line is named).

    >>> path = folder / "texts.txt"
    >>> _ = path.write_text("Grüße", encoding="utf-8")
    >>> read_lines(str(path))
    ['Grüße']
    """
    return list(stream_lines(file))


def stream_lines(file: str) -> Iterator[str]:
    """The same line by line, so that the whole file is never in memory.

    >>> path = folder / "texts.txt"
    >>> _ = path.write_text("Grüße", encoding="utf-8")
    >>> next(stream_lines(str(path)))
    'Grüße'
    """
    name = "Standard input" if file == STDIN else file
    number = 0
    for number, line in enumerate(stream_byte_lines(file), start=1):
        yield decode_line(line.removesuffix(b"\r"), f"{name}, line {number}")
    if not number:
        raise InputError(f"{name} is empty: give at least one text, one a line.")


def stream_byte_lines(file: str) -> Iterator[bytes]:
    """The lines of a file one by one, unpacked, without a byte-order mark and without their line feeds.

    Raises:
      InputError: as `read_bytes`.

    >>> path = folder / "texts.txt"
    >>> _ = path.write_text("Grüße", encoding="utf-8")
    >>> [line.decode() for line in stream_byte_lines(str(path))]
    ['Grüße']
    """
    with _explained(file), _opened(file) as lines:
        for number, line in enumerate(lines):
            if line := line if number else line.removeprefix(b"\xef\xbb\xbf"):
                yield line.removesuffix(b"\n")


def decode_line(line: bytes, where: str) -> str:
    """Decodes a line.

    Raises:
      InputError: it holds a NUL byte or is not UTF-8; the message begins with `where`.

    >>> decode_line("Grüße".encode(), "texts.txt, line 1")
    'Grüße'
    """
    if b"\0" in line:
        raise InputError(f"{where} holds a NUL byte: this is a binary file or UTF-16. Save it as UTF-8 text.")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: byte {error.start + 1} is not UTF-8. Save the file as UTF-8 text.") from None


def read_bytes(file: str) -> bytes:
    """Reads a whole file, unpacked.

    Raises:
      InputError: there is no such file, it is a folder or a damaged gzip file, or it cannot be read.

    >>> path = folder / "texts.txt"
    >>> _ = path.write_text("Grüße", encoding="utf-8")
    >>> len(read_bytes(str(path)))
    7
    """
    with _explained(file), _opened(file) as stream:
        return stream.read()


def _opened(file: str):
    if file == STDIN:
        if sys.stdin is None:
            raise InputError("Standard input is closed: send a text to it, or name a file.")
        return nullcontext(sys.stdin.buffer)
    if Path(file).is_file():  # a pipe can be read only once
        check_not_lfs_pointer(Path(file), InputError)
    return gzip.open(file) if file.endswith(".gz") else Path(file).open("rb")


@contextmanager
def _explained(file: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(
            f"There is no file {file}: give a text file with one text a line, an aligned .jsonl file, or - for "
            "standard input."
        ) from None
    except IsADirectoryError:
        raise InputError(f"{file} is a folder: name a file in it.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{file} is not a whole gzip file ({error}): fetch it again, or unpack it.") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}.") from error
