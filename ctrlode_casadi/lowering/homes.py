"""Where the computed values of a kernel live: tape, output, a slot of a concatenation, scratch, or registers only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .accumulate import Leaf
from .program import Program
from .schedule import Accumulate, Fused, Single, Step, reads
from .views import Views


@dataclass(frozen=True)
class Slot:
    """A place in scratch memory: ``offset`` counts entries."""

    offset: int


@dataclass(frozen=True)
class Inside:
    """Part of another value's memory (an operand written straight into a concatenation)."""

    whole: int
    offset: int


Home = Slot | Inside


@dataclass(frozen=True)
class Homes:
    """Scratch places of computed values and the scratch size in entries; a value without one stays in registers."""

    home: Mapping[int, Home]
    scratch_entries: int


def readers(program: Program, views: Views, steps: Iterable[Step]) -> dict[int, list[tuple[int, bool]]]:
    """For each owner: (step number, needs memory) of every read from outside its own loop."""
    found: dict[int, list[tuple[int, bool]]] = {}
    for k, step in enumerate(steps):
        if isinstance(step, Fused):
            own = set(step.values)
            for v in step.values:
                for i in program.producer[v].inputs:
                    base, _ = views.resolve(i, program.sizes[i])
                    if base not in own:
                        found.setdefault(base, []).append((k, program.sizes[base] != 1 or base != i))
        elif isinstance(step, Single):
            for base in reads(program, views, step.value):
                found.setdefault(base, []).append((k, True))
        else:
            for base in _piece_bases(program, views, step):
                found.setdefault(base, []).append((k, True))
    return found


def _piece_bases(program: Program, views: Views, step: Accumulate) -> list[int]:
    piece = step.piece
    values = [piece.value] if isinstance(piece, Leaf) else [piece.left[0], piece.right[0]]
    return [views.resolve(v, program.sizes[v])[0] for v in values]


def assign_homes(
    program: Program, views: Views, steps: list[Step], fixed: set[int], also_stored: Iterable[int]
) -> Homes:
    """Give every value that needs memory a place; ``fixed`` values have one already (tape, outputs).

    ``also_stored`` are owners of outputs that must be readable when the last step is done.
    """
    use = readers(program, views, steps)
    end = len(steps)
    for v in also_stored:
        use.setdefault(v, []).append((end, True))
    made: dict[int, int] = {}
    for k, step in enumerate(steps):
        if isinstance(step, Fused):
            made.update(dict.fromkeys(step.values, k))
        elif isinstance(step, Single):
            made[step.value] = k
    home: dict[int, Home] = {}
    for step in steps:
        if isinstance(step, Single) and program.producer[step.value].op == "concat":
            _place_operands(program, step.value, made, fixed, home)
    last: dict[int, int] = {}
    wanted = []
    for v, k in made.items():
        structural = isinstance(steps[k], Single)
        needs = structural or any(memory for _, memory in use.get(v, ()))
        if v in fixed or isinstance(home.get(v), Inside) or not needs:
            continue
        wanted.append(v)
        last[v] = max((s for s, _ in use.get(v, ())), default=k)
    first = {v: made[v] for v in wanted}
    for v, place in home.items():
        if isinstance(place, Inside):
            _extend(v, home, made, last, use, first)
    slots, total = _allocate(program, sorted(wanted, key=lambda v: first[v]), first, last)
    home.update(slots)
    return Homes(home, total)


def _place_operands(
    program: Program, whole: int, made: Mapping[int, int], fixed: set[int], home: dict[int, Home]
) -> None:
    offset = 0
    inputs = program.producer[whole].inputs
    for i in inputs:
        if i in made and i not in fixed and i not in home and inputs.count(i) == 1:
            home[i] = Inside(whole, offset)
        offset += program.sizes[i]


def _extend(
    v: int,
    home: Mapping[int, Home],
    made: Mapping[int, int],
    last: dict[int, int],
    use: Mapping[int, list[tuple[int, bool]]],
    first: dict[int, int],
) -> None:
    """A concatenation lives from its first operand on, and as long as any operand is read."""
    whole = v
    while isinstance(home.get(whole), Inside):
        whole = home[whole].whole  # type: ignore[union-attr]
    if whole in first:
        first[whole] = min(first[whole], made[v])
        last[whole] = max([last[whole], *(s for s, _ in use.get(v, ()))])


def _allocate(
    program: Program, values: list[int], first: Mapping[int, int], last: Mapping[int, int]
) -> tuple[dict[int, Slot], int]:
    """First-fit allocation by life time."""
    slots: dict[int, Slot] = {}
    live: list[tuple[int, int, int]] = []  # (last step, offset, size)
    total = 0
    for v in values:
        live = [e for e in live if e[0] >= first[v]]
        taken = sorted((o, o + s) for _, o, s in live)
        offset = 0
        for lo, hi in taken:
            if offset + program.sizes[v] <= lo:
                break
            offset = max(offset, hi)
        slots[v] = Slot(offset)
        live.append((last[v], offset, program.sizes[v]))
        total = max(total, offset + program.sizes[v])
    return slots, total
