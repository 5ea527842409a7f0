"""Errors a user can cause. The command line prints them in one line and exits with 2; anything else is a bug."""

import unicodedata

_TURNS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
"""Characters that turn the direction of what follows them, and so can hide it."""


def escaped(text: str) -> str:
    r"""A text with its control characters and halves of characters written out, so that no file commands a terminal.

    Line feeds and tabs stay.

    >>> print(escaped("\x1b[31mred"))
    \x1b[31mred
    """

    def is_harmless(character: str) -> bool:
        if character in "\n\t":
            return True
        return unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") and ord(character) not in _TURNS

    if text.isprintable():
        return text
    return "".join(c if is_harmless(c) else c.encode("unicode_escape").decode("ascii") for c in text)


class DyntokError(Exception):
    """Base of all errors that a user can cause. The message says what was found, why it is wrong and what to do.

    >>> from dyntok_jax.options import Budget
    >>> try:
    ...     Budget(0)
    ... except DyntokError as error:
    ...     print(error)
    The token budget must be 1 or more, got 0.
    """

    def __str__(self) -> str:
        """The message; what it quotes of files is escaped."""
        return escaped(super().__str__())


class InputError(DyntokError, ValueError):
    """The text, file or option given cannot be used."""


class TokenizerError(DyntokError, ValueError):
    """A tokenizer is missing, unreadable, or has no byte-level form."""


class ConfigError(DyntokError, ValueError):
    """A model or hypernetwork config asks for something that is not supported or does not fit."""


class CheckpointError(DyntokError, ValueError):
    """Weights are missing, damaged, or do not match the config."""


class ModelNotFoundError(DyntokError, LookupError):
    """No model, hypernetwork or data set has that name."""


class TooLongError(DyntokError, ValueError):
    """A sequence does not fit the positions of the model or the token budget."""


class TrainingError(DyntokError, ArithmeticError):
    """A training run cannot continue: its numbers are no longer finite."""


class NotANumberError(DyntokError, ArithmeticError):
    """A model computed NaN or infinity, so its results are meaningless."""
