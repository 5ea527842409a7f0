"""What a run keeps on disk, so that a kill at any moment costs only the steps since the last checkpoint.

- `checkpoints/STEP`: parameters, optimizer and progress, written by orbax beside its name and renamed when whole
- `metrics.jsonl`: a line a step, and a line a validation
- `hypernet/`: the best parameters so far, as `DynamicEncoder.load(..., hypernet=FOLDER)` reads them
- `.lock`: held by the process that trains; the system lets go of it when that ends, however it ends
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

CHECKPOINTS, METRICS, HYPERNET, LOCK = "checkpoints", "metrics.jsonl", "hypernet", ".lock"
_DOOMED = ".removed"
_WHOLE, _UNFINISHED = re.compile(r"\d+"), re.compile(rf"\d+({re.escape(_DOOMED)}|\.orbax-checkpoint-tmp.*)")
_SWEEPS, _SWEEP_SECONDS = 20, 0.1
_PARTS = ".*.part"
"""Files of an export that were not whole yet."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands, beside its arrays; `json.dumps` takes all of it.

    Attributes:
      config: what decides about the run's numbers; a checkpoint of another one is refused.
      data: the state of the stream of batches.
      best_loss: the lowest validation loss so far; None before the first.
      best_step: when that was.
      n_worse: validations since then.
    """

    config: dict[str, Any]
    data: dict[str, Any]
    best_loss: float | None = None
    best_step: int = 0
    n_worse: int = 0


@contextmanager
def held_alone(folder: Path) -> Iterator[None]:
    """Keeps every other process from training in a folder, which is made if it is not there.

    Raises:
      CheckpointError: another process trains there, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = {path.name for path in folder.iterdir()}
        if there and not there & {CHECKPOINTS, METRICS, HYPERNET, LOCK}:
            raise CheckpointError(
                f"{folder} is there already and holds other things ({', '.join(sorted(there)[:3])}): name a folder "
                "that is empty or not there, or that of an earlier run."
            )
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise CheckpointError(
            f"Another process trains in {folder}: wait for its end, or choose another folder."
        ) from None
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written ({error.strerror or error}): choose another one.") from error
    try:
        yield
    finally:
        lock.release()


class Checkpoints:
    """Checkpoints of one run: the last few and the best, written while training goes on.

    A folder `STEP` is whole: it takes that name when it is, and loses it before it is removed.
    """

    def __init__(self, folder: Path, keep: int):
        """Opens the folder, and removes what an interrupted write or removal left there.

        Args:
          folder: of the run; made if it is not there.
          keep: how many of the last ones stay; the best stays besides.

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
            for left in (folder / HYPERNET).glob(_PARTS):
                left.unlink()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.wait()
        else:  # what went wrong first is told
            with suppress(CheckpointError):
                self._finish_writing()  # and no older one is removed: of the last it is not known how it would go on

    @property
    def steps(self) -> list[int]:
        """The steps of all whole checkpoints."""
        return sorted(int(path.name) for path in self.folder.iterdir() if _WHOLE.fullmatch(path.name))

    @property
    def latest(self) -> int | None:
        """The step of the last whole checkpoint; None if there is none."""
        return max(self.steps, default=None)

    def save(self, state: TrainState, progress: Progress, step: int) -> None:
        """Starts writing a checkpoint; waits for the one before.

        Args:
          state: the arrays, which are on the host when this returns: a step may take them over.
          progress: the rest.
          step: steps done.

        Raises:
          CheckpointError: this one or the one before cannot be written.
        """
        self.wait()
        with self._explained("written"):
            self._writing = ocp.save_async(
                str(self.folder / str(step)), flat_parameters(state), custom_metadata=asdict(progress)
            )
        self._best_step = progress.best_step

    def wait(self) -> None:
        """Waits until the last checkpoint is whole, then removes those that need not stay.

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
        """Removes a checkpoint that turned out to be no good, if it is there; all that are older stay.

        Raises:
          CheckpointError: the last one cannot be written, or this one not be removed.
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
        """Reads where the run stood at the last checkpoint.

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
        """Orbax and tensorstore raise a dozen types, also for a full disk, which the first line of the text tells."""
        try:
            yield
        except Exception as error:
            said = (str(error).splitlines() or [""])[0][:300]
            raise CheckpointError(
                f"A checkpoint in {self.folder} cannot be {what} ({type(error).__name__}: {said}). Checkpoints that "
                "are there are whole: make room or mend the folder, and go on with --resume."
            ) from error


class MetricsFile:
    """JSON lines, one a step or validation, flushed as they come."""

    def __init__(self, path: Path, *, after: int):
        """Opens the file.

        Args:
          path: of the file, made if it is not there.
          after: the last step whose lines are kept; those of later steps, from before a kill, are dropped.

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
        """Closes the file; what could not be written has been told."""
        with suppress(OSError):
            self._file.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{self._path} cannot be written ({error.strerror or error}): make room, and go on with --resume."
            ) from error


def _sweep(left: Path) -> None:
    """Removes a folder into which the threads of a write that failed may be writing for a moment still."""
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
    """Whole lines of steps up to this one; a line that a kill cut off is the last."""
    if not path.exists():
        return []

    def is_kept(line: str) -> bool:
        return line.endswith("\n") and json.loads(line)["step"] <= step

    return list(takewhile(is_kept, path.read_text(encoding="utf-8").splitlines(keepends=True)))


def differences(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two configs, one line a field."""
    found = []
    for name in sorted(there.keys() | here.keys()):
        old, new = there.get(name), here.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name} is {old} there and {new} here")
    return found


def check_same_config(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Compares a checkpoint's config with this run's.

    Raises:
      CheckpointError: they differ; every difference is named.
    """
    here = json.loads(json.dumps(here))  # tuples become lists, as they did in the checkpoint
    if found := differences(there, here):
        raise CheckpointError(
            f"The run in {folder} has another config: {'; '.join(found)}. Give the same options to go on with it, or "
            "another folder for a new run (--start-from takes its parameters over)."
        )
