"""The shape of a Mistral or Llama decoder, read from and written as a Hugging Face config."""

import math
from dataclasses import dataclass
from typing import Any

from dyntok_jax.errors import ConfigError
from dyntok_jax.models.config_fields import check_fields, read_flag
from dyntok_jax.models.config_numbers import check_at_least, check_epsilon, read_numbers

MODEL_TYPES = ("llama", "mistral")
ROPE_TYPES = ("default", "linear", "llama3")
_NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_READ = {
    *_NEEDED,
    *("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "hidden_act", "layer_types"),
    *("sliding_window", "rope_theta", "rope_scaling", "rope_parameters", "tie_word_embeddings"),
}
_INERT = ("pad_token_id",)
"""Of a decoder's fields: its row of the word table is zero, and no text has it."""
_ROPE_FIELDS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""What each kind of scaling needs."""
_ROPE_COMMON = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}


@dataclass(frozen=True)
class RopeScaling:
    """How a model's rotary frequencies were scaled after pre-training.

    Attributes:
      kind: `linear` (every frequency ÷ factor) or `llama3` (only the slow ones, with a smooth transition).
      factor: how much frequencies are divided by.
      low_frequency_factor: `llama3`: waves longer than original_positions ÷ this are divided by `factor`.
      high_frequency_factor: `llama3`: waves shorter than original_positions ÷ this stay.
      original_positions: `llama3`: the context that the model was pre-trained with.
    """

    kind: str
    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_positions: int = 8192

    def __post_init__(self):
        if self.kind not in ROPE_TYPES[1:]:
            raise ConfigError(f"rope_type {self.kind!r} is not supported: use one of {', '.join(ROPE_TYPES)}.")
        check_at_least(self, {"factor": 1, "original_positions": 1}, of="the rope scaling")
        if self.kind == "llama3" and not 0 < self.low_frequency_factor < self.high_frequency_factor:
            raise ConfigError(
                f"low_freq_factor {self.low_frequency_factor} must be positive and less than high_freq_factor "
                f"{self.high_frequency_factor}."
            )


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder.

    Attributes:
      model_type: Hugging Face's name of the family: `llama` or `mistral`.
      vocab_size: rows V of the word table.
      width: model width D.
      n_layers: number of layers.
      n_heads: query heads N.
      n_kv_heads: key/value heads K; they divide the query heads.
      head_width: width H of a head.
      ffn_width: feed-forward width F.
      max_positions: the longest sequence, in tokens.
      norm_eps: epsilon of every RMSNorm.
      rope_theta: base of the rotary frequencies.
      rope_scaling: how they are scaled, or None.
      sliding_window: how many tokens, itself included, a token attends to; None for all before it.
      ties_embeddings: whether the word table is the output table too.

    >>> config = decoder.config
    >>> config.n_heads, config.n_kv_heads, DecoderConfig.from_hf(config.to_hf()) == config
    (4, 2, True)
    """

    model_type: str
    vocab_size: int
    width: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_width: int
    ffn_width: int
    max_positions: int = 2048
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    sliding_window: int | None = None
    ties_embeddings: bool = False

    def __post_init__(self):
        if self.model_type not in MODEL_TYPES:
            raise ConfigError(f"model_type {self.model_type!r} is not supported: use one of {', '.join(MODEL_TYPES)}.")
        sizes = ("vocab_size", "width", "n_layers", "n_heads", "n_kv_heads", "head_width", "ffn_width", "max_positions")
        check_at_least(self, dict.fromkeys(sizes, 1))
        check_epsilon("rms_norm_eps", self.norm_eps, of=f"a {self.model_type} model")
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(f"{self.n_kv_heads} key/value heads do not divide {self.n_heads} query heads.")
        if self.head_width % 2:
            raise ConfigError(f"A head width of {self.head_width} is odd: rotary positions turn pairs.")
        if self.sliding_window is not None:
            check_at_least(self, {"sliding_window": 1})
        if not (math.isfinite(self.rope_theta) and self.rope_theta > 0):
            raise ConfigError(f"rope_theta is {self.rope_theta}: it must be positive.")

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "DecoderConfig":
        """Reads the dict of a Hugging Face `config.json`.

        Raises:
          ConfigError: a field is missing, or the config asks for something that is not supported, by name.
        """
        model_type = config.get("model_type")
        if model_type not in MODEL_TYPES:
            raise ConfigError(
                f"model_type {model_type!r} is not supported as a decoder: use one of {', '.join(MODEL_TYPES)}. "
                "Encoders are for DynamicEncoder and `dyntok encode`."
            )
        what = f"a {model_type} model"
        check_fields(config, what, read=_READ, also=_INERT)
        if (activation := config.get("hidden_act") or "silu") != "silu":
            raise ConfigError(f"hidden_act {activation!r} is not supported: only 'silu' is.")
        # transformers' own defaults
        is_mistral = model_type == "mistral"
        numbers, _ = read_numbers(config, what, needed=_NEEDED)
        heads, width = numbers["num_attention_heads"], numbers["hidden_size"]
        optional = {
            "num_key_value_heads": 8 if is_mistral else heads,
            "head_dim": width // max(heads, 1),
            "max_position_embeddings": 131_072 if is_mistral else 2048,
        }
        more, fractions = read_numbers(config, what, whole=optional, fractions={"rms_norm_eps": 1e-6})
        numbers |= more
        window = _read_window(config, numbers["max_position_embeddings"])
        theta, scaling = _read_rope(config)
        return cls(
            model_type=model_type,
            vocab_size=numbers["vocab_size"],
            width=width,
            n_layers=numbers["num_hidden_layers"],
            n_heads=heads,
            n_kv_heads=numbers["num_key_value_heads"],
            head_width=numbers["head_dim"],
            ffn_width=numbers["intermediate_size"],
            max_positions=numbers["max_position_embeddings"],
            norm_eps=fractions["rms_norm_eps"],
            rope_theta=theta,
            rope_scaling=scaling,
            sliding_window=window,
            ties_embeddings=read_flag(config, "tie_word_embeddings", False, what),
        )

    def to_hf(self) -> dict[str, Any]:
        """The same config under Hugging Face's names, in the spelling of transformers 4 and of 5."""
        scaling: dict[str, Any] | None = None
        if self.rope_scaling is not None:
            scaling = {"rope_type": self.rope_scaling.kind, "factor": self.rope_scaling.factor}
            if self.rope_scaling.kind == "llama3":
                scaling |= {
                    "low_freq_factor": self.rope_scaling.low_frequency_factor,
                    "high_freq_factor": self.rope_scaling.high_frequency_factor,
                    "original_max_position_embeddings": self.rope_scaling.original_positions,
                }
        written = {
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.width,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_width,
            "intermediate_size": self.ffn_width,
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": scaling,
            "rope_parameters": {"rope_type": "default", **(scaling or {}), "rope_theta": self.rope_theta},
            "tie_word_embeddings": self.ties_embeddings,
            "hidden_act": "silu",
        }
        return written | ({"sliding_window": self.sliding_window} if self.model_type == "mistral" else {})


def _read_window(config: dict[str, Any], max_positions: int) -> int | None:
    """How far back a token attends; None for all that is before it."""
    is_mistral = config["model_type"] == "mistral"
    window = config.get("sliding_window", 4096 if is_mistral else None)
    if window is not None:
        window = read_numbers({"sliding_window": window}, "a decoder", needed=("sliding_window",))[0]["sliding_window"]
    if window is not None and not is_mistral:
        if window < max_positions:
            raise ConfigError(
                f"sliding_window = {window} of a llama model is not supported: that family attends to all tokens "
                "before. Set it to null in config.json, as transformers reads it."
            )
        window = None
    kinds = config.get("layer_types")
    wanted = "full_attention" if window is None else "sliding_attention"
    if kinds is not None and (not isinstance(kinds, list) or any(kind != wanted for kind in kinds)):
        raise ConfigError(f"layer_types {kinds!r} are not supported: with this sliding_window all must be {wanted!r}.")
    return window


def _read_rope(config: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    """The base and the scaling of the rotary frequencies, from either spelling."""
    given = {name: config[name] for name in ("rope_parameters", "rope_scaling") if config.get(name)}
    found = {name: _rope_scaling(name, rope) for name, rope in given.items()}
    if len(found) > 1 and found["rope_parameters"] != found["rope_scaling"]:
        raise ConfigError("rope_parameters and rope_scaling of config.json disagree: delete the one that is wrong.")
    thetas = {name: rope["rope_theta"] for name, rope in given.items() if rope.get("rope_theta") is not None}
    thetas |= {"rope_theta": config["rope_theta"]} if config.get("rope_theta") is not None else {}
    _, bases = read_numbers(thetas, "a decoder", fractions=dict.fromkeys(thetas, 10_000.0))
    if len(set(bases.values())) > 1:
        raise ConfigError(f"config.json has several rope_theta: {sorted(set(bases.values()))}. Delete those not meant.")
    theta, scaling = next(iter(bases.values()), 10_000.0), next(iter(found.values()), None)
    return theta, scaling


def _rope_scaling(name: str, rope: Any) -> RopeScaling | None:
    """The scaling that one of the two fields asks for."""
    if not isinstance(rope, dict):
        raise ConfigError(f"{name} is {rope!r}: it must be an object with a rope_type.")
    if nested := [key for key, value in rope.items() if isinstance(value, dict)]:
        raise ConfigError(f"{name} differs by kind of layer ({', '.join(nested)}), which is not supported.")
    asked = {key: value for key, value in rope.items() if value is not None}
    kind = asked.get("rope_type", asked.get("type"))
    if kind != asked.get("type", kind):
        raise ConfigError(f"{name} has rope_type {kind!r} and type {asked['type']!r}: delete the one that is wrong.")
    scales = asked.keys() - _ROPE_COMMON
    if kind is None and scales:
        raise ConfigError(
            f"{name} has {', '.join(sorted(scales))} and no rope_type: say which of {', '.join(ROPE_TYPES)}."
        )
    kind = "default" if kind is None else kind
    if kind not in ROPE_TYPES:
        raise ConfigError(f"rope_type {kind!r} is not supported: use one of {', '.join(ROPE_TYPES)}.")
    if asked.get("partial_rotary_factor", 1) != 1:
        raise ConfigError(
            f"partial_rotary_factor = {asked['partial_rotary_factor']!r} is not supported: all of a head is turned."
        )
    needed = _ROPE_FIELDS[kind]
    ignored = ("original_max_position_embeddings",) if kind == "linear" else ()
    if unknown := scales - {*needed, *ignored}:
        raise ConfigError(f"{name} of rope_type {kind!r} has {', '.join(sorted(unknown))}, which is not supported.")
    if absent := [field for field in needed if field not in asked]:
        raise ConfigError(f"rope_type {kind!r} has no {', '.join(absent)}.")
    if kind == "default":
        return None
    whole = [field for field in needed if field.startswith("original")]
    numbers, fractions = read_numbers(
        asked,
        "a decoder with scaled rope",
        needed=whole,
        fractions=dict.fromkeys((field for field in needed if field not in whole), 0.0),
    )
    if kind == "linear":
        return RopeScaling(kind=kind, factor=fractions["factor"])
    return RopeScaling(
        kind=kind,
        factor=fractions["factor"],
        low_frequency_factor=fractions["low_freq_factor"],
        high_frequency_factor=fractions["high_freq_factor"],
        original_positions=numbers["original_max_position_embeddings"],
    )
