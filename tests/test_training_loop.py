"""A run: what it writes and keeps, when it ends, and that a stop at any moment costs no more than the last steps."""

import errno
import json
import os
import resource
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_training import Stream, quick_programs, random_batch, random_hypernet, tiny_frozen

from dyntok_jax.convert.hypernet import load_hypernet
from dyntok_jax.errors import CheckpointError, ConfigError, TrainingError
from dyntok_jax.sharding import make_mesh
from dyntok_jax.training import run_folder
from dyntok_jax.training.loop import Job, RunConfig, train
from dyntok_jax.training.objectives import Objectives
from dyntok_jax.training.step import OptimizerConfig
from dyntok_jax.training.validation import validator

pytestmark = pytest.mark.usefixtures(quick_programs.__name__)
WEIGHTS = Objectives(pieces=1.0)
RUN = RunConfig(steps=6, validate_every=3, checkpoint_every=2, keep=2, log_every=2)


def job_of(**changes) -> Job:
    frozen = tiny_frozen()
    job = Job(
        hypernet=random_hypernet(residual=True),
        frozen=frozen,
        batches=Stream(n_texts=2),
        weights=WEIGHTS,
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=0),
        validate=validator(frozen, WEIGHTS, [random_batch(0)]),
        config={"model": "tiny"},
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


def test_metrics_hold_every_step_and_validation(whole):
    lines = lines_of(whole)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "validation_loss" in line] == [0, 3, 6]
    assert all(np.isfinite(value) for line in lines for value in line.values())


def test_the_best_parameters_are_the_result(tmp_path):
    scores = iter([5.0, 3.0, 4.0])
    outcome = train(job_of(validate=lambda _: {"loss": next(scores)}), RUN, tmp_path)
    assert (outcome.best_step, outcome.best_loss, outcome.step, outcome.stopped_early) == (3, 3.0, 6, False)
    of_three = tmp_path / "three"
    train(job_of(validate=None), replace(RUN, steps=3), of_three)
    # the learning rate depends on the length of a run, so only where both begin is compared
    assert parameters_of(tmp_path).keys() == parameters_of(of_three).keys()
    assert run_folder.Checkpoints(tmp_path, 2).steps == [3, 4, 6]


def test_without_validation_the_last_is_the_result(tmp_path):
    outcome = train(job_of(validate=None), RUN, tmp_path)
    assert (outcome.best_step, outcome.best_loss) == (6, None)


def test_the_result_is_a_hypernetwork(whole):
    config, hypernet = load_hypernet(whole / "hypernet")
    assert config == job_of().hypernet.config
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(hypernet))


def test_the_last_few_and_the_best_stay(tmp_path):
    scores = iter([1.0, 2.0, 3.0])
    train(job_of(validate=lambda _: {"loss": next(scores)}), replace(RUN, keep=1), tmp_path)
    assert run_folder.Checkpoints(tmp_path, 1).steps == [0, 6]


class InterruptedRunError(Exception):
    """Stands for a kill."""


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
    with pytest.raises(CheckpointError, match="holds a run already, up to step 6: go on with it"):
        train(job_of(), RUN, whole)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"weights": Objectives(pieces=2.0)}, "pieces"), ({"config": {"model": "other"}}, "other")],
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


def test_patience_ends_a_run(tmp_path):
    scores = iter(range(100))
    validate = lambda _: {"loss": float(next(scores))}  # noqa: E731
    run = replace(RUN, steps=50, validate_every=1, patience=3)
    outcome = train(job_of(validate=validate), run, tmp_path)
    assert (outcome.step, outcome.best_step, outcome.stopped_early) == (3, 0, True)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    """The last good checkpoint stays, and it holds numbers."""
    job = job_of(validate=None, optimizer=OptimizerConfig(learning_rate=1e30, clip=1e30, warmup_steps=0))
    with pytest.raises(TrainingError, match=r"of step \d came out as no finite number.*checkpoint of step \d.*lower"):
        train(job, replace(RUN, checkpoint_every=1, log_every=1), tmp_path)
    assert run_folder.Checkpoints(tmp_path, 2).latest is not None
    assert all(np.isfinite(array).all() for array in parameters_of(tmp_path).values())


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


def test_a_mesh_changes_nothing(whole, tmp_path):
    train(job_of(batches=Stream(n_texts=2)), RUN, tmp_path, mesh=make_mesh(2, 4))
    for here, there in zip(lines_of(tmp_path), lines_of(whole), strict=True):
        assert here == pytest.approx(there, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"keep": 0}, {"patience": -1}, {"compute_dtype": "float16"}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RunConfig(**wrong)
