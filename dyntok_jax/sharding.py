"""The rules of sharding, all in one place: parameter path → PartitionSpec.

Tensor parallelism over the axis `model` (Shoeybi et al. 2019, *Megatron-LM*, §3: heads and feed-forward columns are
split, their output maps are split by rows), batches over the axis `data`. Tables of embeddings are split by width,
because hardly any mesh divides the rows of a vocabulary such as XLM-R's 250002.

The pure functions are written for meshes of axis type Auto, where XLA decides the shardings of all values in
between. Under Explicit axes, where shardings are part of types, wrap them in `under_explicit_mesh`.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

from dyntok_jax.errors import ConfigError
from dyntok_jax.parameters import flat_parameters

_ADAPTER = r"(?:maps\.)?layers\.(?:{})(?:\.adapters\.\d+)?"
RULES: tuple[tuple[str, P], ...] = (
    # Layers of encoders and decoders, stacked: the first axis counts layers.
    (r"layers\.(query|key|value)\.kernel", P(None, None, "model", None)),
    (r"layers\.(query|key|value)\.bias", P(None, "model", None)),
    (r"layers\.output\.kernel", P(None, "model", None, None)),
    (r"layers\.ffn_in\.kernel", P(None, None, "model")),
    (r"layers\.ffn_in\.bias", P(None, "model")),
    (r"layers\.ffn_out\.kernel", P(None, "model", None)),
    (r"layers\.(output|ffn_out)\.bias", P()),
    (r"layers\.(attention|ffn|query|key)(_post)?_norm\.(scale|bias)", P()),
    (r"layers\.ffn_(gate|up)\.kernel", P(None, None, "model")),
    (r"final_norm\.scale", P()),
    # Adapters, by themselves (`maps.`) and beside the maps they adapt: split where the kernel is split.
    (rf"{_ADAPTER.format('query|key|value')}\.b", P(None, None, "model", None)),
    (rf"{_ADAPTER.format('output')}\.a", P(None, "model", None, None)),
    (rf"{_ADAPTER.format('ffn_(?:in|gate|up)')}\.b", P(None, None, "model")),
    (rf"{_ADAPTER.format('ffn_out')}\.a", P(None, "model", None)),
    (rf"{_ADAPTER.format('[a-z_]+')}\.(a|b|scale)", P()),
    (r"(maps\.head\.)?(dense|output)(\.adapters\.\d+)?\.(a|b|scale)", P()),
    # Tables of embeddings, by width.
    (r"(word|output)_embeddings", P(None, "model")),
    (r"row_CD", P(None, "model")),  # the cache of embeddings on the device
    (r"key_GWK|used_GW|clock", P()),
    (r"(position|type|fallback|lang|unused_word)_embeddings", P()),
    (r"embedding_norm\.(scale|bias)", P()),
    # Masked-LM head.
    (r"transform\.(kernel|bias)|norm\.(scale|bias)|bias", P()),
    # Classification heads.
    (r"(dense|output)\.(kernel|bias)", P()),
    # Hypernetwork.
    (r"(input_block|(output|second)_head\.block)\.dense1\.kernel", P(None, "model")),
    (r"(input_block|(output|second)_head\.block)\.dense1\.bias", P("model")),
    (r"(input_block|(output|second)_head\.block)\.dense2\.kernel", P("model", None)),
    (r"(input_block|(output|second)_head\.block)\.(dense2\.bias|norm\.(scale|bias))", P()),
    (r"input_linear\.(kernel|bias)|(output|second)_head\.linear\.(kernel|bias)|bias_linear\.(kernel|bias)", P()),
    (r"(in_|out_|state_)?scaler\.(scale|bias)|state_linear\.(kernel|bias)", P()),
)


CACHE = P(None, "data", "model", None, None)
"""Keys and values, [layers, B, K, C, H]: sequences over `data`, heads over `model` like the kernels they come from."""


def make_mesh(data: int, model: int, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of `data` × `model` devices with Auto axes of those names.

    Args:
      data: size of the axis that batches are split over.
      model: size of the axis that heads and columns are split over.
      devices: the devices to choose from; None for all of JAX's.

    Raises:
      ConfigError: it needs more devices than are given.

    >>> dict(make_mesh(data=1, model=1).shape)
    {'data': 1, 'model': 1}
    """
    devices = jax.devices() if devices is None else devices
    if data < 1 or model < 1 or data * model > len(devices):
        raise ConfigError(f"A mesh of {data} × {model} devices does not fit: there are {len(devices)}.")
    # `jax.make_mesh` would refuse shapes such as 2 × 8 on the 4 × 4 grid of a v6e, where an axis must be split
    chosen = create_device_mesh((data, model), devices[: data * model], allow_split_physical_axes=True)
    return Mesh(chosen, ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def partition_spec(path: str) -> P:
    """The rule for a parameter, by its dotted path; what an adapter replaces lies as the parameter itself.

    Raises:
      ConfigError: no rule covers the path.

    >>> partition_spec("layers.query.kernel")
    P(None, None, 'model', None)
    """
    of_model = re.sub(r"^replaced\.(head\.)?", "", path)
    for pattern, spec in RULES:
        if re.fullmatch(pattern, of_model):
            return spec
    raise ConfigError(f"No sharding rule covers the parameter {path}: add one to RULES.")


def shardings_for(tree: Any, mesh: Mesh) -> Any:
    """Shardings of a parameter tree (of arrays or of `jax.ShapeDtypeStruct`), in the same structure.

    Raises:
      ConfigError: the mesh does not divide some parameters (all are listed), or a parameter has no rule.

    >>> shardings = shardings_for(encoder.encoder, make_mesh(1, 1))
    >>> flat_parameters(shardings)["word_embeddings"].spec
    P(None, 'model')
    """
    shardings, faults = [], []
    for path, leaf in flat_parameters(tree).items():
        spec = partition_spec(path)
        for axis, name in enumerate(spec):
            if name is not None and leaf.shape[axis] % mesh.shape[name]:
                faults.append(f"axis {axis} of {path} has {leaf.shape[axis]} entries")
        shardings.append(NamedSharding(mesh, spec))
    if faults:
        raise ConfigError(
            f"{mesh.shape['model']} devices on the mesh axis 'model' do not divide the parameters evenly: "
            f"{'; '.join(faults)}. Choose a smaller 'model' axis."
        )
    return jax.tree.unflatten(jax.tree.structure(tree), shardings)


def placement(mesh: Mesh | None) -> Callable[[Any], Any] | None:
    """The function from a parameter tree to its shardings that loaders take; None (the default device) without a mesh.

    >>> shardings = placement(make_mesh(1, 1))(encoder.encoder)
    >>> flat_parameters(shardings)["position_embeddings"].spec
    P()
    """
    return None if mesh is None else partial(shardings_for, mesh=mesh)


def data_parts(mesh: Mesh | None) -> int:
    """The number of parts that a mesh splits a batch into; 1 without a mesh.

    >>> data_parts(make_mesh(1, 1)), data_parts(None)
    (1, 1)
    """
    return 1 if mesh is None else mesh.shape["data"]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of any array of a batch: its first axis over `data`.

    >>> batch_sharding(make_mesh(1, 1)).spec
    P('data',)
    """
    return NamedSharding(mesh, P("data"))


def shard_batch(values: Any, mesh: Mesh | None) -> Any:
    """An array of a batch split over `data`; as it is without a mesh.

    >>> shard_batch(batch.ids_BL, make_mesh(1, 1)).sharding.spec
    P('data',)
    """
    return values if mesh is None else jax.device_put(values, batch_sharding(mesh))


def constrain_cache(cache: Any, mesh: Mesh | None) -> Any:
    """Constrains a key/value cache to the rule `CACHE`, inside `jax.jit`; returns it as it is without a mesh.

    >>> from dyntok_jax.models import empty_cache
    >>> empty = jax.jit(lambda model: constrain_cache(empty_cache(model, 2, capacity=16), make_mesh(1, 1)))
    >>> empty(decoder.decoder).length_B.shape
    (2,)
    """
    if mesh is None:
        return cache

    def constrain(array):
        spec = P(*CACHE[-array.ndim :]) if array.ndim >= 4 else P("data")
        return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, spec))

    return jax.tree.map(constrain, cache)


def constrain_hidden(hidden: Any, mesh: Mesh | None) -> Any:
    """Constrains hidden states to be whole on every device of `model`, inside `jax.jit`; as they are without a mesh.

    Word tables are split by width, and XLA would keep that split through a decoding step, with fourteen collectives a
    layer.

    >>> constrained = jax.jit(lambda hidden: constrain_hidden(hidden, make_mesh(1, 1)))
    >>> constrained(jnp.zeros((4, 32))).shape
    (4, 32)
    """
    return hidden if mesh is None else jax.lax.with_sharding_constraint(hidden, batch_sharding(mesh))


def constrain_whole(values: Any, mesh: Mesh | None) -> Any:
    """Constrains arrays to lie whole on every device, inside `jax.jit`; returns them as they are without a mesh.

    >>> jax.jit(lambda ids: constrain_whole(ids, make_mesh(1, 1)))(jnp.zeros((4, 32), jnp.int32)).shape
    (4, 32)
    """
    return values if mesh is None else jax.lax.with_sharding_constraint(values, NamedSharding(mesh, P()))


def constrain_by_rules(tree: Any, mesh: Mesh | None) -> Any:
    """Constrains what the rules cover to lie as they say, inside `jax.jit` or outside; as it is without a mesh.

    >>> constrain_by_rules({"word_embeddings": jnp.zeros((4, 32))}, make_mesh(1, 1))["word_embeddings"].sharding.spec
    P(None, 'model')
    """
    if mesh is None:
        return tree
    leaves = [
        jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, partition_spec(path)))
        for path, leaf in flat_parameters(tree).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def under_explicit_mesh(function: Callable[..., Any], mesh: Mesh, out_specs: Any = None) -> Callable[..., Any]:
    """Runs one of our pure functions under a mesh of axis type Explicit; XLA decides the shardings inside.

    Args:
      function: such as `encode`.
      mesh: the mesh, whose axes are Explicit; `jax.set_mesh` must make it current, as Explicit mode needs anyway.
      out_specs: PartitionSpec of the result, or a tree of them; None: first axis over `data`.

    Returns:
      The function, ready for `jax.jit`.

    >>> mesh = jax.make_mesh((1, 1), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    >>> with jax.set_mesh(mesh):
    ...     found = jax.jit(under_explicit_mesh(jnp.sin, mesh))(jnp.zeros((2, 3)))
    >>> found.sharding.spec[0]
    'data'
    """
    specs = P("data") if out_specs is None else out_specs
    shardings = jax.tree.map(lambda s: NamedSharding(mesh, s), specs, is_leaf=lambda s: isinstance(s, P))
    return jax.sharding.auto_axes(function, axes=mesh.axis_names, out_sharding=shardings)
