"""A run: what it writes and keeps, when it ends, and that a stop at any moment costs no more than the last steps."""

import errno
import json
import os
import resource
from dataclasses import replace
from pathlib import Path

import jax
import jaxtyping
import numpy as np
import pytest
from safetensors.numpy import load_file

from dyntok_jax.convert import load_hypernet
from dyntok_jax.embedding import Hypernet
from dyntok_jax.errors import CheckpointError, ConfigError, TrainingError
from dyntok_jax.sharding import make_mesh
from dyntok_jax.training import (
    Job,
    Objectives,
    OptimizerConfig,
    Outcome,
    RunConfig,
    TrainingConfig,
    job as training_job,
    run_folder,
    train_loop,
    validator,
)
from tests.support.tiny_training import Stream, random_batch, random_hypernet, tiny_frozen

WEIGHTS = Objectives(pieces=1.0)
RUN = RunConfig(steps=6, validate_every=3, checkpoint_every=2, keep=2, log_every=2)


CONFIG = TrainingConfig(
    model="tiny", objectives=WEIGHTS, optimizer=OptimizerConfig(learning_rate=1e-2, warmup=0), run=RUN
)
EXPLOSIVE = replace(CONFIG, optimizer=OptimizerConfig(learning_rate=1e30, clip=1e30, warmup=0))


def train(job: Job, run: RunConfig, folder: Path, **options) -> Outcome:
    decisive = job.decisive | {"run": replace(CONFIG, run=run).decisive()["run"]}
    return train_loop.train(replace(job, run=run, decisive=decisive), folder, **options)


def job_of(
    config: TrainingConfig = CONFIG, hypernet: Hypernet | None = None, contents_of_validation: str = "", **changes
) -> Job:
    frozen = tiny_frozen()
    job = training_job.job_of(
        random_hypernet(residual=True) if hypernet is None else hypernet,
        frozen,
        batches=Stream(n_texts=2),
        validate=validator(frozen, WEIGHTS, [random_batch(0)]),
        config=config,
        contents_of_validation=contents_of_validation,
    )
    return replace(job, **changes)


def lines_of(folder: Path) -> list[dict]:
    """Metrics without the times, which differ from run to run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def parameters_of(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "hypernet" / "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run from begin to end."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(job_of(), RUN, folder)
    return folder


@pytest.mark.slow
def test_metrics_hold_every_step_and_validation(whole):
    lines = lines_of(whole)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "validation_loss" in line] == [0, 3, 6]
    assert all(np.isfinite(value) for line in lines for value in line.values())


@pytest.mark.slow
def test_the_best_parameters_are_the_result(tmp_path):
    seen, scores = [], iter([5.0, 3.0, 4.0])

    def validate(hypernet):
        seen.append(jax.device_get(hypernet))
        return {"loss": next(scores)}

    outcome = train(job_of(validate=validate), RUN, tmp_path)
    assert (outcome.best_step, outcome.best_loss, outcome.step, outcome.stopped_early) == (3, 3.0, 6, False)
    assert run_folder.Checkpoints(tmp_path, 2).steps == [3, 4, 6]
    exported = jax.tree.leaves(load_hypernet(tmp_path / "hypernet")[1])
    _, of_three, of_six = (jax.tree.leaves(hypernet) for hypernet in seen)
    assert all(map(np.array_equal, exported, of_three))
    assert not all(map(np.array_equal, exported, of_six))


@pytest.mark.slow
def test_without_validation_the_last_is_the_result(tmp_path):
    outcome = train(job_of(validate=None), RUN, tmp_path)
    assert (outcome.best_step, outcome.best_loss) == (6, None)


@pytest.mark.slow
def test_the_result_is_a_hypernetwork(whole):
    config, hypernet = load_hypernet(whole / "hypernet")
    assert config == job_of().parameters.config
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(hypernet))


@pytest.mark.slow
def test_the_last_few_and_the_best_stay(tmp_path):
    scores = iter([1.0, 2.0, 3.0])
    train(job_of(validate=lambda _: {"loss": next(scores)}), replace(RUN, keep=1), tmp_path)
    assert run_folder.Checkpoints(tmp_path, 1).steps == [0, 6]


class InterruptedRunError(Exception):
    """Stands for a kill."""


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_stopped_run_goes_on_as_if_it_never_stopped(whole, tmp_path, at):
    def stop(report):
        if report.step >= at and not report.is_validation:
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        train(job_of(), RUN, tmp_path, report=stop)
    train(job_of(), RUN, tmp_path, resume=True)
    assert lines_of(tmp_path) == lines_of(whole)
    for name, array in parameters_of(whole).items():
        np.testing.assert_array_equal(parameters_of(tmp_path)[name], array)


def test_a_finished_run_is_left_as_it_is(whole):
    before = lines_of(whole)
    assert train(job_of(), RUN, whole, resume=True).step == 6
    assert lines_of(whole) == before


def test_a_run_is_not_overwritten(whole):
    with pytest.raises(CheckpointError, match="already holds a run, up to step 6: continue it"):
        train(job_of(), RUN, whole)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"config": replace(CONFIG, objectives=Objectives(pieces=2.0))}, "objectives.pieces is 1.0 there and 2.0 here"),
        ({"config": replace(CONFIG, model="other")}, "model is tiny there and other here"),
        ({"contents_of_validation": "other"}, "contents of the validation is"),
    ],
)
def test_a_checkpoint_of_another_config_is_refused(whole, changes, told):
    with pytest.raises(CheckpointError, match=told):
        train(job_of(**changes), RUN, whole, resume=True)


def test_what_a_kill_left_behind_is_no_checkpoint(tmp_path):
    folder = tmp_path / run_folder.CHECKPOINTS
    for name in ("9.orbax-checkpoint-tmp", "8.removed"):
        (folder / name).mkdir(parents=True)
    (folder / "notes").mkdir()
    assert run_folder.Checkpoints(tmp_path, 2).latest is None
    assert [path.name for path in folder.iterdir()] == ["notes"]


def test_a_write_that_still_goes_on_is_swept_away_when_it_ends(tmp_path, monkeypatch):
    """Threads of a write that failed may add files while it is removed."""
    left = tmp_path / run_folder.CHECKPOINTS / "9.orbax-checkpoint-tmp"
    left.mkdir(parents=True)
    remove, failures = run_folder.shutil.rmtree, iter([OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))])

    def once_not_empty(path):
        if error := next(failures, None):
            raise error
        remove(path)

    monkeypatch.setattr(run_folder.shutil, "rmtree", once_not_empty)
    assert run_folder.Checkpoints(tmp_path, 2).latest is None
    assert not left.exists()


@pytest.mark.slow
def test_an_export_that_a_kill_cut_off_is_swept_away(tmp_path):
    part = tmp_path / "hypernet" / ".model.safetensors.0a1b2c3d.part"
    part.parent.mkdir()
    part.touch()
    train(job_of(validate=None), replace(RUN, steps=1), tmp_path)
    assert sorted(path.name for path in part.parent.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.slow
def test_two_runs_in_one_folder_are_refused(tmp_path):
    """Before the second has touched what the first is writing."""
    writing = tmp_path / run_folder.CHECKPOINTS / "9.orbax-checkpoint-tmp"
    writing.mkdir(parents=True)
    with run_folder.locked(tmp_path), pytest.raises(CheckpointError, match="Another process trains in"):
        train(job_of(), RUN, tmp_path, resume=True)
    assert writing.exists()
    train(job_of(), replace(RUN, steps=1), tmp_path)


@pytest.mark.slow
def test_patience_ends_a_run(tmp_path):
    scores = iter(range(100))
    validate = lambda _: {"loss": float(next(scores))}  # noqa: E731
    run = replace(RUN, steps=50, validate_every=1, patience=3)
    outcome = train(job_of(validate=validate), run, tmp_path)
    assert (outcome.step, outcome.best_step, outcome.stopped_early) == (3, 0, True)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [1, 2])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, keep):
    """The first update blows up, but its parameters are numbers still: only the next loss tells."""
    job = job_of(validate=None, config=EXPLOSIVE)
    with pytest.raises(TrainingError, match=r"of step 2 is NaN or infinite.*checkpoint of step 0.*lower"):
        train(job, replace(RUN, checkpoint_every=1, log_every=1, keep=keep), tmp_path)
    assert run_folder.Checkpoints(tmp_path, keep).steps == [0]
    exported = jax.tree.leaves(load_hypernet(tmp_path / "hypernet")[1])
    assert all(map(np.array_equal, exported, jax.tree.leaves(job.parameters)))


@pytest.mark.slow
def test_a_start_that_gives_no_number_leaves_nothing(tmp_path):
    spoilt = jax.tree.map(lambda leaf: leaf * np.float32(1e30), random_hypernet(residual=True))
    with pytest.raises(TrainingError, match=r"of step 1 is NaN or infinite\. There is no checkpoint from before"):
        train(job_of(validate=None, hypernet=spoilt), RUN, tmp_path)
    assert run_folder.Checkpoints(tmp_path, 2).latest is None


@pytest.mark.slow
def test_a_checkpoint_goes_even_where_a_stop_came_before_the_loss_that_tells(tmp_path):
    """Stopped after step 1 was saved, which is only known to be no good when the run goes on; the start is kept."""
    run = replace(RUN, checkpoint_every=1, log_every=1, keep=1)

    class Interrupted(Stream):
        def __next__(self):
            if self.number == 1:
                raise InterruptedRunError
            return super().__next__()

    with pytest.raises(InterruptedRunError):
        train(job_of(validate=None, config=EXPLOSIVE, batches=Interrupted(n_texts=2)), run, tmp_path)
    assert run_folder.Checkpoints(tmp_path, 1).steps == [0, 1]
    with pytest.raises(TrainingError, match=r"of step 2 .*checkpoint of step 0"):
        train(job_of(validate=None, config=EXPLOSIVE), run, tmp_path, resume=True)
    assert run_folder.Checkpoints(tmp_path, 1).steps == [0]


@pytest.mark.slow
def test_a_validation_that_is_no_number_stops_the_run(tmp_path):
    scores = iter([1.0, float("nan")])
    with pytest.raises(TrainingError, match="loss of the validation at step 3"):
        train(job_of(validate=lambda _: {"loss": next(scores)}), RUN, tmp_path)


def test_a_file_that_may_not_grow_is_told(tmp_path):
    """What a full disk does to a write, by the system's limit on the size of files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(CheckpointError, match="cannot be written"):
            train(job_of(), RUN, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run_folder.Checkpoints(tmp_path, 2).latest is None


def test_a_checkpoint_that_finds_no_room_is_told(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run_folder.ocp, "save_async", full)
    with pytest.raises(CheckpointError, match=r"[Nn]o space left"):
        train(job_of(), RUN, tmp_path)
    assert run_folder.Checkpoints(tmp_path, 2).latest is None


@pytest.mark.slow
def test_a_mesh_changes_nothing(whole, tmp_path):
    train(job_of(batches=Stream(n_texts=2)), RUN, tmp_path, mesh=make_mesh(2, 4))
    for here, there in zip(lines_of(tmp_path), lines_of(whole), strict=True):
        assert here == pytest.approx(there, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"keep": 0}, {"patience": -1}, {"compute_dtype": "float16"}])
def test_settings_out_of_range_are_refused(monkeypatch, wrong):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users have no check of types before ours
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RunConfig(**wrong)
