"""Adapters put beside the weights of a model, or multiplied into them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from dyntok_jax.adapters.adapter import Adapter, AdapterMap, Replacement, layered_parameters, layered_shape
from dyntok_jax.adapters.targets import HEAD
from dyntok_jax.errors import ConfigError
from dyntok_jax.models import Decoder, Encoder, LowRank, SequenceHead, TokenHead

Model = TypeVar("Model", bound=Encoder | Decoder | SequenceHead | TokenHead)


def apply_adapters(model: Model, adapters: Sequence[Adapter]) -> Model:
    """The model with adapters beside its linear maps, which then compute x·W + Σ scale · (x·a)·b.

    Weights are neither copied nor changed, and a·b is never multiplied out. It is a pure function of pytrees: call it
    inside `jax.jit` and `jax.grad` to train an adapter.

    Args:
      model: an encoder, a decoder, or a head, which takes what the adapters have for heads.
      adapters: their effects add up; of those that replace parameters (biases, whole modules) there may be one.

    Raises:
      ConfigError: an adapter is of another model, or several replace the same parameter; all faults are listed.

    >>> from dyntok_jax.adapters import LoraConfig, fresh_adapter
    >>> adapter = fresh_adapter(jax.random.key(0), LoraConfig(rank=4, targets=("query",)), encoder.encoder)
    >>> adapted = apply_adapters(encoder.encoder, [adapter, adapter])
    >>> len(adapted.layers.query.adapters), adapted.layers.query.adapters[0].a.shape
    (2, (2, 32, 4))
    """

    def put_beside(module: Any, of_layer: Callable[[Array], Array], scale: Any, one: AdapterMap) -> None:
        dtype = module.kernel.dtype
        low_rank = LowRank(of_layer(one.a).astype(dtype), of_layer(one.b).astype(dtype), jnp.asarray(scale, dtype))
        module.adapters = nnx.data((*module.adapters, low_rank))

    return _changed(model, adapters, put_beside)


def fold_adapters(model: Model, adapters: Sequence[Adapter]) -> Model:
    """The model with adapters multiplied into its weights: as fast as without, and an ordinary model to save.

    Arguments and errors are those of `apply_adapters`. The product is computed in the adapter's dtype.

    >>> from dyntok_jax.adapters import LoraConfig, fresh_adapter
    >>> adapter = fresh_adapter(jax.random.key(0), LoraConfig(rank=4, targets=("query",)), encoder.encoder)
    >>> folded = fold_adapters(encoder.encoder, [adapter])
    >>> folded.layers.query.adapters, bool((folded.layers.query.kernel == encoder.encoder.layers.query.kernel).all())
    ((), True)
    """

    def multiply_in(module: Any, of_layer: Callable[[Array], Array], scale: Any, one: AdapterMap) -> None:
        del scale  # which `delta` has
        kernel = module.kernel[...]
        added = of_layer(one.delta())
        wide = jnp.promote_types(kernel.dtype, added.dtype)
        module.kernel = nnx.Param((kernel.astype(wide) + added.astype(wide)).astype(kernel.dtype))

    return _changed(model, adapters, multiply_in)


def _part(entries: dict[str, Any], is_head: bool) -> dict[str, Any]:
    return {path: one for path, one in entries.items() if path.startswith(HEAD) == is_head}


def _changed(model: Model, adapters: Sequence[Adapter], change: Callable[..., None]) -> Model:
    is_head = isinstance(model, (SequenceHead, TokenHead))
    parts = [(_part(one.maps, is_head), _part(one.replaced, is_head)) for one in adapters]
    _check_fit(model, parts, is_head)
    copy = jax.tree.map(lambda leaf: leaf, model)
    for maps, replaced in parts:
        for path, one in maps.items():
            for module, of_layer, scale in _modules(copy, path, one.scales):
                change(module, of_layer, scale, one)
        for path, one in replaced.items():
            _replace(copy, path, one)
    return copy


def _modules(model: Any, path: str, scales: tuple[float, ...]):
    """The modules under a path, the part of an adapter's arrays that is for each, and its scale."""
    names = path.removeprefix(HEAD).split(".")
    if path.startswith(HEAD):
        yield _inner(model, names), lambda array: array[0], scales[0]
    elif isinstance(model.layers, tuple):
        for index, layer in enumerate(model.layers):
            yield _inner(layer, names[1:]), lambda array, index=index: array[index], scales[index]
    else:
        yield _inner(model, names), lambda array: array, scales


def _replace(model: Any, path: str, one: Replacement) -> None:
    *names, last = path.removeprefix(HEAD).split(".")
    if path.startswith("layers.") and isinstance(model.layers, tuple):
        for index, layer in enumerate(model.layers):
            if one.layers is None or index in one.layers:
                module = _inner(layer, names[1:])
                setattr(module, last, nnx.Param(one.value[index].astype(getattr(module, last).dtype)))
        return
    module = _inner(model, names)
    old = getattr(module, last)[...]
    value = one.value.astype(old.dtype)
    if one.layers is not None:
        is_new = jnp.zeros(len(old), bool).at[jnp.asarray(one.layers, jnp.int32)].set(True)
        value = jnp.where(jnp.expand_dims(is_new, tuple(range(1, old.ndim))), value, old)
    setattr(module, last, nnx.Param(value))


def _inner(module: Any, names: Sequence[str]) -> Any:
    for name in names:
        module = getattr(module, name)
    return module


def _check_fit(
    model: Any, parts: Sequence[tuple[dict[str, AdapterMap], dict[str, Replacement]]], is_head: bool
) -> None:
    parameters = layered_parameters(*((None, model) if is_head else (model,)))
    faults, seen = [], set()
    for maps, replaced in parts:
        for path, one in maps.items():
            kernel = parameters.get(f"{path}.kernel")
            shape = (*one.a.shape[:-1], *one.b.shape[2:])
            if kernel is None or layered_shape(path, kernel) != shape:
                faults.append(_fault(path, shape, None if kernel is None else layered_shape(path, kernel)))
        for path, one in replaced.items():
            known = parameters.get(path)
            if isinstance(known, list):
                known_shape = layered_shape(path, known)
            else:
                known_shape = None if known is None else known.shape
            if known_shape != one.value.shape:
                faults.append(_fault(path, one.value.shape, known_shape))
            if path in seen:
                faults.append(f"{path} is replaced by several adapters: fold one of them into the model first")
            seen.add(path)
    if faults:
        raise ConfigError("The adapter is of another model, or adapters do not go together: " + "; ".join(faults) + ".")


def _fault(path: str, shape: tuple[int, ...], known: tuple[int, ...] | None) -> str:
    if known is None:
        return f"{path} is not in the model"
    if path == "head.output.bias":
        return f"the adapter's head has {shape[0]} labels and the model's {known[0]}"
    return f"{path} is for {list(shape)}, and the model has {list(known)}"
