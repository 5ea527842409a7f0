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
      metadata: kept in the file's header.

    Raises:
      OSError: it cannot be written, such as for a full disk.
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
    path.chmod(mode)  # safetensors makes a new file, which only its owner can read
