"""How every script ends: rounds its figures, prints its table, and writes the files that were asked for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import tyro
from rich.console import Console
from rich.markdown import Markdown

from dyntok_jax.errors import DyntokError

Figures = dict[str, float | int | str]


class Outputs(Protocol):
    """The options that say where results go; None for nowhere."""

    @property
    def json(self) -> Path | None: ...

    @property
    def table(self) -> Path | None: ...


def report(figures: Figures, table: str, options: Outputs, console: Console) -> Figures:
    """Prints a Markdown table, writes it and the figures, and returns the figures with five digits."""
    figures = {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in figures.items()}
    console.print(Markdown(table))
    if "run_seconds" in figures:
        console.print(f"{figures['run_seconds']:.0f} s in all")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.table:
        options.table.write_text(table, encoding="utf-8")
    return figures


def run_script(run: Callable[[Any, Console], Figures], options: type, description: str | None) -> None:
    """Parses the command line and runs; a user's error is printed in one line, with exit code 2."""
    try:
        run(tyro.cli(options, description=description), Console())
    except DyntokError as error:
        Console(stderr=True).print(f"[red]error:[/] {error}", highlight=False)
        raise SystemExit(2) from None
