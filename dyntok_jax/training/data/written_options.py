"""The formats of training's options on a command line and in a file, as annotations for tyro."""

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
"""The language code of a file where neither the option nor the file's name gives one."""
EVERY = ""
"""The language code of a number for all languages without a number of their own."""
_NO_CODE = re.compile(r"[/\\.:]")


def by_language(files: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Groups files by the language given by `CODE=FILE` or the file's name (`de.txt.gz`).

    >>> by_language(["de.txt.gz", "en=wiki.txt", "de=news.txt"])
    {'de': ('de.txt.gz', 'news.txt'), 'en': ('wiki.txt',)}
    """
    sorted_files: dict[str, list[str]] = {}
    for file in files:
        code, path = language_and_file(file)
        sorted_files.setdefault(code, []).append(path)
    return {code: tuple(of_language) for code, of_language in sorted_files.items()}


def language_and_file(given: str) -> tuple[str, str]:
    """The language given by `CODE=FILE` or the file's name (`de.txt.gz`), `UNNAMED` if neither has one; and the file.

    An existing file with an equals sign in its name, such as `lang=de/part.txt`, is not read as `CODE=FILE`.
    """
    code, _, file = given.partition("=")
    if code and file and not _NO_CODE.search(code) and not Path(given.partition("::")[0]).exists():
        return code, file
    named = re.split(r"[._-]", Path(given).name)[0]
    return (named if re.fullmatch(r"[a-z]{2,3}", named) else UNNAMED), given


def named_numbers(option: str, entries: Sequence[str], *, alone: float | None = None) -> dict[str, float]:
    """Reads a list of `NAME=NUMBER`.

    Args:
      option: its name, for messages.
      entries: its values.
      alone: the number of a `NAME` given without one; None: such an entry is a number for `EVERY` name.

    Raises:
      InputError: a value is not a number.

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
    """The annotation of an option that takes several words, which `read` turns into one value.

    >>> several("CODE=NUMBER ...", lambda entries: named_numbers("--language-weights", entries)).nargs
    '*'
    """
    return PrimitiveConstructorSpec(
        nargs="*", metavar=metavar, instance_from_str=read, is_instance=lambda _: True, str_from_instance=lambda _: []
    )


T = TypeVar("T")
Unlisted = Annotated[T, tyro.conf.Fixed, tyro.conf.SuppressFixed]
"""A field that is not an option of the command line."""
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
