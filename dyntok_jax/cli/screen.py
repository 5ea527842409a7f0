"""Printing: tables and notes to standard output, progress to standard error."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

PIPE_WIDTH = 120
"""Columns where no terminal says how many there are."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would end the process here, with the status of a failure


def make_console() -> Console:
    """Standard output as rich sees it; a pipe gets no colours and no terminal's width."""
    return _Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)


def print_out(*parts: RenderableType) -> None:
    """Prints tables, and texts as they stand."""
    console = make_console()
    for part in parts:
        if isinstance(part, Table):
            console.print(part)
        else:
            console.print(part, markup=False, soft_wrap=not console.is_terminal)


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, gone when done; nothing where that is no terminal. Gives what advances it."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(title, total=total)
        yield lambda steps: bars.advance(bar, steps)
