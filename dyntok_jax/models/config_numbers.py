"""The numbers of a `config.json`, checked before anything is built from them."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType, UnionType
from typing import Any

from dyntok_jax.errors import ConfigError

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
      needed: names of fields that hold whole numbers.
      whole: fields that hold whole numbers → their value where they are absent or null.
      fractions: the same for fields that hold any number.

    Returns:
      The whole numbers by field, and the fractions by field.

    Raises:
      ConfigError: fields that are missing or hold no number of their kind, all of them listed.
    """
    found: dict[str, Any] = {name: config.get(name) for name in needed}
    found |= {name: _or(config.get(name), default) for name, default in whole.items()}
    found_fractions = {name: _or(config.get(name), default) for name, default in fractions.items()}
    wrong = [name for name, number in found.items() if not _is_number(number, int)]
    wrong += [name for name, number in found_fractions.items() if not _is_number(number, int | float)]
    if wrong:
        raise ConfigError(f"config.json of {what} lacks a number for: {', '.join(wrong)}.")
    return found, {name: float(number) for name, number in found_fractions.items()}


def _or(value: Any, default: float) -> Any:
    return default if value is None else value


def _is_number(value: object, kind: type | UnionType) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
