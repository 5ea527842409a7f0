"""Files written beside their names, brought to the disk, and renamed: whole under their names, or not there."""

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
"""Characters of a name that the temporary one repeats. File systems limit a name to 255 bytes, some to 143."""
DESCRIPTOR_FOLDERS = ("/proc/self/fd", "/dev/fd")
MOST_LINKS = 40
"""Links that lead to a file, at most; as many as Linux follows."""


@contextmanager
def written(path: str | os.PathLike) -> Iterator[Path]:
    """One file, as `written_together` writes several.

    >>> with written(folder / "report.txt") as part:
    ...     _ = part.write_text("whole")
    >>> [path.name for path in folder.iterdir()]
    ['report.txt']
    """
    with written_together([path]) as (part,):
        yield part


@contextmanager
def written_together(paths: Sequence[str | os.PathLike]) -> Iterator[list[Path]]:
    """Names to write to, one for each path; when the block ends they take the paths' names, or go if it fails.

    A symbolic link is followed and stays. What is no regular file (a pipe, a device, `/dev/stdout`) is never replaced:
    it is given the bytes when the block ends.

    Args:
      paths: of the files; folders that are missing are made, and removed again if the block fails.

    Yields:
      Regular files, empty, to be filled in the block.

    Raises:
      OSError: they cannot be written; what went by their names before is still there.
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
    """Checks, before a long run, that a file can be written; missing folders are left to be made later.

    Raises:
      InputError: it cannot, or it is a folder.
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
    """A new name for what will be called `name`, hidden and within the limits of file systems."""
    return f".{name[:SHOWN_CHARACTERS]}.{secrets.token_hex(4)}.part"


def make_parents(folder: Path, made: list[Path]) -> None:
    """Makes a folder and those above it where they are missing, and notes in `made` which."""
    for missing in reversed([folder, *folder.parents]):
        if not missing.exists():
            with suppress(FileExistsError):  # another process was faster
                missing.mkdir()
                made.append(missing)


def sync_file(path: Path) -> None:
    """Waits until a file's bytes are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Waits until a folder's names are on the disk, where its file system can do that."""
    with suppress(OSError):
        sync_file(folder)


@dataclass(frozen=True)
class _Output:
    """A file on its way to its place.

    Attributes:
      part: what is written.
      target: where it goes, links followed; a number is an open file of this process.
      is_renamed: False where the target is there and is no regular file: it is given the bytes.
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
        if isinstance(self.target, int):  # what was printed before comes first
            sys.stdout.flush()
            sys.stderr.flush()
        with self.part.open("rb") as source, open(self.target, "wb", closefd=isinstance(self.target, Path)) as sink:
            shutil.copyfileobj(source, sink, 2**20)


def _begin(path: Path, made: list[Path]) -> _Output:
    """Makes the empty file that stands in for a path."""
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
    """Where a path leads, links followed.

    Raises:
      OSError: it leads nowhere (links in a circle, a name that is too long), or to a folder.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        if stat.S_ISDIR(os.stat(path).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return Path(os.path.realpath(path))


def _descriptor(path: Path) -> int | None:
    """The open file of this process that a path such as `/dev/stdout` or `/dev/fd/3` stands for, or None.

    Such a file must not be opened anew where it is a regular one: it would be written from its start, over what was
    printed before.
    """
    folders = {os.path.realpath(folder) for folder in DESCRIPTOR_FOLDERS}
    for _ in range(MOST_LINKS):
        if path.name.isdecimal() and os.path.realpath(path.parent) in folders:
            return int(path.name)
        try:
            path = path.parent / os.readlink(path)
        except OSError:
            return None
    return None
