"""An index on disk: a folder with its arrays (safetensors) and `config.json`."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from dyntok_jax.errors import CheckpointError, InputError
from dyntok_jax.files import new_folder
from dyntok_jax.storage import check_not_lfs_pointer, read_json, save_arrays
from dyntok_jax.vocabulary import TableConfig
from dyntok_jax.vocabulary.index.building import Built
from dyntok_jax.vocabulary.index.inner_products import MipsIndex, RowBlocks

FORMAT = "dyntok-mips-index 2"
ARRAYS = "index.safetensors"
CONFIG = "config.json"
_BLOCKS = ("rows", "ids", "count", "rank_weight", "rank_bias", "scale")
_SPECIAL = ("special_E", "special_ED")


def table_identity(config: TableConfig) -> str:
    """A digest that identifies a table on disk by what its rows were computed from; reads no row.

    >>> from dataclasses import replace
    >>> table_identity(replace(table.config, language="de")) == table_identity(table.config)
    False
    """
    computed_from = {name: value for name, value in asdict(config).items() if name not in ("model", "chunk_rows")}
    return hashlib.sha256(json.dumps(computed_from, sort_keys=True).encode()).hexdigest()


def save_index(
    folder: str | os.PathLike, built: Built, *, table: str, about: dict[str, Any] | None = None, overwrite: bool = False
) -> None:
    """Writes an index; the folder appears under its name once it is complete.

    Args:
      folder: to create; parent folders too.
      built: the index and its recall.
      table: digest of the table that was indexed, see `table_identity`.
      about: more fields of `config.json`, such as the vocabulary's name.
      overwrite: replace a folder of that name that has a `config.json`.

    Raises:
      CheckpointError: the folder exists already, or cannot be written.

    >>> from dyntok_jax.vocabulary.index import build_index
    >>> built = build_index(table.rows(0, table.config.rows, "output"), queries, n_own=600)
    >>> save_index(folder / "index", built, table=table_identity(table.config))
    >>> sorted(path.name for path in (folder / "index").iterdir())
    ['config.json', 'index.safetensors']
    """
    index = built.index
    arrays = {name: getattr(index.blocks, name) for name in _BLOCKS} | {name: getattr(index, name) for name in _SPECIAL}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None}
    config = (about or {}) | {
        "format": FORMAT,
        "table": table,
        "rows": int(np.sum(index.blocks.count)) + len(index.special_E),
        "width": index.blocks.rows.shape[2],
        "blocks": len(index.blocks),
        "dtype": str(index.blocks.rows.dtype),
        "held_out_queries": built.n_held_out,
        "recall_at_20": {str(probe): recall for probe, recall in built.recall.items()},
        "best_row_found": {str(probe): share for probe, share in built.best_found.items()},
    }
    with new_folder(folder, overwrite=overwrite) as part:
        save_arrays(part / ARRAYS, arrays)
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (part / CONFIG).write_text(text, encoding="utf-8")


def read_about(folder: str | os.PathLike) -> dict[str, Any]:
    """Reads an index's `config.json`.

    Raises:
      InputError: there is no index in the folder.
      CheckpointError: it is damaged or has another version.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise InputError(f"There is no index in {folder} (no {CONFIG}): name a folder that `dyntok build-index` wrote.")
    about = read_json(path, CheckpointError, "build the index again")
    if about.get("format") != FORMAT:
        raise CheckpointError(f"{folder} is not an index of this version ({FORMAT}): build it again.")
    return about


def load_index(folder: str | os.PathLike, *, table: str | None) -> MipsIndex:
    """Reads an index into host memory; `place_index` or `jax.device_put` take it from there.

    Args:
      folder: written by `save_index`.
      table: digest of the table in use (`table_identity`); None to skip the check.

    Raises:
      InputError: there is no index in the folder, or it indexes another table.
      CheckpointError: it is damaged.

    >>> from dyntok_jax.vocabulary.index import build_index
    >>> built = build_index(table.rows(0, table.config.rows, "output"), queries, n_own=600)
    >>> save_index(folder / "index", built, table=table_identity(table.config))
    >>> len(load_index(folder / "index", table=table_identity(table.config)).blocks)
    4
    """
    about = read_about(folder)
    if table is not None and about.get("table") != table:
        raise InputError(
            f"The index in {folder} indexes another table (digest {str(about.get('table'))[:12]}…, the table in use "
            f"has {table[:12]}…): build an index of this table."
        )
    path = Path(folder) / ARRAYS
    check_not_lfs_pointer(path, CheckpointError)
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): build the index again.") from error
    names, shape = {*_BLOCKS, *_SPECIAL}, (about.get("blocks"), about.get("width"))
    if not names - {"scale"} <= set(arrays) <= names or arrays["rows"].shape[::2] != shape:
        raise CheckpointError(f"{path} is damaged (its arrays are not those of {CONFIG}): build the index again.")
    blocks = RowBlocks(**{name: arrays[name] for name in _BLOCKS if name != "scale"}, scale=arrays.get("scale"))
    return MipsIndex(blocks, **{name: arrays[name] for name in _SPECIAL})
