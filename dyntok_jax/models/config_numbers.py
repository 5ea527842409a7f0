"""The numbers of a `config.json`, checked before anything is built from them."""

from collections.abc import Iterable, Mapping
from typing import Any

from dyntok_jax.errors import ConfigError


def read_numbers(
    config: Mapping[str, Any], what: str, *, needed: Iterable[str], optional: Mapping[str, int | float]
) -> dict[str, int | float]:
    """Reads fields that hold numbers.

    Args:
      config: the JSON object.
      what: whose config it is, for the error.
      needed: names of fields that hold whole numbers.
      optional: field → its value where it is absent or null; a whole number there asks for one in the field too.

    Raises:
      ConfigError: fields that are missing or hold no number of their kind, all of them listed.
    """
    numbers = {name: config.get(name) for name in needed}
    numbers |= {name: default if config.get(name) is None else config[name] for name, default in optional.items()}
    takes_fractions = {name for name, default in optional.items() if isinstance(default, float)}
    wrong = [name for name, number in numbers.items() if not _is_number(number, name in takes_fractions)]
    if wrong:
        raise ConfigError(f"config.json of {what} lacks a number for: {', '.join(wrong)}.")
    return {name: float(number) if name in takes_fractions else number for name, number in numbers.items()}


def _is_number(value: object, takes_fractions: bool) -> bool:
    return isinstance(value, (int, float) if takes_fractions else int) and not isinstance(value, bool)
