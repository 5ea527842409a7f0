"""The shape of a Mistral or Llama decoder, read from and written as a Hugging Face config."""

from dataclasses import dataclass
from typing import Any

from dyntok_jax.errors import ConfigError
from dyntok_jax.models.config_fields import check_fields, read_flag
from dyntok_jax.models.config_numbers import check_at_least, check_epsilon, read_numbers
from dyntok_jax.models.rotary_config import PLAIN_ROPE, Rope, read_rope

MODEL_TYPES = ("llama", "mistral")
_NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_READ = {
    *_NEEDED,
    *("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "hidden_act", "layer_types"),
    *("sliding_window", "rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"),
    "tie_word_embeddings",
}
_INERT = ("pad_token_id",)
"""Of a decoder's fields: its row of the word table is zero, and no text has it."""


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
      rope: the rotary positions.
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
    rope: Rope = PLAIN_ROPE
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
        self.rope.turned(self.head_width)
        if self.sliding_window is not None:
            check_at_least(self, {"sliding_window": 1})

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
            rope=read_rope(config, numbers["max_position_embeddings"]),
            sliding_window=window,
            ties_embeddings=read_flag(config, "tie_word_embeddings", False, what),
        )

    def to_hf(self) -> dict[str, Any]:
        """The same config under Hugging Face's names, in the spelling of transformers 4 and of 5."""
        rope = self.rope.to_hf()
        scaling = {name: value for name, value in rope.items() if name not in ("rope_theta", "partial_rotary_factor")}
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
            "rope_parameters": rope,
            "rope_theta": self.rope.theta,
            "rope_scaling": scaling if self.rope.scaling else None,
            "tie_word_embeddings": self.ties_embeddings,
            "hidden_act": "silu",
        }
        written |= {"partial_rotary_factor": self.rope.share} if self.rope.share < 1 else {}
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
