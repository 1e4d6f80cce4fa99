"""the environment, or a watcher -> something happens at a named point: how tests crash a worker between any two steps.

`STREAMS_FAULT=committed:3` kills the process (SIGKILL, nothing is cleaned up) the third time it passes `committed`;
`STREAMS_FAULT=committed:3:stop` freezes it there (SIGSTOP), so that it can wake as a zombie. The simulation sets a
watcher instead. Unset, which is how users run, a point costs one comparison with None.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

_watcher: Callable[[str], None] | None = None


def watch(watcher: Callable[[str], None] | None) -> None:
    """Have `watcher` called with the name of each point that is passed; None for nobody."""
    global _watcher
    _watcher = watcher


def arm(text: str | None) -> None:
    """Kill the process as `point:count` says, or freeze it as `point:count:stop` does, once; None disarms."""
    if not text:
        watch(None)
        return
    armed, count, how = [*text.split(":"), "", ""][:3]
    left = int(count or 1)
    blow = signal.SIGSTOP if how == "stop" else signal.SIGKILL

    def strike(name: str) -> None:
        nonlocal left
        left -= name == armed
        if name == armed and left == 0:
            os.kill(os.getpid(), blow)

    watch(strike)


def point(name: str) -> None:
    """Pass a named point."""
    if _watcher is not None:
        _watcher(name)


arm(os.environ.get("STREAMS_FAULT"))
