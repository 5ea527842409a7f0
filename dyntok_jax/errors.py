"""Errors a user can cause. The command line prints them in one line and exits with 2; anything else is a bug."""


class DyntokError(Exception):
    """Base of all errors that a user can cause. The message says what was found, why it is wrong and what to do.

    >>> from dyntok_jax.options import Budget
    >>> try:
    ...     Budget(0)
    ... except DyntokError as error:
    ...     print(error)
    The token budget must be 1 or more, got 0.
    """


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
