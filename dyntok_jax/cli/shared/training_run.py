"""A training that a command runs: prepared, shown while it lasts, and its end told."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dyntok_jax.cli.shared.option_types import mesh_shape
from dyntok_jax.cli.shared.screen import print_out
from dyntok_jax.errors import InputError

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from dyntok_jax.training import Job


def run_training(
    prepare: "Callable[[Mesh | None], Job]", folder: Path, *, resume: bool, mesh: str | None, use: str
) -> None:
    """Loads, trains, prints.

    Args:
      prepare: makes the job.
      folder: for checkpoints, metrics and the result.
      resume: continue from the last checkpoint in the folder.
      mesh: data × model, as `mesh_shape` reads it.
      use: how to use the result, with {} for its path.

    Raises:
      InputError: grain is not installed, or the folder holds other things.
    """
    if importlib.util.find_spec("grain") is None:
        raise InputError("Training needs grain, which is not installed: pip install 'dyntok_jax[train]'.")
    from dyntok_jax.cli.shared.compile_clock import keep_compiled_programs
    from dyntok_jax.cli.shared.training_screen import training_view
    from dyntok_jax.sharding import make_mesh
    from dyntok_jax.training import check_run_folder, train

    keep_compiled_programs()
    shape = mesh_shape(mesh)
    devices = None if shape is None else make_mesh(*shape)
    check_run_folder(folder)
    job = prepare(devices)
    with training_view(job.run.steps) as report:
        outcome = train(job, folder, resume=resume, mesh=devices, report=report)
    end = "validation no longer improves" if outcome.stopped_early else "all steps done"
    best = "" if outcome.best_loss is None else f", validation loss {outcome.best_loss:.4f}"
    print_out(
        f"Stopped at step {outcome.step}: {end}.",
        f"Written: {outcome.result} (step {outcome.best_step}{best}). {use.format(outcome.result)}",
    )
