"""The numbers of a config, checked before anything is built from them: the one place that says what a number is."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from dyntok_jax.errors import ConfigError

LARGEST = 2**31 - 1
"""Of whole numbers; sizes and ids are int32."""


def read_numbers(
    config: Mapping[str, Any],
    what: str,
    *,
    needed: Iterable[str] = (),
    optional: Mapping[str, int | float] | None = None,
) -> dict[str, int | float]:
    """Reads fields that hold numbers.

    Args:
      config: the JSON object.
      what: whose config it is, for the error.
      needed: names of fields that hold whole numbers.
      optional: field → its value where it is absent or null; a whole number there asks for one in the field too.

    Raises:
      ConfigError: fields that are missing or hold no number of their kind, all of them listed.

    >>> read_numbers({"hidden_size": 8}, "a model", needed=["hidden_size"], optional={"norm_eps": 1e-5})
    {'hidden_size': 8, 'norm_eps': 1e-05}
    """
    optional = {} if optional is None else optional
    numbers = {name: config.get(name) for name in needed}
    numbers |= {name: default if config.get(name) is None else config[name] for name, default in optional.items()}
    takes_fractions = {name for name, default in optional.items() if isinstance(default, float)}
    wrong = [name for name, number in numbers.items() if not is_number(number, takes_fractions=name in takes_fractions)]
    if wrong:
        raise ConfigError(f"config.json of {what} lacks a number for: {', '.join(wrong)}.")
    return {name: float(number) if name in takes_fractions else number for name, number in numbers.items()}


def is_number(value: object, *, takes_fractions: bool) -> bool:
    """Whether a value from a file is a whole number that fits int32 or, with `takes_fractions`, a finite float."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= LARGEST
    return takes_fractions and isinstance(value, float) and math.isfinite(value)


def check_at_least(config: object, least: Mapping[str, int | float], *, of: str = "") -> None:
    """Compares fields of a config with the least that each may be.

    Args:
      config: the dataclass.
      least: by field.
      of: whose fields they are, for the error.

    Raises:
      ConfigError: a field is less.
    """
    for name, low in least.items():
        if not getattr(config, name) >= low:
            whose = f" of {of}" if of else ""
            raise ConfigError(f"{name}{whose} is {getattr(config, name)}: it must be at least {low}.")
