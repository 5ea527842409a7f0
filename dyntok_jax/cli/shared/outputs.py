"""Files that a command writes: beside their names first, and renamed once all of them are whole."""

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dyntok_jax.errors import InputError


def check_writable(path: Path) -> None:
    """Sees, before a long run, that files can be made beside `path`; missing folders are left to be made later.

    Raises:
      InputError: they cannot, or `path` is a folder.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file to write.")
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not folder.is_dir():
        raise InputError(f"{path} cannot be written: {folder} is not a folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: no permission to write in {folder}.")


@contextmanager
def written_together(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Names to write to, one for each path; when the block ends they take the paths' names, or go if it fails.

    Raises:
      InputError: they cannot be written.
    """
    parts = [path.with_name(f".{path.name}.{secrets.token_hex(4)}.part") for path in paths]
    made = []
    try:
        for path in paths:
            for folder in reversed([path.absolute().parent, *path.absolute().parent.parents]):
                if not folder.exists():
                    folder.mkdir()
                    made.append(folder)
        yield parts
        umask = os.umask(0)
        os.umask(umask)
        for part, path in zip(parts, paths, strict=True):
            part.chmod(0o666 & ~umask)  # safetensors makes files private; these are as readable as their neighbours
            part.replace(path)
        made = []
    except OSError as error:
        raise InputError(f"{paths[0]} cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            for part in parts:
                part.unlink(missing_ok=True)
            for folder in reversed(made):
                folder.rmdir()


def write_json(path: Path, figures: dict[str, Any]) -> None:
    """Writes figures as one flat JSON object.

    Raises:
      InputError: the file cannot be written.
    """
    with written_together([path]) as (part,):
        part.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes JSON lines, one object a line.

    Raises:
      InputError: the file cannot be written.
    """
    with written_together([path]) as (part,), part.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
