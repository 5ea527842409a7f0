"""The options of training, for the command line, option files and run folders. Nothing here imports JAX."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

from tyro.conf import arg

from dyntok_jax.errors import ConfigError, InputError
from dyntok_jax.options import DEFAULT_MODEL, is_real, take_whole_numbers
from dyntok_jax.training.data import Count, DataConfig, Number, OptionalPath, Unlisted, named_numbers, several

Dtype = Literal["float32", "bfloat16"]

_flattened = arg(name="")
NOT_DECISIVE = ("checkpoint_every", "keep", "log_every", "export_dtype")
"""Options of a run that change none of its numbers."""


@dataclass(frozen=True)
class Objectives:
    """The weight of each objective; 0 leaves it out.

    >>> Objectives(hidden=1.0).needs_texts, Objectives(pieces=1.0).needs_texts
    (True, False)

    Attributes:
      pieces: the rows of vocabulary pieces, from shorter pieces or from themselves (ZeTT's auxiliary loss, there with
        weight 0.5).
      sentences: the same sentence embeddings as under static tokenization.
      hidden: the same hidden states as under static tokenization, wherever both have read the same text.
      next_subword: the same distribution of a decoder's next subword as under static tokenization.
      language_model: ZeTT's main loss, masked for encoders and causal for decoders.
    """

    pieces: float = 0.0
    sentences: float = 0.0
    hidden: float = 0.0
    next_subword: float = 0.0
    language_model: float = 0.0

    @classmethod
    def read(cls, entries: Sequence[str]) -> "Objectives":
        """Reads a list of `NAME` or `NAME=WEIGHT`.

        >>> Objectives.read(["sentences=4", "hidden"]) == Objectives(sentences=4.0, hidden=1.0)
        True

        Raises:
          InputError: an unknown name, or a weight that is not a positive number.
        """
        weights = named_numbers("--objectives", entries, alone=1.0)
        known = [objective.name for objective in fields(cls)]
        for name, weight in weights.items():
            if name not in known:
                raise InputError(f"An objective must be one of {', '.join(known)}, got {name!r}.")
            if not 0 < weight < math.inf:
                raise InputError(f"The weight of {name} must be a positive number, got {weight}.")
        return cls(**weights)

    @property
    def needs_texts(self) -> bool:
        """Whether any of them reads texts."""
        return self.distills or self.language_model > 0

    @property
    def distills(self) -> bool:
        """Whether any of them is a comparison with static tokenization."""
        return self.sentences > 0 or self.hidden > 0 or self.next_subword > 0


FOR_ENCODERS, FOR_DECODERS = Objectives(sentences=1.0, hidden=1.0), Objectives(hidden=1.0, next_subword=1.0)
UNDECIDED = Objectives()
"""The default: the objectives are chosen by the kind of model."""


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of the hypernetwork to train.

    >>> NetworkConfig(layers=1, hidden=128, ffn=256)
    NetworkConfig(layers=1, hidden=128, ffn=256, heads=6, plain=False, read_layers=(), start_from=None)

    Attributes:
      layers: of the hypernetwork.
      hidden: its width.
      ffn: its feed-forward width.
      heads: its attention heads.
      plain: ZeTT's network unchanged, not one that starts from the mean of the subwords (FVT).
      read_layers: for decoders with tied tables: the network also reads the model's states of a token's last subword
        after so many of its layers, such as 0 2 4 8.
      start_from: folder or Hub id of a trained hypernetwork to start from; its own shape is used.
    """

    layers: Count = 2
    hidden: Count = 384
    ffn: Count = 1536
    heads: Count = 6
    plain: bool = False
    read_layers: tuple[int, ...] = ()
    start_from: OptionalPath = None

    def __post_init__(self):
        take_whole_numbers(self, dict.fromkeys(("layers", "hidden", "ffn", "heads"), 1), ConfigError)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019) with warm-up, cosine decay and clipping.

    >>> OptimizerConfig(learning_rate=1e-4, accumulate=4).warmup
    50

    Attributes:
      learning_rate: the peak learning rate.
      warmup: steps of linear warm-up.
      weight_decay: weight decay of kernels, multiplied by the learning rate.
      clip: norm that gradients are clipped to.
      accumulate: batches a step, whose gradients are averaged.
      final_share: the last learning rate as a share of the peak.
    """

    learning_rate: Number = 5e-4
    warmup: Count = 50
    weight_decay: Number = 0.01
    clip: Number = 1.0
    accumulate: Count = 1
    final_share: Unlisted[float] = 0.05

    def __post_init__(self):
        for name in ("learning_rate", "weight_decay", "clip", "final_share"):
            if not is_real(getattr(self, name)):
                raise ConfigError(f"{name} must be a number, got {getattr(self, name)!r}.")
        if not (self.learning_rate > 0 and self.clip > 0):
            raise ConfigError(
                f"The learning rate ({self.learning_rate}) and the norm to clip at ({self.clip}) must be positive."
            )
        take_whole_numbers(self, {"accumulate": 1, "warmup": 0}, ConfigError)


@dataclass(frozen=True)
class RunConfig:
    """How long to train, and how often to validate and save.

    >>> RunConfig(steps=100, validate_every=20, patience=3).keep
    2
    >>> RunConfig(steps=0)
    Traceback (most recent call last):
    dyntok_jax.errors.ConfigError: steps must be 1 or more, got 0.

    Attributes:
      steps: of the optimizer.
      identity_steps: first steps on pieces as themselves alone (ZeTT's warm-up, there 10000).
      validate_every: steps between validations; there is also one before the first step and one after the last.
      checkpoint_every: steps between checkpoints; each validation writes one, too.
      keep: how many of the last checkpoints to keep, besides the best.
      patience: validations in a row without improvement that end the run; 0: never.
      compute_dtype: of the computation; parameters stay float32.
      export_dtype: of the exported hypernetwork.
      log_every: steps between reads of the losses, which wait for the device.
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
        take_whole_numbers(self, least, ConfigError)
        for name in ("compute_dtype", "export_dtype"):
            if getattr(self, name) not in ("float32", "bfloat16"):
                raise ConfigError(f"{name} must be float32 or bfloat16, got {getattr(self, name)!r}.")


@dataclass(frozen=True)
class TrainingConfig:
    """All options of a run.

    >>> config = TrainingConfig(objectives=Objectives(hidden=1.0), run=RunConfig(steps=100))
    >>> config.decisive()["run"]["steps"]
    100

    Attributes:
      model: a folder, a Hugging Face Hub id, or a packaged model.
      data: what to train and validate on.
      objectives: NAME or NAME=WEIGHT of pieces, sentences, hidden, next_subword, language_model (default: sentences
        hidden for encoders, hidden next_subword for decoders).
      network: the hypernetwork to train.
      optimizer: of the training.
      run: how long to train.
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
        """The options that change the numbers of a run, by name, as JSON types."""
        run = {name: value for name, value in asdict(self.run).items() if name not in NOT_DECISIVE}
        return asdict(self) | {"data": self.data.decisive(), "run": run}
