"""Folders filled beside their names, brought to the disk, and renamed: whole under their names, or not there."""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dyntok_jax.storage.new_files import sync_file, sync_folder, temporary_name

STALE_SECONDS = 3600.0
"""Age at which a folder that was never finished is taken for one that a killed process left."""


@contextmanager
def written_folder(folder: str | os.PathLike, *, may_replace: Callable[[Path], bool]) -> Iterator[Path]:
    """A folder to fill, which takes its name when the block ends, or is removed if that fails.

    Folders that killed processes left half filled beside the name are removed, too, an hour after their last change.

    Args:
      folder: the name; its parent folders are made, and stay. A symbolic link is followed and stays.
      may_replace: asked when the block has ended, if something goes by the name by then. False keeps that, and what
        the block wrote is removed; what it raises is handed on.

    Yields:
      The folder to fill.

    Raises:
      OSError: it cannot be written; what went by the name before is still there.

    >>> with written_folder(folder / "model", may_replace=lambda _: False) as part:
    ...     _ = (part / "config.json").write_text("{}")
    >>> [path.name for path in folder.iterdir()]
    ['model']
    """
    folder = Path(os.path.realpath(folder))
    with suppress(FileNotFoundError, NotADirectoryError):
        folder.stat()  # a name that is too long is told before the block, not after it
    part = folder.with_name(temporary_name(folder.name))
    old = part.with_suffix(".old")
    try:
        part.mkdir(parents=True)
        _remove_stale(folder)
        yield part
        _sync_tree(part)
        _put_in_place(part, folder, old, may_replace)
    finally:
        if old.exists() and not folder.exists():  # stopped between the two renames
            old.rename(folder)
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _put_in_place(part: Path, folder: Path, old: Path, may_replace: Callable[[Path], bool]) -> None:
    if os.path.lexists(folder):
        if not may_replace(folder):
            return
        with suppress(FileNotFoundError):  # another process moved it out of the way
            folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        # another process put its own there in between
        if not folder.is_dir() or may_replace(folder):
            raise
    sync_folder(folder.parent)


def _sync_tree(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            sync_file(path)


def _remove_stale(folder: Path) -> None:
    prefix = re.escape(temporary_name(folder.name).rsplit(".", 2)[0])
    left = re.compile(rf"{prefix}\.[0-9a-f]{{8}}\.part")
    with suppress(OSError):
        for path in folder.parent.iterdir():
            if left.fullmatch(path.name) and time.time() - _last_change(path) > STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _last_change(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
