"""Where `dyntok` begins: it imports nothing but the interpreter's own modules before Ctrl-C is listened to."""

import sys
from collections.abc import Sequence

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      arguments: those after the program's name; None for the process's own.

    Returns:
      The exit status: 0, 2 where the user can put it right, 130 for Ctrl-C, 141 where nobody reads the output any more.
    """
    try:
        from dyntok_jax.cli.entry import run

        return run(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        return INTERRUPTED
