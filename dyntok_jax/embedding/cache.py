"""The embedding cache: predicted rows on the host, the least recently used evicted first.

A key is a namespace (model, hypernetwork, language, surface mode, S) and all subword ids of a token. Tokens are not
hashed, so two tokens never share a row.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32
from safetensors import SafetensorError, safe_open

from dyntok_jax.errors import CheckpointError, InputError
from dyntok_jax.options import whole_number
from dyntok_jax.storage import check_not_lfs_pointer, save_arrays, written

FORMAT = "dyntok-embedding-cache 1"


def namespace(**parts: str | int) -> bytes:
    """A digest of everything that must agree for two tokens to share a row: 16 bytes."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()[:16]


def token_keys(
    namespaces: Sequence[bytes], surface_US: Int32[np.ndarray, "U S"], is_subword_US: Bool[np.ndarray, "U S"]
) -> list[bytes]:
    """The key of each surface form, given its namespace."""
    lengths = is_subword_US.sum(axis=1)
    return [
        space + form[:length].tobytes()
        for space, form, length in zip(namespaces, np.ascontiguousarray(surface_US), lengths, strict=True)
    ]


class _Counts(threading.local):
    """What each thread found and did not find, so that a call can tell its own from those of its neighbours."""

    hits = misses = 0


class EmbeddingCache:
    """At most `capacity` rows of `width` float32 numbers, with counts of hits and misses.

    Threads may share one.

    Attributes:
      capacity: the most rows it holds.
      width: numbers a row.
      hits: keys found, since the start or `reset_counts`.
      misses: keys not found.

    >>> cache = EmbeddingCache(capacity=2, width=3)
    >>> for keys in ([b"a", b"b"], [b"b", b"c"]):
    ...     rows_UD = cache.fetch(keys, lambda missing: np.ones((len(missing), 3), np.float32))
    >>> cache.hits, cache.misses, len(cache)
    (1, 3, 2)
    """

    def __init__(self, capacity: int, width: int):
        capacity = whole_number("The capacity of a cache", capacity)
        self.capacity, self.width = capacity, width
        self._slots: OrderedDict[bytes, int] = OrderedDict()  # least recently used first
        self._rows_CD = np.zeros((0, width), np.float32)
        self._lock = threading.Lock()  # of all of the above and the counts
        self._of_thread = _Counts()
        self.reset_counts()

    def __len__(self) -> int:
        return len(self._slots)

    def reset_counts(self) -> None:
        """Sets the counts of hits and misses to zero."""
        with self._lock:
            self.hits = self.misses = 0

    def counts_of_thread(self) -> tuple[int, int]:
        """Hits and misses of the calling thread since its start; `reset_counts` does not change them."""
        return self._of_thread.hits, self._of_thread.misses

    def fetch(
        self, keys: Sequence[bytes], predict: Callable[[Int[np.ndarray, "missing"]], Float32[np.ndarray, "missing D"]]
    ) -> Float32[np.ndarray, "U D"]:
        """The row of each key; missing rows are predicted and cached.

        Args:
          keys: distinct keys.
          predict: given the positions in `keys` of those not found, returns their rows.

        Returns:
          A new array: evictions do not change it, not even those of this call if there are more keys than capacity.
        """
        rows_UD = np.empty((len(keys), self.width), np.float32)
        with self._lock:
            slots_U = np.fromiter((self._slots.get(key, -1) for key in keys), np.int64, len(keys))
            found_U = slots_U >= 0
            rows_UD[found_U] = self._rows_CD[slots_U[found_U]]
            for position in np.flatnonzero(found_U):
                self._slots.move_to_end(keys[position])
            missing = np.flatnonzero(~found_U)
            self.hits += len(keys) - len(missing)
            self.misses += len(missing)
        self._of_thread.hits += len(keys) - len(missing)
        self._of_thread.misses += len(missing)
        if len(missing):
            rows_UD[missing] = predict(missing)  # long, so other threads may go on
            with self._lock:
                for position in missing[-self.capacity :]:
                    self._insert(keys[position], rows_UD[position])
        return rows_UD

    def _insert(self, key: bytes, row: Float32[np.ndarray, "D"]) -> None:
        if key in self._slots:  # another thread predicted it in the meantime
            return
        if len(self._slots) < self.capacity:
            slot = len(self._slots)
            if slot == len(self._rows_CD):
                grown_CD = np.zeros((min(self.capacity, max(1024, 2 * slot)), self.width), np.float32)
                grown_CD[:slot] = self._rows_CD
                self._rows_CD = grown_CD
        else:
            _, slot = self._slots.popitem(last=False)
        self._slots[key] = slot
        self._rows_CD[slot] = row

    def save(self, path: Path | str) -> None:
        """Writes rows and keys to one safetensors file, which replaces an old one only when complete.

        Raises:
          InputError: the file cannot be written.
        """
        with self._lock:
            keys = list(self._slots)
            rows_CD = self._rows_CD[list(self._slots.values())]
        arrays = {
            "rows": rows_CD,
            "key_bytes": np.frombuffer(b"".join(keys), np.uint8),
            "key_ends": np.cumsum([len(key) for key in keys], dtype=np.int64),
        }
        try:
            with written(path) as part:
                save_arrays(part, arrays, {"format": FORMAT})
        except OSError as error:
            raise InputError(
                f"The embedding cache cannot be written to {path} ({error.strerror or error}): name a file in a folder "
                "that you may write to, on a disk with room."
            ) from error

    @classmethod
    def load(cls, path: Path | str, *, capacity: int, width: int) -> "EmbeddingCache":
        """Reads a saved cache; of more rows than `capacity`, the most recently used are kept.

        Raises:
          InputError: there is no such file, or it cannot be read.
          CheckpointError: it is damaged, not an embedding cache, or its rows have another width.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"There is no embedding cache at {path}.")
        check_not_lfs_pointer(path, CheckpointError)
        try:
            with safe_open(path, framework="np") as file:
                if (file.metadata() or {}).get("format") != FORMAT:
                    raise CheckpointError(f"{path} is not an embedding cache of this version ({FORMAT}): delete it.")
                rows_CD, key_bytes, ends = (file.get_tensor(name) for name in ("rows", "key_bytes", "key_ends"))
        except SafetensorError as error:
            raise CheckpointError(f"{path} is damaged ({error}): delete it, and it will be rebuilt.") from error
        except OSError as error:
            raise InputError(
                f"The embedding cache {path} cannot be read ({error}): name one that you may read."
            ) from error
        if (rows_CD.ndim, key_bytes.ndim, ends.ndim) != (2, 1, 1) or (rows_CD.dtype, ends.dtype) != ("f4", "i8"):
            raise CheckpointError(f"{path} is damaged (its arrays have wrong shapes or types): delete it.")
        if rows_CD.shape[1] != width:
            raise CheckpointError(
                f"The rows of {path} are {rows_CD.shape[1]} wide and the model is {width}: delete it."
            )
        if not np.isfinite(rows_CD).all():
            raise CheckpointError(f"{path} holds embeddings that are NaN or infinite: delete it.")
        bounds, text = [0, *ends.tolist()], key_bytes.tobytes()
        keys = [text[begin:end] for begin, end in pairwise(bounds)]
        if not len(rows_CD) == len(keys) == len(set(keys)) or bounds != sorted(bounds) or bounds[-1] != len(text):
            raise CheckpointError(f"{path} is damaged (its rows and keys do not agree): delete it.")
        cache = cls(capacity, width)
        for key, row in list(zip(keys, rows_CD, strict=True))[-capacity:]:
            cache._insert(key, row)
        return cache
