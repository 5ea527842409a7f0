"""The programs that jitted steps have compiled: methods that jax's jitted functions have, and its types do not show."""

from collections.abc import Iterable
from typing import Any


def clear_programs(steps: Iterable[Any]) -> None:
    """Forgets all programs of the steps."""
    for step in steps:
        step.clear_cache()


def count_programs(steps: Iterable[Any]) -> int:
    """Entries in the caches of all steps."""
    return sum(step._cache_size() for step in steps)
