"""Arguments into a command's dataclass by tyro, where what our own checks refuse stays the error that they raised."""

import sys
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import tyro

from dyntok_jax.errors import DyntokError, escaped


def parse(command: Any, **options: Any) -> Any:
    """What `tyro.cli` makes of the arguments.

    Args:
      command: a dataclass, or a union of several.
      options: of `tyro.cli`.

    Raises:
      DyntokError: a field's reader or a dataclass's own check refuses a value.
      SystemExit: tyro cannot read the arguments, which it has said on standard error; or it has shown help.
    """
    told = StringIO()
    try:
        with redirect_stderr(told):
            return tyro.cli(command, **options, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        cause = stop.__context__
        while cause is not None and not isinstance(cause, DyntokError):
            cause = cause.__context__
        if cause is not None:
            raise cause from None
        sys.stderr.write(escaped(told.getvalue()))  # it quotes the arguments
        raise
