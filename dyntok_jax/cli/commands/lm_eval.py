"""`dyntok lm-eval`: lm-evaluation-harness with the model `dyntok`, also where its own command does not find that."""

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro

from dyntok_jax.cli.shared import arg
from dyntok_jax.errors import InputError

COMMANDS = ("run", "ls", "validate")
HELP = ("--help", "-h")


@dataclass(frozen=True)
class LmEval:
    """Runs lm-evaluation-harness with the model dyntok. Arguments are those of its command `lm_eval`.

    Attributes:
      arguments: of lm_eval; `dyntok lm-eval run --help` lists them. --model_args takes pretrained (a folder, a Hub id
        or a packaged model), hypernet, adapter and dtype; one of share, merges, budget and merge_list, without which
        contexts are static; with one of these boundary, max_subwords, protect, merge_last, pretoken_merges, positions
        and language, as in `dyntok score`; and max_length, max_gen_toks and seed. Contexts are merged, each alone;
        what is scored or generated after them is in the model's own subwords.
    """

    EXAMPLES: ClassVar[str] = """\
  dyntok lm-eval --tasks arc_easy --model_args pretrained=smollm2               prompts in the model's own tokens
  dyntok lm-eval --tasks arc_easy --model_args pretrained=smollm2,share=50      prompts merged half as far as possible
  dyntok lm-eval --tasks quiz.yaml --model_args pretrained=model,hypernet=none,share=100 --batch_size 16
  dyntok lm-eval --tasks arc_easy --model hf --model_args pretrained=folder     another of its models, to compare
  dyntok lm-eval ls tasks                                                       what tasks there are
"""

    arguments: tyro.conf.Positional[Annotated[tuple[str, ...], arg(metavar="ARGUMENTS", help_behavior_hint="")]] = ()

    @staticmethod
    def completed(arguments: Sequence[str]) -> list[str]:
        """The arguments, marked as none of ours; a question for help is."""
        return list(arguments) if len(arguments) == 1 and arguments[0] in HELP else ["--", *arguments]

    def run(self) -> None:
        """Hands the arguments to the harness.

        Raises:
          InputError: it is not installed.
          SystemExit: it cannot read them, and has said why.
        """
        if importlib.util.find_spec("lm_eval") is None:
            raise InputError("lm-evaluation-harness is not installed: pip install 'dyntok_jax[lm-eval]'.")
        from lm_eval.__main__ import cli_evaluate

        from dyntok_jax.cli.shared import keep_compiled_programs
        from dyntok_jax.harnesses import LmEvalDecoder

        assert LmEvalDecoder, "importing it registers it"
        keep_compiled_programs()
        sys.argv = ["dyntok lm-eval", *_with_model(self.arguments)]
        cli_evaluate()


def _with_model(arguments: Sequence[str]) -> list[str]:
    """The arguments with ours as the default model, where neither they nor a file of options says which."""
    command, options = ("run", arguments)
    if arguments and arguments[0] in COMMANDS:
        command, options = arguments[0], arguments[1:]
    names = {option.partition("=")[0] for option in options}
    is_chosen = command != "run" or names & {"--model", "-M", "--config", "-C", *HELP}
    return [command, *([] if is_chosen else ["--model", "dyntok"]), *options]
