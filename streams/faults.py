"""the environment -> a crash at a named point: how the fault runs kill a worker between any two effects.

`STREAMS_FAULT=committed:3` kills the process (SIGKILL, nothing is cleaned up) the third time it passes `committed`.
Unset, which is how users run, a point costs one comparison with None.
"""

from __future__ import annotations

import os
import signal

_armed: list[int] | None = None
_name = ""


def arm(text: str | None) -> None:
    """Read `point:count`; None disarms."""
    global _armed, _name
    if not text:
        _armed = None
        return
    _name, _, count = text.partition(":")
    _armed = [int(count or 1)]


def point(name: str) -> None:
    """Pass a named point; the armed one ends the process when its count is used up."""
    if _armed is not None and name == _name:
        _armed[0] -= 1
        if _armed[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get("STREAMS_FAULT"))
