"""The programs that jitted steps have compiled, through methods that are missing in JAX's types."""

from collections.abc import Iterable
from typing import Any


def clear_programs(steps: Iterable[Any]) -> None:
    """Clears the compiled programs of the steps."""
    for step in steps:
        step.clear_cache()


def count_programs(steps: Iterable[Any]) -> int:
    """The number of compiled programs of all steps."""
    return sum(step._cache_size() for step in steps)
