"""A started stack -> held until Ctrl-C, a signal, the parent's end or the end of one of its parts -> a clean stop."""

import os
import signal
import time
from collections.abc import Callable, Sequence

from local.console import say
from local.errors import LocalError
from local.jars import KAFKA_VERSION
from local.process import Child
from local.stack import Embedded, Stack

TICK_S = 0.25
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def start(embedded: Embedded) -> Stack:
    """Start and say how long it took."""
    began = time.monotonic()
    say(f"Starting Apache Kafka {KAFKA_VERSION} and PostgreSQL in {embedded.data_dir} ...")
    stack = embedded.start()
    say(f"All answer after {time.monotonic() - began:.1f} s.")
    return stack


def watch(children: Sequence[Child], parent: int | None, on_tick: Callable[[], None] = lambda: None) -> None:
    """Returns when `parent` (a pid, with --with-parent) is gone. A part that ends by itself ends the whole: half a
    stack helps nobody, and a restart would hide the reason."""
    while parent is None or os.getppid() == parent:
        for child in children:
            if not child.running():
                raise LocalError(
                    f"{child.name} ended by itself with code {child.exit_code}, so everything was stopped. The data is "
                    f"kept: start again. The end of {child.log}:\n{child.log_tail()}"
                )
        on_tick()
        time.sleep(TICK_S)


def interruptible() -> None:
    """SIGTERM and a closed terminal end the command as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in ENDING_SIGNALS:
        signal.signal(number, interrupt)


def stop(embedded: Embedded, children: Sequence[Child] = ()) -> None:
    """The children first, while Kafka still takes their last commit. A second Ctrl-C must not cut this short; it ends
    by itself within the guards' grace periods."""
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    anything = bool(children) or any(service.running() for service in embedded.services)
    if anything:
        say("Stopping ...")
    for child in reversed(children):
        child.stop()
    embedded.stop()
    if anything:
        say("Stopped. The data is kept; `python -m local reset` deletes it.")
