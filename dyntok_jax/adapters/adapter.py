"""An adapter: low-rank maps and replaced parameters, a pytree beside the frozen model."""

import re
from dataclasses import dataclass, field
from math import prod, sqrt
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dyntok_jax.adapters.lora_config import LoraConfig
from dyntok_jax.adapters.targets import HEAD, hf_names, matched_maps, rank_and_scale
from dyntok_jax.errors import ConfigError
from dyntok_jax.models import Decoder, Encoder, SequenceHead, TokenHead
from dyntok_jax.parameters import flat_parameters


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AdapterMap:
    """The low-rank map beside one kernel, of all layers at once; a head's map is a single layer.

    Layers of a lower rank are filled up with zeros: nothing is added by them, and their gradient is zero.

    Attributes:
      a: [layers, inputs…, R], from the kernel's inputs, which may be several axes, to rank R.
      b: [layers, R, outputs…], from there to its outputs.
      ranks: of each layer; 0 for a layer that is not adapted.
      scales: of each layer's product.

    >>> one = AdapterMap(jnp.ones((2, 4, 3)), jnp.ones((2, 3, 5)), ranks=(3, 0), scales=(0.5, 0.0))
    >>> one.delta().shape
    (2, 4, 5)
    """

    a: Any
    b: Any
    ranks: tuple[int, ...] = field(metadata={"static": True})
    scales: tuple[float, ...] = field(metadata={"static": True})

    def delta(self) -> Float[Array, "layers *inputs_and_outputs"]:
        """What the map adds to the kernels, multiplied out: scale · a · b. `apply_adapters` never does this."""
        n_layers, rank = len(self.ranks), self.a.shape[-1]
        product = jnp.matmul(self.a.reshape(n_layers, -1, rank), self.b.reshape(n_layers, rank, -1))
        scaled = product * jnp.asarray(self.scales, product.dtype)[:, None, None]
        return scaled.reshape(*self.a.shape[:-1], *self.b.shape[2:])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Replacement:
    """A parameter that an adapter brings whole: a bias, or one of a module in `modules_to_save`.

    Attributes:
      value: of all layers at once where the model's are stacked.
      layers: those whose rows replace the model's; None for the whole parameter.

    >>> Replacement(jnp.ones((2, 4)), layers=(1,)).value.shape
    (2, 4)
    """

    value: Any
    layers: tuple[int, ...] | None = field(default=None, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Adapter:
    """What was trained beside a model. Paths are those of the model's parameters; a head's begin with `head.`.

    Attributes:
      config: as peft writes it.
      maps: path of a linear map, such as `layers.query` → the map beside it.
      replaced: path of a parameter, such as `layers.query.bias` → its new values.

    >>> adapter = fresh_adapter(jax.random.key(0), LoraConfig(rank=4, targets=("query",)), encoder.encoder)
    >>> adapter.maps["layers.query"].b.shape  # layers, R, N, H
    (2, 4, 4, 8)
    """

    config: LoraConfig = field(metadata={"static": True})
    maps: dict[str, AdapterMap]
    replaced: dict[str, Replacement]


def n_input_axes(path: str) -> int:
    """Axes of a kernel's inputs, the rest being its outputs: attention's output map reads heads and their widths.

    >>> n_input_axes("layers.output"), n_input_axes("layers.query")
    (2, 1)
    """
    return 2 if path == "layers.output" else 1


def layered_parameters(model: Any, head: Any = None) -> dict[str, Any]:
    """Parameters by path, those of layers in a tuple as lists of one a layer; a head's begin with `head.`."""
    found: dict[str, Any] = {}
    for path, leaf in flat_parameters(model).items():
        if not re.match(r"layers\.\d", path):
            found[path] = leaf
            continue
        _, _, name = path.split(".", 2)
        found.setdefault(f"layers.{name}", []).append(leaf)
    if head is not None:
        found |= {HEAD + path: leaf for path, leaf in flat_parameters(head).items()}
    return found


def layered_shape(path: str, parameter: Any) -> tuple[int, ...]:
    """Shape of a parameter with a leading layer axis, which a parameter outside layers has of length 1."""
    if isinstance(parameter, list):
        return (len(parameter), *parameter[0].shape)
    return parameter.shape if path.startswith("layers.") else (1, *parameter.shape)


def fresh_adapter(
    key: Key[Array, ""],
    config: LoraConfig,
    model: Encoder | Decoder,
    head: SequenceHead | TokenHead | None = None,
) -> Adapter:
    """Draws an adapter that changes nothing yet: `a` uniform as in peft, `b` zero, replaced parameters the model's own.

    Args:
      key: for `a`.
      config: what is adapted, with which rank.
      model: the frozen model; its values matter only for biases.
      head: of the model, to be adapted or (`modules_to_save`) trained whole.

    Raises:
      ConfigError: some targets match nothing (the error lists them all), or `modules_to_save` names a module that the
        head does not have.

    >>> adapter = fresh_adapter(jax.random.key(0), LoraConfig(rank=4, targets=("key",)), decoder.decoder)
    >>> adapter.maps["layers.key"].a.shape, adapter.maps["layers.key"].scales  # layers, D, R
    ((2, 32, 4), (2.0, 2.0))
    """
    names = hf_names(model.config, head)
    parameters = layered_parameters(model, head)
    matched = matched_maps(config, names, model.config.n_layers)
    maps, keys = {}, jax.random.split(key, len(matched))
    for one, (path, rows) in zip(keys, matched.items(), strict=True):
        kernel = parameters[f"{path}.kernel"]
        dtype = jax.tree.leaves(kernel)[0].dtype
        maps[path] = _fresh_map(one, config, rows, layered_shape(path, kernel), n_input_axes(path), dtype)
    return Adapter(config, maps, _fresh_replacements(config, names, matched, parameters))


def _fresh_map(
    key: Key[Array, ""], config: LoraConfig, rows: list[list[str]], shape: tuple[int, ...], n_inputs: int, dtype: Any
) -> AdapterMap:
    known = [rank_and_scale(config, row) if row else (0, 0.0) for row in rows]
    ranks = tuple(rank for rank, _ in known)
    inputs, outputs = shape[1 : 1 + n_inputs], shape[1 + n_inputs :]
    bound = 1 / sqrt(prod(inputs))
    a = jax.random.uniform(key, (len(rows), *inputs, max(ranks)), dtype, -bound, bound)
    is_within = jnp.arange(max(ranks))[None] < jnp.asarray(ranks)[:, None]
    a = jnp.where(jnp.expand_dims(is_within, tuple(range(1, 1 + n_inputs))), a, 0)
    return AdapterMap(a, jnp.zeros((len(rows), max(ranks), *outputs), dtype), ranks, tuple(s for _, s in known))


def _fresh_replacements(
    config: LoraConfig, names: dict[str, str], matched: dict[str, list[list[str]]], parameters: dict[str, Any]
) -> dict[str, Replacement]:
    saved = {
        path: module
        for path, name in names.items()
        for module in config.modules_to_save
        if path.startswith(HEAD) and re.match(rf"(^|.*\.){module}($|\..*)", name)
    }
    unknown = sorted(set(config.modules_to_save) - set(saved.values()) - {"score"})  # which peft names always
    if unknown:
        raise ConfigError(
            f"modules_to_save names {', '.join(unknown)}, which the head does not have: name modules of the given "
            "head, such as 'classifier'."
        )
    paths = [path for path in parameters if path.rpartition(".")[0] in saved]
    if config.bias == "all":
        paths += [path for path in parameters if path.endswith(".bias") and path not in paths]
    elif config.bias == "lora_only":
        paths += [f"{path}.bias" for path in matched if f"{path}.bias" in parameters]
    replaced = {}
    for path in paths:
        value = parameters[path]
        layers = None
        if config.bias == "lora_only" and path.startswith("layers."):
            rows = matched[path.removesuffix(".bias")]
            layers = None if all(rows) else tuple(layer for layer, row in enumerate(rows) if row)
        replaced[path] = Replacement(jnp.stack(value) if isinstance(value, list) else jnp.asarray(value), layers)
    return replaced
