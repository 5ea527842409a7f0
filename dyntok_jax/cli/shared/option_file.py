"""Options of a command from a TOML file: the arguments that they stand for, which tyro reads as it does all others."""

import re
import tomllib
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import tyro

from dyntok_jax.cli.shared.parsing import parse
from dyntok_jax.errors import DyntokError, InputError

_BOX = re.compile(r"[╭╮╰╯│─]+|(?<!\S)[-+|]+(?!\S)")
"""The lines around what tyro says, which are of plain characters where the screen has no others."""


@dataclass(frozen=True)
class _Named:
    config: str | None = None


def with_file_options(arguments: Sequence[str], command: type, *, required: str) -> list[str]:
    """Puts the options of the file that `--config` names before a command's arguments, of which the last ones win.

    Args:
      arguments: of the command.
      command: a dataclass, whose field `config` names the file.
      required: the option that the command needs and the file may leave out.

    Raises:
      InputError: the file cannot be read, is not TOML, or holds an unknown option or a value that tyro cannot read.
    """
    path = tyro.cli(_Named, args=arguments, return_unknown_args=True, add_help=False)[0].config
    if path is None:
        return list(arguments)
    words, told = [word for option in _load(path).items() for word in _words(*option)], StringIO()
    try:
        with redirect_stderr(told):
            parse(command, args=[f"--{required}=", *words], add_help=False)
    except DyntokError as error:
        raise InputError(f"{path}: {error}") from error
    except SystemExit:
        _, _, reason = told.getvalue().partition("\n")  # the box, less its title
        raise InputError(f"{path}: {' '.join(_BOX.sub(' ', reason).split())}") from None
    return [*words, *arguments]


def _load(path: str) -> dict[str, Any]:
    try:
        options = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not TOML ({error}): write options such as steps = 4000.") from error
    if wrong := [name for name, value in options.items() if isinstance(value, dict) or name == "config"]:
        raise InputError(f"{path} has no option {', '.join(wrong)}: write steps = 4000 and the like, no tables.")
    return options


def _words(name: str, value: Any) -> list[str]:
    """An option as it is written on a command line; a flag that is false is left out."""
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    return [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
