"""How training's options are written on a command line and in a file: what tyro reads from their annotations."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

from dyntok_jax.errors import InputError

UNNAMED = "text"
"""Stands for the language where neither the option nor the file's name says one."""
EVERY = ""
"""Stands for every language that is not given a number of its own."""
_NO_CODE = re.compile(r"[/\\.:]")


def by_language(files: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Sorts files by the language that `CODE=FILE` or the file's name (`de.txt.gz`) says.

    >>> by_language(["de.txt.gz", "en=wiki.txt", "de=news.txt"])
    {'de': ('de.txt.gz', 'news.txt'), 'en': ('wiki.txt',)}
    """
    sorted_files: dict[str, list[str]] = {}
    for file in files:
        code, path = language_and_file(file)
        sorted_files.setdefault(code, []).append(path)
    return {code: tuple(of_language) for code, of_language in sorted_files.items()}


def language_and_file(given: str) -> tuple[str, str]:
    """The language that `CODE=FILE` or the file's name (`de.txt.gz`) says, `UNNAMED` if neither does; and the file.

    A file that is there under the whole name, such as `lang=de/part.txt`, is no `CODE=FILE`.
    """
    code, _, file = given.partition("=")
    if code and file and not _NO_CODE.search(code) and not Path(given.partition("::")[0]).exists():
        return code, file
    named = re.split(r"[._-]", Path(given).name)[0]
    return (named if re.fullmatch(r"[a-z]{2,3}", named) else UNNAMED), given


def named_numbers(option: str, entries: Sequence[str], *, alone: float | None = None) -> dict[str, float]:
    """Reads `NAME=NUMBER`, several.

    Args:
      option: its name, for messages.
      entries: what it is given.
      alone: what a `NAME` without a number counts as; None: such an entry is a number for `EVERY` name.

    Raises:
      InputError: something is no number.

    >>> named_numbers("--words-share", ["0.25", "ar=0.5"])
    {'': 0.25, 'ar': 0.5}
    """
    found: dict[str, float] = {}
    for entry in entries:
        name, has_both, digits = entry.partition("=")
        if not has_both:
            name, digits = (EVERY, entry) if alone is None else (entry, str(alone))
        try:
            found[name] = float(digits)
        except ValueError:
            example = "0.3, or fr=0.3" if alone is None else f"{name}=0.3"
            raise InputError(f"{option} must be given numbers, got {entry!r}: write {example}.") from None
    return found


def several(metavar: str, read: Callable[[list[str]], Any]) -> Any:
    """The annotation of an option that takes several words, which `read` makes one value of."""
    return PrimitiveConstructorSpec(
        nargs="*", metavar=metavar, instance_from_str=read, is_instance=lambda _: True, str_from_instance=lambda _: []
    )


T = TypeVar("T")
Unlisted = Annotated[T, tyro.conf.Fixed, tyro.conf.SuppressFixed]
"""A field that code alone sets."""
Count = Annotated[int, arg(metavar="N")]
Number = Annotated[float, arg(metavar="NUMBER")]
Text = Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")]
OptionalPath = Annotated[str | None, arg(metavar="PATH", help_behavior_hint="")]
_silent = arg(help_behavior_hint="")
Files = Annotated[tuple[str, ...], arg(metavar="FILE [FILE ...]", help_behavior_hint="")]
Sources = Annotated[dict[str, tuple[str, ...]], several("FILE [FILE ...]", by_language), _silent]
WordsShare = Annotated[dict[str, float], several("[CODE=]SHARE ...", partial(named_numbers, "--words-share")), _silent]
LanguageWeights = Annotated[
    dict[str, float], several("CODE=NUMBER ...", partial(named_numbers, "--language-weights")), _silent
]
