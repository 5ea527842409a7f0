"""The files of a run, so that a kill at any moment costs only the steps since the last checkpoint.

- `checkpoints/STEP`: parameters, optimizer and progress, written by orbax under another name and renamed when complete
- `metrics.jsonl`: a line for each step and each validation
- `hypernet/` or `adapter/`: the best parameters so far, as `DynamicEncoder.load` reads them
- `.lock`: held by the training process; the system releases it when that process ends in any way
"""

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import jax
import orbax.checkpoint.experimental.v1 as ocp
from filelock import FileLock, Timeout

from dyntok_jax.errors import CheckpointError
from dyntok_jax.parameters import flat_parameters
from dyntok_jax.storage import written
from dyntok_jax.training.step import TrainState

CHECKPOINTS, METRICS, HYPERNET, ADAPTER, LOCK = "checkpoints", "metrics.jsonl", "hypernet", "adapter", ".lock"
_DOOMED = ".removed"
_WHOLE, _UNFINISHED = re.compile(r"\d+"), re.compile(rf"\d+({re.escape(_DOOMED)}|\.orbax-checkpoint-tmp.*)")
_SWEEPS, _SWEEP_SECONDS = 20, 0.1
_PARTS = ".*.part"
"""Files of an unfinished export."""


@dataclass(frozen=True)
class Progress:
    """The state of a run other than its arrays, as JSON types.

    Attributes:
      config: the options that change the run's numbers; a run with other options cannot resume from the checkpoint.
      data: the state of the stream of batches.
      best_loss: the lowest validation loss so far; None before the first.
      best_step: its step.
      n_worse: validations since then.
    """

    config: dict[str, Any]
    data: dict[str, Any]
    best_loss: float | None = None
    best_step: int = 0
    n_worse: int = 0


def check_run_folder(folder: Path) -> None:
    """Raises CheckpointError if a folder has other things in it than a run.

    >>> (folder / "cat.jpg").touch()
    >>> check_run_folder(folder)
    Traceback (most recent call last):
        ...
    dyntok_jax.errors.CheckpointError: ... holds other things (cat.jpg): name a folder ...
    """
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if there and not there & {CHECKPOINTS, METRICS, HYPERNET, ADAPTER, LOCK}:
        raise CheckpointError(
            f"{folder} is there already and holds other things ({', '.join(sorted(there)[:3])}): name a folder "
            "that is empty or not there, or that of an earlier run."
        )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks a folder against other training processes; the folder is created if it does not exist.

    Raises:
      CheckpointError: another process trains there, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_run_folder(folder)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise CheckpointError(
            f"Another process trains in {folder}: wait until it ends, or choose another folder."
        ) from None
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written ({error.strerror or error}): choose another one.") from error
    try:
        yield
    finally:
        lock.release()


class Checkpoints:
    """Checkpoints of one run: the last few and the best, written while training goes on.

    A folder named `STEP` is always complete: it is renamed to that when complete, and renamed again before removal.
    """

    def __init__(self, folder: Path, keep: int):
        """Opens the folder, and removes the remains of an interrupted write or removal.

        Args:
          folder: of the run; created if it does not exist.
          keep: how many of the last checkpoints to keep, besides the best.

        Raises:
          CheckpointError: the folder cannot be written.
        """
        self.folder, self._keep = folder.absolute() / CHECKPOINTS, keep
        self._writing: ocp.AsyncResponse[None] | None = None
        self._best_step = 0
        with self._explained("written"):
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.iterdir():
                if _UNFINISHED.fullmatch(left.name):
                    _sweep(left)
            for result in (HYPERNET, ADAPTER):
                for left in (folder / result).glob(_PARTS):
                    left.unlink()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.wait()
        else:  # report the first error only
            with suppress(CheckpointError):
                self._finish_writing()  # and keep the older ones: the last one may be the start of what went wrong

    @property
    def steps(self) -> list[int]:
        """The steps of all complete checkpoints."""
        return sorted(int(path.name) for path in self.folder.iterdir() if _WHOLE.fullmatch(path.name))

    @property
    def latest(self) -> int | None:
        """The step of the last complete checkpoint; None if there is none."""
        return max(self.steps, default=None)

    def save(self, state: TrainState, progress: Progress, step: int) -> None:
        """Starts writing a checkpoint, once the previous one is written.

        Args:
          state: the arrays; they are copied to the host before this returns, so a step may donate them.
          progress: the rest.
          step: steps done.

        Raises:
          CheckpointError: this one or the previous one cannot be written.
        """
        self.wait()
        with self._explained("written"):
            self._writing = ocp.save_async(
                str(self.folder / str(step)), flat_parameters(state), custom_metadata=asdict(progress)
            )
        self._best_step = progress.best_step

    def wait(self) -> None:
        """Waits until the last checkpoint is complete, then removes those that are not to be kept.

        Raises:
          CheckpointError: it cannot be written.
        """
        if self._writing is None:
            return
        self._finish_writing()
        with self._explained("written"):
            for step in self.steps[: -self._keep]:
                if step != self._best_step:
                    self._remove(step)

    def discard(self, step: int) -> None:
        """Removes a checkpoint with bad parameters, if it exists; older ones are kept.

        Raises:
          CheckpointError: the last one cannot be written, or this one cannot be removed.
        """
        self._finish_writing()
        with self._explained("written"):
            if step in self.steps:
                self._remove(step)

    def _finish_writing(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            with self._explained("written"):
                writing.result()

    def load_progress(self) -> Progress:
        """Reads the progress of the last checkpoint.

        Raises:
          CheckpointError: it cannot be read.
        """
        with self._explained("read"):
            kept: Any = ocp.metadata(str(self.folder / str(self.latest))).custom_metadata
            return Progress(**kept)

    def load_state(self, abstract: TrainState) -> TrainState:
        """Reads the arrays of the last checkpoint.

        Args:
          abstract: a state of `jax.ShapeDtypeStruct`, each with a sharding.

        Raises:
          CheckpointError: they cannot be read, or do not fit.
        """
        with self._explained("read"):
            flat = ocp.load(str(self.folder / str(self.latest)), flat_parameters(abstract))
        return jax.tree.unflatten(jax.tree.structure(abstract), [flat[path] for path in flat_parameters(abstract)])

    def _remove(self, step: int) -> None:
        doomed = self.folder / f"{step}{_DOOMED}"
        (self.folder / str(step)).rename(doomed)
        shutil.rmtree(doomed)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Orbax and tensorstore raise a dozen types, for a full disk too; the first line of the text has the cause."""
        try:
            yield
        except Exception as error:
            said = (str(error).splitlines() or [""])[0][:300]
            raise CheckpointError(
                f"A checkpoint in {self.folder} cannot be {what} ({type(error).__name__}: {said}). The existing "
                "checkpoints are complete: free disk space or repair the folder, and continue with --resume."
            ) from error


class MetricsFile:
    """JSON lines, one for each step or validation, flushed at once."""

    def __init__(self, path: Path, *, after: int):
        """Opens the file.

        Args:
          path: of the file, created if it does not exist.
          after: the last step whose lines are kept; later ones, left by a killed run, are dropped.

        Raises:
          CheckpointError: the file cannot be written.
        """
        self._path = path
        with self._explained():
            kept = _lines_up_to(path, after)
            with written(path) as part:
                part.write_text("".join(kept), encoding="utf-8")
            self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Appends a line; `step` is one of its fields."""
        with self._explained():
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Closes the file; failed writes have already raised."""
        with suppress(OSError):
            self._file.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{self._path} cannot be written ({error.strerror or error}): free disk space, and use --resume."
            ) from error


def _sweep(left: Path) -> None:
    """Removes a folder; threads of a failed write may still write into it for a moment."""
    for more in reversed(range(_SWEEPS)):
        try:
            shutil.rmtree(left)
        except OSError:
            if not more:
                raise
            time.sleep(_SWEEP_SECONDS)
        else:
            return


def _lines_up_to(path: Path, step: int) -> list[str]:
    """Complete lines of steps up to this one; only the last line can be cut off by a kill."""
    if not path.exists():
        return []

    def is_kept(line: str) -> bool:
        return line.endswith("\n") and json.loads(line)["step"] <= step

    return list(takewhile(is_kept, path.read_text(encoding="utf-8").splitlines(keepends=True)))


def differences(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> list[str]:
    """The differences between two configs, one line a field."""
    found = []
    for name in sorted(there.keys() | here.keys()):
        old, new = there.get(name), here.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name} is {old} there and {new} here")
    return found


def check_same_config(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Checks that a checkpoint's config is this run's.

    Raises:
      CheckpointError: they differ; every difference is named.
    """
    here = json.loads(json.dumps(here))  # tuples become lists, as they did in the checkpoint
    if found := differences(there, here):
        raise CheckpointError(
            f"The run in {folder} has another config: {'; '.join(found)}. Give the same options to continue it, or "
            "another folder for a new run (--start-from starts from its parameters)."
        )
