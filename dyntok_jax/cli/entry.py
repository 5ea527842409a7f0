"""The `dyntok` command: finds the subcommand, runs it, and turns what a user can cause into one line and a status."""

import operator
import os
import sys
from collections.abc import Sequence
from functools import reduce
from typing import Annotated

import tyro

import dyntok_jax
from dyntok_jax.cli.commands import (
    BuildIndex,
    BuildVocab,
    Convert,
    EmbedVocab,
    Encode,
    Generate,
    LearnMerges,
    Score,
    Show,
    TrainHypernet,
)
from dyntok_jax.cli.shared import parse
from dyntok_jax.errors import DyntokError

COMMANDS = {
    "encode": Encode,
    "generate": Generate,
    "score": Score,
    "show": Show,
    "learn-merges": LearnMerges,
    "convert": Convert,
    "build-vocab": BuildVocab,
    "embed-vocab": EmbedVocab,
    "build-index": BuildIndex,
    "train-hypernet": TrainHypernet,
}
DESCRIPTION = """\
Dynamic tokenization for trained language models: merge the subwords of the batch in hand, embed the new tokens, run
the unchanged model on the shorter sequence.
  dyntok encode                                    the packaged sample in 15 languages: what is saved, and how fast
  dyntok show "All human beings are born free"     its tokens before and after merging
  dyntok generate "The history of tea begins in"   how the packaged decoder continues it
  dyntok score "The capital of Portugal is" " Lisbon."
  dyntok learn-merges corpus.txt --output merges.jsonl --merges 1000
  dyntok convert e5-small e5-orbax                 Hugging Face to orbax; back with the two exchanged
  dyntok train-hypernet --text de.txt --output run
  dyntok build-vocab corpus.txt --size 200000 --output vocab
  dyntok embed-vocab vocab --output table          the rows of a grown vocabulary, on disk
  dyntok build-index table --output index
`dyntok COMMAND --help` says more, `dyntok --version` the version.
"""
USAGE_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      arguments: those after the program's name; None for the process's own.

    Returns:
      The exit status: 0, 2 where the user can put it right, 130 for Ctrl-C, 141 where nobody reads the output any more.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        print(f"dyntok {dyntok_jax.__version__}")
        return 0
    try:
        _parse(arguments).run()
        sys.stdout.flush()
    except DyntokError as error:
        print(f"dyntok: error: {_one_line(error)}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # the interpreter flushes standard output at its end, which would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return 0


def _parse(arguments: Sequence[str]):
    """The dataclass of the command, filled in; tyro exits by itself, with 2 for what it cannot read."""
    subcommands = []
    for name, command in COMMANDS.items():
        description = (command.__doc__ or "").split("\n", 1)[0]
        if arguments[:1] == [name]:  # in the list of commands, examples would bury it
            description = f"{description} For example:\n{command.EXAMPLES}"
        subcommands.append(Annotated[command, tyro.conf.subcommand(name, description=description)])
        if arguments[:1] == [name] and hasattr(command, "completed"):  # by a file of options
            arguments = [name, *command.completed(arguments[1:])]
    return parse(reduce(operator.or_, subcommands), prog="dyntok", description=DESCRIPTION, args=arguments)


def _one_line(error: DyntokError) -> str:
    first, *rest = (line.strip() for line in str(error).splitlines() if line.strip())
    return " ".join([first, "; ".join(rest)]).strip()
