"""Errors a user can cause. The command line prints them in one line and exits with 2; anything else is a bug."""


class DyntokError(Exception):
    """Base of every error that says what the user did and what to do instead."""


class InputError(DyntokError, ValueError):
    """The text, file or option given cannot be used."""


class TokenizerError(DyntokError, ValueError):
    """A tokenizer is missing, unreadable or of a kind that has no byte-level form."""


class ConfigError(DyntokError, ValueError):
    """A model or hypernetwork config asks for something that is not supported or does not fit."""


class CheckpointError(DyntokError, ValueError):
    """Weights are missing, damaged, or do not match the config."""


class ModelNotFoundError(DyntokError, LookupError):
    """No model, hypernetwork or data set goes by that name."""


class TooLongError(DyntokError, ValueError):
    """A sequence does not fit the positions of the model or the token budget."""


class TrainingError(DyntokError, ArithmeticError):
    """A training run cannot go on: its numbers are no longer finite."""


class NotANumberError(DyntokError, ArithmeticError):
    """A model computed something that is no number, so that nothing that follows from it means anything."""
