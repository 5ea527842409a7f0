"""Parameters of a module tree: by their dotted paths, and a digest of them all."""

import hashlib
from typing import Any

import jax
import numpy as np


def flat_parameters(tree: Any) -> dict[str, Any]:
    """Parameters by dotted path, such as `layers.query.kernel`, in the order of `jax.tree.leaves`.

    >>> {path: leaf.shape for path, leaf in flat_parameters(encoder.encoder).items() if "query" in path}
    {'layers.query.bias': (2, 4, 8), 'layers.query.kernel': (2, 32, 4, 8)}
    """

    def dotted(path) -> str:
        names = [str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", None)))) for key in path]
        return ".".join(names[:-1] if names[-1] == "value" else names)

    return {dotted(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def fingerprint(tree: Any) -> str:
    """A digest of every number in a tree of arrays.

    >>> fingerprint({"bias": np.zeros(3, np.float32)})
    'c54bec0914c343c2a9c6f2bdb354191e'
    """
    digest = hashlib.blake2b(digest_size=16)
    for leaf in jax.tree.leaves(tree):
        values = np.asarray(leaf)
        digest.update(f"{values.shape} {values.dtype}".encode())
        digest.update(np.ascontiguousarray(values).view(np.uint8).data)
    return digest.hexdigest()
