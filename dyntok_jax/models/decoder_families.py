"""The families of decoders: what each computes beside what Llama does, and its config's defaults and spellings.

Yang et al. 2024 (Qwen 2.5), Yang et al. 2025 (Qwen 3), Gemma Team 2025 (Gemma 3).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dyntok_jax.errors import ConfigError
from dyntok_jax.models.config_fields import read_flag
from dyntok_jax.models.config_numbers import read_numbers

FULL, SLIDING = "full_attention", "sliding_attention"
"""The kinds of layers, as `layer_types` names them."""


@dataclass(frozen=True)
class Family:
    """A family of decoders.

    Attributes:
      architecture: Hugging Face's class.
      attention: whether layers attend to all tokens before (`full`), to a window (`sliding`), or some to these and some
        to those (`mixed`).
      has_qkv_bias: queries, keys and values have a bias.
      has_head_norms: each head's query and key is normalised before it is turned.
      has_post_norms: what attention and feed-forward return is normalised before it is added.
      norm_adds_one: norms multiply by 1 + their scale.
      scales_embeddings: word embeddings are multiplied by the root of the width.
      has_query_scalar: queries are divided by the root of a number of the config's, not of the head width.
      turns_by_kind: rotary positions differ by kind of layer.
      activation: of the feed-forward, and `activation_field` where the config names it.
      extra_fields: fields that the config of this family alone has.
      kv_heads, head_width, max_positions: transformers' defaults; None: as many as query heads, width ÷ heads.
      ties: whether tables are tied by default.
    """

    architecture: str
    attention: Literal["full", "sliding", "mixed"] = "full"
    has_qkv_bias: bool = False
    has_head_norms: bool = False
    has_post_norms: bool = False
    norm_adds_one: bool = False
    scales_embeddings: bool = False
    has_query_scalar: bool = False
    turns_by_kind: bool = False
    activation: str = "silu"
    activation_field: str = "hidden_act"
    extra_fields: tuple[str, ...] = ()
    kv_heads: int | None = None
    head_width: int | None = None
    max_positions: int = 2048
    ties: bool = False


_WINDOW_FLAGS = ("use_sliding_window", "max_window_layers")
FAMILIES: Mapping[str, Family] = {
    "llama": Family("LlamaForCausalLM"),
    "mistral": Family("MistralForCausalLM", attention="sliding", kv_heads=8, max_positions=131_072),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        attention="mixed",
        has_qkv_bias=True,
        extra_fields=_WINDOW_FLAGS,
        kv_heads=32,
        max_positions=32_768,
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        attention="mixed",
        has_head_norms=True,
        extra_fields=_WINDOW_FLAGS,
        kv_heads=32,
        head_width=128,
        max_positions=32_768,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        attention="mixed",
        has_head_norms=True,
        has_post_norms=True,
        norm_adds_one=True,
        scales_embeddings=True,
        has_query_scalar=True,
        turns_by_kind=True,
        activation="gelu_pytorch_tanh",
        activation_field="hidden_activation",
        extra_fields=(
            *("query_pre_attn_scalar", "rope_local_base_freq"),
            *("sliding_window_pattern", "_sliding_window_pattern"),
        ),
        kv_heads=4,
        head_width=256,
        max_positions=131_072,
        ties=True,
    ),
}
"""Families by their `model_type`."""
MODEL_TYPES = tuple(FAMILIES)
DEFAULT_WINDOW = 4096
MAX_WINDOW_LAYERS = 28
"""Of Qwen: layers that have no window even if the others have one."""
PATTERN = 6
"""Of Gemma: every sixth layer has full attention."""
DEFAULT_THETAS = (1_000_000.0, 10_000.0)
"""Of Gemma: bases of the rotary frequencies in layers with full and with sliding attention."""


def read_windows(config: Mapping[str, Any], n_layers: int, max_positions: int) -> tuple[int | None, tuple[int, ...]]:
    """The sliding window, and the numbers of the layers that attend to all tokens before although others have it.

    Args:
      config: the JSON object, of a known family.
      n_layers: its layers.
      max_positions: its positions.

    Raises:
      ConfigError: `layer_types` are not kinds that the family has, or contradict the window.
    """
    family = FAMILIES[config["model_type"]]
    given = config.get("sliding_window", None if family.attention == "full" else DEFAULT_WINDOW)
    window = None if given is None else _whole(config, "sliding_window", DEFAULT_WINDOW)
    if window is not None and family.attention == "full":
        if window < max_positions:
            raise ConfigError(
                f"sliding_window = {window} of a {config['model_type']} model is not supported: that family attends to "
                "all tokens before. Set it to null in config.json, as transformers reads it."
            )
        window = None
    if "use_sliding_window" in family.extra_fields and not read_flag(config, "use_sliding_window", False, "a decoder"):
        window = None
    kinds = config.get("layer_types")
    if kinds is None:
        full = _default_full_layers(config, family, n_layers)
    else:
        known = (FULL,) if window is None else (FULL, SLIDING) if family.attention == "mixed" else (SLIDING,)
        full = _full_layers(kinds, n_layers, known)
    if window is None and kinds is None and family.turns_by_kind and len(full) < n_layers:
        raise ConfigError(
            "sliding_window is null, and some layers are of the kind sliding_attention: give a number, or layer_types "
            f"that are all {FULL}."
        )
    if window is None or len(full) == n_layers:
        return None, ()
    return window, full


def _full_layers(kinds: Any, n_layers: int, known: tuple[str, ...]) -> tuple[int, ...]:
    if not isinstance(kinds, list) or any(kind not in known for kind in kinds):
        raise ConfigError(
            f"layer_types {kinds!r} are not supported: with this family and sliding_window each must be "
            f"{' or '.join(known)}."
        )
    if len(kinds) != n_layers:
        raise ConfigError(f"layer_types name {len(kinds)} layers, and num_hidden_layers is {n_layers}.")
    return tuple(number for number, kind in enumerate(kinds) if kind == FULL)


def _default_full_layers(config: Mapping[str, Any], family: Family, n_layers: int) -> tuple[int, ...]:
    """The layers without a window where `layer_types` is absent."""
    if "max_window_layers" in family.extra_fields:
        return tuple(range(min(n_layers, _whole(config, "max_window_layers", MAX_WINDOW_LAYERS))))
    if "sliding_window_pattern" not in family.extra_fields:
        return ()
    newer = _whole(config, "_sliding_window_pattern", PATTERN)
    pattern = _whole(config, "sliding_window_pattern", newer)
    if pattern < 1:
        raise ConfigError(f"sliding_window_pattern is {pattern}: it must be at least 1.")
    return tuple(range(pattern - 1, n_layers, pattern))


def _whole(config: Mapping[str, Any], name: str, default: int) -> int:
    return read_numbers(config, "a decoder", whole={name: default})[0][name]
