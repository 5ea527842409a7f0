"""Training commands in processes of their own: run to the end, or killed as nothing can be caught and then resumed.

They are compared with one another alone: another number of devices adds in another order.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

BEGIN = "import sys; from dyntok_jax.cli import main; sys.exit(main(sys.argv[1:]))"
PATIENCE_SECONDS = 120


def run_to_the_end(arguments: Sequence[str]) -> None:
    """Runs a command, which must succeed."""
    run = _started(arguments)
    told = run.communicate()[1].decode()
    assert run.returncode == 0, told


def kill_and_resume(arguments: Sequence[str], folder: Path, *, between: tuple[int, int]) -> None:
    """Kills a run some moments after a checkpoint that is drawn at random, and continues it to the end.

    Args:
      arguments: of the command, which trains in `folder`.
      folder: of the run.
      between: the first and the last step that the checkpoint may be of, long before the run ends.
    """
    random = np.random.default_rng()
    step, delay = int(random.integers(between[0], between[1] + 1)), float(random.uniform(0, 0.1))
    run = _started(arguments)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while _last_checkpoint(folder) < step and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(delay)
    run.send_signal(signal.SIGKILL)
    told = run.communicate()[1].decode()
    assert run.returncode == -signal.SIGKILL, f"to be killed {delay:.3f} s after step {step}: {told}"
    run_to_the_end([*arguments, "--resume"])


def _started(arguments: Sequence[str]) -> subprocess.Popen:
    command = [sys.executable, "-c", BEGIN, *arguments]
    return subprocess.Popen(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, stderr=subprocess.PIPE)


def _last_checkpoint(folder: Path) -> int:
    """The step of the last whole checkpoint; -1 if there is none."""
    return max((int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdigit()), default=-1)
