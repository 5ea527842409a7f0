"""Chips' memory and speed, and the topologies that the TPU compiler knows by name."""

from dataclasses import dataclass
from typing import Any

from dyntok_jax.errors import InputError

GIB = 2**30
EXAMPLES = "v5e:2x4, v5p:2x2x4, v6e:4x4, v4:2x2x4"


@dataclass(frozen=True)
class Chip:
    """One device of a topology.

    Attributes:
      name: Google's name of the chip.
      memory_gib: what the compiler lets a program use, by its own out-of-memory errors (libtpu 0.0.52), a little less
        than the 16, 32 or 95 GB that are published.
      peak_flops: per second, in bfloat16.
      peak_bytes: per second, from and to main memory.
      source: where the speeds are published.
    """

    name: str
    memory_gib: float
    peak_flops: float
    peak_bytes: float
    source: str


CHIPS = {
    "TPU v4": Chip("v4", 30.75, 275e12, 1200e9, "docs.cloud.google.com/tpu/docs/v4"),
    "TPU v5 lite": Chip("v5e", 15.75, 197e12, 819e9, "docs.cloud.google.com/tpu/docs/v5e"),
    "TPU v5": Chip("v5p", 95.73, 459e12, 2765e9, "docs.cloud.google.com/tpu/docs/v5p"),
    "TPU v6 lite": Chip("v6e", 31.24, 918e12, 1638e9, "docs.cloud.google.com/tpu/docs/v6e"),
}
"""By JAX's `device_kind`."""


def topology_devices(name: str) -> list[Any]:
    """The devices of a topology, for compiling only.

    Args:
      name: a chip and its grid, such as `v5e:2x4`.

    Raises:
      InputError: the compiler does not know the topology, or this table the chip.
    """
    from jax.errors import JaxRuntimeError
    from jax.experimental import topologies

    # a chip of v4 has two cores; programs run on both as one device, which the name alone does not give
    options = {"chip_config_name": "megacore"} if name.startswith("v4:") else {}
    try:
        devices = list(topologies.get_topology_desc(name, platform="tpu", **options).devices)
    except JaxRuntimeError as error:
        raise InputError(
            f"The TPU compiler does not know the topology {name!r} ({first_line(error)}). Name a chip and its grid, "
            f"such as {EXAMPLES}."
        ) from error
    if devices[0].device_kind not in CHIPS:
        known = ", ".join(chip.name for chip in CHIPS.values())
        raise InputError(f"The memory of a {devices[0].device_kind} is not in the table: use one of {known}.")
    return devices


def first_line(error: Exception) -> str:
    """An error's first line, without its category."""
    return str(error).splitlines()[0].split(": ", 1)[-1].rstrip(".")
