"""Parsing of arguments into a command's dataclass by tyro; errors of our own checks are raised unchanged."""

import sys
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import tyro

from dyntok_jax.errors import DyntokError, escaped


def parse(command: Any, **options: Any) -> Any:
    """Parses the arguments by `tyro.cli`.

    Args:
      command: a dataclass, or a union of several.
      options: of `tyro.cli`.

    Raises:
      DyntokError: a field's reader or a dataclass's own check refuses a value.
      SystemExit: tyro cannot parse the arguments and has printed why, or it has printed help.
    """
    printed = StringIO()
    try:
        with redirect_stderr(printed):
            return tyro.cli(command, **options, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        cause = stop.__context__
        while cause is not None and not isinstance(cause, DyntokError):
            cause = cause.__context__
        if cause is not None:
            raise cause from None
        sys.stderr.write(escaped(printed.getvalue()))  # it quotes the arguments
        raise
