"""Folders written atomically: under a temporary name beside the final one, synced to disk, then renamed."""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dyntok_jax.storage.new_files import sync_file, sync_folder, temporary_name

STALE_SECONDS = 3600.0
"""Age after which an unfinished folder counts as left behind by a killed process."""


@contextmanager
def written_folder(folder: str | os.PathLike, *, may_replace: Callable[[Path], bool]) -> Iterator[Path]:
    """Writes a folder atomically: a temporary folder is renamed when the block ends, or removed if it fails.

    Also removes unfinished folders that killed processes left behind, an hour after their last change.

    Args:
      folder: its final path; parent folders are created and kept. A symbolic link is followed and kept.
      may_replace: called at the end of the block if the path exists by then. If it returns False, the existing folder
        is kept and the new one removed; what it raises is raised here.

    Yields:
      The folder to fill.

    Raises:
      OSError: the folder cannot be written; an earlier one of that name is unchanged.

    >>> with written_folder(folder / "model", may_replace=lambda _: False) as part:
    ...     _ = (part / "config.json").write_text("{}")
    >>> [path.name for path in folder.iterdir()]
    ['model']
    """
    folder = Path(os.path.realpath(folder))
    with suppress(FileNotFoundError, NotADirectoryError):
        folder.stat()  # a name that is too long raises before the block, not after it
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
        # another process put its own folder there in between
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
