"""Which linear maps an adapter adapts, and with which rank and scale: peft's rules, on its names and on ours."""

import re
from collections.abc import Mapping, Sequence
from math import sqrt

from dyntok_jax.adapters.lora_config import ALL_LINEAR, LoraConfig
from dyntok_jax.errors import ConfigError
from dyntok_jax.models import DecoderConfig, EncoderConfig, SequenceHead, TokenHead, head_map_names, layer_map_names

HEAD = "head."
"""Begins paths of a head's parameters, and those of an adapter for it."""


def hf_names(config: EncoderConfig | DecoderConfig, head: SequenceHead | TokenHead | None = None) -> dict[str, str]:
    """Path of each linear map of a model and its head → Hugging Face's name of the module, `{i}` for the layer.

    >>> hf_names(decoder.config)["layers.output"]
    'model.layers.{i}.self_attn.o_proj'
    """
    names = layer_map_names(config)
    if head is not None:
        names |= {HEAD + path: name for path, name in head_map_names(head.config, type(head)).items()}
    return names


def rank_and_scale(config: LoraConfig, names: Sequence[str]) -> tuple[int, float]:
    """Rank and scale of a map that goes by these names.

    >>> rank_and_scale(LoraConfig(rank=4, alpha=8, rank_pattern=(("layers.0.key", 16),)), ["layers.0.key"])
    (16, 0.5)
    """
    rank = _first_fit(config.rank_pattern, names, config.rank)
    alpha = _first_fit(config.alpha_pattern, names, config.alpha)
    return int(rank), alpha / (sqrt(rank) if config.rslora else rank)


def matched_maps(config: LoraConfig, names: Mapping[str, str], n_layers: int) -> dict[str, list[list[str]]]:
    """Each adapted map's path → for each of its layers the names it goes by; none where that layer is left out.

    Raises:
      ConfigError: targets match nothing; all are listed.
    """
    unused = {config.targets} if isinstance(config.targets, str) else set(config.targets)
    found = {}
    for path, template in names.items():
        layers = range(n_layers) if "{i}" in template else [None]
        rows = []
        for layer in layers:
            known = names_of(path, template, layer)
            hits = _hits(config.targets, known, is_linear=not path.startswith(HEAD + "output"))
            if config.layers is not None and not isinstance(config.targets, str) and layer not in config.layers:
                hits = set()
            if _hits(config.excluded, known) or _is_saved_whole(config, known):
                unused, hits = unused - hits, set()
            unused = unused - hits
            rows.append(known if hits else [])
        if any(rows):
            found[path] = rows
    if unused or not found:
        targets = ", ".join(sorted(unused)) or "all of them excluded"
        known = ", ".join(sorted({name.split(".")[-1] for name in names.values()} | {"all-linear"}))
        raise ConfigError(f"Targets match no linear map of the model: {targets}. Its maps end in: {known}.")
    return found


def names_of(path: str, template: str, layer: int | None) -> list[str]:
    """What a map of one layer goes by: Hugging Face's name, with and without the model's prefix, and our path.

    >>> names_of("layers.key", "model.layers.{i}.self_attn.k_proj", 1)
    ['model.layers.1.self_attn.k_proj', 'layers.1.self_attn.k_proj', 'layers.1.key']
    """
    if layer is None:
        return [template, f"bert.{template}", path]
    name = template.replace("{i}", str(layer))
    own = path.replace("layers.", f"layers.{layer}.")
    if template.startswith("model."):
        return [name, name.removeprefix("model."), own]
    return [name, f"bert.{name}", f"roberta.{name}", own]


def _hits(targets: tuple[str, ...] | str, names: Sequence[str], *, is_linear: bool = True) -> set[str]:
    """The targets that match a map by one of its names."""
    if targets == ALL_LINEAR:
        return {ALL_LINEAR} if is_linear else set()
    if isinstance(targets, str):
        return {targets} if any(re.fullmatch(targets, name) for name in names) else set()
    return {target for target in targets if any(f".{name}".endswith(f".{target}") for name in names)}


def _is_saved_whole(config: LoraConfig, names: Sequence[str]) -> bool:
    return any(re.match(rf"(^|.*\.){module}($|\..*)", name) for module in config.modules_to_save for name in names)


def _first_fit(pattern: Sequence[tuple[str, int | float]], names: Sequence[str], default: int | float) -> int | float:
    for expression, value in pattern:
        if any(re.match(rf"(.*\.)?({expression})$", name) for name in names):
            return value
    return default
