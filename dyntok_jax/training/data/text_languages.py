"""Which language a text to train or validate on is in, and what the options say for each."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from dyntok_jax.errors import InputError

UNNAMED = "text"
"""Stands for the language where neither the option nor the file's name says one."""
_NO_CODE = re.compile(r"[/\\.:]")


def by_language(files: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Sorts files by the language that `CODE=FILE` or the file's name (`de.txt.gz`) says."""
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


def index_of_language(code: str, languages: Sequence[str]) -> int:
    """The index of a text's language as the hypernetwork counts them; 0 where it has none.

    Raises:
      InputError: the hypernetwork has languages, and this is none of them, or it is not known which it is.
    """
    if not languages:
        return 0
    if code not in languages:
        said = "a file does not say which it is in" if code == UNNAMED else f"a file is said to be in {code!r}"
        raise InputError(
            f"The hypernetwork tells languages apart, and {said}: write CODE=FILE, with one of {' '.join(languages)}."
        )
    return languages.index(code)


def numbers_by_language(option: str, numbers: Sequence[str], languages: Iterable[str]) -> dict[str, float]:
    """`NUMBER` for all languages, `CODE=NUMBER` for one, as a number for each that is given one.

    Args:
      option: its name, for messages.
      numbers: what it was given.
      languages: the codes that there are.

    Raises:
      InputError: something is no number, or names a language that is not there.
    """
    found: dict[str, float] = {}
    for entry in sorted(numbers, key=lambda entry: "=" in entry):  # a language's own number comes after that for all
        code, _, digits = entry.rpartition("=")
        try:
            number = float(digits)
        except ValueError:
            raise InputError(f"{option} is given {entry!r}, which is no number: write 0.3, or fr=0.3.") from None
        if code and code not in languages:
            known = ", ".join(languages) or "none"
            raise InputError(f"{option} is given {entry!r}, and nothing is in language {code}; there are {known}.")
        found |= {code: number} if code else dict.fromkeys(languages, number)
    return found
