"""The numbers of a config, checked before anything is built from them: the one place that defines what a number is."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from numbers import Integral
from types import MappingProxyType
from typing import Any

from dyntok_jax.errors import ConfigError

LARGEST = 2**31 - 1
"""The largest whole number; sizes and ids are int32."""
LARGEST_EPSILON = 0.1
"""Of a normalisation. Models have 1e-12 to 1e-3; one that is larger would drown what it is added to."""
_NO_DEFAULTS: Mapping[str, int] = MappingProxyType({})


def read_numbers(
    config: Mapping[str, Any],
    what: str,
    *,
    needed: Iterable[str] = (),
    whole: Mapping[str, int] = _NO_DEFAULTS,
    fractions: Mapping[str, float] = _NO_DEFAULTS,
) -> tuple[dict[str, int], dict[str, float]]:
    """Reads fields that hold numbers.

    Args:
      config: the JSON object.
      what: whose config it is, for the error.
      needed: names of fields that hold whole numbers, which some programs write as 64.0.
      whole: fields that hold whole numbers → their value where they are absent or null.
      fractions: the same for fields that hold any number.

    Returns:
      The whole numbers by field, and the fractions by field.

    Raises:
      ConfigError: fields are missing or do not hold a number of their kind; all are listed.

    >>> read_numbers({"hidden_size": 8}, "a model", needed=["hidden_size"], fractions={"norm_eps": 1e-5})
    ({'hidden_size': 8}, {'norm_eps': 1e-05})
    """
    found: dict[str, Any] = {name: config.get(name) for name in needed}
    found |= {name: _or(config.get(name), default) for name, default in whole.items()}
    found_fractions = {name: _or(config.get(name), default) for name, default in fractions.items()}
    found = {name: _whole(number) for name, number in found.items()}
    wrong = [name for name, number in found.items() if not is_number(number, takes_fractions=False)]
    wrong += [name for name, number in found_fractions.items() if not is_number(number, takes_fractions=True)]
    if wrong:
        raise ConfigError(f"config.json of {what} lacks a number for: {', '.join(wrong)}.")
    return found, {name: float(number) for name, number in found_fractions.items()}


def is_number(value: object, *, takes_fractions: bool) -> bool:
    """Whether a value from a file is a whole number that fits int32 or, with `takes_fractions`, a finite float.

    >>> is_number(3, takes_fractions=False), is_number(0.5, takes_fractions=True), is_number(True, takes_fractions=True)
    (True, True, False)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= LARGEST
    return takes_fractions and isinstance(value, float) and math.isfinite(value)


def check_at_least(config: Any, least: Mapping[str, int | float], *, of: str = "") -> None:
    """Checks that fields of a config are not less than their minimum, and whole numbers where they are declared so.

    Args:
      config: the dataclass.
      least: the minimum of each field.
      of: the name of the config, for the error.

    Raises:
      ConfigError: a field is less than its minimum, or not a whole number.

    >>> check_at_least(encoder.config, {"width": 1, "n_layers": 3})
    Traceback (most recent call last):
        ...
    dyntok_jax.errors.ConfigError: n_layers is 2: it must be at least 3.
    """
    are_whole = {field.name for field in fields(config) if field.type in (int, int | None)}
    for name, low in least.items():
        value, whose = getattr(config, name), f" of {of}" if of else ""
        if name in are_whole and not _is_whole(value):
            raise ConfigError(f"{name}{whose} is {value!r}: it must be a whole number.")
        if not value >= low:
            raise ConfigError(f"{name}{whose} is {value}: it must be at least {low}.")


def check_epsilon(name: str, value: float, *, of: str) -> None:
    """Checks the epsilon of a normalisation.

    Raises:
      ConfigError: it is negative, or larger than any that a model was trained with.

    >>> check_epsilon("rms_norm_eps", 1e-5, of="a model")
    """
    if not 0 <= value <= LARGEST_EPSILON:
        raise ConfigError(f"{name} of {of} is {value}: it must be from 0 to {LARGEST_EPSILON}.")


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _or(value: Any, default: int | float) -> Any:
    return default if value is None else value
