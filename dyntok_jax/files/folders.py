"""Model folders that appear complete, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dyntok_jax.errors import CheckpointError
from dyntok_jax.storage import written_folder


@contextmanager
def new_folder(folder: str | os.PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """Writes a folder atomically: it appears under its name when the block ends, or is removed if the block fails.

    Args:
      folder: its path; parent folders are created.
      overwrite: replace an existing folder with a `config.json`; nothing else is ever replaced.

    Raises:
      CheckpointError: the path exists already, or the folder cannot be written.

    >>> with new_folder(folder / "model") as part:
    ...     _ = (part / "config.json").write_text("{}")
    >>> (folder / "model" / "config.json").exists()
    True
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
    """Checks before a long run that a new folder can be written to a path.

    Raises:
      CheckpointError: the path exists already and is not an empty folder; with `overwrite`, not a model folder.

    >>> check_free(folder / "model", overwrite=False)
    >>> check_free(encoder_folder, overwrite=False)
    Traceback (most recent call last):
        ...
    dyntok_jax.errors.CheckpointError: ... exists already: choose another name, or replace it (--overwrite).
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise CheckpointError(f"{folder} exists already and is not a folder: choose another name.")
    if not any(folder.iterdir()):
        return
    if not overwrite:
        raise CheckpointError(f"{folder} exists already: choose another name, or replace it (--overwrite).")
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} is not a model folder (it has no config.json) and is not replaced: choose another name."
        )
