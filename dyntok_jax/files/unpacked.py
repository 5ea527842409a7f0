"""Models that are unpacked once, out of packages or files, into folders of the cache."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dyntok_jax.errors import InputError
from dyntok_jax.storage import written_folder

MANIFEST = "manifest.json"
LAYOUT = 2
"""Version of how models are written; raising it rebuilds every cached folder."""


def cache_folder() -> Path:
    """Where packaged models are written: `$DYNTOK_CACHE`, else `$XDG_CACHE_HOME/dyntok`, else `~/.cache/dyntok`.

    >>> from unittest.mock import patch
    >>> with patch.dict(os.environ, DYNTOK_CACHE="/data/dyntok"):
    ...     print(cache_folder())
    /data/dyntok
    """
    if own := os.environ.get("DYNTOK_CACHE"):
        return Path(own).expanduser().absolute()
    user = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification says to ignore relative paths.
    return (user if user.is_absolute() else Path.home() / ".cache") / "dyntok"


def unpack_once(
    name: str, folder: Path, fill: Callable[[Path, Progress, TaskID], dict[str, str]], *, n_bytes: int
) -> Path:
    """A folder of the cache, written if it is not there or not whole.

    Args:
      name: the model's, for messages.
      folder: its final path.
      fill: writes the model into the folder it is given, moves the bar from 0 to 1, and returns where it comes from.
      n_bytes: size of the folder, about.

    Raises:
      InputError: the cache cannot be written. What `fill` raises passes through, and leaves nothing behind.
    """
    if is_intact(folder):
        return folder
    try:
        # another process may be faster: then its folder stays
        with written_folder(folder, may_replace=lambda there: not is_intact(there)) as part:
            columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
            console = Console(stderr=True)
            if not console.is_terminal:
                print(f"{unpacking(name)}, which takes a minute.", file=sys.stderr, flush=True)
            with Progress(*columns, console=console, transient=True) as bars:
                source = fill(part, bars, bars.add_task(unpacking(name), total=1.0))
            files = sorted(path for path in part.iterdir() if path.is_file())
            manifest = {"layout": LAYOUT, **source, "bytes": {path.name: path.stat().st_size for path in files}}
            (part / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"Cannot write {name} to the cache folder {folder.parent} ({error.strerror or error}). "
            f"Set DYNTOK_CACHE to a folder that you can write, with {n_bytes // 10**6} MB free."
        ) from error
    return folder


def unpacking(name: str) -> str:
    """What is shown beside the bar."""
    return f"Unpacking {name} (once)"


def is_intact(folder: Path) -> bool:
    """Whether a folder of the cache has all files that were written, in this layout."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return manifest["layout"] == LAYOUT and all(
            (folder / file).stat().st_size == size for file, size in manifest["bytes"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def check_space(folder: Path, needed: int) -> None:
    """Raises InputError if a folder's disk has fewer bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder} has {free // 10**6} MB free, but {needed // 10**6} MB are needed. "
            "Free some space, or set DYNTOK_CACHE to a folder on another disk."
        )
