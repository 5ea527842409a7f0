"""The options of training, which command line, files of options and run folders share. Nothing here imports JAX."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

from tyro.conf import arg

from dyntok_jax.errors import ConfigError, InputError
from dyntok_jax.options import DEFAULT_MODEL
from dyntok_jax.training.data import Count, DataConfig, Number, OptionalPath, Unlisted, named_numbers, several

Dtype = Literal["float32", "bfloat16"]

_flattened = arg(name="")
_NOT_DECISIVE = ("checkpoint_every", "keep", "log_every", "export_dtype")


@dataclass(frozen=True)
class Objectives:
    """What each objective weighs; 0 leaves it out.

    >>> Objectives(hidden=1.0).needs_texts, Objectives(pieces=1.0).needs_texts
    (True, False)

    Attributes:
      pieces: vocabulary pieces from shorter pieces, or as themselves (ZeTT's auxiliary loss, there with weight 0.5).
      sentences: sentence embeddings as static tokenization gives them.
      hidden: hidden states as static tokenization gives them, where both have read the same text.
      next_subword: a decoder's distribution of the next subword as static tokenization gives it.
      language_model: ZeTT's main loss, masked for encoders and causal for decoders.
    """

    pieces: float = 0.0
    sentences: float = 0.0
    hidden: float = 0.0
    next_subword: float = 0.0
    language_model: float = 0.0

    @classmethod
    def read(cls, entries: Sequence[str]) -> "Objectives":
        """`NAME` or `NAME=WEIGHT`, several, as the weights of all.

        >>> Objectives.read(["sentences=4", "hidden"]) == Objectives(sentences=4.0, hidden=1.0)
        True

        Raises:
          InputError: an unknown name, or a weight that is no positive number.
        """
        weights = named_numbers("--objectives", entries, alone=1.0)
        known = [objective.name for objective in fields(cls)]
        for name, weight in weights.items():
            if name not in known:
                raise InputError(f"There is no objective {name!r}: choose of {', '.join(known)}.")
            if not 0 < weight < math.inf:
                raise InputError(f"The weight of {name} must be a positive number, got {weight}.")
        return cls(**weights)

    @property
    def needs_texts(self) -> bool:
        """Whether any of them reads texts."""
        return self.distills or self.language_model > 0

    @property
    def distills(self) -> bool:
        """Whether any of them compares with static tokenization."""
        return self.sentences > 0 or self.hidden > 0 or self.next_subword > 0


FOR_ENCODERS, FOR_DECODERS = Objectives(sentences=1.0, hidden=1.0), Objectives(hidden=1.0, next_subword=1.0)
UNDECIDED = Objectives()
"""Stands for those that suit the model."""


@dataclass(frozen=True)
class NetworkConfig:
    """The network that is trained, where the model does not decide its shape.

    Attributes:
      layers: of the hypernetwork.
      hidden: its width.
      ffn: its feed-forward width.
      heads: its attention heads.
      plain: ZeTT's network as it is, without the mean of the subwords (FVT) to start from.
      read_layers: for decoders with tied tables: let the network see what the model makes of a token's last subword
        after so many of its layers, such as 0 2 4 8.
      start_from: folder or Hub id of a trained hypernetwork to go on from; it brings its own shape.
    """

    layers: Count = 2
    hidden: Count = 384
    ffn: Count = 1536
    heads: Count = 6
    plain: bool = False
    read_layers: tuple[int, ...] = ()
    start_from: OptionalPath = None


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019) with warm-up, cosine decay and clipping.

    Attributes:
      learning_rate: at its peak.
      warmup: steps to get there, in equal parts.
      weight_decay: of kernels, each step, times the learning rate.
      clip: norm that gradients are clipped to.
      accumulate: batches a step, whose gradients are averaged.
      final_share: what is left of the learning rate at the end.
    """

    learning_rate: Number = 5e-4
    warmup: Count = 50
    weight_decay: Number = 0.01
    clip: Number = 1.0
    accumulate: Count = 1
    final_share: Unlisted[float] = 0.05

    def __post_init__(self):
        if not (self.learning_rate > 0 and self.clip > 0):
            raise ConfigError(
                f"The learning rate ({self.learning_rate}) and the norm to clip at ({self.clip}) must be positive."
            )
        if self.accumulate < 1 or self.warmup < 0:
            raise ConfigError(
                f"A step takes 1 batch or more, not {self.accumulate}, and warm-up 0 steps or more, not {self.warmup}."
            )


@dataclass(frozen=True)
class RunConfig:
    """How long to train, and what happens on the way.

    Attributes:
      steps: of the optimizer.
      identity_steps: steps at first with nothing but identities (ZeTT's warm-up, there 10000).
      validate_every: steps between validations; there is one before the first step and one after the last, too.
      checkpoint_every: steps between checkpoints; each validation makes one, too.
      keep: how many of the last checkpoints stay, beside the best.
      patience: validations in a row without a better one that end the run; 0: never.
      compute_dtype: of the computation; parameters stay float32.
      export_dtype: of the result.
      log_every: steps between looks at the losses, for which the step has to be waited for.
    """

    steps: Count = 2000
    identity_steps: Count = 0
    validate_every: Count = 200
    checkpoint_every: Count = 50
    keep: Count = 2
    patience: Count = 0
    compute_dtype: Dtype = "float32"
    export_dtype: Dtype = "float32"
    log_every: Unlisted[int] = 5

    def __post_init__(self):
        least = {"identity_steps": 0, "patience": 0} | dict.fromkeys(
            ("steps", "validate_every", "checkpoint_every", "keep", "log_every"), 1
        )
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be at least {low}.")
        for name in ("compute_dtype", "export_dtype"):
            if getattr(self, name) not in ("float32", "bfloat16"):
                raise ConfigError(f"{name} is {getattr(self, name)!r}: choose float32 or bfloat16.")


@dataclass(frozen=True)
class TrainingConfig:
    """All that decides about a run.

    >>> config = TrainingConfig(objectives=Objectives(hidden=1.0), run=RunConfig(steps=100))
    >>> config.decisive()["run"]["steps"]
    100

    Attributes:
      model: a folder, a Hugging Face Hub id, or a packaged model.
      data: on what it is trained and validated.
      objectives: NAME or NAME=WEIGHT of pieces, sentences, hidden, next_subword, language_model (default: sentences
        hidden for encoders, hidden next_subword for decoders).
      network: what is trained.
      optimizer: how.
      run: how long.
    """

    model: Annotated[str, arg(metavar="NAME")] = DEFAULT_MODEL
    data: Annotated[DataConfig, _flattened] = field(default_factory=DataConfig)
    objectives: Annotated[Objectives, several("NAME[=WEIGHT] ...", Objectives.read), arg(help_behavior_hint="")] = (
        UNDECIDED
    )
    network: Annotated[NetworkConfig, _flattened] = field(default_factory=NetworkConfig)
    optimizer: Annotated[OptimizerConfig, _flattened] = field(default_factory=OptimizerConfig)
    run: Annotated[RunConfig, _flattened] = field(default_factory=RunConfig)

    def decisive(self) -> dict[str, Any]:
        """What decides about the numbers of a run, by its options' names, as JSON holds it."""
        run = {name: value for name, value in asdict(self.run).items() if name not in _NOT_DECISIVE}
        return asdict(self) | {"data": self.data.decisive(), "run": run}
