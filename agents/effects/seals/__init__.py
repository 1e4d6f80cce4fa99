"""the keys of customers, and orders in clear -> sealed orders: what a worker does beside the rules when it seals."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from agents.effects.seals.keeping import Keeper
from schemas.settings import Settings
from schemas.topics import CUSTOMER_KEYS
from streams import App, Topic
from streams.following import KafkaTail
from tables.keys import Keyring

#: Goes on while a machine sleeps, where there is such a clock: nobody may take what is old for fresh.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def clock() -> float:
    return time.clock_gettime(_CLOCK)


def attach(app: App, topics: Mapping[str, Topic], settings: Settings) -> Keyring | None:
    """The keyring of this worker, kept up to date while it runs; None when nothing is sealed."""
    if not settings.seal:
        return None
    tail = KafkaTail(lambda: app.brokers)
    masters = settings.masters_of_seals()
    keyring = Keyring(topics[CUSTOMER_KEYS.name], tail, settings.partitions, masters, os.urandom, clock)
    app.add_service(Keeper(keyring, app.metrics.registry))
    return keyring
