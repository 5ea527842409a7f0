"""Folders that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dyntok_jax.errors import CheckpointError
from dyntok_jax.storage import written_folder


@contextmanager
def new_folder(folder: str | os.PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill, which takes its name when the block ends, or is removed if that fails.

    Args:
      folder: the name; its parent folders are made.
      overwrite: replace what goes by that name, if it is a folder with a `config.json`: nothing else is ever removed.

    Raises:
      CheckpointError: something goes by that name already, or the folder cannot be written.
    """
    folder = Path(folder).absolute()
    check_free(folder, overwrite)

    def may_replace(there: Path) -> bool:
        check_free(there, overwrite)
        return True

    try:
        with written_folder(folder, may_replace=may_replace) as part:
            yield part
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error.strerror or error}.") from error


def check_free(folder: Path, overwrite: bool) -> None:
    """Sees, before a long run, that a new folder can take a name.

    Raises:
      CheckpointError: something goes by that name already; with `overwrite`, something that is no folder of ours.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is there already and is no folder: choose another name.")
    if not any(folder.iterdir()):
        return
    if not overwrite:
        raise CheckpointError(f"{folder} is there already: choose another name, or replace it (--overwrite).")
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} is no model folder (it has no config.json), so it is not replaced.")
