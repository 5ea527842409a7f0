"""`dyntok train-hypernet`: trains a hypernetwork for a model on text, and writes a folder for `--hypernet`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from dyntok_jax.cli.shared import OptionalPath, arg, flattened, run_training, with_file_options
from dyntok_jax.training import TrainingConfig

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from dyntok_jax.training import Job


@dataclass(frozen=True)
class TrainHypernet:
    """Trains a hypernetwork on text, by distilling how the model reads its own subwords.

    Attributes:
      output: folder for checkpoints, metrics.jsonl and the result, hypernet/.
      training: what to train, on what, how and how long.
      config: TOML file with the same options by name, such as text = ["de.txt"] or learning_rate = 1e-4; options given
        on the command line take precedence.
      resume: continue from the last checkpoint in the output folder, if there is one.
      mesh: devices that share the batches × devices that share the parameters, such as 4x2.
    """

    EXAMPLES: ClassVar[str] = """\
  dyntok train-hypernet --text de.txt fr.txt.gz --output run        e5-small; result in run/hypernet
  dyntok train-hypernet --text en=wiki.txt --output run --steps 4000 --validation aligned.jsonl
  dyntok train-hypernet --config run.toml --resume                  options from a file; continue after a kill
  dyntok encode reviews.txt --hypernet run/hypernet                 how to use the result
"""

    output: Annotated[str, arg(metavar="FOLDER")] = tyro.MISSING
    training: Annotated[TrainingConfig, flattened] = field(default_factory=TrainingConfig)
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
            from dyntok_jax.training import prepare_job

            return prepare_job(self.training, mesh)

        use = "Use it with `--hypernet {}` of `dyntok encode` or, for a decoder, `dyntok generate --share 100`."
        run_training(prepare, Path(self.output), resume=self.resume, mesh=self.mesh, use=use)
