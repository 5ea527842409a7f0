"""The rows of a vocabulary on disk, of any size: a folder of zarr arrays that are read in ranges of rows.

table.json    what the rows are: model, hypernetwork, vocabulary, dtype, number
done.json     how many rows are written; an interrupted run continues from there
input/        [rows, width] in zarr's format, chunk by chunk, each with a checksum
output/       the same for the output table, if the model has one of its own
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from dyntok_jax.errors import CheckpointError, ConfigError, InputError
from dyntok_jax.storage import check_no_lfs_pointers, read_json, written

CONFIG, DONE = "table.json", "done.json"
LAYOUT = "zarr.json"
"""What the format calls the description of an array."""
FORMAT = "dyntok_vocabulary_table"
_VERSION = 2

Dtype = Literal["float32", "bfloat16", "float16"]
Which = Literal["input", "output"]
Split = Literal["rows", "width"]


@dataclass(frozen=True)
class TableConfig:
    """What the rows of a table are.

    Attributes:
      model: the model's name, for people.
      model_tables: digest of the tables that the rows were computed from.
      hypernetwork: digest of the hypernetwork, or `fvt`.
      language: given to a multilingual hypernetwork; empty for none.
      vocabulary: fingerprint of the vocabulary.
      dtype: of the rows.
      rows: their number, the model's own first.
      width: D.
      chunk_rows: rows of a chunk.
      has_output: whether the output table differs from the input table.

    >>> table.config.rows, table.config.width, table.config.hypernetwork
    (612, 32, 'fvt')
    """

    model: str
    model_tables: str
    hypernetwork: str
    language: str
    vocabulary: str
    dtype: Dtype
    rows: int
    width: int
    chunk_rows: int
    has_output: bool

    @property
    def tables(self) -> tuple[Which, ...]:
        """The arrays that the folder holds."""
        return ("input", "output") if self.has_output else ("input",)

    @property
    def n_bytes(self) -> int:
        """The size of all rows of both tables."""
        return len(self.tables) * self.rows * self.width * jnp.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class VocabularyTable:
    """A table on disk; rows are read when they are asked for.

    Attributes:
      folder: of the table.
      config: what its rows are.
      stores: the open arrays.

    >>> table.rows(600, 612).shape  # of the new entries
    (12, 32)
    >>> table.to_device(which="output").shape
    (612, 32)
    """

    folder: Path
    config: TableConfig
    stores: dict[Which, ts.TensorStore]

    def rows(self, start: int, stop: int, which: Which = "input") -> Shaped[np.ndarray, "rows D"]:
        """Rows of consecutive entries, in the table's dtype; if the tables are tied, both are the same.

        Raises:
          InputError: the rows are out of range.
          CheckpointError: the table is damaged.
        """
        if not 0 <= start <= stop <= self.config.rows:
            raise InputError(f"There are no rows {start} to {stop}: {self.folder} has {self.config.rows:,}.")
        return self._read(slice(start, stop), slice(None), which)

    def to_device(
        self, mesh: Mesh | None = None, which: Which = "input", *, split: Split = "width"
    ) -> Shaped[Array, "rows_padded D"]:
        """The whole table on the device, or sharded over the mesh axis `model`; each device reads only its part.

        Args:
          mesh: None for the default device.
          which: which of the two tables.
          split: what to shard: rows, which are padded with zeros to a multiple of the devices' number, or the width.

        Raises:
          InputError: the split is unknown, or the table does not fit into memory.
          ConfigError: the devices do not divide the width.
          CheckpointError: the table is damaged.
        """
        if split not in get_args(Split):
            raise InputError(f"split must be {' or '.join(get_args(Split))}, got {split!r}.")
        config, n_parts = self.config, 1 if mesh is None else mesh.shape["model"]
        if split == "width" and config.width % n_parts:
            raise ConfigError(f"{n_parts} devices do not divide rows of width {config.width}: split the table by rows.")
        shape = (-(-config.rows // n_parts) * n_parts if split == "rows" else config.rows, config.width)
        spec = PartitionSpec("model", None) if split == "rows" else PartitionSpec(None, "model")
        device = jax.local_devices()[0]
        sharding = jax.sharding.SingleDeviceSharding(device) if mesh is None else NamedSharding(mesh, spec)
        n_copies = len(sharding.addressable_devices)
        n_bytes = n_copies * shape[0] * shape[1] * jnp.dtype(config.dtype).itemsize // n_parts
        _check_room(self.folder, sharding.addressable_devices, n_bytes)

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            rows, columns = (slice(None), slice(None)) if index is None else index
            start, stop, _ = rows.indices(shape[0])
            values = self._read(slice(start, max(start, min(stop, config.rows))), columns, which)
            n_padding = stop - start - len(values)  # even without padding, np.pad would copy everything
            return np.pad(values, ((0, n_padding), (0, 0))) if n_padding else values

        return jax.make_array_from_callback(shape, sharding, part)

    def _read(self, rows: slice, columns: slice, which: Which) -> np.ndarray:
        if which not in get_args(Which):
            raise InputError(f"which must be input or output, got {which!r}.")
        if rows.start >= rows.stop:
            return np.zeros((0, len(range(*columns.indices(self.config.width)))), jnp.dtype(self.config.dtype))
        with as_damage(self.folder):
            return self.stores[which if self.config.has_output else "input"][rows, columns].read().result()


def open_table(folder: str | os.PathLike, *, vocabulary_hash: str | None = None) -> VocabularyTable:
    """Opens a complete table; reads no row.

    Args:
      folder: written by `embed_vocabulary`.
      vocabulary_hash: fingerprint of the vocabulary in use, checked against the table's; None to skip the check.

    Raises:
      InputError: the folder is not a table, is not finished, or belongs to another vocabulary.
      CheckpointError: it is damaged.

    >>> open_table(table.folder, vocabulary_hash=grown.fingerprint).config == table.config
    True
    """
    folder = Path(folder)
    config = read_table_config(folder)
    if (n_done := read_rows_done(folder)) < config.rows:
        raise InputError(
            f"{folder} is not finished: {n_done:,} of {config.rows:,} rows are written. Run the same command again "
            "to continue."
        )
    if vocabulary_hash is not None and vocabulary_hash != config.vocabulary:
        raise InputError(
            f"{folder} holds the rows of another vocabulary (fingerprint {config.vocabulary}, the one in use has "
            f"{vocabulary_hash}): embed this one."
        )
    return VocabularyTable(folder, config, open_stores(folder, config, create=False))


def open_stores(folder: Path, config: TableConfig, *, create: bool) -> dict[Which, ts.TensorStore]:
    """The arrays of a table; with `create` missing ones are created.

    Raises:
      CheckpointError: they cannot be opened, or have another shape.
    """
    chunk_shape = [min(config.chunk_rows, config.rows), config.width]
    layout = {
        "shape": [config.rows, config.width],
        "data_type": config.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        "chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "fill_value": 0,
    }
    with as_damage(folder):
        return {
            name: ts.open(
                {
                    "driver": "zarr3",
                    "kvstore": {"driver": "file", "path": str((folder / name).absolute())},
                    "metadata": layout,
                    # a missing chunk is damage, not zeros
                    "fill_missing_data_reads": False,
                    "store_data_equal_to_fill_value": True,
                },
                open=True,
                create=create,
            ).result()
            for name in config.tables
        }


def mended_stores(folder: Path, config: TableConfig) -> dict[Which, ts.TensorStore]:
    """The arrays of a table, made where they are not there, and anew where their layout cannot be read."""
    try:
        return open_stores(folder, config, create=True)
    except CheckpointError:
        for name in config.tables:
            (folder / name / LAYOUT).unlink(missing_ok=True)
        return open_stores(folder, config, create=True)


def is_chunk_whole(stores: dict[Which, ts.TensorStore], start: int, stop: int) -> bool:
    """Whether the rows of a chunk can be read, and have their checksum, in all tables."""
    try:
        for store in stores.values():
            store[start:stop].read().result()
    except (ValueError, OSError):
        return False
    return True


def write_table_config(folder: Path, config: TableConfig) -> None:
    """Writes `table.json`."""
    _write_json(folder / CONFIG, {"format": FORMAT, "version": _VERSION, **asdict(config)})


def read_table_config(folder: Path) -> TableConfig:
    """Reads `table.json`.

    Raises:
      InputError: it is missing or damaged, or has another version.
    """
    content = _read_json(folder / CONFIG)
    if content.get("format") != FORMAT:
        raise InputError(f"{folder} is not a table of a vocabulary: name a folder that `dyntok embed-vocab` wrote.")
    if content.get("version") != _VERSION:
        raise InputError(
            f"{folder} has version {content.get('version')}, but this program reads version {_VERSION}: embed it "
            "again, with --overwrite."
        )
    kinds = {field.name: field.type if isinstance(field.type, type) else str for field in fields(TableConfig)}
    wrong = [name for name, kind in kinds.items() if type(content.get(name)) is not kind]
    if not wrong and (content["dtype"] not in get_args(Dtype) or min(content["rows"], content["chunk_rows"]) < 1):
        wrong = ["dtype, rows or chunk_rows"]
    if wrong:
        said = ", ".join(wrong)
        raise InputError(f"{folder / CONFIG} is damaged ({said}): embed the vocabulary again, with --overwrite.")
    return TableConfig(**{name: content[name] for name in kinds})


def write_rows_done(folder: Path, n_rows: int) -> None:
    """Notes that this many rows are on disk."""
    _write_json(folder / DONE, {"rows": n_rows})


def read_rows_done(folder: Path) -> int:
    """How many rows are on disk.

    Raises:
      InputError: the note is damaged.
    """
    if not (folder / DONE).exists():
        return 0
    n_rows = _read_json(folder / DONE).get("rows")
    if type(n_rows) is not int or n_rows < 0:
        raise InputError(f"{folder / DONE} is damaged: delete the folder, and embed the vocabulary again.")
    return n_rows


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with written(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"There is no {path}: name a folder that `dyntok embed-vocab` wrote.")
    return read_json(path, InputError, "embed the vocabulary again, with --overwrite")


@contextmanager
def as_damage(folder: Path) -> Iterator[None]:
    """Tensorstore raises ValueError for anything wrong with a file, which here means damage."""
    try:
        yield
    except (ValueError, OSError) as error:
        check_no_lfs_pointers(folder, CheckpointError)
        said = (str(error).splitlines() or [""])[0][:200]
        raise CheckpointError(
            f"{folder} is damaged or cannot be written ({said}): embed the vocabulary again."
        ) from error


def readable_bytes(n_bytes: int) -> str:
    """A size for people, in three digits or fewer.

    >>> readable_bytes(512), readable_bytes(23_500_000), readable_bytes(2_300_000_000)
    ('512 bytes', '24 MB', '2.3 GB')
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if n_bytes >= size:
            number = n_bytes / size
            return f"{number:.1f} {unit}" if number < 10 else f"{number:,.0f} {unit}"
    return f"{n_bytes} bytes"


def _check_room(folder: Path, devices: Any, n_bytes: int) -> None:
    """Raises InputError if the devices' memory is known to be too small."""
    known = [device.memory_stats() for device in devices]
    free = [stats["bytes_limit"] - stats["bytes_in_use"] for stats in known if stats and "bytes_limit" in stats]
    room = sum(free) if free else _host_memory()
    if room is not None and n_bytes > room:
        raise InputError(
            f"{folder} takes {readable_bytes(n_bytes)} on the devices, which have {readable_bytes(room)} free: shard "
            "it over more devices, store it as bfloat16, or read parts of it with `rows`."
        )


def _host_memory() -> int | None:
    """Bytes of free host memory, if the system reports them."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
