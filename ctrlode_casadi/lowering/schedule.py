"""Order of execution and loop fusion.

Elementwise instructions of equal length that can run together become one loop whose intermediate values never leave
registers. The order is a list schedule that keeps a loop open as long as another ready instruction fits into it.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from .accumulate import Leaf, Outer
from .ops import ELEMENTWISE
from .program import Program
from .views import Views


@dataclass(frozen=True)
class Fused:
    """Elementwise instructions of one length, by output value, that run as one loop."""

    values: tuple[int, ...]
    length: int


@dataclass(frozen=True)
class Single:
    """One structural instruction, by output value."""

    value: int


@dataclass(frozen=True)
class Accumulate:
    """Adding one piece of an accumulated output."""

    number: int
    piece: Leaf | Outer


Step = Fused | Single | Accumulate


def reads(program: Program, views: Views, v: int) -> list[int]:
    """Owners of the values that an instruction reads."""
    return [views.resolve(i, program.sizes[i])[0] for i in program.producer[v].inputs]


def _piece_reads(program: Program, views: Views, piece: Leaf | Outer) -> list[int]:
    values = [piece.value] if isinstance(piece, Leaf) else [piece.left[0], piece.right[0]]
    return [views.resolve(v, program.sizes[v])[0] for v in values]


class _Scheduler:
    def __init__(self, program: Program, views: Views, compute: set[int], pieces: Sequence[Leaf | Outer]) -> None:
        self.program, self.views = program, views
        self.rank = {ins.output: k for k, ins in enumerate(program.instructions)}
        self.users: dict[int, list[int]] = {}
        self.missing: dict[int, int] = {}
        self.pieces = {-1 - k: piece for k, piece in enumerate(pieces)}
        self.loops: dict[int, list[tuple[int, int]]] = {}
        self.singles: list[tuple[int, int]] = []
        self.waiting: list[int] = []
        for v in compute:
            self._register(v, reads(program, views, v), compute)
        for k, piece in self.pieces.items():
            self._register(k, _piece_reads(program, views, piece), compute)
        for node, count in list(self.missing.items()):
            if count == 0:
                self._make_ready(node)

    def _register(self, node: int, needs: Sequence[int], compute: set[int]) -> None:
        inside = {a for a in needs if a in compute}
        self.missing[node] = len(inside)
        for a in inside:
            self.users.setdefault(a, []).append(node)

    def _make_ready(self, node: int) -> None:
        if node < 0:
            heapq.heappush(self.singles, (-1, node))
        elif self.program.producer[node].op in ELEMENTWISE:
            heapq.heappush(self.loops.setdefault(self.program.sizes[node], []), (self.rank[node], node))
        else:
            heapq.heappush(self.singles, (self.rank[node], node))

    def _finish(self, node: int) -> None:
        for user in self.users.get(node, ()):
            self.missing[user] -= 1
            if self.missing[user] == 0:
                self._make_ready(user)

    def _reads_through_view(self, v: int, members: set[int]) -> bool:
        """Whether an instruction reads a member of the open loop at another entry than its own."""
        owner = self.views.owner
        return any(i in owner and owner[i][0] in members for i in self.program.producer[v].inputs)

    def _loop(self, length: int) -> Fused:
        members: list[int] = []
        seen: set[int] = set()
        put_back = []
        queue = self.loops[length]
        while queue:
            item = heapq.heappop(queue)
            if self._reads_through_view(item[1], seen):
                put_back.append(item)
                continue
            members.append(item[1])
            seen.add(item[1])
            self._finish(item[1])
        for item in put_back:
            heapq.heappush(queue, item)
        return Fused(tuple(members), length)

    def run(self) -> list[Step]:
        steps: list[Step] = []
        while True:
            lengths = [n for n, queue in self.loops.items() if queue]
            if lengths and not (self.singles and self.singles[0][0] < 0):
                best = min(lengths, key=lambda n: self.loops[n][0])
                if not self.singles or self.loops[best][0] < self.singles[0]:
                    steps.append(self._loop(best))
                    continue
            if not self.singles:
                return steps
            _, node = heapq.heappop(self.singles)
            if node < 0:
                steps.append(Accumulate(-1 - node, self.pieces[node]))
            else:
                steps.append(Single(node))
                self._finish(node)


def schedule(program: Program, views: Views, compute: set[int], pieces: Sequence[Leaf | Outer] = ()) -> list[Step]:
    """Order the instructions that produce ``compute`` (owners only) and the accumulation of ``pieces``."""
    return _Scheduler(program, views, compute, pieces).run()
