"""Checkpoints of parameter trees in orbax's format: a folder with `config.json`, the arrays, and their checksums.

Parameters are stored by their dotted paths (`layers.query.kernel`), so a checkpoint says what it holds without our
classes, and each is read straight into its shards.
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
from dyntok_jax.storage import read_json

PARAMETERS = "parameters"
"""Name of the folder within a checkpoint that orbax owns."""
SETTLE_SECONDS = 2.0
"""How long writes that are under way are waited for when one has failed."""
CHECKSUMS = "checksums.json"
"""Name of the file beside it with a digest of each parameter, by path: orbax keeps none."""


def is_checkpoint(folder: str | os.PathLike) -> bool:
    """Whether a folder is one that `save_checkpoint` wrote."""
    return ocp.is_orbax_checkpoint(_arrays_of(folder))


def save_checkpoint(folder: str | os.PathLike, config: dict[str, Any], tree: Any, *, overwrite: bool = False) -> None:
    """Writes a tree of parameters and its config; the folder appears under its name once it is whole.

    Args:
      folder: to be made; its parent folders too.
      config: written to `config.json` as it is.
      tree: of arrays, such as an encoder; sharded ones are written shard by shard.
      overwrite: replace a model folder of that name.

    Raises:
      CheckpointError: the folder is there already, or cannot be written.
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
    """The shape and dtype of each parameter of a checkpoint, by dotted path; no array is read.

    Raises:
      CheckpointError: the folder is no checkpoint, or it is damaged.
    """
    folder = Path(folder)
    if not is_checkpoint(folder):
        raise CheckpointError(
            f"{folder} is no checkpoint: it has no finished folder {PARAMETERS!r}. Name a folder that "
            "`dyntok convert` or save_checkpoint wrote."
        )
    with _as_damage(folder):
        entries = ocp.metadata(_arrays_of(folder)).metadata
        if not isinstance(entries, dict):
            raise ValueError("its list of arrays cannot be read")
        return {path: jax.ShapeDtypeStruct(entry.shape, entry.dtype) for path, entry in sorted(entries.items())}


def load_checkpoint(folder: str | os.PathLike, abstract: Any, *, shardings: Callable[[Any], Any] | None = None) -> Any:
    """Reads a tree of parameters, each array straight into its place.

    Args:
      folder: that `save_checkpoint` wrote.
      abstract: the tree with `jax.ShapeDtypeStruct` leaves (`jax.eval_shape` of a constructor); arrays are cast to
        its dtypes.
      shardings: from such a tree to a tree of shardings, such as `partial(shardings_for, mesh=mesh)`; None: the
        default device.

    Raises:
      CheckpointError: no checkpoint, a damaged one, or one of another config: arrays that are unknown, missing or
        misshapen, all of them listed; or arrays that are not those that were written.
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

    On its way to the file is no more than one large parameter. Compressing it would take a copy of it, and saves a
    tenth of the space.
    """
    context = ocp.Context()
    limit = max(map(_n_bytes, jax.tree.leaves(tree)), default=0) + 1  # orbax asks for less than the limit
    context.memory.transfer_concurrent_bytes = limit
    context.memory.write_concurrent_bytes = limit
    context.array.saving.use_compression = False
    return context


def _turns(targets: dict[str, jax.ShapeDtypeStruct]) -> list[list[str]]:
    """The order to read in: orbax holds twice or more what it reads at once, so the large ones come first, alone.

    No turn is larger than the largest parameter, and the last, when most of the memory is taken, is a small one.
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
    """Orbax and tensorstore raise a dozen types for a file that is cut off or gone: here they all mean damage."""
    try:
        yield
    except Exception as error:
        said = (str(error).splitlines() or [""])[0][:200]
        raise CheckpointError(f"{folder} is damaged ({type(error).__name__}: {said}): write it again.") from error
