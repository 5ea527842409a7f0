"""The strict checkpoint reader: a table of names, one tensor in memory at a time, all faults in one error.

A table maps a name pattern of the checkpoint to a parameter path of ours and a transform. `{i}` in a pattern is a layer
number: layer i of the checkpoint is row i of our stacked parameter. Reader and writer use the same table.
"""

import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from dyntok_jax.errors import CheckpointError
from dyntok_jax.parameters import flat_parameters
from dyntok_jax.storage import check_not_lfs_pointer, read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model*.bin", "adapter_model.bin", "*.pt", "*.pth", "*.ckpt")
ALIGNMENT = 64
READ_BLOCK = 2**23
"""Numbers read at a time: 32 MB of float32."""
_FETCH = "fetch the file again"
DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(jnp.bfloat16)}


@dataclass(frozen=True)
class Transform:
    """How a tensor of the checkpoint becomes (a row of) our parameter, and back. Both directions only move numbers."""

    load: Callable[[Any], Any]
    save: Callable[[Any], Any]


AS_IS = Transform(lambda x: x, lambda x: x)
TRANSPOSED = Transform(lambda x: x.T, lambda x: x.T)
ROW_VECTOR = Transform(lambda x: x.reshape(x.shape[1:]), lambda x: x.reshape(1, *x.shape))


def split_heads(heads: int) -> Transform:
    """[N·H, D] (a PyTorch linear) to [D, N, H], or a bias [N·H] to [N, H]."""

    def load(x):
        return x.T.reshape(*x.shape[1:], heads, -1)

    def save(x):
        return x.reshape(*x.shape[:-2], -1).T

    return Transform(load, save)


def join_heads(heads: int) -> Transform:
    """[D, N·H] (a PyTorch linear) to [N, H, D]."""
    return Transform(lambda x: x.T.reshape(heads, -1, x.shape[0]), lambda x: x.reshape(-1, x.shape[-1]).T)


Table = dict[str, tuple[str, Transform]]


@dataclass
class Checkpoint:
    """The tensors of a model folder, read one at a time.

    Attributes:
      folder: the model folder.
      files: tensor name → file that holds it.
      shapes: tensor name → shape.
      dtypes: tensor name → dtype as safetensors names it, such as "F32" (a key of `DTYPES`) or "I64".
      offsets: tensor name → byte offset in its file.
      duplicates: names of tensors in more than one shard.

    >>> checkpoint = open_checkpoint(decoder_folder)
    >>> checkpoint.shapes["model.norm.weight"], checkpoint.dtypes["model.norm.weight"]
    ((32,), 'F32')
    >>> checkpoint.read("model.norm.weight")[:3]
    array([1., 1., 1.], dtype=float32)
    """

    folder: Path
    files: dict[str, Path] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)
    duplicates: list[str] = field(default_factory=list)

    def read(self, name: str, dtype: Any = None) -> np.ndarray:
        """Reads one tensor into host memory, cast block by block to hold no second copy.

        Args:
          name: its name.
          dtype: to cast to; None keeps the stored dtype.

        Raises:
          CheckpointError: its dtype is not supported, or the file has been truncated since it was opened.
        """
        if self.dtypes[name] not in DTYPES:
            raise CheckpointError(f"{self.files[name]}: {name} is {self.dtypes[name]}, not {', '.join(DTYPES)}.")
        stored = DTYPES[self.dtypes[name]]
        array = _aligned(self.shapes[name], stored if dtype is None else np.dtype(dtype))
        flat = array.reshape(-1)
        with self.files[name].open("rb") as file:
            file.seek(self.offsets[name])
            for start in range(0, flat.size, READ_BLOCK):
                block = flat[start : start + READ_BLOCK]
                values = block if block.dtype == stored else np.empty(block.size, stored)
                if file.readinto(values.view(np.uint8).data) < values.nbytes:
                    raise CheckpointError(f"{self.files[name]} is truncated at tensor {name}: fetch it again.")
                if values is not block:
                    block[:] = values
        return array


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array aligned as JAX on a CPU wants it: JAX uses such an array without copying it."""
    n_bytes = prod(shape) * dtype.itemsize
    buffer = np.empty(n_bytes + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + n_bytes].view(dtype).reshape(shape)


def read_config(folder: str | os.PathLike, name: str = "config.json") -> dict[str, Any]:
    """Reads `config.json` of a model folder, or a config by another name.

    Raises:
      CheckpointError: the folder or the file is missing or unreadable, or it is not a JSON object.

    >>> read_config(encoder_folder)["hidden_size"]
    32
    """
    folder = Path(folder)
    path = folder / name
    with _as_unreadable(path):
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is not a folder: name one that holds {name} and the weights.")
        if not path.is_file():
            raise CheckpointError(f"{folder} has no {name}: name the folder that holds the model itself.")
        return read_json(path, CheckpointError, _FETCH)


def open_checkpoint(folder: str | os.PathLike, weights: str = WEIGHTS) -> Checkpoint:
    """Lists the tensors of `model.safetensors` (or another file), or of the shards that its index names.

    Raises:
      CheckpointError: no folder or weights, weights only as pickle, a Git LFS pointer, a damaged, truncated or
        unreadable file, or shards and index that do not agree.

    >>> list(open_checkpoint(decoder_folder).files)[:2]
    ['lm_head.weight', 'model.embed_tokens.weight']
    """
    folder = Path(folder)
    with _as_unreadable(folder):
        return _open_checkpoint(folder, weights)


def check_backed(checkpoint: Checkpoint, n_layers: int) -> None:
    """Sees, before anything is made for each layer, that there can be so many.

    Raises:
      CheckpointError: there are fewer tensors than layers.
    """
    if n_layers > len(checkpoint.files):
        raise CheckpointError(
            f"{checkpoint.folder} does not fit its config: it says {n_layers:,} layers, and there are "
            f"{len(checkpoint.files):,} tensors. Fetch config and weights again."
        )


def _open_checkpoint(folder: Path, weights: str) -> Checkpoint:
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: name one that holds a config and {weights}.")
    checkpoint = Checkpoint(folder)
    if (folder / weights).is_file():
        _list_tensors(checkpoint, folder / weights)
    elif (folder / f"{weights}.index.json").is_file():
        _list_shards(checkpoint, folder / f"{weights}.index.json")
    else:
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        if pickles:
            raise CheckpointError(
                f"{folder} holds weights only as pickle ({', '.join(pickles)}), which can run any code and is never "
                f"loaded. Convert them once with a tool you trust: `save_pretrained` of PyTorch transformers writes "
                f"{weights}."
            )
        raise CheckpointError(f"{folder} has neither {weights} nor {weights}.index.json: the weights are missing.")
    return checkpoint


@contextmanager
def _as_unreadable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or path} cannot be read ({error.strerror or error}): check its permissions and the disk."
        ) from error


def _list_tensors(checkpoint: Checkpoint, path: Path) -> None:
    check_not_lfs_pointer(path, CheckpointError)
    try:
        with safe_open(path, framework="np") as file:  # which checks that the header fits the file
            places = _offsets(path)
            for name in file.keys():  # noqa: SIM118  (a file, not a dict)
                if name in checkpoint.files:
                    checkpoint.duplicates.append(name)
                    continue
                view = file.get_slice(name)
                checkpoint.files[name] = path
                checkpoint.shapes[name] = tuple(view.get_shape())
                checkpoint.dtypes[name] = view.get_dtype()
                checkpoint.offsets[name] = places[name]
    except PermissionError:
        raise
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        raise CheckpointError(
            f"{path} ({size:,} bytes) is truncated or not a safetensors file ({error}): fetch it again."
        ) from error


def _offsets(path: Path) -> dict[str, int]:
    """Byte offsets of the tensors of an intact file, which follow the header's length (8 bytes) and the header."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}


def _list_shards(checkpoint: Checkpoint, path: Path) -> None:
    weight_map = read_json(path, CheckpointError, _FETCH).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{path} has no weight_map from tensors to files: fetch it again.")
    shards = sorted(set(weight_map.values()))
    outside = [name for name in shards if Path(name).name != name]
    if outside:
        raise CheckpointError(f"{path} names files outside its folder ({', '.join(outside)}): fetch it again.")
    missing = [name for name in shards if not (path.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{path} names missing shards: {', '.join(missing)}. Fetch them too.")
    for name in shards:
        _list_tensors(checkpoint, path.parent / name)
    lost = [n for n, shard in weight_map.items() if checkpoint.files.get(n) != path.parent / shard]
    lost = [n for n in lost if n not in checkpoint.duplicates]
    if lost:
        raise CheckpointError(
            f"{path} names tensors that their shards do not hold: {', '.join(sorted(lost))}. Fetch it again."
        )


def _pattern(template: str) -> re.Pattern:
    return re.compile(re.escape(template).replace(re.escape("{i}"), r"(0|[1-9]\d*)"))


def _foreign_shape(shape: tuple[int, ...], transform: Transform) -> tuple[int, ...]:
    return jax.eval_shape(transform.save, jax.ShapeDtypeStruct(shape, jnp.float32)).shape


@partial(jax.jit, donate_argnums=0)
def _place_row(stack, row, index):
    return jax.lax.dynamic_update_index_in_dim(stack, row, index, axis=0)


def _row_sharding(sharding: jax.sharding.Sharding | None) -> jax.sharding.Sharding | None:
    if isinstance(sharding, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(*sharding.spec[1:]))
    return sharding


def load_tree(
    checkpoint: Checkpoint,
    table: Table,
    abstract: Any,
    *,
    rename: Callable[[str], str] = lambda name: name,
    ignored: Iterable[str] = (),
    shardings: Callable[[Any], Any] | None = None,
) -> Any:
    """Fills a tree of parameters from a checkpoint.

    Each tensor is read, transformed, cast and moved to its device or shards before the next is read; a tensor of layer
    i is written into row i of its stacked parameter on the device. So the host never holds more than one tensor.

    Args:
      checkpoint: the open checkpoint.
      table: name pattern → (parameter path, transform).
      abstract: the tree with `jax.ShapeDtypeStruct` leaves (`jax.eval_shape` of a constructor): shapes and dtypes.
      rename: applied to each name of the checkpoint before it is looked up (prefixes, old spellings).
      ignored: regular expressions for renamed tensors to ignore.
      shardings: from such a tree to a tree of shardings, such as `partial(shardings_for, mesh=mesh)`; None: the
        default device.

    Raises:
      CheckpointError: tensors are unknown, missing, misshapen, duplicated or of a dtype other than float32, float16
        and bfloat16; the error lists all of them.
    """
    want = flat_parameters(abstract)
    patterns = [(_pattern(template), path, transform) for template, (path, transform) in table.items()]
    skip = [re.compile(pattern) for pattern in ignored]
    sources: dict[tuple[str, int | None], tuple[str, Transform]] = {}
    faults = [f"twice: {name} (in several shards)" for name in checkpoint.duplicates]
    for name in checkpoint.files:
        known = rename(name)
        hits = [(m, path, transform) for p, path, transform in patterns if (m := p.fullmatch(known))]
        if not hits:
            if not any(pattern.fullmatch(known) for pattern in skip):
                faults.append(f"unknown: {name} {list(checkpoint.shapes[name])}")
            continue
        match, path, transform = hits[0]
        row = int(match[1]) if match.groups() else None
        shape = want[path].shape
        if row is not None and row >= shape[0]:
            faults.append(f"unknown: {name} (the config has {shape[0]} layers)")
            continue
        expected = _foreign_shape(shape if row is None else shape[1:], transform)
        if (path, row) in sources:
            faults.append(f"twice: {name} and {sources[path, row][0]}")
        elif checkpoint.shapes[name] != expected:
            faults.append(f"misshapen: {name} is {list(checkpoint.shapes[name])}, expected {list(expected)}")
        elif checkpoint.dtypes[name] not in DTYPES:
            faults.append(f"unsupported dtype: {name} is {checkpoint.dtypes[name]}, not {', '.join(DTYPES)}")
        sources.setdefault((path, row), (name, transform))
    for template, (path, _) in table.items():
        rows = range(want[path].shape[0]) if "{i}" in template else [None]
        faults += [f"missing: {template.replace('{i}', str(i))}" for i in rows if (path, i) not in sources]
    if faults:
        raise CheckpointError(f"{checkpoint.folder} does not fit its config:\n  " + "\n  ".join(sorted(faults)))

    places = flat_parameters(shardings(abstract)) if shardings else dict.fromkeys(want)
    loaded = {}
    for path, spec in want.items():
        rows = [row for row in range(spec.shape[0]) if (path, row) in sources] if spec.shape else []
        if not rows:
            loaded[path] = jax.device_put(_read(checkpoint, *sources[path, None], spec.dtype), places[path])
            continue
        stack = jnp.zeros(spec.shape, spec.dtype, device=places[path])
        for i in rows:
            row = jax.device_put(_read(checkpoint, *sources[path, i], spec.dtype), _row_sharding(places[path]))
            stack = _place_row(stack, row, np.int32(i))
        loaded[path] = stack
    return jax.tree.unflatten(jax.tree.structure(abstract), [loaded[path] for path in want])


def _read(checkpoint: Checkpoint, name: str, transform: Transform, dtype: Any) -> np.ndarray:
    return np.ascontiguousarray(transform.load(checkpoint.read(name, dtype)))
