"""The options of training on a task. Nothing here imports JAX."""

import math
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from tyro.conf import arg

from dyntok_jax.errors import ConfigError
from dyntok_jax.options import AUTO, DEFAULT_DECODER, DEFAULT_MODEL, Boundary, is_real, take_whole_numbers
from dyntok_jax.training import NOT_DECISIVE, OptimizerConfig, RunConfig
from dyntok_jax.training.data import Count

LabelKind = Literal["nli", "classify", "ner"]
"""Pairs of texts with a label, texts with a label, or words with BIO tags."""
TaskKind = Literal["nli", "classify", "ner", "lm"]
"""One of these, or texts that a decoder continues."""
Draw = Literal["static", "fixed", "merges", "uniform", "gaussian"]
"""How far training merges: not at all; to `share`; `merges` times; or to a share that is drawn again and again, from 30
equal bins, all as often or around the middle (normal with mean 15 and standard deviation 5, in bins)."""
Per = Literal["batch", "sample"]
"""What is merged together, to one share or by one number of merges: the texts of a batch, or each text alone. Prompts
of `lm` are always merged alone, in a batch all to one draw."""
LATER_OPTIONS = {"per": "batch", "distill": 0.0, "remat": False}
"""Options that came later, and their defaults, without which runs from before can be resumed."""

_flattened = arg(name="")


@dataclass(frozen=True)
class LoraOptions:
    """The adapter to train (Hu et al. 2021), on all linear maps of the layers.

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
      task: nli: fields premise, hypothesis, label; classify: text, label (or category); ner: tokens, tags (BIO); lm,
        for decoders: text (one half is merged and read, the other learnt), prompt and completion, or messages (a chat,
        whose last answer is learnt).
      train: files of JSON lines, .gz or not, or data sets as hf:NAME:CONFIG:SPLIT.
      validation: files like those; without one, the last parameters are the best.
      model: a folder, a Hugging Face Hub id, or a packaged model; auto: e5-small, for lm smollm2.
      hypernet: folder or Hub id of a hypernetwork; auto: the one that comes with the model; none: FVT.
      draw: how far training merges: static (not at all); fixed (to --share); merges (--merges times); or to a share
        that is drawn anew each time, uniform (from 30 equal bins) or gaussian (mostly the middle ones).
      share: percent of the maximum reduction, with --draw fixed.
      merges: how many, with --draw merges.
      per: batch: all texts of a batch are merged together, as far as one draw says; sample: each text alone, as far as
        its own draw says. Prompts of lm are always merged alone.
      boundary: what merging may not cross.
      prefix: put before each text; not for lm.
      batch_size: examples a batch.
      max_length: the most tokens an example; longer ones are cut (for lm: texts into several, answers at the end).
      validation_examples: the most examples of the validation files, evenly spaced.
      distill: for lm: weight of the divergence from the frozen model that reads the prompt unmerged, beside the loss.
      remat: for lm: compute layers again for gradients, which takes longer and far less memory (gradient
        checkpointing).
      seed: of the order, the draws and the fresh parameters.
      lora: the adapter to train.
      head_learning_rate: the peak learning rate of the head, which starts at random (default: the adapter's).
      optimizer: of the training.
      run: how long to train.
    """

    task: Annotated[TaskKind, arg(metavar="nli|classify|ner|lm")]
    train: Annotated[tuple[str, ...], arg(metavar="FILE ...")] = ()
    validation: Annotated[tuple[str, ...], arg(metavar="[FILE ...]", help_behavior_hint="")] = ()
    model: Annotated[str, arg(metavar="NAME")] = AUTO
    hypernet: Annotated[str, arg(metavar="NAME")] = AUTO
    draw: Draw = "uniform"
    share: float = 100.0
    merges: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    per: Per = "batch"
    boundary: Boundary = "pretoken"
    prefix: str = ""
    batch_size: Count = 32
    max_length: Count = 128
    validation_examples: Count = 500
    distill: float = 0.0
    remat: bool = False
    seed: int = 0
    lora: Annotated[LoraOptions, _flattened] = field(default_factory=LoraOptions)
    head_learning_rate: Annotated[float | None, arg(metavar="NUMBER", help_behavior_hint="")] = None
    optimizer: Annotated[OptimizerConfig, _flattened] = field(default_factory=OptimizerConfig)
    run: Annotated[RunConfig, _flattened] = field(default_factory=RunConfig)

    def __post_init__(self):
        take_whole_numbers(self, {"batch_size": 1, "max_length": 8, "validation_examples": 1}, ConfigError)
        rate = self.head_learning_rate
        if rate is not None and not (is_real(rate) and rate > 0):
            raise ConfigError(f"head_learning_rate must be a positive number, got {rate!r}.")
        if self.model == AUTO:
            object.__setattr__(self, "model", DEFAULT_DECODER if self.task == "lm" else DEFAULT_MODEL)
        if not is_real(self.distill) or not 0 <= self.distill < math.inf:
            raise ConfigError(f"distill must be a number, 0 or more, got {self.distill!r}.")
        if self.task == "lm" and (self.prefix or rate is not None):
            what = "prefix" if self.prefix else "head_learning_rate"
            raise ConfigError(f"{what} is for tasks with labels, not for lm: leave it out.")
        if self.task != "lm" and (self.distill or self.remat):
            raise ConfigError(f"{'distill' if self.distill else 'remat'} is for the task lm: leave it out.")
        if self.run.identity_steps:
            raise ConfigError("identity_steps is for hypernetworks: leave it out.")
        if not is_real(self.share) or not 0 <= self.share <= 100:
            raise ConfigError(f"share must be a percentage from 0 to 100, got {self.share!r}.")
        if self.draw != "fixed" and self.share != 100.0:
            raise ConfigError(f"share {self.share} does nothing with draw {self.draw}: give --draw fixed.")
        if self.merges is not None:
            take_whole_numbers(self, {"merges": 1}, ConfigError)
            if self.draw != "merges":
                raise ConfigError(f"merges {self.merges} does nothing with draw {self.draw}: give --draw merges.")
        elif self.draw == "merges":
            raise ConfigError("draw merges needs their number: give --merges, such as --merges 20.")
        if self.per == "sample" and self.draw == "static":
            raise ConfigError("per sample does nothing with draw static, which merges nothing: give another --draw.")

    def decisive(self) -> dict[str, Any]:
        """The options that change the numbers of a run, by name, as JSON types."""
        run = {name: value for name, value in asdict(self.run).items() if name not in NOT_DECISIVE}
        defaults = {name for name, default in LATER_OPTIONS.items() if getattr(self, name) == default}
        left_out = {"train", "validation", "run"} | defaults
        return {name: value for name, value in asdict(self).items() if name not in left_out} | {"run": run}
