"""GGUF files, llama.cpp's format, as they lie on disk: metadata, and tensors that stay quantised until they are read.

The package `gguf` dequantises; it is the extra `dyntok_jax[gguf]`.
"""

import os
import struct
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dyntok_jax.convert.offline.gguf_metadata import TensorPlace, read_metadata
from dyntok_jax.errors import CheckpointError
from dyntok_jax.storage import check_not_lfs_pointer

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ARCHITECTURES = {"llama": "Llama, Mistral", "gemma3": "Gemma 3"}
"""What GGUF calls the families that are read."""


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a file, on disk.

    Attributes:
      path: the file.
      shape: its shape, [out, in] for linear maps.
      kind: its quantisation, a `GGMLQuantizationType` of the package.
      offset: of its first byte in the file.
      byte_shape: the shape of its bytes.
    """

    path: Path
    shape: tuple[int, ...]
    kind: Any
    offset: int
    byte_shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        """Dequantises it to float32."""
        n_bytes = prod(self.byte_shape)
        packed = np.fromfile(self.path, np.uint8, n_bytes, offset=self.offset)
        if len(packed) < n_bytes:
            raise CheckpointError(f"{self.path} is truncated at offset {self.offset:,}: fetch it again.")
        return gguf_package().quants.dequantize(packed.reshape(self.byte_shape), self.kind)


@dataclass(frozen=True)
class GgufFile:
    """A parsed file; its tensors stay on disk, quantised, until they are read.

    Attributes:
      path: the file.
      fields: its metadata by key, such as `llama.block_count`.
      tensors: its tensors, by name.
    """

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, GgufTensor]

    @property
    def architecture(self) -> str:
        """What GGUF calls the model's family, a key of `ARCHITECTURES`."""
        return self.fields["general.architecture"]


def is_gguf(path: str | os.PathLike) -> bool:
    """Whether a path is a GGUF file, judged by its first bytes or its name.

    >>> is_gguf(gguf_file), is_gguf(decoder_folder)
    (True, False)
    """
    if not os.path.isfile(path):  # unlike Path.is_file, raises no error for an over-long name
        return False
    try:
        with open(path, "rb") as file:
            return Path(path).suffix == ".gguf" or file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_gguf(source: str | os.PathLike) -> GgufFile:
    """Parses the metadata of a file.

    Raises:
      CheckpointError: the file is missing, damaged, not GGUF, of an unsupported version or architecture, or one part of
        several; or the package `gguf` is not installed.
    """
    path = Path(source)
    try:
        check_not_lfs_pointer(path, CheckpointError)
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}): name a GGUF file.") from error
    if head[:4] != MAGIC or len(head) < 8:
        raise CheckpointError(
            f"{path} is not a GGUF file: it begins with {head[:4]!r}, not {MAGIC!r}. Name another file."
        )
    (version,) = struct.unpack("<I", head[4:])
    if version & 0xFFFF == 0:
        raise CheckpointError(f"{path} is a big-endian GGUF file: only little-endian files are supported.")
    if version not in VERSIONS:
        raise CheckpointError(
            f"{path} has GGUF version {version}; versions {' and '.join(map(str, VERSIONS))} are supported. "
            "Convert the model again with a current llama.cpp."
        )
    fields, places = read_metadata(path)
    architecture = fields.get("general.architecture")
    if architecture not in tuple(ARCHITECTURES):
        known = ", ".join(f"{name!r} ({families})" for name, families in ARCHITECTURES.items())
        raise CheckpointError(
            f"{path} holds a model of architecture {architecture!r}; of GGUF files {known} are supported. Convert the "
            "model from its Hugging Face checkpoint."
        )
    if (count := fields.get("split.count") or 1) > 1:
        raise CheckpointError(
            f"{path} is one of {count} parts of a model: join them with `llama-gguf-split --merge` of llama.cpp."
        )
    return GgufFile(path, fields, {name: _tensor(path, name, place) for name, place in places.items()})


def _tensor(path: Path, name: str, place: TensorPlace) -> GgufTensor:
    package, size = gguf_package(), path.stat().st_size
    try:
        kind = package.GGMLQuantizationType(place.kind)
        byte_shape = package.quants.quant_shape_to_byte_shape(place.shape, kind) if place.shape else (0,)
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is damaged, or newer than the installed package gguf: tensor {name} ({error}). Fetch it again, or "
            "install a newer gguf."
        ) from error
    if place.offset + prod(byte_shape) > size:
        raise CheckpointError(f"{path} ({size:,} bytes) is truncated or damaged: tensor {name} is past its end.")
    return GgufTensor(path, place.shape, kind, place.offset, byte_shape)


def gguf_package() -> Any:
    """The package `gguf`.

    Raises:
      CheckpointError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise CheckpointError(
            f"GGUF files are read with the package gguf, which cannot be imported ({error}). "
            "Install it: pip install 'dyntok_jax[gguf]'."
        ) from error
    return gguf


@cache
def can_dequantize(kind: Any) -> bool:
    """Whether the package can read a quantisation."""
    package = gguf_package()
    try:
        package.quants.dequantize(np.zeros((1, package.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True
