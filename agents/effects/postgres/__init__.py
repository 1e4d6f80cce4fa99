"""events of orders, purchases and payments, dead letters -> rows of PostgreSQL, each exactly once.

How it is wired, rebuilt, verified.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from agents.effects.postgres import bought
from agents.effects.postgres.bought import KINDS, Folds
from agents.effects.postgres.changelog import Stalled
from agents.effects.postgres.comparing import Difference
from agents.effects.postgres.destination import PostgresDestination
from agents.effects.postgres.migrate import SCHEMA
from agents.effects.postgres.rebuild import rebuild
from agents.effects.postgres.rows import read_dead_letter, read_event
from agents.effects.postgres.verify import Verified, verify, verify_against_changelog
from schemas.topics import DEAD_LETTERS, ORDER_EVENTS
from streams.app import App
from streams.sink import Sink, SinkMetrics

__all__ = [
    "KINDS", "NAME", "SCHEMA", "TOPICS", "Difference", "Folds", "Stalled", "Verified", "attach", "make_sink", "rebuild",
    "verify", "verify_against_changelog",
]  # fmt: skip

NAME = "postgres"
READERS = {ORDER_EVENTS.name: read_event, DEAD_LETTERS.name: read_dead_letter, **bought.READERS}
#: What the sink reads.
TOPICS = tuple(READERS)


def make_sink(
    app: App,
    dsn: Callable[[], str],
    folds: Folds,
    metrics: SinkMetrics | None = None,
    pressed: Callable[[], bool] = lambda: False,
    works: Callable[[], bool] = lambda: True,
) -> Sink:
    """The sink, not yet running. `dsn` is asked at each connection and may raise: the sink waits and asks again.

    `folds`: the rules', by table. Without `metrics`, as for a command, nobody sees its figures.
    """
    counted = metrics or SinkMetrics(CollectorRegistry())
    destination = PostgresDestination(dsn, READERS, folds)
    return Sink(app, NAME, TOPICS, destination, metrics=counted, pressed=pressed, works=works)


def attach(app: App, dsn: Callable[[], str], folds: Folds) -> Sink:
    """Run the sink in every worker of the app; they share the partitions. Its `health()` is for health checks."""
    engine = app.engine
    sink = make_sink(app, dsn, folds, SinkMetrics(app.metrics.registry), lambda: engine.pressed, lambda: engine.works)
    app.add_service(sink)
    return sink
