"""The options of training on a task. Nothing here imports JAX."""

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from tyro.conf import arg

from dyntok_jax.errors import ConfigError
from dyntok_jax.options import AUTO, DEFAULT_MODEL, Boundary, is_real, take_whole_numbers
from dyntok_jax.training import NOT_DECISIVE, OptimizerConfig, RunConfig
from dyntok_jax.training.data import Count

TaskKind = Literal["nli", "classify", "ner"]
"""Pairs of texts with a label, texts with a label, or words with BIO tags."""
Draw = Literal["static", "fixed", "uniform", "gaussian"]
"""How far the batches of training are merged: not at all; to `share`; or to a share drawn anew for each batch, from 30
equal bins, all as often or around the middle (normal with mean 15 and standard deviation 5, in bins)."""

_flattened = arg(name="")


@dataclass(frozen=True)
class LoraOptions:
    """The adapter to train (Hu et al. 2021), on all linear maps of the encoder.

    >>> LoraOptions(rank=4).alpha
    32.0

    Attributes:
      rank: of each map.
      alpha: its product is scaled by alpha ÷ rank.
    """

    rank: Count = 16
    alpha: float = 32.0

    def __post_init__(self):
        take_whole_numbers(self, {"rank": 1}, ConfigError)
        if not is_real(self.alpha):
            raise ConfigError(f"alpha must be a number, got {self.alpha!r}.")


@dataclass(frozen=True)
class TaskConfig:
    """All options of a run.

    >>> TaskConfig("nli", train=("train.jsonl",)).decisive()["lora"]
    {'rank': 16, 'alpha': 32.0}

    Attributes:
      task: nli: fields premise, hypothesis, label; classify: text, label (or category); ner: tokens, tags (BIO).
      train: files of JSON lines, .gz or not, or data sets as hf:NAME:CONFIG:SPLIT.
      validation: files like those; without one, the last parameters are the best.
      model: a folder, a Hugging Face Hub id, or a packaged encoder.
      hypernet: folder or Hub id of a hypernetwork; auto: the one that comes with the model; none: FVT.
      draw: how far batches are merged: static, fixed (--share), uniform or gaussian (drawn for each batch).
      share: percent of the maximum reduction, with --draw fixed.
      boundary: what merging may not cross.
      prefix: put before each text.
      batch_size: examples a batch.
      max_length: the most tokens an example; longer ones are cut.
      validation_examples: the most examples of the validation files, evenly spaced.
      seed: of the order, the draws and the fresh parameters.
      lora: the adapter to train.
      optimizer: of the training.
      run: how long to train.
    """

    task: Annotated[TaskKind, arg(metavar="nli|classify|ner")]
    train: Annotated[tuple[str, ...], arg(metavar="FILE ...")] = ()
    validation: Annotated[tuple[str, ...], arg(metavar="[FILE ...]", help_behavior_hint="")] = ()
    model: Annotated[str, arg(metavar="NAME")] = DEFAULT_MODEL
    hypernet: Annotated[str, arg(metavar="NAME")] = AUTO
    draw: Draw = "uniform"
    share: float = 100.0
    boundary: Boundary = "pretoken"
    prefix: str = ""
    batch_size: Count = 32
    max_length: Count = 128
    validation_examples: Count = 500
    seed: int = 0
    lora: Annotated[LoraOptions, _flattened] = field(default_factory=LoraOptions)
    optimizer: Annotated[OptimizerConfig, _flattened] = field(default_factory=OptimizerConfig)
    run: Annotated[RunConfig, _flattened] = field(default_factory=RunConfig)

    def __post_init__(self):
        take_whole_numbers(self, {"batch_size": 1, "max_length": 8, "validation_examples": 1}, ConfigError)
        if self.run.identity_steps:
            raise ConfigError("identity_steps is for hypernetworks: leave it out.")
        if not is_real(self.share) or not 0 <= self.share <= 100:
            raise ConfigError(f"share must be a percentage from 0 to 100, got {self.share!r}.")
        if self.draw != "fixed" and self.share != 100.0:
            raise ConfigError(f"share {self.share} does nothing with draw {self.draw}: give --draw fixed.")

    def decisive(self) -> dict[str, Any]:
        """The options that change the numbers of a run, by name, as JSON types."""
        run = {name: value for name, value in asdict(self.run).items() if name not in NOT_DECISIVE}
        left = asdict(self)
        return {name: left[name] for name in left if name not in ("train", "validation", "run")} | {"run": run}
