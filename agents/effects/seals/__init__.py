"""the keys of customers, and orders in clear -> sealed orders: what a worker does beside the rules when it seals."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from agents.effects.seals.inbox import Inbox
from agents.effects.seals.keeping import Keeper
from schemas.settings import Settings
from schemas.topics import CUSTOMER_KEYS, ORDER_INBOX
from streams import App, Topic
from streams.effects import Effect
from streams.following import KafkaTail
from streams.moving import Move
from tables.keys import Keyring, Said, Write

#: Goes on while a machine sleeps, where there is such a clock: nobody may take what is old for fresh.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def clock() -> float:
    return time.clock_gettime(_CLOCK)


def writing(topic: Topic) -> Write:
    """To the topic of keys, from a worker."""

    async def write(records: Sequence[Said]) -> None:
        sent: list[Any] = [topic.send(key=said.key, value=said.value, partition=said.partition) for said in records]
        await asyncio.gather(*sent)

    return write


def attach(app: App, topics: Mapping[str, Topic], settings: Settings) -> tuple[Keyring | None, list[Effect]]:
    """The keyring of this worker, kept up to date while it runs, and the intake that seals; nothing when it is off."""
    if not settings.seal:
        return None, []
    tail, masters = KafkaTail(lambda: app.brokers), settings.masters_of_seals()
    keyring = Keyring(writing(topics[CUSTOMER_KEYS.name]), tail, settings.partitions, masters, os.urandom, clock)
    app.add_service(Keeper(keyring, app.metrics.registry))
    inbox = Inbox(keyring, settings.partitions)
    intake = Move(app, "inbox", ORDER_INBOX.name, inbox.seal, works=lambda: app.engine.works)
    app.add_service(intake)
    return keyring, [intake]
