"""The compiler's optimized program, read from its text: instructions, loops, cycles, sources.

XLA's cost analysis counts the body of a loop once and has no cycles (see docs/planning.md). The
text has both: each fusion's estimated cycles, and the constants that bound its loops.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator

Array = tuple[str, tuple[int, ...]]  # dtype and shape

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%([\w.-]+) = ")
_ARRAY = re.compile(r"\b(pred|[sufb]\w*?\d+\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(calls|body|condition|to_apply)=%([\w.-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_OPERAND = re.compile(r"%([\w.-]+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_NAME = re.compile(r'op_name="([^"]*)"')
_FLAG = re.compile(r"\bu32\[\](?:\{:S\(\d+\)\})?(?=[,)])")  # of a start: whether it has ended
_FRAME = re.compile(r"stack_frame_id=(\d+)")
# Alone on its line: lines of a kernel's metadata also begin with it.
_END = re.compile(r"\}(, execution_thread=.*)?$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction of a computation.

    Attributes:
        type: the text of its result's type, layouts included.
        attributes: the text behind its operands.
    """

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool
    literal: str = ""

    @property
    def bytes(self) -> int:
        """Bytes of the result, all parts of a tuple together, without the padding of tiles."""
        return type_bytes(self.type)

    @property
    def cycles(self) -> int:
        """The compiler's estimate for one execution on one chip; 0 where it makes none."""
        found = _CYCLES.search(self.attributes)
        return int(found[1]) if found else 0

    @property
    def op_name(self) -> str:
        """The path of JAX scopes and primitives that it comes from; "" where unknown."""
        found = _NAME.search(self.attributes)
        return found[1] if found else ""

    def called(self, kind: str) -> str | None:
        """Returns the computation that it names as `calls`, `body`, `condition` or `to_apply`."""
        return next((name for k, name in _CALLED.findall(self.attributes) if k == kind), None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A scheduled module: instructions stand in the order in which they start.

    Attributes:
        computations: by name.
        entry: the name of the first one.
        frames: id of a stack frame to (file, line).
    """

    computations: dict[str, tuple[Instruction, ...]]
    entry: str
    frames: dict[int, tuple[str, int]]

    @functools.cached_property
    def executions(self) -> dict[str, int]:
        """How often each scheduled computation runs in a step: loops' bodies, branches, calls."""
        counts: dict[str, int] = {}
        waiting = [(self.entry, 1)]
        while waiting:
            name, times = waiting.pop()
            counts[name] = counts.get(name, 0) + times
            for instruction in self.computations[name]:
                waiting += [(inner, times * n) for inner, n in self.inner(instruction)]
        return counts

    def inner(self, instruction: Instruction) -> Iterator[tuple[str, int]]:
        """Yields the scheduled computations that one execution runs, and how often each."""
        if instruction.opcode == "while":
            body = instruction.called("body")
            if body is not None:
                yield body, self.trip_count(instruction)
        elif instruction.opcode == "call":
            called = instruction.called("to_apply") or instruction.called("calls")
            if called is not None:
                yield called, 1
        elif instruction.opcode == "conditional":
            for names in _BRANCHES.findall(instruction.attributes):
                for name in _OPERAND.findall(names):
                    yield name, 1

    def trip_count(self, loop: Instruction) -> int:
        """Returns how often a `while` runs its body; 1 where its bounds are no constants.

        XLA states it on GPUs. On TPUs, loops of `lax.scan` count one element of their state up to
        a constant, by one; loops around a collective that XLA unrolled, by two.
        """
        if stated := _TRIPS.search(loop.attributes):
            return int(stated[1])
        condition = self.computations[loop.called("condition") or self.entry]
        by_name = {instruction.name: instruction for instruction in condition}
        root = next(instruction for instruction in condition if instruction.is_root)
        if root.opcode == "fusion":
            fused = self.computations[root.called("calls") or self.entry]
            outer, root = root, next(i for i in fused if i.is_root)
            parameters = [i for i in fused if i.opcode == "parameter"]
            given = {p.name: by_name.get(outer.operands[int(p.literal)]) for p in parameters}
            by_name |= {i.name: i for i in fused} | {k: v for k, v in given.items() if v}
        operands = [by_name.get(name) for name in root.operands]
        limits = [i.literal for i in operands if i is not None and i.opcode == "constant"]
        if root.opcode != "compare" or not limits or "direction=LT" not in root.attributes:
            return 1
        counter = next((i for i in operands if i and i.opcode == "get-tuple-element"), None)
        index = re.search(r"index=(\d+)", counter.attributes) if counter else None
        if index is None:
            return int(limits[0])
        start, step = self._start(loop, int(index[1])), self._step(loop, int(index[1]))
        return -(-(int(limits[0]) - start) // step)

    def _start(self, loop: Instruction, index: int) -> int:
        """Returns the constant with which a loop's counter begins; 0 where it is none."""
        holder = next(body for body in self.computations.values() if loop in body)
        by_name = {instruction.name: instruction for instruction in holder}
        state = by_name[loop.operands[0]]
        start = _constant(by_name, state.operands[index]) if state.opcode == "tuple" else None
        return start or 0

    def _step(self, loop: Instruction, index: int) -> int:
        """Returns the constant that a loop's body adds to its counter; 1 where it is none."""
        body = self.computations[loop.called("body") or self.entry]
        by_name = {instruction.name: instruction for instruction in body}
        state = next(instruction for instruction in body if instruction.is_root)
        if state.opcode != "tuple":
            return 1
        after = _behind_copies(by_name, state.operands[index])
        added = (_constant(by_name, name) for name in after.operands if after.opcode == "add")
        return next(filter(None, added), 1)

    def source(self, instruction: Instruction) -> str:
        """Returns `folder/file.py:line` of the innermost frame of an instruction, or ""."""
        found = _FRAME.search(instruction.attributes)
        if not found or int(found[1]) not in self.frames:
            return ""
        path, line = self.frames[int(found[1])]
        return f"{'/'.join(path.split('/')[-2:])}:{line}"


def _behind_copies(by_name: dict[str, Instruction], name: str) -> Instruction:
    value = by_name[name]
    while value.opcode in ("copy", "bitcast") and value.operands:
        value = by_name[value.operands[0]]
    return value


def _constant(by_name: dict[str, Instruction], name: str) -> int | None:
    value = _behind_copies(by_name, name)
    return int(value.literal) if value.opcode == "constant" else None


def type_bytes(text: str) -> int:
    """Returns the bytes of the arrays in the text of a type."""
    return sum(array_bytes(dtype, shape) for dtype, shape in arrays(text))


def arrays(text: str) -> list[Array]:
    """Returns (dtype, shape) of each array in the text of a type."""
    return [
        (dtype, tuple(map(int, filter(None, dims.split(",")))))
        for dtype, dims in _ARRAY.findall(text)
    ]


def results_of_start(instruction: Instruction) -> slice:
    """Returns which arrays of a start's type are its results; the others are operands and flags.

    `copy-start` has (result, operand, flag), `all-reduce-start` its results alone, and any other
    its operands, in a tuple of their own or not, then its results and flags.
    """
    whole = len(arrays(instruction.type))
    if instruction.opcode == "copy-start":
        return slice(0, 1)
    if instruction.opcode == "all-reduce-start":
        return slice(0, whole)
    if instruction.type.startswith("(("):
        operands = len(arrays(instruction.type[: _closing(instruction.type, 1)]))
    else:
        operands = len(instruction.operands)
    flags = len(_FLAG.findall(instruction.type))
    return slice(operands, max(operands, whole - flags))


def array_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Returns the bytes of an array of an HLO dtype such as `bf16`; parts of a byte round up."""
    digits = re.search(r"\d+", dtype)
    bits = 8 if dtype == "pred" or digits is None else int(digits[0])
    count = 1
    for size in shape:
        count *= size
    return -(-count * bits // 8)


def parse(text: str) -> Program:
    """Returns the program whose text `Compiled.as_text()` gives."""
    computations: dict[str, tuple[Instruction, ...]] = {}
    entry, name, body = "", None, []
    for line in _whole_lines(text):
        if name is None:
            if header := _COMPUTATION.match(line):
                name, body = header[2], []
                entry = name if header[1] else entry
        elif _END.match(line):
            computations[name], name = tuple(body), None
        elif start := _INSTRUCTION.match(line):
            body.append(_instruction(line, start))
    return Program(computations=computations, entry=entry, frames=_frames(text))


def _whole_lines(text: str) -> Iterator[str]:
    """Yields lines, an instruction's being one: a Pallas kernel's metadata has line breaks."""
    held, inside = "", False
    for line in text.splitlines():
        if not inside:
            inside = bool(_COMPUTATION.match(line))
            yield line
        elif _END.match(line):
            if held:
                yield held
            held, inside = "", False
            yield line
        elif _INSTRUCTION.match(line):
            if held:
                yield held
            held = line
        else:
            held += " " + line


def _instruction(line: str, start: re.Match[str]) -> Instruction:
    at = start.end()
    stop = _closing(line, at) if line[at] == "(" else line.index(" ", at)
    type_text = line[at:stop]
    opening = line.index("(", stop)
    end = _closing(line, opening)
    inside = line[opening + 1 : end - 1]
    return Instruction(
        name=start[2],
        opcode=line[stop:opening].strip(),
        type=type_text,
        operands=tuple(_OPERAND.findall(inside)),
        attributes=line[end:],
        is_root=bool(start[1]),
        literal=inside if "%" not in inside else "",
    )


def _closing(line: str, opening: int) -> int:
    """Returns the position behind the parenthesis that closes the one at `opening`."""
    depth = 0
    for position in range(opening, len(line)):
        depth += (line[position] == "(") - (line[position] == ")")
        if depth == 0:
            return position + 1
    raise ValueError(f"unbalanced parentheses in the program's text: {line[:200]}")


def _frames(text: str) -> dict[int, tuple[str, int]]:
    """Returns the stack frames' innermost (file, line) from the tables ahead of the program."""
    tables: dict[str, dict[int, str]] = {}
    rows: dict[int, str] = {}
    for line in text.splitlines():
        if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
            rows = tables.setdefault(line, {})
        elif _COMPUTATION.match(line):
            break
        elif row := re.match(r"(\d+) (.+)$", line):
            rows[int(row[1])] = row[2]
    names = {key: value.strip('"') for key, value in tables.get("FileNames", {}).items()}
    locations = {
        key: (names[_field(value, "file_name_id")], _field(value, "line"))
        for key, value in tables.get("FileLocations", {}).items()
    }
    return {
        key: locations[_field(value, "file_location_id")]
        for key, value in tables.get("StackFrames", {}).items()
    }


def _field(text: str, name: str) -> int:
    found = re.search(rf"\b{name}=(\d+)", text)
    return int(found[1]) if found else 0
