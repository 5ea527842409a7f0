"""The checkpoint writer: safetensors files written tensor by tensor, so that host memory never holds a model twice.

The bytes equal those of `safetensors.numpy.save_file`, which needs all tensors at once. A file is 8 bytes with the
header's length, the header (JSON: dtype, shape and offsets of each tensor) and the tensors one after the other.
"""

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np
from huggingface_hub import split_state_dict_into_shards_factory

from dyntok_jax.convert.safetensors import DTYPES, INDEX, WEIGHTS, Table
from dyntok_jax.errors import CheckpointError
from dyntok_jax.parameters import flat_parameters
from dyntok_jax.storage import written_together

MAX_SHARD_BYTES = 5 * 10**9
FILE_NAMES = "model{suffix}.safetensors"
FORMAT = {"format": "pt"}
"""Metadata that PyTorch transformers requires of the files it loads."""
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
LAYOUT_ORDER = ("F32", "BF16", "F16")
"""Wide dtypes come first, so that each tensor begins at a multiple of its item size."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor to be written: its shape and dtype now, its values when it is written.

    Attributes:
      shape: its shape.
      dtype: its dtype, one of `DTYPES`.
      read: returns its values.

    >>> tensor = LazyTensor((1000, 32), np.dtype(np.float32), lambda: np.zeros((1000, 32), np.float32))
    >>> tensor.n_bytes
    128000
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def n_bytes(self) -> int:
        """Its size in a file."""
        return prod(self.shape) * self.dtype.itemsize


def export_tensors(tree: Any, table: Table) -> dict[str, LazyTensor]:
    """The parameters of `tree` under the checkpoint's names, transformed back: the inverse of `load_tree`.

    Nothing is moved yet: each tensor leaves its device or shards when it is read; of a stacked parameter, one layer at
    a time.
    """
    parameters = flat_parameters(tree)
    if any(".adapters." in path for path in parameters):
        raise CheckpointError(
            "The model has adapters beside its weights, and its checkpoint has no place for them: fold them into the "
            "weights (`fold_adapters`), or save them by themselves (`save_adapter`)."
        )
    tensors = {}
    for template, (path, transform) in table.items():
        parameter = parameters[path]
        if "{i}" in template:
            for i in range(parameter.shape[0]):
                name = template.replace("{i}", str(i))
                tensors[name] = _exported(parameter, i, transform.save, parameter.shape[1:])
        else:
            tensors[template] = _exported(parameter, None, transform.save, parameter.shape)
    return tensors


def _exported(parameter: Any, row: int | None, save: Callable[[Any], Any], shape: tuple[int, ...]) -> LazyTensor:
    def read() -> np.ndarray:
        part = parameter if row is None else parameter[row]
        return np.asarray(save(np.asarray(jax.device_get(part))))

    foreign = jax.eval_shape(save, jax.ShapeDtypeStruct(shape, parameter.dtype))
    return LazyTensor(foreign.shape, np.dtype(parameter.dtype), read)


def write_checkpoint(
    folder: str | os.PathLike,
    config: dict[str, Any],
    tensors: Mapping[str, LazyTensor],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes the weights and `config.json` atomically: the files appear together, complete.

    The weights are `model.safetensors`, or shards with an index where they exceed the size limit of one file. Earlier
    weights in the folder are replaced.

    Args:
      folder: created if missing, its parent folders too.
      config: the content of `config.json`.
      tensors: by the checkpoint's names; one is in memory at a time.
      max_shard_bytes: size limit of one file's tensors; a single larger tensor gets a file of its own.

    Raises:
      CheckpointError: the folder cannot be created or written.
    """
    folder = Path(folder)
    try:
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        write_weights(folder, tensors, max_shard_bytes=max_shard_bytes, beside={"config.json": text})
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error.strerror or error}.") from error


def write_weights(
    folder: Path,
    tensors: Mapping[str, LazyTensor],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    beside: Mapping[str, str] | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> None:
    """Writes the weights alone, as `write_checkpoint` does.

    Args:
      folder: created if missing, its parent folders too.
      tensors: as for `write_checkpoint`.
      max_shard_bytes: as for `write_checkpoint`.
      beside: names and texts of further files that appear together with the weights.
      progress: called with the share of the tensors written so far, 0 to 1.

    Raises:
      OSError: the folder cannot be written.

    >>> bias = LazyTensor((2,), np.dtype(np.float32), lambda: np.array([1, 2], np.float32))
    >>> write_weights(folder, {"bias": bias}, beside={"config.json": "{}"})
    >>> sorted(path.name for path in folder.iterdir())
    ['config.json', 'model.safetensors']
    """
    plan = split_state_dict_into_shards_factory(
        dict(tensors),
        get_storage_size=lambda tensor: tensor.n_bytes,
        filename_pattern=FILE_NAMES,
        max_shard_size=max_shard_bytes,
    )
    shards, texts = plan.filename_to_tensors, dict(beside or {})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": dict(sorted(plan.tensor_to_filename.items()))}
        texts[INDEX] = json.dumps(index, indent=2) + "\n"
    n_done = 0
    with written_together([folder / name for name in (*shards, *texts)]) as parts:
        for part, names in zip(parts, shards.values(), strict=False):
            for _ in _write_file(part, {name: tensors[name] for name in names}):
                n_done += 1
                progress(n_done / len(tensors))
        for part, text in zip(parts[len(shards) :], texts.values(), strict=True):
            part.write_text(text, encoding="utf-8")
    for old in (*folder.glob("model-*-of-*.safetensors"), folder / WEIGHTS, folder / INDEX):
        if old.name not in (*shards, *texts):
            old.unlink(missing_ok=True)


def write_file(path: Path, tensors: Mapping[str, LazyTensor], *, beside: Mapping[str, str]) -> None:
    """Writes one file of tensors, and `beside` it files with the texts given, atomically.

    Raises:
      OSError: the folder cannot be written.

    >>> write_file(folder / "adapter_model.safetensors", {}, beside={"adapter_config.json": "{}"})
    >>> sorted(path.name for path in folder.iterdir())
    ['adapter_config.json', 'adapter_model.safetensors']
    """
    with written_together([path, *(path.with_name(name) for name in beside)]) as parts:
        for _ in _write_file(parts[0], tensors):
            pass
        for part, text in zip(parts[1:], beside.values(), strict=True):
            part.write_text(text, encoding="utf-8")


def _write_file(path: Path, tensors: Mapping[str, LazyTensor]) -> Iterator[str]:
    """Writes one file and yields each tensor's name once it is written."""
    names = sorted(tensors, key=lambda name: (LAYOUT_ORDER.index(DTYPE_NAMES[tensors[name].dtype]), name))
    header: dict[str, Any] = {"__metadata__": FORMAT}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.n_bytes
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name in names:
            file.write(_bytes(name, tensors[name]))  # a variable would keep the tensor alive while the next is made
            yield name


def _bytes(name: str, tensor: LazyTensor) -> memoryview:
    array = np.asarray(tensor.read(), order="C")
    if (array.shape, array.dtype) != (tensor.shape, tensor.dtype):
        raise ValueError(f"{name} is {array.dtype} {array.shape}, not as announced: {tensor}.")
    return array.reshape(-1).view(np.uint8).data
