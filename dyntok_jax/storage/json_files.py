"""JSON objects in files: read by one function, which tells everything that can be wrong with one."""

import json
from pathlib import Path
from typing import Any

from dyntok_jax.errors import DyntokError

LFS_HEADER, LFS_BYTES = b"version https://git-lfs.github.com/spec/", 1024
"""How a pointer of Git LFS begins, and what is too long to be one."""


def read_json(path: Path, error: type[DyntokError], remedy: str) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
      path: the file.
      error: the type of error to raise.
      remedy: what to do about a damaged file, for the error.

    Raises:
      DyntokError: of that type: there is no such file, it cannot be read, is a Git LFS pointer, no UTF-8, no JSON,
        nested too deep, no object, or has a name twice.

    >>> _ = (folder / "a.json").write_text('{"width": 8, "width": 9}')
    >>> read_json(folder / "a.json", DyntokError, "fetch it again")
    Traceback (most recent call last):
        ...
    dyntok_jax.errors.DyntokError: .../a.json has "width" twice: fetch it again.
    """
    check_not_lfs_pointer(path, error)
    try:
        content = path.read_bytes()
    except OSError as why:
        raise error(f"{path} cannot be read ({why.strerror or why}): see to its permissions and its disk.") from why
    return parse_json(content, str(path), error, remedy)


def parse_json(content: bytes, where: str, error: type[DyntokError], remedy: str) -> dict[str, Any]:
    """The same of bytes that are at hand.

    Args:
      content: the JSON text.
      where: what they are of, for the error.
      error: the type of error to raise.
      remedy: what to do, for the error.

    Raises:
      DyntokError: of that type.

    >>> parse_json(b'{"width": 8}', "config.json", DyntokError, "fetch it again")
    {'width': 8}
    """

    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            name = next(name for name, _ in pairs if name in seen or seen.add(name))
            raise error(f"{where} has {json.dumps(name)} twice: {remedy}.")
        return found

    try:
        value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=without_repeats)
    except RecursionError as why:
        raise error(f"{where} is nested too deep to be read: {remedy}.") from why
    except ValueError as why:  # of JSON, of UTF-8, or of a number with thousands of digits
        raise error(f"{where} is not readable JSON ({why}): {remedy}.") from why
    if not isinstance(value, dict):
        raise error(f"{where} holds {json_kind(value)} instead of a JSON object: {remedy}.")
    return value


def json_kind(value: object) -> str:
    """What a value of JSON is called, with its article.

    >>> json_kind(5), json_kind(None), json_kind([])
    ('a number', 'null', 'a list')
    """
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return {int: "a number", float: "a number", str: "a text", list: "a list"}.get(type(value), "an object")


def check_not_lfs_pointer(path: Path, error: type[DyntokError]) -> None:
    """Sees that a file is not the pointer that Git LFS leaves in its place.

    Raises:
      DyntokError: of the type `error`: it is a pointer, there is no such file, or it cannot be read.

    >>> _ = (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1")
    >>> check_not_lfs_pointer(folder / "tokenizer.json", DyntokError)
    Traceback (most recent call last):
        ...
    dyntok_jax.errors.DyntokError: .../tokenizer.json is a Git LFS pointer, not the file itself: ...
    """
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(LFS_HEADER)) == LFS_HEADER
    except OSError as why:
        raise error(f"{path} cannot be read ({why.strerror or why}): see to its permissions and its disk.") from why
    if is_pointer:
        raise error(
            f"{path} is a Git LFS pointer, not the file itself: the repository was cloned without Git LFS. "
            f"Run `git lfs pull` in {path.parent}, or fetch the file itself."
        )


def check_no_lfs_pointers(folder: Path, error: type[DyntokError]) -> None:
    """The same of all files in a folder and the folders in it.

    >>> _ = (folder / "rows").write_text("version https://git-lfs.github.com/spec/v1")
    >>> check_no_lfs_pointers(folder, DyntokError)
    Traceback (most recent call last):
        ...
    dyntok_jax.errors.DyntokError: .../rows is a Git LFS pointer, not the file itself: ...
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size < LFS_BYTES:
            check_not_lfs_pointer(path, error)
