"""The sizes that a GGUF file claims, compared with the bytes that it has: before any of it is read or made room for."""

import mmap
import struct
from pathlib import Path

from dyntok_jax.errors import CheckpointError

STRING, ARRAY = 8, 9
"""Kinds of value that say how long they are."""
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of every other kind."""
HEADER = 24
"""Bytes before the first field: magic number, version, how many tensors, how many fields."""
LEAST_TENSOR = 24
"""Bytes that the description of a tensor takes at least."""
MOST_NESTED = 4
"""Arrays within arrays; files have none at all."""


def check_gguf_sizes(path: Path) -> None:
    """Walks over the metadata of a little-endian file of version 2 or 3.

    Raises:
      CheckpointError: something claims to be longer than the rest of the file, or is of a kind that there is not.
    """
    size = path.stat().st_size
    if size < HEADER:
        raise CheckpointError(f"{path} ({size:,} bytes) is truncated or damaged: fetch it again.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        n_tensors, n_fields = struct.unpack_from("<QQ", data, 8)
        try:
            if n_tensors * LEAST_TENSOR + n_fields > size:
                raise ValueError(f"{n_tensors:,} tensors and {n_fields:,} fields")
            at = HEADER
            for _ in range(n_fields):
                at = _after_string(data, at)
                (kind,) = struct.unpack_from("<I", data, at)
                at = _after_value(data, at + 4, kind)
        except (ValueError, struct.error) as error:
            raise CheckpointError(
                f"{path} ({size:,} bytes) is truncated or damaged (its metadata asks for {error}): fetch it again."
            ) from error


def _after_string(data: mmap.mmap, at: int) -> int:
    (length,) = struct.unpack_from("<Q", data, at)
    return _within(data, at + 8 + length, f"a text of {length:,} bytes")


def _after_value(data: mmap.mmap, at: int, kind: int, depth: int = 0) -> int:
    """Where the value that begins here ends."""
    if kind == STRING:
        return _after_string(data, at)
    if kind in WIDTHS:
        return _within(data, at + WIDTHS[kind], "a number past the end")
    if kind != ARRAY or depth >= MOST_NESTED:
        raise ValueError(f"a value of kind {kind}")
    of_kind, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if of_kind in WIDTHS:
        return _within(data, at + count * WIDTHS[of_kind], f"a list of {count:,} numbers")
    _within(data, at + count * 8, f"a list of {count:,} texts")
    for _ in range(count):
        at = _after_value(data, at, of_kind, depth + 1)
    return at


def _within(data: mmap.mmap, end: int, what: str) -> int:
    if end > len(data):
        raise ValueError(what)
    return end
