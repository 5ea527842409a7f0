"""What a training run shows: a bar with the latest loss on standard error, and a line per validation."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dyntok_jax.cli.shared.screen import make_console, progress_lines

if TYPE_CHECKING:
    from dyntok_jax.training import Report

SMOOTHING = 0.95
"""Weight of the past losses in the running mean."""


@contextmanager
def training_view(n_steps: int) -> Iterator[Callable[["Report"], None]]:
    """Yields a function that shows a run's reports: the bar only on a terminal, validations always."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = make_console(stderr=True)
    last = 0
    with ExitStack() as shown:
        bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        advance = None if console.is_terminal else shown.enter_context(progress_lines("Training", n_steps))
        shown.enter_context(bars)
        bar = bars.add_task("Training", total=n_steps)
        smooth = math.nan

        def show(report: "Report") -> None:
            nonlocal smooth, last
            if report.is_validation:
                figures = " · ".join(f"{name} {value:.4g}" for name, value in report.metrics.items())
                console.print(f"Step {report.step}, validation: {figures}", soft_wrap=True)
                return
            loss = report.metrics["loss"]
            smooth = loss if math.isnan(smooth) else SMOOTHING * smooth + (1 - SMOOTHING) * loss
            bars.update(bar, completed=report.step, description=f"Training · loss {smooth:.4f}")
            if advance is not None:
                advance(report.step - last)
                last = report.step

        yield show
