"""an event of one domain -> the commands to others that follow from it: how a cart becomes a paid order.

The saga is choreographed: nobody holds the whole, and no step waits for another order. `react` sees an event, nothing
else. The agent that emits the event sends the commands in the same transaction, so that both happen or neither does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, assert_never

from schemas.accounts import (
    AccountCommandRefused,
    AccountEvent,
    AccountOpened,
    FundsDeposited,
    FundsHeld,
    FundsWithdrawn,
    HoldCaptured,
    HoldReleased,
)
from schemas.base import Command, derived_id
from streams import Topic

#: What an agent hands its events to. Within a batch: the commands join its transaction.
Tell = Callable[[Any], None]

#: Events that commands of other domains may follow from.
Telling = AccountEvent


def react(event: Telling) -> tuple[Command, ...]:
    """The commands that follow from an event. Pure; `()` for most events."""
    match event:
        case AccountOpened() | FundsDeposited() | FundsWithdrawn() | FundsHeld() | HoldCaptured() | HoldReleased():
            return ()
        case AccountCommandRefused():
            return ()
    assert_never(event)


def command_id(event: Telling, counter: int) -> str:
    """The id of the counter-th command that an event causes: the same when the event is told again."""
    return derived_id(f"{event.event_id} {counter}")


def teller(topics: Mapping[type[Command], tuple[Topic, str]]) -> Tell:
    """Tells events to the domains they concern. `topics`: for each command its topic and the field that is its key."""

    def tell(event: Telling) -> None:
        for command in react(event):
            topic, key = topics[type(command)]
            topic.put(key=getattr(command, key), value=command)

    return tell


def tell_nobody(event: Any) -> None:
    """For a domain that is wired alone."""
