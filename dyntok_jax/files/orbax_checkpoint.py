"""Checkpoints of parameter trees in orbax's format: a folder with `config.json`, the arrays, and their checksums.

Parameters are stored by their dotted paths (`layers.query.kernel`), so a checkpoint can be read without our
classes, and each parameter is read directly into its shards.
"""

import errno
import gc
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from math import prod
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint.experimental.v1 as ocp
from jax.sharding import SingleDeviceSharding

from dyntok_jax.errors import CheckpointError
from dyntok_jax.files.folders import new_folder
from dyntok_jax.parameters import fingerprint, flat_parameters
from dyntok_jax.storage import check_no_lfs_pointers, read_json

PARAMETERS = "parameters"
"""Subfolder of a checkpoint that orbax writes."""
SETTLE_SECONDS = 2.0
"""How long to wait for writes under way when one has failed."""
CHECKSUMS = "checksums.json"
"""File beside it with a digest of each parameter, by path: orbax keeps none."""


def is_checkpoint(folder: str | os.PathLike) -> bool:
    """Whether `save_checkpoint` wrote a folder.

    >>> is_checkpoint(encoder_folder)  # in Hugging Face's format
    False
    """
    return ocp.is_orbax_checkpoint(_arrays_of(folder))


def save_checkpoint(folder: str | os.PathLike, config: dict[str, Any], tree: Any, *, overwrite: bool = False) -> None:
    """Writes a tree of parameters and its config; the folder appears under its name once it is complete.

    Args:
      folder: to create; parent folders too.
      config: the content of `config.json`.
      tree: of arrays, such as an encoder; sharded ones are written shard by shard.
      overwrite: replace a model folder of that name.

    Raises:
      CheckpointError: the folder exists already, or cannot be written.

    >>> save_checkpoint(folder / "encoder", encoder.config.to_hf(), encoder.encoder)
    >>> sorted(path.name for path in (folder / "encoder").iterdir())
    ['checksums.json', 'config.json', 'parameters']
    """
    with new_folder(folder, overwrite=overwrite) as part:
        fill_checkpoint(part, config, tree)


def fill_checkpoint(folder: Path, config: dict[str, Any], tree: Any) -> None:
    """Writes the same into a folder that is there.

    Raises:
      OSError: it cannot be written, such as for a full disk.
    """
    _save(folder, tree)
    digests = {path: _digest(leaf) for path, leaf in flat_parameters(tree).items()}
    (folder / CHECKSUMS).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def _save(folder: Path, tree: Any) -> None:
    """Writes the arrays. What orbax logs of a failure, thread by thread, is left out: one error tells it.

    Raises:
      OSError: they cannot be written.
    """
    needed = sum(map(_n_bytes, jax.tree.leaves(tree)))
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    logger, said, number = logging.getLogger("absl"), "", errno.EIO
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL + 1)
        with redirect_stderr(StringIO()) as printed, _bounded_writing(tree):
            ocp.save(_arrays_of(folder), flat_parameters(tree))
        if printed.getvalue():
            print(printed.getvalue(), end="", file=sys.stderr)
        return
    except Exception as error:  # a full disk is a ValueError of tensorstore's, in many lines
        said = (str(error).splitlines() or [""])[0]
        if found := re.search(r"os_error_code='(\d+)'", str(error)):
            said, number = os.strerror(int(found[1])), int(found[1])
        said = said or type(error).__name__
    finally:
        logger.setLevel(level)
    with redirect_stderr(StringIO()):  # writes under way come to their end, and complain of it when they are let go
        gc.collect()
        time.sleep(SETTLE_SECONDS)
        gc.collect()
    raise OSError(number, said)


def read_shapes(folder: str | os.PathLike) -> dict[str, jax.ShapeDtypeStruct]:
    """The shape and dtype of each parameter of a checkpoint, by dotted path; reads no array.

    Raises:
      CheckpointError: the folder is not a checkpoint, or it is damaged.

    >>> save_checkpoint(folder / "encoder", encoder.config.to_hf(), encoder.encoder)
    >>> read_shapes(folder / "encoder")["layers.query.kernel"]
    ShapeDtypeStruct(shape=(2, 32, 4, 8), dtype=float32)
    """
    folder = Path(folder)
    if not is_checkpoint(folder):
        raise CheckpointError(
            f"{folder} is not a checkpoint: it has no complete folder {PARAMETERS!r}. Name a folder that "
            "`dyntok convert` or save_checkpoint wrote."
        )
    check_no_lfs_pointers(folder, CheckpointError)
    with _as_damage(folder):
        entries = ocp.metadata(_arrays_of(folder)).metadata
        if not isinstance(entries, dict):
            raise ValueError("its list of arrays cannot be read")
        return {path: jax.ShapeDtypeStruct(entry.shape, entry.dtype) for path, entry in sorted(entries.items())}


def load_checkpoint(folder: str | os.PathLike, abstract: Any, *, shardings: Callable[[Any], Any] | None = None) -> Any:
    """Reads a tree of parameters, each array directly into its device or shards.

    Args:
      folder: written by `save_checkpoint`.
      abstract: the tree with `jax.ShapeDtypeStruct` leaves (`jax.eval_shape` of a constructor); arrays are cast to
        its dtypes.
      shardings: from such a tree to a tree of shardings, such as `partial(shardings_for, mesh=mesh)`; None: the
        default device.

    Raises:
      CheckpointError: the folder is not a checkpoint, is damaged, or does not fit the config; the error lists all
        arrays that are unknown, missing or misshapen, or whose checksum is not the one written.

    >>> from functools import partial
    >>> from dyntok_jax.models import Encoder
    >>> save_checkpoint(folder / "encoder", encoder.config.to_hf(), encoder.encoder)
    >>> abstract = jax.eval_shape(partial(Encoder, encoder.config), jax.random.key(0))
    >>> loaded = load_checkpoint(folder / "encoder", abstract)
    >>> bool((loaded.word_embeddings[...] == encoder.encoder.word_embeddings[...]).all())
    True
    """
    folder = Path(folder)
    want, have = flat_parameters(abstract), read_shapes(folder)
    faults = [f"unknown: {path} {list(have[path].shape)}" for path in have.keys() - want.keys()]
    faults += [f"missing: {path}" for path in want.keys() - have.keys()]
    faults += [
        f"misshapen: {path} is {list(have[path].shape)}, expected {list(want[path].shape)}"
        for path in want.keys() & have.keys()
        if have[path].shape != want[path].shape
    ]
    if faults:
        raise CheckpointError(f"{folder} does not fit its config:\n  " + "\n  ".join(sorted(faults)))
    default = SingleDeviceSharding(jax.local_devices()[0])
    places = flat_parameters(shardings(abstract)) if shardings else dict.fromkeys(want, default)
    digests = _read_checksums(folder)
    # as they were written, for the checksums; cast one by one
    targets = {
        path: jax.ShapeDtypeStruct(leaf.shape, have[path].dtype, sharding=places[path]) for path, leaf in want.items()
    }
    loaded: dict[str, Any] = {}
    with _as_damage(folder):
        for turn in _turns(targets):
            asked = {path: target if path in turn else ocp.PLACEHOLDER for path, target in targets.items()}
            read = ocp.load(_arrays_of(folder), asked)
            for path in turn:
                if digests and digests.get(path) != _digest(read[path]):
                    raise ValueError(f"{path} is not what was written")
                loaded[path] = jax.block_until_ready(read.pop(path).astype(want[path].dtype))
    return jax.tree.unflatten(jax.tree.structure(abstract), [loaded[path] for path in want])


def _arrays_of(folder: str | os.PathLike) -> str:
    return str(Path(folder).absolute() / PARAMETERS)


def _digest(leaf: Any) -> str:
    """The digest of one parameter; only that one is ever copied to the host, and the copy is not kept."""
    is_whole = isinstance(leaf, jax.Array) and leaf.is_fully_replicated
    return fingerprint(leaf.addressable_data(0) if is_whole else leaf)


def _read_checksums(folder: Path) -> dict[str, Any]:
    """The digests of a checkpoint; empty for one of version 0.1, which has none."""
    path = folder / CHECKSUMS
    return read_json(path, CheckpointError, "write the checkpoint again") if path.is_file() else {}


def _bounded_writing(tree: Any) -> ocp.Context:
    """Settings for a tree that fills most of the memory: by default orbax holds a second copy while it writes.

    At most one large parameter is in flight. Compression would need a copy of it, and saves only a tenth of the space.
    """
    context = ocp.Context()
    limit = max(map(_n_bytes, jax.tree.leaves(tree)), default=0) + 1  # orbax asks for less than the limit
    context.memory.transfer_concurrent_bytes = limit
    context.memory.write_concurrent_bytes = limit
    context.array.saving.use_compression = False
    return context


def _turns(targets: dict[str, jax.ShapeDtypeStruct]) -> list[list[str]]:
    """The order of reading: large parameters come first, because orbax needs twice the memory of what it reads at once.

    No turn is larger than the largest parameter, and the last, when memory is nearly full, is small.
    """
    turns: list[list[str]] = []
    room = limit = max(map(_n_bytes, targets.values()), default=0)
    for path in sorted(targets, key=lambda path: _n_bytes(targets[path]), reverse=True):
        n_bytes = _n_bytes(targets[path])
        if not turns or n_bytes > room:
            turns.append([])
            room = limit
        turns[-1].append(path)
        room -= n_bytes
    return turns


def _n_bytes(leaf: Any) -> int:
    return prod(leaf.shape) * leaf.dtype.itemsize


@contextmanager
def _as_damage(folder: Path) -> Iterator[None]:
    """Orbax and tensorstore raise a dozen types for a truncated or missing file: here they all mean damage."""
    try:
        yield
    except Exception as error:
        said = (str(error).splitlines() or [""])[0][:200]
        raise CheckpointError(f"{folder} is damaged ({type(error).__name__}: {said}): write it again.") from error
