"""Files that a command writes: under temporary names, renamed once all are complete."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dyntok_jax import storage
from dyntok_jax.errors import InputError


@contextmanager
def written_together(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Writes files atomically, as `storage.written_together`, with errors for the command line.

    Raises:
      InputError: they cannot be written.
    """
    try:
        with storage.written_together(paths) as parts:
            yield parts
    except OSError as error:
        raise InputError(f"{paths[0]} cannot be written: {error.strerror or error}.") from error


def write_json(path: Path, figures: dict[str, Any]) -> None:
    """Writes figures as one flat JSON object.

    Raises:
      InputError: the file cannot be written.
    """
    with written_together([path]) as (part,):
        part.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes JSON lines, one object per line.

    Raises:
      InputError: the file cannot be written.
    """
    with written_together([path]) as (part,), part.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
