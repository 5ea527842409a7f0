"""Printing: texts, tables and notes to standard output, progress to standard error."""

import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dyntok_jax.errors import escaped

FIRST_LINE_SECONDS, LONGEST_SILENCE_SECONDS = 10.0, 300.0
"""Of progress that goes to a file or pipe."""
PIPE_WIDTH = 120
"""Width of the output without a terminal."""


class _Console(Console):
    """Prints names and texts as they stand, their control characters written out: they may be a file's."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(escaped(text), **options)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit here with a failure status


def make_console(*, stderr: bool = False) -> Console:
    """Standard output (or error) as rich sees it; a pipe gets no colours and no terminal's width."""
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return _Console(width=None if is_terminal else PIPE_WIDTH, highlight=False, markup=False, stderr=stderr)


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
            console.print(part, soft_wrap=not console.is_terminal)


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, removed when done; without a terminal a line now and then; nothing for a total of 0.

    Yields the function that advances it.
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    if total and not console.is_terminal:
        with progress_lines(title, total) as advance:
            yield advance
        return
    with Progress(*columns, console=console, transient=True, disable=not total) as bars:
        bar = bars.add_task(title, total=total)
        yield lambda steps: bars.advance(bar, steps)


@contextmanager
def progress_lines(title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A line on standard error now and then, for files and pipes: seldom once it is late, and none of what is quick.

    They come whether or not steps are done meanwhile: to compile the first one may take longest.

    Args:
      title: what is done.
      total: its steps; None where they are not counted.

    Yields:
      What takes the number of steps done.
    """
    began, done, is_over = time.monotonic(), [0], threading.Event()

    def write() -> None:
        pause = FIRST_LINE_SECONDS
        while not is_over.wait(pause):
            seconds = time.monotonic() - began
            steps = "" if total is None else f"{done[0]:,} of {total:,}, "
            with suppress(OSError, ValueError):  # nobody reads it any more
                print(f"{title}: {steps}{seconds:.0f} s", file=sys.stderr, flush=True)
            pause = min(max(FIRST_LINE_SECONDS, 0.2 * seconds), LONGEST_SILENCE_SECONDS)

    def advance(steps: int) -> None:
        done[0] += steps

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        yield advance
    finally:
        is_over.set()
        writer.join()


@contextmanager
def waiting(title: str) -> Iterator[None]:
    """Tells files and pipes now and then that something goes on whose steps are not counted."""
    with nullcontext() if Console(stderr=True).is_terminal else progress_lines(title):
        yield
