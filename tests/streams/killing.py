"""a fault point and a count -> what runs in this process dies there, and puts nothing in order."""

from __future__ import annotations

from streams import faults


class Killed(BaseException):
    """Nothing catches it, so nothing is put in order."""


def kill_at(point: str, count: int = 1) -> None:
    """The count-th time that the point is passed. `faults.watch(None)` takes it back."""
    left = count

    def strike(name: str) -> None:
        nonlocal left
        left -= name == point
        if name == point and left == 0:
            raise Killed

    faults.watch(strike)
