"""Options of a command from a TOML file, checked as those of the command line are."""

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dyntok_jax.errors import InputError


def named_file(arguments: Sequence[str], flag: str) -> str | None:
    """What stands behind a flag on a command line that is not parsed yet; None if the flag is not there."""
    return next((value for given, value in _flags(arguments) if given == flag), None)


def read_options(path: str, command: type, *, but: Sequence[str] = ()) -> dict[str, Any]:
    """The options that a TOML file gives, by the names of a command's fields.

    Args:
      path: of the file.
      command: a dataclass, whose fields are of `str`, `int`, `float`, `bool`, `Literal`, tuples of strings, or
        one of these and None.
      but: names of fields that are no options of a file.

    Raises:
      InputError: the file cannot be read, is not TOML, or holds an unknown option or one of another type.
    """
    try:
        options = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML ({error}): write options such as steps = 4000.") from error
    known = {field.name for field in fields(command)} - {*but}
    if unknown := sorted(options.keys() - known):
        raise InputError(f"{path} has no option {', '.join(unknown)}: there are {', '.join(sorted(known))}.")
    types = get_type_hints(command)
    for name, value in options.items():
        if not _is_of(value, types[name]):
            raise InputError(f"{name} in {path} is {value!r}: write {_wanted(name, types[name])}.")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Flags with the word behind them, which may or may not be their value."""
    for argument, following in pairwise([*arguments, ""]):
        flag, _, value = argument.partition("=")
        yield flag, value or following


def _is_of(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    if options := get_args(kind):  # one of several types
        return any(_is_of(value, option) for option in options)
    return isinstance(value, kind)


def _wanted(name: str, kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return f'a list of strings, such as {name} = ["..."]'
    named = {int: "a whole number", float: "a number", bool: "true or false", str: 'a string, in "quotes"'}
    return named.get(kind, named[str])
