"""The programs to compile ahead of time: jitted functions, and their arguments as shapes with shardings.

A program does not define how it is compiled or reported; a new one is a function here that returns a `Program`.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxtyping import Array

from dyntok_jax.decoding import GenerationState, Limits, SamplingConfig, advance, sampling_of, start
from dyntok_jax.errors import ConfigError, InputError
from dyntok_jax.models import (
    MODEL_TYPES,
    Decoder,
    DecoderConfig,
    EncoderConfig,
    KeyValueCache,
    Rope,
    block_size,
    empty_cache,
)
from dyntok_jax.sharding import CACHE, batch_sharding, shardings_for
from tpu.costs import Loop

Tree = TypeVar("Tree")
MODELS = {
    "mistral-7b": DecoderConfig("mistral", 32000, 4096, 32, 32, 8, 128, 14336, 32768, 1e-5, sliding_window=4096),
    "llama-3-8b": DecoderConfig("llama", 128256, 4096, 32, 32, 8, 128, 14336, 8192, 1e-5, Rope(500_000.0)),
    "qwen2.5-7b": DecoderConfig("qwen2", 152064, 3584, 28, 28, 4, 128, 18944, 32768, 1e-6, Rope(1e6)),
    "qwen3-8b": DecoderConfig("qwen3", 151936, 4096, 36, 32, 8, 128, 12288, 40960, 1e-6, Rope(1e6)),
    "gemma-3-1b": DecoderConfig(
        *("gemma3_text", 262144, 1152, 26, 4, 1, 256, 6912, 32768, 1e-6, Rope(1e6), Rope(1e4)),
        sliding_window=512,
        full_layers=(5, 11, 17, 23),
        ties_embeddings=True,
    ),
    "xlm-r-base": EncoderConfig("xlm-roberta", 250002, 768, 12, 12, 3072, 514, 1, 1, 1e-5),
}
"""Configs of released models (mistralai/Mistral-7B-v0.1, meta-llama/Meta-Llama-3-8B, Qwen/Qwen2.5-7B, Qwen/Qwen3-8B,
google/gemma-3-1b-pt, FacebookAI/xlm-roberta-base). Where layers are of two kinds, reports count each as the costlier
one."""


@dataclass(frozen=True)
class Program:
    """A program to compile.

    Attributes:
      name: for the report, such as `prefill 8 × 2048`.
      function: the jitted function.
      arguments: shapes with shardings.
      options: static arguments by name.
      held: arrays on the devices while it runs, by name, as shapes with shardings, including results that are kept.
      loops: how often the loops run whose number of runs depends on data.
      main: a regular expression for JAX's names of the model's own operations, where the program has others whose share
        is to be told.
    """

    name: str
    function: Any
    arguments: tuple[Any, ...]
    held: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    loops: tuple[Loop, ...] = ()
    main: str | None = None


def find_config(
    name: str, kinds: tuple[type[DecoderConfig] | type[EncoderConfig], ...] = (DecoderConfig,)
) -> DecoderConfig | EncoderConfig:
    """A config by the model's name, or by the path of a `config.json` or of its folder.

    Args:
      name: of a released model, or a path.
      kinds: what it may be of.

    Raises:
      InputError: there is no such config.
      ConfigError: it is a config of another kind of model.
    """
    known = {model: config for model, config in MODELS.items() if isinstance(config, kinds)}
    if name in known:
        return known[name]
    path = Path(name) / "config.json" if Path(name).is_dir() else Path(name)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        is_decoder = config.get("model_type") in MODEL_TYPES
        kind = kinds[0] if len(kinds) == 1 else DecoderConfig if is_decoder else EncoderConfig
        return kind.from_hf(config)
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise InputError(
            f"The model must be {', '.join(known)} or the path of a config.json, got {name!r} ({error})."
        ) from error


def default_mesh(config: DecoderConfig | EncoderConfig, n_devices: int) -> tuple[int, int]:
    """Data × model: as many devices on `model` as divide a decoder's key/value heads, for the least time per token.

    An encoder lies whole on each device.
    """
    if isinstance(config, EncoderConfig):
        return n_devices, 1
    model = math.gcd(config.n_kv_heads, n_devices)
    return n_devices // model, model


def check_mesh(config: DecoderConfig | EncoderConfig, n_batch: int, data: int, model: int, n_devices: int) -> None:
    """Checks that a mesh divides what is sharded over it.

    Raises:
      ConfigError: it does not, or it does not have the topology's number of devices.
    """
    if data * model != n_devices:
        raise ConfigError(
            f"A mesh of {data}x{model} has {data * model} devices, but the topology {n_devices}: give another --mesh."
        )
    fewest = config.n_heads if isinstance(config, EncoderConfig) else config.n_kv_heads
    for count, what in ((fewest, "key/value heads"), (config.n_heads, "query heads")):
        if count % model:
            fits = ", ".join(f"{n_devices // m}x{m}" for m in _divisors(math.gcd(fewest, n_devices)))
            raise ConfigError(
                f"{model} devices on the mesh axis 'model' do not divide the model's {count} {what}: "
                f"use a mesh of {fits}."
            )
    if n_batch % data:
        raise ConfigError(f"{data} devices on the mesh axis 'data' do not divide a batch of {n_batch}.")


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def prefill_program(config: DecoderConfig, mesh: Mesh, dtype: Any, *, n_batch: int, length: int, chunk: int) -> Program:
    """Reads prompts of exactly `length` tokens into an empty cache, and chooses their first tokens.

    Raises:
      InputError: the chunk does not divide the length.
    """
    if length % chunk:
        raise InputError(f"The length must be a multiple of the {chunk} tokens that are read at a time, got {length}.")
    model = abstract_decoder(config, mesh, dtype)
    on_batch = partial(shape, sharding=batch_sharding(mesh))
    prompts = on_batch((n_batch, length, config.width), dtype), on_batch((n_batch, length), jnp.bool_)
    arguments = (*prompts, None, on_batch((n_batch,), _key_dtype()), *_choice(mesh, n_batch))
    block = block_size(chunk, _abstract_cache(model, mesh, n_batch, length).capacity)
    n_blocks = [-(-read // block) for read in range(0, length, chunk)]
    return Program(
        name=f"prefill {n_batch} × {length}",
        function=start,
        arguments=(model, *arguments),
        held={"parameters": model, "cache": _abstract_cache(model, mesh, n_batch, length), "inputs": arguments},
        options={"capacity": length, "chunk": chunk, "mesh": mesh},
        loops=(
            Loop(r"jit\(start\)/while", length // chunk, f"chunks of {chunk} tokens"),
            Loop(r"jit\(start\)/while/.*/while", sum(n_blocks) / len(n_blocks), f"blocks of {block} slots before one"),
        ),
    )


def decode_program(config: DecoderConfig, mesh: Mesh, dtype: Any, *, n_batch: int, capacity: int, size: int) -> Program:
    """One step of generation when every slot of the cache is filled."""
    model = abstract_decoder(config, mesh, dtype)
    on_batch = partial(shape, (n_batch,), sharding=batch_sharding(mesh))
    cache = _abstract_cache(model, mesh, n_batch, capacity)
    whole, yes_or_no = on_batch(jnp.int32), on_batch(jnp.bool_)
    state = GenerationState(cache, whole, whole, yes_or_no, yes_or_no, None, on_batch(_key_dtype()))
    arguments = (*_choice(mesh, n_batch), shape((), jnp.int32, NamedSharding(mesh, P())))
    block = block_size(1, cache.capacity)
    return Program(
        name=f"decode {n_batch} × {capacity}",
        function=advance,
        arguments=(model, state, *arguments),
        held={"parameters": model, "cache": cache, "inputs": (state.token_B, *arguments)},
        options={"size": size, "mesh": mesh},
        loops=(
            Loop(r"jit\(advance\)/while", 1, "step"),
            Loop(r"jit\(advance\)/while/.*/while", -(-cache.capacity // block), f"blocks of {block} slots"),
        ),
    )


def abstract_decoder(config: DecoderConfig, mesh: Mesh, dtype: Any) -> Decoder:
    """A decoder's parameters as shapes with the shardings of the table."""
    make: Callable[[], Decoder] = lambda: Decoder(config, jax.random.key(0), dtype)  # noqa: E731
    return abstract(make, mesh)


def abstract(make: Callable[[], Tree], mesh: Mesh, place: Callable[[Tree], Tree] | None = None) -> Tree:
    """What `make` makes as shapes, with the shardings of the table or those that `place` gives the shapes."""
    shapes = jax.eval_shape(make)
    shardings = shardings_for(shapes, mesh) if place is None else place(shapes)
    return jax.tree.map(lambda x, sharding: shape(x.shape, x.dtype, sharding), shapes, shardings)


def _abstract_cache(model: Decoder, mesh: Mesh, n_batch: int, capacity: int) -> KeyValueCache:
    shapes = jax.eval_shape(lambda: empty_cache(model, n_batch, capacity))
    rows, batch = NamedSharding(mesh, CACHE), batch_sharding(mesh)
    return jax.tree.map(lambda x: shape(x.shape, x.dtype, batch if x.ndim == 1 else rows), shapes)


def _choice(mesh: Mesh, n_batch: int) -> tuple[Any, Limits]:
    """How tokens are chosen and when sequences end."""
    rows = batch_sharding(mesh)
    sampling = jax.tree.map(lambda x: shape(x.shape, x.dtype, rows), sampling_of([SamplingConfig()] * n_batch))
    return sampling, Limits(shape((1,), jnp.int32, NamedSharding(mesh, P())), shape((n_batch,), jnp.int32, rows))


def shape(sizes: tuple[int, ...], dtype: Any, sharding: NamedSharding) -> Array:
    """An abstract array, typed as an array, so that it fits into a batch or a state."""
    return cast(Array, jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding))


def _key_dtype() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0)).dtype
