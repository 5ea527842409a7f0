"""Adapters, or whole fine-tuned models, merged into one."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from dyntok_jax.adapters.adapter import Adapter, AdapterMap, n_input_axes
from dyntok_jax.adapters.merge_methods import METHODS, MergeMethod
from dyntok_jax.errors import InputError
from dyntok_jax.parameters import flat_parameters

Tree = TypeVar("Tree")


def merge_adapters(
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    method: MergeMethod = MergeMethod(),  # noqa: B008  (frozen)
    *,
    rank: int | None = None,
    key: Key[Array, ""] | None = None,
) -> Adapter:
    """Merges adapters of one model, each layer's map by itself, as peft's `add_weighted_adapter` does.

    Args:
      adapters: of the same maps; without `rank` of the same ranks, too.
      weights: one an adapter; negative ones subtract.
      method: how.
      rank: None merges all `a` and all `b`, each with the root of its weight and scale: fast, and an approximation.
        A number multiplies every map out, merges the products and keeps so many of their singular vectors.
      key: for DARE.

    Returns:
      An adapter whose scales are 1. Parameters that one adapter replaces are kept.

    Raises:
      InputError: weights or ranks do not fit, adapters adapt different maps or have different shapes (all are listed),
        or several replace the same parameters.

    >>> from dyntok_jax.adapters import LoraConfig, fresh_adapter
    >>> config = LoraConfig(rank=4, targets=("query", "value"))
    >>> adapters = [fresh_adapter(jax.random.key(seed), config, encoder.encoder) for seed in range(2)]
    >>> merged = merge_adapters(adapters, [0.4, 0.6], MergeMethod("magnitude", density=0.8))
    >>> merged.maps["layers.query"].ranks, merged.maps["layers.query"].scales
    ((4, 4), (1.0, 1.0))
    """
    weights = _checked_weights(weights, len(adapters))
    if rank is not None and rank < 1:
        raise InputError(f"The rank of the merged adapter must be 1 or more, got {rank}.")
    _check_alike(adapters, has_rank=rank is not None)
    maps = {}
    for number, path in enumerate(adapters[0].maps):
        of_path = [adapter.maps[path] for adapter in adapters]
        one_key = None if key is None else jax.random.fold_in(key, number)
        if rank is None:
            maps[path] = _merge_factors(of_path, weights, method, one_key)
        else:
            maps[path] = _merge_products(
                of_path, weights, method, one_key, min(rank, _full_rank(path, of_path[0])), path
            )
    replaced = {path: one for adapter in adapters for path, one in adapter.replaced.items()}
    first = adapters[0].config
    if rank is None:
        config = replace(first, alpha=first.rank, alpha_pattern=first.rank_pattern, rslora=False)
    else:
        pattern = tuple(
            (re.escape(path).replace(r"layers\.", r"layers\.\d+\."), one.a.shape[-1])
            for path, one in maps.items()
            if one.a.shape[-1] != rank
        )
        config = replace(first, rank=rank, alpha=rank, rank_pattern=pattern, alpha_pattern=pattern, rslora=False)
    return Adapter(config, maps, replaced)


def merge_deltas(
    deltas: Sequence[Tree],
    weights: Sequence[float],
    method: MergeMethod = MergeMethod(),  # noqa: B008  (frozen)
    *,
    key: Key[Array, ""] | None = None,
) -> Tree:
    """Merges whole deltas (`delta_of`), each tensor by itself, of stacked layers each layer's.

    Args:
      deltas: trees of the same shapes.
      weights: one a delta.
      method: how.
      key: for DARE.

    Raises:
      InputError: weights do not fit, or the trees have different shapes; all are listed.

    >>> deltas = [{"bias": jnp.array([1.0, -4.0, 2.0])}, {"bias": jnp.array([3.0, 2.0, 0.0])}]
    >>> merge_deltas(deltas, [1.0, 1.0], MergeMethod("ties"))["bias"]
    Array([ 2., -4.,  2.], dtype=float32)
    """
    weights = _checked_weights(weights, len(deltas))
    flat = [flat_parameters(one) for one in deltas]
    _check_shapes([{path: leaf.shape for path, leaf in one.items()} for one in flat], "deltas")
    merged = []
    for number, path in enumerate(flat[0]):
        stack = jnp.stack([one[path] for one in flat])
        one_key = None if key is None else jax.random.fold_in(key, number)
        merged.append(_merge_stack(stack, weights, method, one_key, by_layer=_is_stacked(path)))
    return jax.tree.unflatten(jax.tree.structure(deltas[0]), merged)


def delta_of(model: Tree, base: Tree) -> Tree:
    """What fine-tuning added to each parameter, in float32: the task vector of Task Arithmetic.

    >>> bool((delta_of(encoder.encoder, encoder.encoder).word_embeddings == 0).all())
    True
    """
    return jax.tree.map(lambda new, old: new.astype(jnp.float32) - old.astype(jnp.float32), model, base)


def add_delta(base: Tree, delta: Tree, scale: float = 1.0) -> Tree:
    """The model with a delta added, in the model's dtype.

    >>> same = add_delta(encoder.encoder, delta_of(encoder.encoder, encoder.encoder), scale=0.5)
    >>> bool((same.word_embeddings == encoder.encoder.word_embeddings).all())
    True
    """
    return jax.tree.map(lambda old, added: (old.astype(jnp.float32) + scale * added).astype(old.dtype), base, delta)


def swap_layers(trees: Sequence[Tree], sources: Sequence[int], rest: int = 0) -> Tree:
    """Takes each layer from one of several models, deltas or adapters (Bandarkar et al. 2025, *Layer Swapping*).

    Args:
      trees: of the same shapes, with stacked layers.
      sources: for each layer the number of the tree that it is taken from.
      rest: the number of the tree that all else is taken from.

    Raises:
      InputError: a number is of no tree, there are not as many as layers, or the trees have different shapes.

    >>> swap_layers([{"layers.bias": jnp.zeros(3)}, {"layers.bias": jnp.ones(3)}], sources=[0, 1, 1])
    {'layers.bias': Array([0., 1., 1.], dtype=float32)}
    """
    strange = [number for number in (*sources, rest) if not 0 <= number < len(trees)]
    if strange or not trees:
        raise InputError(f"Layers are to come from {strange[0] if strange else rest}: there are {len(trees)} trees.")
    flat = [flat_parameters(one) for one in trees]
    _check_shapes([{path: leaf.shape for path, leaf in one.items()} for one in flat], "trees")
    for path, leaf in flat[0].items():
        if _is_stacked(path) and len(leaf) != len(sources):
            raise InputError(f"{path} has {len(leaf)} layers and sources names {len(sources)}: name one a layer.")
    chosen = [
        jnp.stack([flat[source][path][layer] for layer, source in enumerate(sources)])
        if _is_stacked(path)
        else flat[rest][path]
        for path in flat[0]
    ]
    adapters = [tree for tree in trees if isinstance(tree, Adapter)]
    if adapters:
        return _swapped_adapter(adapters, sources, chosen)
    return jax.tree.unflatten(jax.tree.structure(trees[0]), chosen)


def _swapped_adapter(adapters: Sequence[Any], sources: Sequence[int], leaves: list[Array]) -> Any:
    """The chosen arrays with the scales of the layers that they come from."""
    _check_alike(adapters, has_rank=False, replaced_may_meet=True)
    tree = jax.tree.unflatten(jax.tree.structure(adapters[0]), leaves)
    maps = {}
    for path, one in tree.maps.items():
        if path.startswith("layers."):
            scales = tuple(adapters[source].maps[path].scales[layer] for layer, source in enumerate(sources))
            ranks = tuple(adapters[source].maps[path].ranks[layer] for layer, source in enumerate(sources))
            one = replace(one, scales=scales, ranks=ranks)
        maps[path] = one
    return Adapter(tree.config, maps, tree.replaced)


def _merge_factors(
    maps: Sequence[AdapterMap], weights: Sequence[float], method: MergeMethod, key: Key[Array, ""] | None
) -> AdapterMap:
    """`a` and `b` merged by themselves, layer by layer; a's weight has the sign."""
    first = maps[0]
    a, b = jnp.zeros_like(first.a), jnp.zeros_like(first.b)
    for layer, rank in enumerate(first.ranks):
        if not rank:
            continue
        scaled = [weight * one.scales[layer] for weight, one in zip(weights, maps, strict=True)]
        root = [math.sqrt(abs(weight)) for weight in scaled]
        signed = [math.copysign(size, weight) for size, weight in zip(root, scaled, strict=True)]
        stack_a = jnp.stack([one.a[layer, ..., :rank] for one in maps])
        stack_b = jnp.stack([one.b[layer, :rank] for one in maps])
        keys = (None, None) if key is None else jax.random.split(jax.random.fold_in(key, layer))
        a = a.at[layer, ..., :rank].set(_merge_stack(stack_a, signed, method, keys[0]))
        b = b.at[layer, :rank].set(_merge_stack(stack_b, root, method, keys[1]))
    return AdapterMap(a, b, first.ranks, tuple(float(rank > 0) for rank in first.ranks))


def _merge_products(
    maps: Sequence[AdapterMap],
    weights: Sequence[float],
    method: MergeMethod,
    key: Key[Array, ""] | None,
    rank: int,
    path: str,
) -> AdapterMap:
    """The products merged, and the best approximation of that rank (Eckart & Young 1936)."""
    stack = jnp.stack([one.delta() for one in maps])
    merged = _merge_stack(stack, weights, method, key, by_layer=True)
    n_inputs = n_input_axes(path)
    inputs, outputs = merged.shape[1 : 1 + n_inputs], merged.shape[1 + n_inputs :]
    left, size, right = jnp.linalg.svd(merged.reshape(len(merged), math.prod(inputs), -1), full_matrices=False)
    a = left[..., :rank].reshape(len(merged), *inputs, rank)
    b = (size[:, :rank, None] * right[:, :rank]).reshape(len(merged), rank, *outputs)
    return AdapterMap(a, b, (rank,) * len(merged), (1.0,) * len(merged))


def _merge_stack(
    stack: Array, weights: Sequence[float], method: MergeMethod, key: Key[Array, ""] | None, *, by_layer: bool = False
) -> Array:
    merge, weights_N = METHODS[method.name], jnp.asarray(weights, stack.dtype)
    if not by_layer:
        return merge(stack, weights_N, method, key)
    keys = [None if key is None else jax.random.fold_in(key, layer) for layer in range(stack.shape[1])]
    return jnp.stack([merge(stack[:, layer], weights_N, method, one) for layer, one in enumerate(keys)])


def _full_rank(path: str, one: AdapterMap) -> int:
    n_inputs = n_input_axes(path)
    return min(math.prod(one.a.shape[1 : 1 + n_inputs]), math.prod(one.b.shape[2:]))


def _is_stacked(path: str) -> bool:
    return re.match(r"(.*\.)?layers\.\D", path) is not None


def _checked_weights(weights: Sequence[float], count: int) -> list[float]:
    if not count or len(weights) != count or not all(math.isfinite(weight) for weight in weights):
        raise InputError(f"A merge of {count} needs a finite weight for each, got {list(weights)}.")
    return [float(weight) for weight in weights]


def _check_alike(adapters: Sequence[Adapter], *, has_rank: bool, replaced_may_meet: bool = False) -> None:
    def shapes(adapter: Adapter) -> dict[str, Any]:
        return {
            path: (*one.a.shape[:-1], *one.b.shape[2:]) if has_rank else (one.a.shape, one.b.shape, one.ranks)
            for path, one in adapter.maps.items()
        }

    hint = "" if has_rank else ", unless the merge has a rank of its own (rank=…)"
    _check_shapes([shapes(adapter) for adapter in adapters], "adapters", hint)
    met = sorted(path for path in adapters[0].replaced if any(path in other.replaced for other in adapters[1:]))
    if met and not replaced_may_meet:
        raise InputError(f"Several adapters replace {', '.join(met)}: merge adapters without biases and saved modules.")


def _check_shapes(shapes: Sequence[dict[str, Any]], what: str, hint: str = "") -> None:
    faults = []
    for number, one in enumerate(shapes[1:], start=1):
        for path in sorted(one.keys() | shapes[0].keys()):
            if one.get(path) != shapes[0].get(path):
                faults.append(
                    f"{path} is {shapes[0].get(path, 'missing')} in 0 and {one.get(path, 'missing')} in {number}"
                )
    if faults:
        raise InputError(f"The {what} to merge must have the same shapes{hint}: {'; '.join(faults)}.")
