"""Reads the text of a compiled program (XLA's HLO, scheduled) and the compiler's own list of its buffers.

Only what the report needs: instructions with shapes and operands, the call graph, each instruction's line of Python,
and how often each loop runs. Nothing here needs JAX.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\dm\d\w*)?)\[([\d,]*)\](?:\{([^{}]*)\})?")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.-]+) = (.*?) ([a-z][a-z\d-]*)\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.-]+) \(.*\{$")
_CALLS = re.compile(r"\b(calls|body|condition|to_apply|branch_computations)=\{?((?:%[\w.-]+(?:, )?)+)\}?")
_NAME = re.compile(r"%([\w.-]+)")


@dataclass(frozen=True)
class Shape:
    """One array of a program.

    Attributes:
      element: its type, such as `bf16`.
      dims: its axes on one device.
      is_in_hbm: False if the compiler keeps it in the chip's fast memory (a memory space of the layout).
    """

    element: str
    dims: tuple[int, ...]
    is_in_hbm: bool = True

    @property
    def n_elements(self) -> int:
        """Number of entries."""
        return math.prod(self.dims)

    @property
    def n_bytes(self) -> int:
        """Bytes of the entries, without the padding of the layout."""
        bits = re.match(r"[a-z]+(\d+)", self.element)  # of bf16 or f8e4m3fn; a pred takes a byte, a token nothing
        return self.n_elements * (int(bits[1]) if bits else 8 * (self.element == "pred")) // 8

    def __str__(self) -> str:
        return f"{self.element}[{','.join(map(str, self.dims))}]"


@dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
      name: unique in the program.
      opcode: such as `fusion`.
      shapes: of its result; several for a tuple.
      operands: names of instructions of the same computation.
      calls: names of computations, by role: `calls`, `body`, `condition`, `to_apply`, `branch_computations`.
      rest: the attributes as text; before them the number of a parameter (`index=`) or a constant (`literal=`).
      is_root: whether it is the result of its computation.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    calls: dict[str, tuple[str, ...]]
    rest: str
    is_root: bool

    @property
    def op_name(self) -> str:
        """JAX's name of the operation, such as `jit(start)/while/body/dot_general`."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    @property
    def index(self) -> int:
        """Which parameter, or which part of a tuple."""
        found = re.search(r"index=(\d+)", self.rest)
        return int(found[1]) if found else 0


@dataclass(frozen=True)
class Computation:
    """Instructions in the order in which they run."""

    name: str
    instructions: tuple[Instruction, ...]

    @cached_property
    def by_name(self) -> dict[str, Instruction]:
        """Instructions by their names."""
        return {instruction.name: instruction for instruction in self.instructions}

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Which instructions read each one."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.by_name}
        for instruction in self.instructions:
            for operand in set(instruction.operands):
                users[operand].append(instruction)
        return users

    @property
    def root(self) -> Instruction:
        """The instruction whose value is the computation's result."""
        return next(instruction for instruction in self.instructions if instruction.is_root)


@dataclass(frozen=True)
class Module:
    """A whole program.

    Attributes:
      computations: by name.
      entry: the one that runs.
      frames: of each stack frame, its line of Python, such as `kv_cache.py:184`.
    """

    computations: dict[str, Computation]
    entry: str
    frames: dict[int, str]

    @cached_property
    def instructions(self) -> dict[str, Instruction]:
        """All instructions by name."""
        return {name: one for part in self.computations.values() for name, one in part.by_name.items()}

    def caller(self, name: str) -> Computation:
        """The computation that contains an instruction."""
        return next(part for part in self.computations.values() if name in part.by_name)

    def source(self, instruction: Instruction) -> str:
        """The line of Python that the instruction comes from; empty if unknown."""
        found = re.search(r"stack_frame_id=(\d+)", instruction.rest)
        return self.frames.get(int(found[1]), "") if found else ""


@dataclass(frozen=True)
class Buffer:
    """The part of a device's memory that holds one instruction's value.

    Attributes:
      name: of the instruction.
      n_bytes: with the padding of the layout.
    """

    name: str
    n_bytes: int


def parse_module(text: str) -> Module:
    """Parses the text that `compiled.as_text()` returns."""
    computations, entry, name = {}, "", None
    lines: list[Instruction] = []
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            name, lines = head[2], []
            entry = name if head[1] else entry
        elif line == "}" and name is not None:
            computations[name], name = Computation(name, tuple(lines)), None
        elif name is not None and (instruction := _parse_instruction(line)):
            lines.append(instruction)
    return Module(computations, entry, _parse_frames(text))


def _parse_instruction(line: str) -> Instruction | None:
    head = _INSTRUCTION.match(line)
    if not head:
        return None
    inside, rest = _split_parenthesis(line[head.end() :])
    if head[4] == "parameter":
        rest = f"index={inside} {rest}"
    elif head[4] == "constant":
        rest = f"literal={inside} {rest}"
    attributes = rest.split(", metadata=")[0].split(", backend_config=")[0]
    calls = {role: tuple(_NAME.findall(names)) for role, names in _CALLS.findall(attributes)}
    return Instruction(
        name=head[2],
        opcode=head[4],
        shapes=tuple(_parse_shapes(head[3])),
        operands=tuple(_NAME.findall(inside)),
        calls=calls,
        rest=rest,
        is_root=bool(head[1]),
    )


def _split_parenthesis(text: str) -> tuple[str, str]:
    """The text before the parenthesis that closes an open one, and the text after it."""
    depth = 1
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[:at], text[at + 1 :]
    return text, ""


def _parse_shapes(text: str) -> Iterator[Shape]:
    for element, dims, layout in _SHAPE.findall(text):
        yield Shape(element, tuple(int(size) for size in dims.split(",") if size), not re.search(r"S\([1-9]", layout))


def _parse_frames(text: str) -> dict[int, str]:
    files = {n: PurePath(path).name for n, path in re.findall(r'^(\d+) "([^"]*\.py)"$', text, re.MULTILINE)}
    places = re.findall(r"^(\d+) \{file_name_id=(\d+) .*?\bline=(\d+)", text, re.MULTILINE)
    lines = {n: f"{files.get(file, '?')}:{line}" for n, file, line in places}
    frames = re.findall(r"^(\d+) \{file_location_id=(\d+)", text, re.MULTILINE)
    return {int(n): lines.get(place, "") for n, place in frames}


def parse_temporaries(text: str) -> list[Buffer]:
    """The temporaries in a device's main memory, largest first, from the compiler's dump of its buffer assignment."""
    buffers: dict[str, int] = {}
    is_temporary = False
    for line in text.splitlines():
        if line.startswith("allocation "):
            is_temporary = "preallocated-temp" in line and "color" not in line
        elif is_temporary and (value := re.match(r" value: <\d+ ([\w.-]+)\S* @\d+> \(size=(\d+)", line)):
            buffers[value[1]] = max(buffers.get(value[1], 0), int(value[2]))
    return sorted((Buffer(*item) for item in buffers.items()), key=lambda buffer: -buffer.n_bytes)


def trip_count(module: Module, loop: Instruction) -> int | None:
    """How often a `while` runs, if its text tells: a counter goes from one number to another in steps of one."""
    condition, body = (module.computations[loop.calls[role][0]] for role in ("condition", "body"))
    root = condition.root
    if root.opcode != "compare" or "direction=LT" not in root.rest:
        return None
    counter, bound = (_source_of_copies(condition, name) for name in root.operands)
    if counter.opcode != "get-tuple-element" or (end := _literal(bound)) is None:
        return None
    step, value = 0, _source_of_copies(body, body.root.operands[counter.index])
    while value.opcode == "add":
        value, added = (_source_of_copies(body, name) for name in value.operands)
        step += _literal(added) or 0
    if not step or value.opcode != "get-tuple-element" or value.index != counter.index:
        return None
    caller = module.caller(loop.name)
    start = caller.by_name[loop.operands[0]]
    first = _literal(_source_of_copies(caller, start.operands[counter.index])) if start.opcode == "tuple" else None
    return math.ceil((end - (first or 0)) / step)


def _source_of_copies(computation: Computation, name: str) -> Instruction:
    one = computation.by_name[name]
    return _source_of_copies(computation, one.operands[0]) if one.opcode in ("copy", "bitcast") else one


def _literal(one: Instruction) -> int | None:
    found = re.match(r"literal=(-?\d+) ", one.rest + " ")
    return int(found[1]) if one.opcode == "constant" and found else None
