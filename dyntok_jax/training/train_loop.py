"""The run: steps, validation, checkpoints, metrics, and early stopping. A single step is in `step.py`."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding

from dyntok_jax.errors import CheckpointError, TrainingError
from dyntok_jax.training.config import OptimizerConfig, RunConfig
from dyntok_jax.training.objectives import Metrics
from dyntok_jax.training.run_folder import (
    METRICS,
    Checkpoints,
    MetricsFile,
    Progress,
    check_same_config,
    locked,
)
from dyntok_jax.training.step import (
    LossFunction,
    TrainState,
    cast,
    init_state,
    make_optimizer,
    make_step,
    put_batch,
    state_shardings,
)


@runtime_checkable
class Batches(Protocol):
    """An endless stream of batches whose position can be saved and restored.

    >>> isinstance(job.batches, Batches)
    True
    """

    def __next__(self) -> Any:
        """The next batch."""
        ...

    def get_state(self) -> dict[str, Any]:
        """The position after the batches taken so far, as JSON types."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Moves to such a position."""


Validate = Callable[[Any], dict[str, float]]
"""From trained parameters to their scores on held-out data; `loss` decides which parameters are best."""


@dataclass(frozen=True)
class Job:
    """Everything that a run needs; `prepare_job` makes it from options.

    Attributes:
      parameters: what is trained, as it starts.
      frozen: the model, which training does not change.
      loss: of parameters, model and batch.
      batches: to train on.
      validate: scores on held-out data. Without it the last parameters count as the best, although the last loss
        measured is from before their last update.
      run: how long to train, how often to validate and save.
      optimizer: its options.
      decisive: the options that change the numbers of a run, as JSON types; a run resumes with the same alone.
      result: name of the folder of the best parameters within that of the run.
      save: writes parameters to such a folder.
      learning_rates: of some parameters, as for `make_optimizer`.

    >>> job.run.steps, job.parameters.config.n_layers, next(job.batches).pieces.target_P.shape
    (2, 1, (16,))
    """

    parameters: Any
    frozen: Any
    loss: LossFunction
    batches: Batches
    validate: Validate | None
    run: RunConfig
    optimizer: OptimizerConfig
    decisive: dict[str, Any]
    result: str
    save: Callable[[Path, Any], None]
    learning_rates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Metrics of a step or of a validation, for the `report` of `train`.

    Attributes:
      step: steps done.
      metrics: of the last step, or of a validation.
      is_validation: which of the two.

    >>> report = Report(step=200, metrics={"loss": 0.41}, is_validation=True)
    >>> f"step {report.step}: loss {report.metrics['loss']}"
    'step 200: loss 0.41'
    """

    step: int
    metrics: dict[str, float]
    is_validation: bool


@dataclass(frozen=True)
class Outcome:
    """The result of `train`.

    Attributes:
      step: steps done.
      best_step: of the parameters in `result`.
      best_loss: their validation loss; None without validation.
      result: their folder.
      stopped_early: whether patience ran out.

    >>> outcome = Outcome(step=600, best_step=400, best_loss=0.4, result=Path("run/hypernet"), stopped_early=True)
    >>> str(outcome.result), outcome.step - outcome.best_step
    ('run/hypernet', 200)
    """

    step: int
    best_step: int
    best_loss: float | None
    result: Path
    stopped_early: bool


def train(
    job: Job,
    folder: Path,
    *,
    resume: bool = False,
    mesh: Mesh | None = None,
    report: Callable[[Report], None] = lambda _: None,
) -> Outcome:
    """Trains the parameters of a job.

    Args:
      job: from `prepare_job`.
      folder: for checkpoints, metrics and the result (`run_folder.py`); created if it does not exist.
      resume: continue from the last checkpoint there, if there is one.
      mesh: shards batches over `data` and parameters by the rules in `sharding.py`.
      report: called with the losses of each step, some steps late, and with every validation.

    Raises:
      CheckpointError: the folder already holds a run (without `resume`), or one of another config; it cannot be
        written; or another process trains there.
      TrainingError: a loss or a gradient is not finite; the last checkpoint is from before that.

    >>> outcome = train(job, folder / "run", report=lambda report: print(report.step, sorted(report.metrics)))
    1 ['gradient_norm', 'loss', 'piece_cosine', 'pieces']
    2 ['gradient_norm', 'loss', 'piece_cosine', 'pieces']
    >>> outcome.step, outcome.result.name, sorted(path.name for path in outcome.result.parent.glob("*"))
    (2, 'hypernet', ['.lock', 'checkpoints', 'hypernet', 'metrics.jsonl'])
    """
    with locked(folder), Checkpoints(folder, job.run.keep) as checkpoints:
        if checkpoints.latest is not None and not resume:
            raise CheckpointError(
                f"{folder} already holds a run, up to step {checkpoints.latest}: continue it (--resume), or choose "
                "another folder."
            )
        session = _Session(job, folder, checkpoints, mesh, report)
        with contextlib.closing(session):
            session.begin()
            while session.done < job.run.steps and not session.gives_up:
                session.take_step()
        progress = session.progress
    return Outcome(session.done, progress.best_step, progress.best_loss, folder / job.result, session.gives_up)


class _Session:
    """The changing parts of a run: state, progress, and losses that have not been read yet."""

    def __init__(
        self,
        job: Job,
        folder: Path,
        checkpoints: Checkpoints,
        mesh: Mesh | None,
        report: Callable[[Report], None],
    ):
        self.job, self.folder, self.checkpoints, self.mesh, self.report = job, folder, checkpoints, mesh, report
        self.run = job.run
        self.optimizer = make_optimizer(job.optimizer, self.run.steps, job.learning_rates)
        self.step_of = make_step(self.optimizer, job.loss, jnp.dtype(self.run.compute_dtype))
        self.waiting: list[tuple[int, Metrics]] = []
        self.looked_at = time.perf_counter()
        self.is_fresh = checkpoints.latest is None
        self.done = checkpoints.latest or 0
        self.state, self.progress = self._fresh() if self.is_fresh else self._restored()
        self.log = MetricsFile(folder / METRICS, after=-1 if self.is_fresh else self.done)

    def begin(self) -> None:
        """Writes a first checkpoint, or repeats an export that a kill may have interrupted."""
        if self.is_fresh:
            self._save()
        elif self.progress.best_step == self.done:  # a kill may have prevented the export
            self._export()

    @property
    def gives_up(self) -> bool:
        """Whether patience has run out."""
        return 0 < self.run.patience <= self.progress.n_worse

    def take_step(self) -> None:
        """One step, and the reading, validation and saving that are due after it."""
        batches = [put_batch(next(self.job.batches), self.mesh) for _ in range(self.job.optimizer.accumulate)]
        self.state, metrics = self.step_of(self.state, self.job.frozen, batches)
        self.done += 1
        self.waiting.append((self.done, metrics))
        is_due = self.done == self.run.steps or self.done % self.run.checkpoint_every == 0
        saves = is_due or self._validates_at(self.done)
        if saves or self.done % self.run.log_every == 0:
            self._look()
        if saves:
            self._save()

    def close(self) -> None:
        """Closes the metrics file."""
        self.log.close()

    def _validates_at(self, step: int) -> bool:
        return self.job.validate is not None and (step == self.run.steps or step % self.run.validate_every == 0)

    def _look(self) -> None:
        """Waits for the losses, logs them, and stops at one that is not finite."""
        waited = [(step, {name: float(value) for name, value in metrics.items()}) for step, metrics in self.waiting]
        self.waiting = []
        seconds = (time.perf_counter() - self.looked_at) / max(len(waited), 1)
        self.looked_at = time.perf_counter()
        for step, metrics in waited:
            if not all(map(math.isfinite, metrics.values())):
                self._discard(step - 1)
            self._check_finite(metrics, f"step {step}")
            self.log.write({"step": step, **metrics, "seconds": round(seconds, 3)})
            self.report(Report(step, metrics, is_validation=False))

    def _save(self) -> None:
        """Validates if due, starts a checkpoint, and exports the parameters if they are the best."""
        loss, validate = None, self.job.validate
        if validate is not None and self._validates_at(self.done):
            scores = validate(cast(self.state.parameters, jnp.dtype(self.run.compute_dtype)))
            self._check_finite(scores, f"the validation at step {self.done}")
            loss = scores["loss"]
            self.log.write({"step": self.done} | {f"validation_{name}": value for name, value in scores.items()})
            self.report(Report(self.done, scores, is_validation=True))
            self.looked_at = time.perf_counter()
        self.progress = after_checkpoint(self.progress, self.done, loss, has_validation=self.job.validate is not None)
        self.progress = replace(self.progress, data=self.job.batches.get_state())
        self.checkpoints.save(self.state, self.progress, self.done)
        if self.progress.best_step == self.done:
            self._export()

    def _check_finite(self, figures: dict[str, float], where: str) -> None:
        """Stops the run at a figure that is not finite; nothing later is kept."""
        wrong = [name for name, value in figures.items() if not math.isfinite(value)]
        if not wrong:
            return
        self.checkpoints.wait()
        kept = self.checkpoints.latest
        good = (
            "There is no checkpoint from before that"
            if kept is None
            else f"The checkpoint of step {kept} in {self.checkpoints.folder} and the best parameters in "
            f"{self.folder / self.job.result} are from before that"
        )
        raise TrainingError(
            f"{', '.join(wrong)} of {where} is NaN or infinite. {good}: start a new run with a lower learning rate."
        )

    def _discard(self, step: int) -> None:
        """Removes the checkpoint of parameters whose loss was not finite, from which no run could continue.

        Its export is kept if it passed a validation, or if there is no older checkpoint.
        """
        self.checkpoints.discard(step)
        if self.job.validate is None and self.progress.best_step == step and self.checkpoints.latest is not None:
            self.state, self.progress = self._last_state(), self.checkpoints.load_progress()
            self._export()

    def _export(self) -> None:
        dtype = jnp.dtype(self.run.export_dtype)
        self.job.save(self.folder / self.job.result, cast(self.state.parameters, dtype))

    def _fresh(self) -> tuple[TrainState, Progress]:
        shardings = self._shardings()
        begin = jax.jit(partial(init_state, optimizer=self.optimizer), out_shardings=shardings)
        parameters = jax.device_put(self.job.parameters, shardings.parameters)
        return begin(parameters), Progress(self.job.decisive, self.job.batches.get_state())

    def _restored(self) -> tuple[TrainState, Progress]:
        progress = self.checkpoints.load_progress()
        check_same_config(self.folder, progress.config, self.job.decisive)
        self.job.batches.set_state(progress.data)
        return self._last_state(), progress

    def _last_state(self) -> TrainState:
        sharded = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            self._abstract(),
            self._shardings(),
        )
        return self.checkpoints.load_state(sharded)

    def _abstract(self) -> TrainState:
        return jax.eval_shape(partial(init_state, optimizer=self.optimizer), self.job.parameters)

    def _shardings(self) -> TrainState:
        """The sharding of each array of the state, on this run's mesh or device, whatever those of an earlier run."""
        if self.mesh is None:
            return jax.tree.map(lambda _: SingleDeviceSharding(jax.local_devices()[0]), self._abstract())
        return state_shardings(self._abstract(), self.optimizer, self.mesh)


def after_checkpoint(progress: Progress, step: int, loss: float | None, *, has_validation: bool) -> Progress:
    """The progress after a checkpoint, with its loss if it was validated; without validation the last is the best."""
    if not has_validation:
        return replace(progress, best_step=step)
    if loss is None:
        return progress
    if progress.best_loss is None or loss < progress.best_loss:
        return replace(progress, best_loss=loss, best_step=step, n_worse=0)
    return replace(progress, n_worse=progress.n_worse + 1)
