"""The `dyntok` command: finds the subcommand, runs it, and turns what a user can cause into one line and a status."""

import errno
import operator
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
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
    LmEval,
    Predict,
    Score,
    Show,
    TrainHypernet,
    TrainTask,
)
from dyntok_jax.cli.shared import parse
from dyntok_jax.errors import DyntokError, InputError, escaped

COMMANDS = {
    "encode": Encode,
    "generate": Generate,
    "score": Score,
    "lm-eval": LmEval,
    "show": Show,
    "learn-merges": LearnMerges,
    "convert": Convert,
    "build-vocab": BuildVocab,
    "embed-vocab": EmbedVocab,
    "build-index": BuildIndex,
    "train-hypernet": TrainHypernet,
    "train-task": TrainTask,
    "predict": Predict,
}
DESCRIPTION = """\
Dynamic tokenization for trained language models: merge the subwords of the batch in hand, embed the new tokens, run
the unchanged model on the shorter sequence.
  dyntok encode                                    the packaged sample in 15 languages: what is saved, and how fast
  dyntok show "All human beings are born free"     its tokens before and after merging
  dyntok generate "The history of tea begins in"   how the packaged decoder continues it
  dyntok score "The capital of Portugal is" " Lisbon."
  dyntok lm-eval --tasks arc_easy --model_args pretrained=smollm2,share=50
  dyntok learn-merges corpus.txt --output merges.jsonl --merges 1000
  dyntok convert e5-small e5-orbax                 Hugging Face to orbax; back with the two exchanged
  dyntok train-hypernet --text de.txt --output run
  dyntok train-task --task nli --train pairs.jsonl --output task
  dyntok predict pairs.jsonl --adapter task/adapter
  dyntok build-vocab corpus.txt --size 200000 --output vocab
  dyntok embed-vocab vocab --output table          the rows of a grown vocabulary, on disk
  dyntok build-index table --output index
`dyntok COMMAND --help` says more, `dyntok --version` the version.
"""
USAGE_ERROR, BROKEN_PIPE = 2, 141
OUTPUT_ERRORS = (errno.ENOSPC, errno.EBADF, errno.EIO, errno.EDQUOT, errno.EFBIG)
"""What standard output raises, without a name."""
OUTPUTS = ("output", "target", "json", "cache")
"""Fields of commands that name what they write."""


def run(arguments: Sequence[str]) -> int:
    """Runs the command line, and turns what is not a bug into one line on standard error.

    Args:
      arguments: those after the program's name.

    Returns:
      The exit status, as `main` gives it; Ctrl-C is left to that.
    """
    if sys.stderr is None:  # closed: there is nobody to tell
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (to the end of the process)
    try:
        _check_streams(arguments)
        if list(arguments) == ["--version"]:
            print(f"dyntok {dyntok_jax.__version__}")
        else:
            command = _parse(arguments)
            _check_outputs(command)
            command.run()
        sys.stdout.flush()
    except DyntokError as error:
        return _told(str(error))
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except UnicodeEncodeError as error:
        _drop_output()
        return _told(
            f"Standard output takes {error.encoding} and not {escaped(error.object[error.start : error.end])!r}: "
            "set PYTHONIOENCODING=utf-8."
        )
    except OSError as error:  # the system refused something, which is never a bug
        if error.filename is None and error.errno not in OUTPUT_ERRORS:
            raise
        _drop_output()
        where = "Standard output" if error.filename is None else escaped(str(error.filename))
        return _told(f"{where} cannot be read or written: {error.strerror or error}.")
    return 0


def _check_streams(arguments: Sequence[str]) -> None:
    """Sees that there is a standard output, and that the arguments are text.

    Raises:
      InputError: they are not.
    """
    if sys.stdout is None:
        raise InputError("Standard output is closed: send it to a file, or to /dev/null.")
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"The argument {argument!r} is not UTF-8: rename the file, or write it as UTF-8."
            ) from None


def _check_outputs(command: object) -> None:
    """Sees that what is to be written has a name: an empty one would be the folder one is in.

    Raises:
      InputError: it has none.
    """
    for name in OUTPUTS:
        if getattr(command, name, None) == "":
            raise InputError(f"The name of what is to be written ({name}) is empty: give one.")


def _drop_output() -> None:
    """The interpreter flushes standard output at its end, which would complain once more."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _told(message: str) -> int:
    print(f"dyntok: error: {_one_line(message)}", file=sys.stderr)
    return USAGE_ERROR


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


def _one_line(message: str) -> str:
    first, *rest = (line.strip() for line in message.splitlines() if line.strip())
    return " ".join([first, "; ".join(rest)]).strip()
