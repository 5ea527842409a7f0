"""Parameters of a module tree, by their dotted paths."""

from typing import Any

import jax


def flat_parameters(tree: Any) -> dict[str, Any]:
    """Parameters by dotted path, such as `layers.query.kernel`, in the order of `jax.tree.leaves`."""

    def dotted(path) -> str:
        names = [str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", None)))) for key in path]
        return ".".join(names[:-1] if names[-1] == "value" else names)

    return {dotted(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
