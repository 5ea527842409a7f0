"""The config of a LoRA adapter, as peft's `adapter_config.json` has it; what we do not compute is refused by name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dyntok_jax.errors import ConfigError
from dyntok_jax.models import is_number

BIASES = ("none", "all", "lora_only")
ALL_LINEAR = "all-linear"
NOT_COMPUTED = ("task_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version")
IGNORED = (
    *NOT_COMPUTED,
    *("runtime_config", "megatron_core", "layers_pattern", "eva_config", "direction", "scale", "stable_gamma"),
    *("qalora_group_size", "num_samples", "use_entropy", "dirichlet_prior", "sample_scaler", "kl_loss_weight"),
    *("buffer_size", "lora_ga_config", "arrow_config"),
)
"""Fields that say nothing about what an adapter computes, or only what a refused field would use."""
INITIAL = (True, False, None, "gaussian", "orthogonal", "eva")
"""Ways to draw fresh weights that leave those of the model as they are."""


@dataclass(frozen=True)
class LoraConfig:
    """What an adapter adapts, with which rank.

    Modules go by Hugging Face's names (`encoder.layer.0.attention.self.query`) or by our paths (`layers.0.query`).

    Attributes:
      rank: R of every map that `rank_pattern` does not name.
      alpha: the maps' products are scaled by alpha ÷ R.
      targets: names of modules, whole or their last parts; or one regular expression for whole names; or `all-linear`.
      excluded: the same, for modules that are left out.
      rank_pattern: regular expressions for names, or their last parts, and their ranks; the first that fits counts.
      alpha_pattern: the same for alpha.
      rslora: scale by alpha ÷ √R (Kalajdzievski 2023, *rsLoRA*).
      bias: train no biases, `all`, or those of the adapted maps (`lora_only`).
      modules_to_save: modules that are trained whole, such as the head (`classifier`).
      layers: only these layers; None for all.
      dropout: of the adapter's inputs in training; kept for peft.
      task: peft's `task_type`: `SEQ_CLS`, `TOKEN_CLS`, `CAUSAL_LM`, `FEATURE_EXTRACTION` or None.
      base_model: name of the model that it was trained for.

    >>> config = LoraConfig(rank=4, targets=("query", "value"), rank_pattern=(("layer.1.attention.self.query", 8),))
    >>> LoraConfig.from_peft(config.to_peft()) == config
    True
    """

    rank: int = 8
    alpha: int | float = 8
    targets: tuple[str, ...] | str = ALL_LINEAR
    excluded: tuple[str, ...] | str = ()
    rank_pattern: tuple[tuple[str, int], ...] = ()
    alpha_pattern: tuple[tuple[str, int | float], ...] = ()
    rslora: bool = False
    bias: str = "none"
    modules_to_save: tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None
    dropout: int | float = 0.0
    task: str | None = None
    base_model: str | None = None

    def __post_init__(self):
        for name, rank in (("rank", self.rank), *self.rank_pattern):
            if not is_number(rank, takes_fractions=False) or rank < 1:
                raise ConfigError(f"The rank of an adapter must be 1 or more, got {rank!r} for {name}.")
        for name, alpha in (("alpha", self.alpha), *self.alpha_pattern):
            if not is_number(alpha, takes_fractions=True):
                raise ConfigError(f"alpha of an adapter must be a number, got {alpha!r} for {name}.")
        if self.bias not in BIASES:
            raise ConfigError(f"bias of an adapter must be one of {', '.join(BIASES)}, got {self.bias!r}.")
        expressions = [pattern for pattern, _ in (*self.rank_pattern, *self.alpha_pattern)]
        for expression in (*expressions, *(one for one in (self.targets, self.excluded) if isinstance(one, str))):
            try:
                re.compile(expression)
            except re.error as error:
                raise ConfigError(f"{expression!r} must be a regular expression: {error}.") from error

    @classmethod
    def from_peft(cls, config: Mapping[str, Any]) -> "LoraConfig":
        """Reads the dict of peft's `adapter_config.json`.

        Raises:
          ConfigError: it asks for something that is not supported; all such fields are named.
        """
        kind = config.get("peft_type")
        if kind != "LORA":
            raise ConfigError(f"An adapter of type {kind!r} is not supported: only peft's LORA is.")
        initial = config.get("init_lora_weights", True)
        refused = [f"{name} = {value!r}" for name, value in config.items() if name not in (*READ, *IGNORED) and value]
        refused += (
            [] if initial in INITIAL else [f"init_lora_weights = {initial!r} (which changes the model's weights)"]
        )
        if refused:
            raise ConfigError(f"The adapter's config asks for what is not supported: {', '.join(refused)}.")
        layers = config.get("layers_to_transform")
        return cls(
            rank=config.get("r", 8),
            alpha=config.get("lora_alpha", 8),
            targets=_names(config, "target_modules"),
            excluded=_names(config, "exclude_modules"),
            rank_pattern=_pattern(config, "rank_pattern"),
            alpha_pattern=_pattern(config, "alpha_pattern"),
            rslora=bool(config.get("use_rslora")),
            bias=config.get("bias", "none"),
            modules_to_save=tuple(_names(config, "modules_to_save")),
            layers=None if layers is None else tuple([layers] if isinstance(layers, int) else layers),
            dropout=config.get("lora_dropout", 0.0),
            task=config.get("task_type"),
            base_model=config.get("base_model_name_or_path"),
        )

    def to_peft(self) -> dict[str, Any]:
        """The same config under peft's names; `from_peft` reads it back equal."""

        def written(names: tuple[str, ...] | str) -> list[str] | str | None:
            return names if isinstance(names, str) else list(names) or None

        return {
            "peft_type": "LORA",
            "task_type": self.task,
            "base_model_name_or_path": self.base_model,
            "inference_mode": True,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "target_modules": written(self.targets),
            "exclude_modules": written(self.excluded),
            "rank_pattern": dict(self.rank_pattern),
            "alpha_pattern": dict(self.alpha_pattern),
            "use_rslora": self.rslora,
            "bias": self.bias,
            "modules_to_save": written(self.modules_to_save),
            "layers_to_transform": None if self.layers is None else list(self.layers),
            "lora_dropout": self.dropout,
        }


READ = (*LoraConfig().to_peft(), "init_lora_weights")
"""peft's fields that are read."""


def _names(config: Mapping[str, Any], field: str) -> tuple[str, ...] | str:
    names = config.get(field)
    return names if isinstance(names, str) else tuple(sorted(names or ()))


def _pattern(config: Mapping[str, Any], field: str) -> tuple[tuple[str, Any], ...]:
    return tuple((config.get(field) or {}).items())
