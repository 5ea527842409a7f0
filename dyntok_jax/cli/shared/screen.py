"""Printing: texts, tables and notes to standard output, progress to standard error."""

import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

PIPE_WIDTH = 120
"""Columns where there is no terminal."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit here with a failure status


def make_console(*, stderr: bool = False) -> Console:
    """Standard output (or error) as rich sees it; a pipe gets no colours and no terminal's width."""
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return _Console(width=None if is_terminal else PIPE_WIDTH, highlight=False, stderr=stderr)


def print_out(*parts: RenderableType) -> None:
    """Prints tables, and texts unchanged."""
    _print(make_console(), *parts)


def print_beside_text(*parts: RenderableType) -> None:
    """Prints beside a text on standard output: below it on a terminal, else to standard error."""
    _print(make_console(stderr=not sys.stdout.isatty()), *parts)


@contextmanager
def text_out() -> Iterator[Callable[[str], None]]:
    """Yields a function that writes a text to standard output piece by piece, unchanged and without delay.

    On a terminal, control characters are shown as U+FFFD, and a line break ends the text.
    """
    is_terminal, last = sys.stdout.isatty(), ""

    def show(piece: str) -> None:
        nonlocal last
        last = piece[-1:] or last
        sys.stdout.write("".join(map(_harmless, piece)) if is_terminal else piece)
        sys.stdout.flush()

    try:
        yield show
    finally:
        if is_terminal and last not in ("", "\n"):
            show("\n")


def _harmless(character: str) -> str:
    is_control = unicodedata.category(character) == "Cc" and character not in "\n\t"
    return "\N{REPLACEMENT CHARACTER}" if is_control else character


def _print(console: Console, *parts: RenderableType) -> None:
    for part in parts:
        if isinstance(part, Table):
            console.print(part)
        else:
            console.print(part, markup=False, soft_wrap=not console.is_terminal)


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, removed when done; none without a terminal or for a total of 0. Yields its advance."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not (total and console.is_terminal)) as bars:
        bar = bars.add_task(title, total=total)
        yield lambda steps: bars.advance(bar, steps)
