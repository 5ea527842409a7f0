"""What a compiled program does in one call, with loops counted as often as they run.

`compiled.cost_analysis()` counts the body of a loop once: a scan over layers as one layer. Here the same costs are
counted from the program's text, each instruction times the runs of the loops around it.
"""

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tpu.hlo import Buffer, Computation, Instruction, Module, Shape, trip_count

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter", "ragged-all-to-all")
_MOVES_NOTHING = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
    "opt-barrier", "while", "conditional", "call",
}  # fmt: skip
_READS_A_PART = {"dynamic-slice", "slice", "gather"}
_WRITES_A_PART = {"dynamic-update-slice": 1, "scatter": 2}  # the operand that holds what is written


@dataclass(frozen=True)
class Loop:
    r"""A loop whose number of runs depends on data, not on the program's text.

    Attributes:
      op_name: a regular expression for JAX's name of it, such as `jit\(advance\)/while`.
      trips: how often it is assumed to run.
      meaning: what that number is, for the reader.
    """

    op_name: str
    trips: float
    meaning: str


@dataclass(frozen=True)
class Work:
    """What one device does in one call.

    Attributes:
      flops: of matrix products, a multiplication and an addition each.
      bytes: read from and written to the device's main memory.
      cycles: the compiler's own cost estimate; without collectives and some other instructions.
    """

    flops: float = 0.0
    bytes: float = 0.0
    cycles: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes, self.cycles + other.cycles)

    def times(self, count: float) -> "Work":
        """As often."""
        return Work(self.flops * count, self.bytes * count, self.cycles * count)


@dataclass(frozen=True)
class Traffic:
    """Collectives of one kind in one call.

    Attributes:
      kind: such as `all-reduce`.
      count: how many run.
      bytes: of the whole arrays that they gather, reduce or send, as one device sees them.
    """

    kind: str
    count: float
    bytes: float


@dataclass(frozen=True)
class Runs:
    """How often things run in one call.

    Attributes:
      of: runs of each computation.
      loops: each loop's name and trips per run, if the program or its notes give them.
      unknown: names of loops with unknown trips; they are assumed to run once.
    """

    of: dict[str, float]
    loops: dict[str, float]
    unknown: tuple[str, ...]


def count_runs(module: Module, loops: Sequence[Loop] = ()) -> Runs:
    """Follows the calls from the program's entry; of the branches of a conditional, the one with most work runs."""
    counts: defaultdict[str, float] = defaultdict(float)
    known: dict[str, float] = {}
    unknown: set[str] = set()

    def trips(loop: Instruction) -> float:
        number = trip_count(module, loop)
        if number is None:
            number = next((one.trips for one in loops if re.fullmatch(one.op_name, loop.op_name)), None)
        if number is None:
            unknown.add(loop.op_name)
            return 1
        known[loop.op_name] = number
        return number

    for name, count in _walk(module, module.entry, trips):
        counts[name] += count
    return Runs(dict(counts), known, tuple(sorted(unknown)))


def _walk(
    module: Module, name: str, trips: Callable[[Instruction], float], count: float = 1
) -> Iterator[tuple[str, float]]:
    """A computation and all that it calls, each with its runs."""
    yield name, count
    for one in module.computations[name].instructions:
        if one.opcode == "while":
            yield from _walk(module, one.calls["body"][0], trips, count * trips(one))
        elif one.opcode == "call":
            yield from _walk(module, one.calls["to_apply"][0], trips, count)
        elif one.opcode == "conditional":
            branches = [list(_walk(module, branch, trips, count)) for branch in one.calls["branch_computations"]]
            yield from max(branches, key=lambda branch: _weight(module, branch))


def _weight(module: Module, branch: list[tuple[str, float]]) -> tuple[float, float]:
    work = total_work(module, dict(branch))
    return work.bytes + work.flops, sum(len(module.computations[name].instructions) * count for name, count in branch)


def total_work(module: Module, counts: dict[str, float]) -> Work:
    """The total work, with `counts` runs of each computation."""
    return sum((computation_work(module, name).times(count) for name, count in counts.items()), Work())


def cycles_of(module: Module, counts: dict[str, float], op_name: str) -> float:
    """The compiler's cycles for operations whose JAX names match a regular expression."""
    return sum(
        count * _cycles(one)
        for name, count in counts.items()
        for one in module.computations[name].instructions
        if re.fullmatch(op_name, one.op_name)
    )


def computation_work(module: Module, name: str) -> Work:
    """One run of a computation, without the loops and branches in it."""
    computation = module.computations[name]
    return sum(
        (
            Work(_flops(module, computation, one), _bytes(module, computation, one), _cycles(one))
            for one in computation.instructions
        ),
        Work(),
    )


def _cycles(one: Instruction) -> float:
    found = re.search(r'"estimated_cycles":"(\d+)"', one.rest)
    return float(found[1]) if found else 0.0


def _flops(module: Module, computation: Computation, one: Instruction) -> float:
    if one.opcode == "convolution":
        return convolution_flops(one, *(computation.by_name[name].shapes[0] for name in one.operands))
    if one.opcode == "dot":
        left = computation.by_name[one.operands[0]].shapes[0]
        summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
        axes = [int(axis) for axis in summed[1].split(",")] if summed and summed[1] else []
        return 2 * one.shapes[0].n_elements * math.prod(left.dims[axis] for axis in axes)
    if one.opcode in ("fusion", "async-start"):
        inner = module.computations[one.calls["calls"][0]]
        return sum(_flops(module, inner, part) for part in inner.instructions)
    return 0


def convolution_flops(one: Instruction, image: Shape, kernel: Shape) -> float:
    """A convolution, as which the TPU compiler writes matrix products: pairs with padding do not count.

    Batches of products are convolutions with a dilated image, in which each entry meets one entry of the kernel.
    """
    of_image, of_kernel, of_output = re.findall(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)[0]
    n_spatial = len(of_image) - 2
    window = _window(one.rest, n_spatial)
    pairs = 2.0 * one.shapes[0].dims[of_output.index("b")] * one.shapes[0].dims[of_output.index("f")]
    pairs *= kernel.dims[of_kernel.index("i")]
    for axis in range(n_spatial):
        size_in, size_out = image.dims[of_image.index(str(axis))], one.shapes[0].dims[of_output.index(str(axis))]
        pairs *= _meetings(size_in, size_out, **{name: values[axis] for name, values in window.items()})
    return pairs


def _window(attributes: str, n_spatial: int) -> dict[str, list[int]]:
    found = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(field.split("=") for field in found[1].split()) if found else {}

    def numbers(name: str, default: int, part: int = 0) -> list[int]:
        values = fields[name].split("x") if name in fields else [str(default)] * n_spatial
        return [int(value.split("_")[min(part, value.count("_"))]) for value in values]

    return {
        "size": numbers("size", 1),
        "stride": numbers("stride", 1),
        "pad": numbers("pad", 0),
        "dilate_in": numbers("lhs_dilate", 1),
        "dilate_window": numbers("rhs_dilate", 1),
    }


def _meetings(
    size_in: int, size_out: int, *, size: int, stride: int, pad: int, dilate_in: int, dilate_window: int
) -> int:
    """How many pairs of an output position and a kernel position fall on an entry of the image."""
    places = (out * stride - pad + at * dilate_window for out, at in itertools.product(range(size_out), range(size)))
    return sum(place >= 0 and place % dilate_in == 0 and place // dilate_in < size_in for place in places)


def _bytes(module: Module, computation: Computation, one: Instruction) -> float:
    """What an instruction reads from and writes to main memory; slices and updates count what they touch."""
    if one.opcode in _MOVES_NOTHING or (one.opcode == "custom-call" and not one.operands):
        return 0
    read = sum(
        _read(module, computation, name, one)
        for name in set(one.operands)
        if not one.opcode.endswith("-done") and all(shape.is_in_hbm for shape in computation.by_name[name].shapes)
    )
    if one.opcode.endswith("-start"):
        return read  # its result is counted at its -done
    return read + sum(size for shape, size in _written(module, computation, one) if shape.is_in_hbm)


def _read(module: Module, computation: Computation, name: str, user: Instruction) -> float:
    """Bytes of `name` that `user` reads."""
    whole = sum(shape.n_bytes for shape in computation.by_name[name].shapes)
    if user.opcode in _READS_A_PART and user.operands[0] == name:
        return min(whole, sum(shape.n_bytes for shape in user.shapes))
    if user.opcode in _WRITES_A_PART and user.operands[0] == name:
        return 0
    if user.opcode in ("fusion", "async-start"):
        inner = module.computations[user.calls["calls"][0]]
        at = [place for place, operand in enumerate(user.operands) if operand == name]
        inside = [one for one in inner.instructions if one.opcode == "parameter" and one.index in at]
        return min(whole, sum(_read_by_all(module, inner, one) for one in inside))
    return whole


def _read_by_all(module: Module, computation: Computation, value: Instruction) -> float:
    total = 0.0
    for user in computation.users[value.name]:
        is_alias = user.opcode == "bitcast" or _only_relabels(module, user)
        total += _read_by_all(module, computation, user) if is_alias else _read(module, computation, value.name, user)
    return total


def _only_relabels(module: Module, one: Instruction) -> bool:
    """Whether a fusion in a fusion only changes the layout of its input; its user determines what is read."""
    if one.opcode != "fusion":
        return False
    inner = module.computations[one.calls["calls"][0]]
    root = inner.root
    while root.opcode == "bitcast":
        root = inner.by_name[root.operands[0]]
    return root.opcode == "parameter" or "output_to_operand_aliasing={{}: (0" in one.rest


def _written(module: Module, computation: Computation, one: Instruction) -> Iterator[tuple[Shape, float]]:
    """The shapes of an instruction's results, and how many bytes of each it writes."""
    if one.opcode in _WRITES_A_PART:
        update = computation.by_name[one.operands[_WRITES_A_PART[one.opcode]]]
        yield one.shapes[0], float(sum(shape.n_bytes for shape in update.shapes))
    elif one.opcode == "fusion":
        inner = module.computations[one.calls["calls"][0]]
        root = inner.root
        roots = [inner.by_name[name] for name in root.operands] if root.opcode == "tuple" else [root]
        for shape, part in zip(one.shapes, roots, strict=False):
            yield shape, min(float(shape.n_bytes), _written_by_root(module, inner, part))
    else:
        yield from ((shape, float(shape.n_bytes)) for shape in one.shapes)


def _written_by_root(module: Module, computation: Computation, root: Instruction) -> float:
    while root.opcode == "bitcast":
        root = computation.by_name[root.operands[0]]
    return sum(size for _, size in _written(module, computation, root))


def collectives(module: Module, counts: dict[str, float]) -> list[Traffic]:
    """The collectives that run, by kind."""
    number: defaultdict[str, float] = defaultdict(float)
    size: defaultdict[str, float] = defaultdict(float)
    for name, count in counts.items():
        for kind, n_bytes in _collectives_of(module, name):
            number[kind] += count
            size[kind] += count * n_bytes
    return [Traffic(kind, number[kind], size[kind]) for kind in sorted(number)]


def _collectives_of(module: Module, name: str) -> Iterator[tuple[str, int]]:
    computation = module.computations[name]
    for one in computation.instructions:
        kind = one.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            read = sum(shape.n_bytes for operand in one.operands for shape in computation.by_name[operand].shapes)
            written = max(shape.n_bytes for shape in one.shapes)
            # the TPU compiler writes a reduce-scatter as an all-reduce of which each device keeps its slice
            is_scatter = kind == "all-reduce" and name.startswith("all-reduce-scatter")
            yield "reduce-scatter" if is_scatter else kind, max(read, written)
        elif one.opcode in ("fusion", "async-start"):
            yield from _collectives_of(module, one.calls["calls"][0])


def describe(module: Module, buffer: Buffer) -> str:
    """A description of a buffer: its shape, the operation that made it, JAX's name for that and the line of Python."""
    one = module.instructions.get(buffer.name)
    if one is None:
        return buffer.name
    made_by, op_name = one.opcode, one.op_name
    if one.opcode == "copy":
        source = module.caller(one.name).by_name[one.operands[0]]
        if source.opcode == "parameter":
            made_by, op_name = f"copy of {source.op_name.removesuffix('.value')}", ""
    shape = max(one.shapes, key=lambda shape: shape.n_bytes)
    return " · ".join(part for part in (str(shape), made_by, op_name, module.source(one)) if part)
