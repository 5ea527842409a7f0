"""The shape of a decoder, read from and written as a Hugging Face config."""

from dataclasses import dataclass
from typing import Any

from dyntok_jax.errors import ConfigError
from dyntok_jax.models.config_fields import check_fields, read_flag
from dyntok_jax.models.config_numbers import check_at_least, check_epsilon, read_numbers
from dyntok_jax.models.decoder_families import (
    DEFAULT_THETAS,
    FAMILIES,
    FULL,
    MODEL_TYPES,
    SLIDING,
    Family,
    read_windows,
)
from dyntok_jax.models.rotary_config import PLAIN_ROPE, Rope, read_rope, read_ropes_by_kind

_NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_READ = {
    *_NEEDED,
    *("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "layer_types"),
    *("sliding_window", "rope_theta", "rope_scaling", "rope_parameters", "tie_word_embeddings"),
}
_INERT = ("pad_token_id",)
"""Of a decoder's fields: its row of the word table is zero, and no text has it."""


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder.

    Attributes:
      model_type: Hugging Face's name of the family: `llama`, `mistral`, `qwen2`, `qwen3` or `gemma3_text`.
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
      sliding_rope: those of layers with a sliding window, where they differ (Gemma 3).
      sliding_window: how many tokens, itself included, a token attends to; None for all before it.
      full_layers: numbers of the layers that attend to all tokens before although the others have a sliding window.
      query_scalar: what queries are divided by the root of (Gemma 3); None for the head width.
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
    sliding_rope: Rope | None = None
    sliding_window: int | None = None
    full_layers: tuple[int, ...] = ()
    query_scalar: int | None = None
    ties_embeddings: bool = False

    def __post_init__(self):
        _known_type(self.model_type)
        sizes = ("vocab_size", "width", "n_layers", "n_heads", "n_kv_heads", "head_width", "ffn_width", "max_positions")
        check_at_least(self, dict.fromkeys(sizes, 1))
        check_epsilon("rms_norm_eps", self.norm_eps, of=f"a {self.model_type} model")
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(f"{self.n_kv_heads} key/value heads do not divide {self.n_heads} query heads.")
        for rope in {self.rope, self.sliding_rope or self.rope}:
            rope.turned(self.head_width)
        if self.sliding_window is not None:
            check_at_least(self, {"sliding_window": 1})
        if self.query_scalar is not None:
            check_at_least(self, {"query_scalar": 1})
        self._check_family()

    def _check_family(self) -> None:
        """Raises ConfigError for options that the family does not have."""
        has_window, family = self.sliding_window is not None, self.family
        asked = {
            "a sliding window": has_window and family.attention == "full",
            "layers of two kinds": bool(self.full_layers) and family.attention != "mixed",
            "rotary positions by kind of layer": self.sliding_rope is not None and not family.turns_by_kind,
            "a query_scalar": self.query_scalar is not None and not family.has_query_scalar,
        }
        if wrong := [what for what, is_asked in asked.items() if is_asked]:
            raise ConfigError(f"A {self.model_type} model cannot have {', '.join(wrong)}: leave it out.")
        numbers = sorted(set(self.full_layers))
        is_part = len(numbers) < self.n_layers and all(0 <= number < self.n_layers for number in numbers)
        is_part = is_part and self.full_layers == tuple(numbers)
        if self.full_layers and not (has_window and is_part):
            raise ConfigError(
                f"full_layers are {self.full_layers}: they must be the ascending numbers of some of the "
                f"{self.n_layers} layers, and the others have a sliding window."
            )

    @property
    def family(self) -> Family:
        """What models of this type compute."""
        return FAMILIES[self.model_type]

    def is_full(self, number: int) -> bool:
        """Whether a layer attends to all tokens before, not to a window of them."""
        return self.sliding_window is None or number in self.full_layers

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "DecoderConfig":
        """Reads the dict of a Hugging Face `config.json`.

        Raises:
          ConfigError: a field is missing, or the config asks for something that is not supported, by name.
        """
        model_type = _known_type(config.get("model_type"))
        family, what = FAMILIES[model_type], f"a {model_type} model"
        read = {*_READ, family.activation_field, *family.extra_fields}
        read |= set() if family.turns_by_kind else {"partial_rotary_factor"}
        check_fields(config, what, read=read, also=_INERT)
        activation = config.get(family.activation_field) or family.activation
        if activation != family.activation:
            raise ConfigError(
                f"{family.activation_field} {activation!r} is not supported: of {what} only {family.activation!r} is."
            )
        numbers, _ = read_numbers(config, what, needed=_NEEDED)
        heads, width, n_layers = (numbers[name] for name in ("num_attention_heads", "hidden_size", "num_hidden_layers"))
        optional = {
            # null means no grouping, absent the family's default
            "num_key_value_heads": heads if "num_key_value_heads" in config else family.kv_heads or heads,
            "head_dim": family.head_width or width // max(heads, 1),
            "max_position_embeddings": family.max_positions,
            **({"query_pre_attn_scalar": family.head_width} if family.has_query_scalar and family.head_width else {}),
        }
        more, fractions = read_numbers(config, what, whole=optional, fractions={"rms_norm_eps": 1e-6})
        numbers |= more
        max_positions, scalar = numbers["max_position_embeddings"], numbers.get("query_pre_attn_scalar")
        window, full_layers = read_windows(config, n_layers, max_positions)
        if family.turns_by_kind:
            rope, sliding_rope = read_ropes_by_kind(config, max_positions, DEFAULT_THETAS)
            sliding_rope = None if window is None or sliding_rope == rope else sliding_rope
        else:
            rope, sliding_rope = read_rope(config, max_positions), None
        return cls(
            model_type=model_type,
            vocab_size=numbers["vocab_size"],
            width=width,
            n_layers=n_layers,
            n_heads=heads,
            n_kv_heads=numbers["num_key_value_heads"],
            head_width=numbers["head_dim"],
            ffn_width=numbers["intermediate_size"],
            max_positions=max_positions,
            norm_eps=fractions["rms_norm_eps"],
            rope=rope,
            sliding_rope=sliding_rope,
            sliding_window=window,
            full_layers=full_layers,
            query_scalar=None if scalar == numbers["head_dim"] else scalar,
            ties_embeddings=read_flag(config, "tie_word_embeddings", family.ties, what),
        )

    def to_hf(self) -> dict[str, Any]:
        """The same config under Hugging Face's names, in the spelling of transformers 4 and of 5."""
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
            "tie_word_embeddings": self.ties_embeddings,
            self.family.activation_field: self.family.activation,
        }
        if self.family.has_query_scalar:
            written["query_pre_attn_scalar"] = self.query_scalar or self.head_width
        return written | self._rope_to_hf() | self._windows_to_hf()

    def _rope_to_hf(self) -> dict[str, Any]:
        rope = self.rope.to_hf()
        scaling = {name: value for name, value in rope.items() if name not in ("rope_theta", "partial_rotary_factor")}
        written: dict[str, Any] = {
            "rope_parameters": rope,
            "rope_theta": self.rope.theta,
            "rope_scaling": scaling if self.rope.scaling else None,
        }
        if not self.family.turns_by_kind:
            return written | ({"partial_rotary_factor": self.rope.share} if self.rope.share < 1 else {})
        written["rope_parameters"] = {FULL: rope}
        if self.sliding_window is not None:
            sliding = self.sliding_rope or self.rope
            written["rope_parameters"][SLIDING] = sliding.to_hf()
            written["rope_local_base_freq"] = sliding.theta
        return written

    def _windows_to_hf(self) -> dict[str, Any]:
        has_flag = "use_sliding_window" in self.family.extra_fields
        if self.family.attention == "full":
            return {}
        if has_flag and self.sliding_window is None:
            return {"use_sliding_window": False}
        written: dict[str, Any] = {"sliding_window": self.sliding_window}
        if self.family.attention == "mixed":
            written["layer_types"] = [FULL if self.is_full(number) else SLIDING for number in range(self.n_layers)]
        if has_flag:
            written["use_sliding_window"] = True
            if self.full_layers == tuple(range(len(self.full_layers))):
                written["max_window_layers"] = len(self.full_layers)  # which is all that older versions know
        return written


def _known_type(model_type: Any) -> str:
    """The name of a family, checked."""
    if model_type in MODEL_TYPES:
        return model_type
    hint = "Encoders are for DynamicEncoder and `dyntok encode`."
    if model_type == "gemma3":
        hint = "This one reads images too; of Gemma 3 only models of text alone are supported (gemma3_text)."
    raise ConfigError(
        f"model_type {model_type!r} is not supported as a decoder: use one of {', '.join(MODEL_TYPES)}. {hint}"
    )
