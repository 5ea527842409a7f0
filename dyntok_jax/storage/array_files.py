"""Arrays in one safetensors file, with the errors and the permissions of any other file."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Writes arrays to a safetensors file.

    Args:
      path: the file.
      arrays: by name, each in C order.
      metadata: stored in the file's header.

    Raises:
      OSError: the file cannot be written, for example because the disk is full.

    >>> from safetensors.numpy import load_file
    >>> save_arrays(folder / "tokens.safetensors", {"ids": np.array([3, 1, 2])})
    >>> load_file(folder / "tokens.safetensors")
    {'ids': array([3, 1, 2])}
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(arrays), path, metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:
        if found := re.search(r"os error (\d+)", str(error)):
            number = int(found[1])
            raise OSError(number, os.strerror(number)) from error
        raise OSError(str(error)) from error
    path.chmod(mode)  # safetensors creates a new file that only its owner can read
