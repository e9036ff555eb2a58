"""What happens in a simulation with events: values on both sides of a change of it belong to different functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...base.status import Status
from ...integrate.hybrid.events import EventLog
from ...integrate.trajectories import Trajectories


@dataclass(frozen=True, eq=False)
class Course:
    """Events of some trajectories, and the save times between which they lie.

    Attributes
    ----------
    names
        Of the events.
    status
        Of each trajectory.
    logs
        Events of each trajectory.
    times
        (T,) or (B, T) save times.
    """

    names: tuple[str, ...]
    status: list[Status]
    logs: list[EventLog]
    times: NDArray[np.float64]

    @classmethod
    def of(cls, names: tuple[str, ...], sol: Trajectories) -> Course:
        """That of a simulation."""
        return cls(names, sol.status, sol.events or [], np.asarray(sol.t, np.float64))

    def change(self, other: Course | None) -> str:
        """What happens otherwise in another simulation of the same trajectories, in words; empty if nothing does."""
        if other is None:
            return ""
        for b, (mine, its) in enumerate(zip(self.logs, other.logs, strict=True)):
            if self.status[b] != other.status[b]:
                return f"trajectory {b} ends as {other.status[b].name}"
            found = self._order(b, mine, its) or self._saves(b, mine, its)
            if found:
                return found
        return ""

    def _order(self, b: int, mine: EventLog, its: EventLog) -> str:
        """Events that appear, disappear or change places."""
        n = min(len(mine), len(its))
        places = np.flatnonzero(mine.index[:n] != its.index[:n])
        k = int(places[0]) if places.size else n
        if len(mine) == len(its):
            return f"the order of events changes in trajectory {b} at t = {mine.t[k]:g}" if places.size else ""
        log, what = (mine, "disappears from") if len(mine) > len(its) else (its, "appears in")
        return (
            f"{self.names[log.index[k]]!r} {what} trajectory {b} at t = {log.t[k]:g} "
            f"({len(its)} events instead of {len(mine)})"
        )

    def _saves(self, b: int, mine: EventLog, its: EventLog) -> str:
        """Events that pass a save time: the state there is then another one."""
        ts = self.times[b] if self.times.ndim == 2 else self.times
        before, after = np.searchsorted(ts, mine.t), np.searchsorted(ts, its.t)
        places = np.flatnonzero(before != after)
        if places.size == 0:
            return ""
        k = int(places[0])
        return (
            f"{self.names[mine.index[k]]!r} of trajectory {b} passes the save time t = {ts[min(before[k], after[k])]:g}"
        )
