"""Compiles a program for devices that need not exist, and collects what the compiler reports."""

import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import jax
from jax.errors import JaxRuntimeError
from jax.sharding import Mesh

from dyntok_jax.errors import ConfigError
from tpu.chips import CHIPS, GIB, Chip
from tpu.costs import Loop, Runs, Traffic, Work, collectives, count_runs, cycles_of, describe, total_work
from tpu.hlo import Buffer, parse_module, parse_temporaries
from tpu.programs import Program

N_NAMED = 3
"""Number of largest temporaries to name."""


@dataclass(frozen=True)
class Compiled:
    """A compiled program, per device.

    Attributes:
      program: its name.
      chip: what it was compiled for.
      seconds: of compilation.
      held_bytes: bytes of what the program holds, by name.
      temporary_bytes: what it needs in addition while it runs.
      total_bytes: all of that, and other results, the padding of layouts and the program itself.
      work_once: bodies of loops counted once.
      work: loops counted as often as they run.
      reported: FLOPs and bytes of the compiler's own cost analysis, which counts bodies of loops once and fast memory
        as main memory.
      reported_seconds: the compiler's own estimate of the time; None if it has none.
      collectives: as often as they run.
      runs: the loops.
      side_share: the share of the compiler's cycles that are not the model's own operations; None if all are. The
        compiler gives no cycles for sorts, so these do not count.
      meanings: of the loops whose runs the program's notes give.
      temporaries: the largest, each with its bytes and description.
    """

    program: str
    chip: Chip
    seconds: float
    held_bytes: Mapping[str, int]
    temporary_bytes: int
    total_bytes: int
    work_once: Work
    work: Work
    reported: Work
    reported_seconds: float | None
    collectives: tuple[Traffic, ...]
    runs: Runs
    side_share: float | None
    meanings: tuple[Loop, ...]
    temporaries: tuple[tuple[int, str], ...]

    @property
    def fits(self) -> bool:
        """Whether a device's memory holds it."""
        return self.total_bytes <= self.chip.memory_gib * GIB

    @property
    def least_seconds(self) -> float:
        """The least possible time: of its FLOPs or its bytes at the peak rate, whichever takes longer."""
        return max(self.work.flops / self.chip.peak_flops, self.work.bytes / self.chip.peak_bytes)


def compile_program(program: Program, mesh: Mesh) -> Compiled:
    """Compiles.

    Args:
      program: what.
      mesh: of the devices that its arguments are sharded over.

    Raises:
      ConfigError: it does not fit into the devices' memory.
    """
    chip = CHIPS[mesh.devices.flat[0].device_kind]
    lowered = program.function.lower(*program.arguments, **program.options)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        dump = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        try:
            compiled = lowered.compile(compiler_options=dump)
        except JaxRuntimeError as error:
            raise _readable(error, program, mesh, chip) from error
        seconds = time.perf_counter() - begin
        temporaries = _dumped_temporaries(Path(folder))
    return _figures(program, chip, compiled, seconds, temporaries)


def _figures(program: Program, chip: Chip, compiled: Any, seconds: float, temporaries: list[Buffer]) -> Compiled:
    module = parse_module(compiled.as_text())
    runs = count_runs(module, program.loops)
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
    estimate = costs.get("optimal_seconds", -1)
    work = total_work(module, runs.of)
    side_share = None
    if program.main is not None:
        side_share = 1 - cycles_of(module, runs.of, program.main) / work.cycles
    return Compiled(
        program=program.name,
        chip=chip,
        seconds=seconds,
        held_bytes={name: device_bytes(tree) for name, tree in program.held.items()},
        temporary_bytes=memory.temp_size_in_bytes,
        total_bytes=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes,
        work_once=total_work(module, dict.fromkeys(runs.of, 1)),
        work=work,
        reported=Work(costs.get("flops", 0.0), costs.get("bytes accessed", 0.0)),
        reported_seconds=estimate if estimate > 0 else None,
        collectives=tuple(collectives(module, runs.of)),
        runs=runs,
        side_share=side_share,
        meanings=program.loops,
        temporaries=tuple((buffer.n_bytes, describe(module, buffer)) for buffer in temporaries[:N_NAMED]),
    )


def device_bytes(tree: Any) -> int:
    """Bytes of a device's part of all shapes in a tree, each with a sharding."""
    return sum(prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _dumped_temporaries(folder: Path) -> list[Buffer]:
    """Of the largest program dumped; those that prepare it are small."""
    files = sorted(folder.glob("*after_optimizations-buffer-assignment.txt"), key=lambda path: path.stat().st_size)
    return parse_temporaries(files[-1].read_text(encoding="utf-8")) if files else []


def _readable(error: Exception, program: Program, mesh: Mesh, chip: Chip) -> Exception:
    """The compiler's out-of-memory error in our words; any other unchanged."""
    sizes = parse_out_of_memory(str(error))
    if sizes is None:
        return error
    held = ", ".join(f"{name} {device_bytes(tree) / GIB:.2f}" for name, tree in program.held.items())
    return ConfigError(
        f"{program.name} does not fit {mesh.devices.size} devices of {chip.name} ({held} GiB a device): the compiler "
        f"needs {sizes[0]} and has {sizes[1]}. Use more devices, a smaller batch or shorter sequences."
    )


def parse_out_of_memory(message: str) -> tuple[str, str] | None:
    """The memory needed and available, such as 21.30G and 15.75G; None if the error is something else."""
    for pattern in (
        r"total memory required for .*?\(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)",
        r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT]) hbm",
    ):
        if found := re.search(pattern, message):
            return found[1], found[2]
    return None
