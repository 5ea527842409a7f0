"""Options of a command from a TOML file, turned into arguments that tyro parses like all others."""

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
"""The lines around tyro's messages, in ASCII on screens that have nothing else."""


@dataclass(frozen=True)
class _Named:
    config: str | None = None


def with_file_options(arguments: Sequence[str], command: type, *, required: str) -> list[str]:
    """Puts the options of the file `--config` before a command's arguments; later arguments override earlier ones.

    Args:
      arguments: of the command.
      command: a dataclass, whose field `config` names the file.
      required: an option that the command needs and the file may omit.

    Raises:
      InputError: the file cannot be read, is not TOML, or holds an unknown option or a value that tyro cannot read.
    """
    path = tyro.cli(_Named, args=arguments, return_unknown_args=True, add_help=False)[0].config
    if path is None:
        return list(arguments)
    words, printed = [word for option in _load(path).items() for word in _words(*option)], StringIO()
    try:
        with redirect_stderr(printed):
            parse(command, args=[f"--{required}=", *words], add_help=False)
    except DyntokError as error:
        raise InputError(f"{path}: {error}") from error
    except SystemExit:
        _, _, reason = printed.getvalue().partition("\n")  # the box without its title
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
        raise InputError(
            f"{path} must hold options such as steps = 4000, no tables and no config: remove {', '.join(wrong)}."
        )
    return options


def _words(name: str, value: Any) -> list[str]:
    """An option as on a command line; a flag that is false is omitted."""
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    return [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
