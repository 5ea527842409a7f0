"""Files written atomically: under a temporary name in the same folder, synced to disk, then renamed."""

import errno
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dyntok_jax.errors import InputError

SHOWN_CHARACTERS = 32
"""Characters of a name that its temporary name repeats. File systems limit names to 255 bytes, some to 143."""
DESCRIPTOR_FOLDERS = ("/proc/self/fd", "/dev/fd")
MAX_LINKS = 40
"""Symbolic links to follow at most, the limit of Linux."""


@contextmanager
def written(path: str | os.PathLike) -> Iterator[Path]:
    """Writes one file atomically, as `written_together` writes several.

    >>> with written(folder / "report.txt") as part:
    ...     _ = part.write_text("whole")
    >>> [path.name for path in folder.iterdir()]
    ['report.txt']
    """
    with written_together([path]) as (part,):
        yield part


@contextmanager
def written_together(paths: Sequence[str | os.PathLike]) -> Iterator[list[Path]]:
    """Writes several files atomically: temporary files are renamed when the block ends, or removed if it fails.

    Symbolic links are followed and kept. Anything but a regular file (a pipe, a device, `/dev/stdout`) is never
    replaced: the bytes are copied into it when the block ends.

    Args:
      paths: of the files; missing folders are created, and removed again if the block fails.

    Yields:
      Empty regular files to fill in the block, one for each path.

    Raises:
      OSError: the files cannot be written; earlier files of these names are unchanged.

    >>> with written_together([folder / "ids.txt", folder / "about.json"]) as (ids, about):
    ...     _ = ids.write_text("3 1 2"), about.write_text("{}")
    ...     print((folder / "ids.txt").exists())
    False
    >>> sorted(path.name for path in folder.iterdir())
    ['about.json', 'ids.txt']
    """
    outputs: list[_Output] = []
    made: list[Path] = []
    try:
        for path in paths:
            outputs.append(_begin(Path(path), made))
        yield [output.part for output in outputs]
        for output in outputs:
            output.bring_to_disk()
        for output in outputs:
            output.finish()
        made = []
    finally:
        with suppress(OSError):
            for output in outputs:
                output.part.unlink(missing_ok=True)
            for folder in reversed(made):
                folder.rmdir()


def check_writable(path: str | os.PathLike) -> None:
    """Checks before a long run that a file can be written. Creates nothing, not even missing folders.

    Raises:
      InputError: the file cannot be written, or the path is a folder.

    >>> check_writable(folder / "new" / "report.json")
    >>> check_writable(folder)
    Traceback (most recent call last):
        ...
    dyntok_jax.errors.InputError: ... is a folder: name a file to write.
    """
    path = Path(path)
    try:
        if (number := _descriptor(path)) is not None:
            os.fstat(number)
            return
        target = _target(path)
    except IsADirectoryError:
        raise InputError(f"{path} is a folder: name a file to write.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from error
    if os.path.exists(target) and not target.is_file():
        if not os.access(target, os.W_OK):
            raise InputError(f"{path} cannot be written: no permission to write to it.")
        return
    folder = next(parent for parent in target.parents if os.path.lexists(parent))
    if not folder.is_dir():
        raise InputError(f"{path} cannot be written: {folder} is not a folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: no permission to write in {folder}.")


def temporary_name(name: str) -> str:
    """A new hidden name for what will be called `name`, short enough for any file system."""
    return f".{name[:SHOWN_CHARACTERS]}.{secrets.token_hex(4)}.part"


def make_parents(folder: Path, made: list[Path]) -> None:
    """Creates a folder and its missing parents, and appends those it created to `made`."""
    for missing in reversed([folder, *folder.parents]):
        if not missing.exists():
            with suppress(FileExistsError):  # another process created it first
                missing.mkdir()
                made.append(missing)


def sync_file(path: Path) -> None:
    """Waits until a file's bytes are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Waits until a folder's entries are on disk, where its file system supports that."""
    with suppress(OSError):
        sync_file(folder)


@dataclass(frozen=True)
class _Output:
    """A file while it is being written.

    Attributes:
      part: the temporary file.
      target: where it goes, links followed; a number is an open file descriptor of this process.
      is_renamed: False if the target exists and is not a regular file: the bytes are copied into it.
    """

    part: Path
    target: Path | int
    is_renamed: bool

    def bring_to_disk(self) -> None:
        if self.is_renamed:
            sync_file(self.part)

    def finish(self) -> None:
        if self.is_renamed:
            assert isinstance(self.target, Path), "an open file is never replaced"
            self.part.replace(self.target)
            sync_folder(self.target.parent)
            return
        if isinstance(self.target, int):  # earlier prints come first
            sys.stdout.flush()
            sys.stderr.flush()
        with self.part.open("rb") as source, open(self.target, "wb", closefd=isinstance(self.target, Path)) as sink:
            shutil.copyfileobj(source, sink, 2**20)


def _begin(path: Path, made: list[Path]) -> _Output:
    """Creates the empty temporary file for a path."""
    number = _descriptor(path)
    target = _target(path) if number is None else number
    if isinstance(target, int) or (target.exists() and not target.is_file()):
        descriptor, name = tempfile.mkstemp()
        os.close(descriptor)
        return _Output(Path(name), target, is_renamed=False)
    make_parents(target.parent, made)
    part = target.with_name(temporary_name(target.name))
    part.touch(exist_ok=False)
    return _Output(part, target, is_renamed=True)


def _target(path: Path) -> Path:
    """The path with links followed.

    Raises:
      OSError: the links form a cycle, a name is too long, or the path is a folder.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        if stat.S_ISDIR(os.stat(path).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return Path(os.path.realpath(path))


def _descriptor(path: Path) -> int | None:
    """The file descriptor of this process that a path such as `/dev/stdout` or `/dev/fd/3` names, or None.

    If it is a regular file it must not be opened again: writing would start at its beginning, over earlier output.
    """
    folders = {os.path.realpath(folder) for folder in DESCRIPTOR_FOLDERS}
    for _ in range(MAX_LINKS):
        if path.name.isdecimal() and os.path.realpath(path.parent) in folders:
            return int(path.name)
        try:
            path = path.parent / os.readlink(path)
        except OSError:
            return None
    return None
