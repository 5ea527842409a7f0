"""Tables and figures of compiled programs."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from tpu.chips import GIB
from tpu.compiled import Compiled

MIB = 2**20


def print_details(console: Console, place: str, compiled: Compiled) -> None:
    """The report of one program: memory, work, loops, collectives, the largest temporaries."""
    chip = compiled.chip
    console.print(f"\n{compiled.program} on {place}", style="bold", end="")
    console.print(f", compiled in {compiled.seconds:.0f} s")
    console.print(memory_table(compiled), work_table(compiled), sep="")
    meanings = ", ".join(f"{loop.trips:g} {loop.meaning}" for loop in compiled.meanings)
    lines = [f"Loops as run: {meanings}; the others as the program's text tells."] if meanings else []
    if compiled.runs.unknown:
        lines.append(f"Assumed to run once, because their trips are unknown: {', '.join(compiled.runs.unknown)}.")
    if compiled.side_share is not None:
        lines.append(
            f"Merging and embedding take {compiled.side_share:.1%} of the compiler's cycles; it gives none for sorts."
        )
    speeds = f"{chip.peak_flops / 1e12:.0f} TFLOP/s, {chip.peak_bytes / 1e9:.0f} GB/s"
    lines.append(f"At the peak of {chip.name} ({speeds}) it takes {_time(compiled.least_seconds)} or more.")
    console.print("\n".join(lines), soft_wrap=True)
    if compiled.collectives:
        console.print(collective_table(compiled))
    lines = [f"  {n_bytes / MIB:.1f} MiB  {words}" for n_bytes, words in compiled.temporaries]
    console.print("\n".join(["Largest temporaries:", *lines]), markup=False, soft_wrap=True)


def memory_table(compiled: Compiled) -> Table:
    """GiB per device: what is held, what is needed in addition, and the device's memory."""
    known = sum(compiled.held_bytes.values()) + compiled.temporary_bytes
    cells = {name: f"{size / GIB:.2f}" for name, size in compiled.held_bytes.items()}
    cells |= {
        "temporaries": f"{compiled.temporary_bytes / GIB:.2f}",
        "other": f"{max(0, compiled.total_bytes - known) / GIB:.2f}",
        "total": f"{compiled.total_bytes / GIB:.2f}",
        "of": f"{compiled.chip.memory_gib:.2f}",
        "": "fits" if compiled.fits else "does not fit",
    }
    return _table("GiB a device", [("", list(cells.values()))], list(cells))


def work_table(compiled: Compiled) -> Table:
    """FLOPs, bytes and time per device, as the compiler reports them and with loops as often as they run."""
    seconds = compiled.reported_seconds
    rows = [
        ("compiler's cost analysis, loops once", compiled.reported, "none" if seconds is None else _time(seconds)),
        ("counted here, loops once", compiled.work_once, ""),
        ("counted here, loops as run", compiled.work, ""),
    ]
    cells = []
    for name, work, time in rows:
        cycles = f"{work.cycles / 1e6:,.2f}" if work.cycles else ""
        cells.append((name, [f"{work.flops / 1e9:,.1f}", f"{work.bytes / 1e9:,.2f}", cycles, time]))
    return _table("work a device", cells, ["GFLOP", "GB of memory", "Mcycles", "compiler's estimate"])


def collective_table(compiled: Compiled) -> Table:
    """Collectives of one call."""
    rows = [(one.kind, [f"{one.count:,.0f}", f"{one.bytes / MIB:,.1f}"]) for one in compiled.collectives]
    return _table("collectives, loops as run", rows, ["count", "MiB of whole arrays"])


def summary(rows: Sequence[tuple[str, Compiled]]) -> Table:
    """One row per program and topology: memory, work and collectives per device, and the least time."""
    columns = ["parameters", "cache", "temporaries", "total", "of GiB", "GFLOP", "GB", "collectives", "MiB", "at least"]
    cells = []
    for place, one in rows:
        sizes = [one.held_bytes.get("parameters", 0), one.held_bytes.get("cache", 0)]
        sizes += [one.temporary_bytes, one.total_bytes, one.chip.memory_gib * GIB]
        traffic = [sum(part.count for part in one.collectives), sum(part.bytes for part in one.collectives) / MIB]
        values = [f"{size / GIB:.2f}" for size in sizes]
        values += [
            f"{one.work.flops / 1e9:,.0f}",
            f"{one.work.bytes / 1e9:.1f}",
            *(f"{number:,.0f}" for number in traffic),
        ]
        cells.append((f"{one.program}\n{place}", [*values, _time(one.least_seconds)]))
    return _table("", cells, columns)


def figures_of(prefix: str, compiled: Compiled) -> dict[str, float | str]:
    """The report as one flat object."""
    figures: dict[str, float | str] = {
        **{f"{name}_bytes": size for name, size in compiled.held_bytes.items()},
        "temporary_bytes": compiled.temporary_bytes,
        "total_bytes": compiled.total_bytes,
        "memory_bytes": round(compiled.chip.memory_gib * GIB),
        "flops": compiled.work.flops,
        "memory_traffic_bytes": compiled.work.bytes,
        "compiler_cycles": compiled.work.cycles,
        "least_seconds": compiled.least_seconds,
        "loops_once_flops": compiled.work_once.flops,
        "loops_once_memory_traffic_bytes": compiled.work_once.bytes,
        "cost_analysis_flops": compiled.reported.flops,
        "cost_analysis_bytes": compiled.reported.bytes,
        "compile_seconds": compiled.seconds,
    }
    if compiled.reported_seconds is not None:
        figures["cost_analysis_seconds"] = compiled.reported_seconds
    if compiled.side_share is not None:
        figures["side_share"] = compiled.side_share
    for traffic in compiled.collectives:
        kind = traffic.kind.replace("-", "_")
        figures |= {f"{kind}_count": traffic.count, f"{kind}_bytes": traffic.bytes}
    if compiled.temporaries:
        figures["largest_temporary_bytes"], figures["largest_temporary"] = compiled.temporaries[0]
    return {f"{prefix}_{name}": value for name, value in figures.items()}


def _table(title: str, rows: Sequence[tuple[str, list[str]]], columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(title, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for name, cells in rows:
        table.add_row(name, *cells)
    return table


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds < 0.1 else f"{seconds * 1e3:.0f} ms"
