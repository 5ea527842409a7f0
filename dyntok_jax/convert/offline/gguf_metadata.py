"""The metadata of a GGUF file: its fields, and where each tensor lies.

Every length that the file claims is compared with the bytes that it has, before any of it is read or made room for. The
package `gguf` makes an array of every element instead, which takes a minute and a half for a vocabulary of 262,144.

The layout is that of the format's specification (`gguf.md` of ggml), versions 2 and 3, little-endian.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dyntok_jax.errors import CheckpointError

STRING, ARRAY = 8, 9
"""Kinds of value that say how long they are."""
NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
"""Every other kind."""
HEADER = 24
"""Bytes before the first field: magic number, version, how many tensors, how many fields."""
LEAST_TENSOR = 24
"""Bytes that the description of a tensor takes at least."""
MOST_NESTED, MOST_AXES = 4, 8
"""Arrays within arrays, and axes of a tensor; files have none at all, and at most 4."""
ALIGNMENT = 32
"""Tensors lie at multiples of this, unless the file says another."""


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor lies.

    Attributes:
      shape: [out, in] for linear maps: the reverse of the file's order.
      kind: number of its quantisation.
      offset: of its first byte in the file.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int


def read_metadata(path: Path) -> tuple[dict[str, Any], dict[str, TensorPlace]]:
    """The fields of a little-endian file of version 2 or 3 by key, and its tensors by name.

    Raises:
      CheckpointError: something claims to be longer than the rest of the file, comes twice, is not text, or is of a
        kind that there is not.
    """
    size = path.stat().st_size
    if size < HEADER:
        raise CheckpointError(f"{path} ({size:,} bytes) is truncated or damaged: fetch it again.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _Cursor(data).metadata()
        except (ValueError, struct.error) as error:  # also what is no UTF-8
            raise CheckpointError(
                f"{path} ({size:,} bytes) is truncated or damaged (its metadata asks for {error}): fetch it again."
            ) from error


class _Cursor:
    """Reads a file from its beginning."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 8

    def metadata(self) -> tuple[dict[str, Any], dict[str, TensorPlace]]:
        n_tensors, n_fields = self.number("<u8"), self.number("<u8")
        if n_tensors * LEAST_TENSOR + n_fields > len(self.data):
            raise ValueError(f"{n_tensors:,} tensors and {n_fields:,} fields")
        fields: dict[str, Any] = {}
        for _ in range(n_fields):
            key = self.text()
            if key in fields:
                raise ValueError(f"the field {key!r} twice")
            fields[key] = self.value(self.number("<u4"))
        found: dict[str, TensorPlace] = {}
        for _ in range(n_tensors):
            name = self.text()
            if name in found:
                raise ValueError(f"the tensor {name!r} twice")
            n_axes = self.number("<u4")
            if n_axes > MOST_AXES:
                raise ValueError(f"a tensor of {n_axes:,} axes")
            shape = tuple(self.number("<u8") for _ in range(n_axes))[::-1]
            found[name] = TensorPlace(shape, self.number("<u4"), self.number("<u8"))
        alignment = fields.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"an alignment of {alignment!r}")
        begin = -(-self.at // alignment) * alignment
        return fields, {name: TensorPlace(one.shape, one.kind, begin + one.offset) for name, one in found.items()}

    def number(self, dtype: str) -> Any:
        return self.numbers(dtype, 1, "a number past the end")[0]

    def numbers(self, dtype: str, count: int, what: str) -> list[Any]:
        start = self.pass_over(count * np.dtype(dtype).itemsize, what)
        return np.frombuffer(self.data, dtype, count, start).tolist()

    def text(self) -> str:
        length = self.number("<u8")
        start = self.pass_over(length, f"a text of {length:,} bytes")
        return self.data[start : self.at].decode()

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == STRING:
            return self.text()
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind != ARRAY or depth >= MOST_NESTED:
            raise ValueError(f"a value of kind {kind}")
        of_kind, count = self.number("<u4"), self.number("<u8")
        if of_kind in NUMBERS:
            return self.numbers(NUMBERS[of_kind], count, f"a list of {count:,} numbers")
        if self.at + count * 8 > len(self.data):
            raise ValueError(f"a list of {count:,} texts")
        return [self.value(of_kind, depth + 1) for _ in range(count)]

    def pass_over(self, n_bytes: int, what: str) -> int:
        """Moves on by so many bytes; returns where they begin."""
        start, self.at = self.at, self.at + n_bytes
        if self.at > len(self.data):
            raise ValueError(what)
        return start
