"""`dyntok train-task`: trains an adapter for a task with dynamic tokenization, on labels or on what follows prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from dyntok_jax.cli.shared import OptionalPath, arg, flattened, run_training, with_file_options
from dyntok_jax.tasks import TaskConfig

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from dyntok_jax.training import Job


@dataclass(frozen=True)
class TrainTask:
    """Trains a LoRA adapter, on labels with a head or on what follows prompts, merged as far as --draw says.

    Attributes:
      training: the task, its files, and how to train.
      output: folder for checkpoints, metrics.jsonl and the result, adapter/, which peft reads, too.
      config: TOML file with the same options by name, such as train = ["nli.jsonl"]; options given on the command line
        take precedence.
      resume: continue from the last checkpoint in the output folder, if there is one.
      mesh: devices that share the batches × devices that share the parameters, such as 4x2.
    """

    EXAMPLES: ClassVar[str] = """\
  dyntok train-task --task nli --train pairs.jsonl --output run      result in run/adapter
  dyntok train-task --task classify --train reviews.jsonl.gz --validation held.jsonl --output run --steps 500
  dyntok train-task --task ner --train ner.jsonl --output run --head-learning-rate 1e-2    {"tokens": […], "tags": […]}
  dyntok train-task --task nli --train pairs.jsonl --output run --draw merges --merges 20
  dyntok train-task --task nli --train pairs.jsonl --output run --per sample
  dyntok predict new.jsonl --adapter run/adapter                     how to use the result
  dyntok train-task --task lm --train texts.jsonl --output run --max-length 256      {"text": "…"}
  dyntok train-task --task lm --train chats.jsonl --output run --distill 1           {"messages": […]}
  dyntok generate "Tea begins in" --adapter run/adapter --share 50   how to use that one
"""

    output: Annotated[str, arg(metavar="FOLDER")]
    training: Annotated[TaskConfig, flattened]
    config: OptionalPath = None
    resume: bool = False
    mesh: Annotated[str | None, arg(metavar="DATAxMODEL", help_behavior_hint="")] = None

    @classmethod
    def completed(cls, arguments: Sequence[str]) -> list[str]:
        """The arguments, after those from the file that `--config` names.

        Raises:
          InputError: the file cannot be read, or holds something other than these options.
        """
        return with_file_options(arguments, cls, required="output")

    def run(self) -> None:
        """Loads, trains, prints."""

        def prepare(mesh: "Mesh | None") -> "Job":
            from dyntok_jax.tasks import prepare_task

            return prepare_task(self.training, mesh)

        use = "Use it with `dyntok predict FILE --adapter {}`."
        if self.training.task == "lm":
            use = "Use it with `dyntok generate PROMPT --adapter {} --share 100`, and the same --model and --hypernet."
        run_training(prepare, Path(self.output), resume=self.resume, mesh=self.mesh, use=use)
