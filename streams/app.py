"""Faust's App -> the same vocabulary and life cycle over transactional tasks."""

from __future__ import annotations

import atexit
import logging
import resource
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import faust
from aiohttp.web import Application, AppRunner
from faust.app.base import BootStrategy
from faust.web.base import BlueprintManager
from mode.types import ServiceT

from streams import admin
from streams.agent import Agent
from streams.beginnings import Beginnings
from streams.brokers import GRANT, PLAINTEXT, Brokers, NotLetIn, Security
from streams.codec import Codec
from streams.deadlines import Deadlines
from streams.effects import Effect
from streams.engine import Engine
from streams.errors import Misdeclared
from streams.following import KafkaTail
from streams.live import Live, folder_of, id_of
from streams.logs import LoggedWorker
from streams.lookup import LogReader
from streams.metrics import Metrics
from streams.reading import Owner, Reading, Routing
from streams.records import Headers, Position
from streams.restore import KEEP_DELETIONS_MS
from streams.rights import Right, of_worker
from streams.settings import EngineSettings
from streams.sink import Sink
from streams.table import CHANGELOG_MAX_BYTES
from streams.table import Table as TableOf
from streams.topic import Topic
from streams.topology import Group

log = logging.getLogger(__name__)
V = TypeVar("V")

#: Changelogs hold the newest value of each key for ever. Small segments let compaction begin before a gigabyte is full.
CHANGELOG_CONFIG = {
    "cleanup.policy": "compact",
    "max.message.bytes": str(CHANGELOG_MAX_BYTES),
    "segment.bytes": str(256 << 20),
    "min.cleanable.dirty.ratio": "0.3",
    "delete.retention.ms": str(KEEP_DELETIONS_MS),
}

#: A journal is what makes a replay exact: kept as long as the inputs, which is for ever.
JOURNAL_CONFIG = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}

#: At its end a worker answers the requests that are under way; whoever is not done by then is cut off.
LAST_ANSWERS_S = 5.0

#: At rest a worker holds about 60 files and connections; its stores open tables as they grow.
LEAST_FILES = 256


class Boot(BootStrategy):
    """Starts sensors, the web server and our engine; Faust's consumer, conductor and tables stay off."""

    enable_kafka = False

    def agents(self) -> Iterable[ServiceT]:
        return []

    def server(self) -> Iterable[ServiceT]:
        return chain(super().server(), cast(App, self.app).services())


class App(faust.App):
    """An application: topics, tables and agents declared on it, run by `faust -A module worker`.

    What Faust does beneath its vocabulary is replaced, because it is neither exactly-once nor fast: consumer,
    conductor, tables and producer (see `streams/task.py` for what stands in their place).
    """

    BootStrategy = Boot

    def __init__(
        self,
        id: str,
        *,
        data_dir: Path,
        tuning: Mapping[str, Any] | None = None,
        security: Security = PLAINTEXT,
        idle_connection_s: float = 75.0,
        runner: Callable[..., AppRunner] = AppRunner,
        version: str = "",
        live_topic: str | None = None,
        effects_topic: str | None = None,
        broker_hint: str = "",
        access_hint: str = "",
        show_hint: Callable[[str], str] = str,
        preflight: Callable[[int, Path], str | None] = lambda port, state_dir: None,
        **options: Any,
    ) -> None:
        """`broker_hint`, `access_hint`: what to do when no broker answers, and when one lets nobody in.

        `show_hint`: how a refusal to start shows the commands that it names. `preflight`: called with the port of HTTP
        and the directory of the stores before anything runs; gives why a worker cannot start there, or None.

        `idle_connection_s`: how long an HTTP connection may be without a whole request; aiohttp's own hour lets whoever
        sends half a header hold a file that a store or another caller needs.

        `runner`: makes what serves the web application, from it and the options of aiohttp's AppRunner.

        `version`: one that has a name has a group, tables, journals and a directory of its own beside those of others.
        `live_topic`: says which of them is live (streams/live.py); without it, all that run are.
        `effects_topic`: proves which effects have begun (streams/beginnings.py); without it, one whose offsets are lost
        begins at the beginning.
        """
        self.shared_id, self.version = id, version
        id, data_dir = id_of(id, version), folder_of(data_dir, version)
        # Braces are Faust's: the port is known only once `worker --web-port` has been read.
        options.setdefault("datadir", f"{data_dir}/state-{{conf.web_port}}")
        options.setdefault("Worker", LoggedWorker)
        options.setdefault("key_serializer", "raw")
        options.setdefault("value_serializer", "raw")
        super().__init__(id, **options)
        self._id, self._broker_hint, self._access_hint = id, broker_hint, access_hint
        self._show_hint, self._preflight = show_hint, preflight
        self._security, self._idle_connection_s = security, idle_connection_s
        self._make_runner, self._tuning = runner, dict(tuning or {})
        self.metrics = Metrics()
        self.groups: dict[str, Group] = {}
        self.declared: dict[str, Topic] = {}
        self.live = Live(live_topic, version) if live_topic else None
        tail = KafkaTail(lambda: self.brokers)
        self.beginnings = Beginnings(tail, effects_topic, self._produce) if effects_topic else None
        self.engine = Engine(self.groups, self.metrics, live=self.live, beacon=self.beacon)
        self.routing = Routing(self.engine)
        self._web_setups: list[Callable[[Application], None]] = []
        self._services: list[ServiceT] = []

    # -- declarations -------------------------------------------------------------------------------------------------

    def topic(self, name: str, **options: Any) -> Topic:  # type: ignore[override]  # Faust's name, our options
        """Declare a topic (see Topic for the options). One that has a group is read by that group's agents."""
        if name in self.declared:
            raise Misdeclared(f"topic {name} is declared twice")
        topic = self.declared[name] = Topic(name, produce=self._produce, **options)
        if topic.group is not None:
            self._group(topic.group).topics[name] = topic
        return topic

    async def _produce(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Headers
    ) -> Position:
        return await self.engine.produce(topic, partition, key, value, headers)

    def Table(  # type: ignore[override]  # Faust's name, our options
        self, name: str, *, group: str, value_type: Any = None, codec: Codec[V] | None = None, help: str = ""
    ) -> TableOf[V]:
        """Declare a table of a group; its changelog topic is `<app id>-<name>-changelog`."""
        table: TableOf[V] = TableOf(self._id, name, group=group, value_type=value_type, codec=codec, help=help)
        return self._add(table)

    def deadlines(self, group: str) -> Deadlines:
        """The deadlines of a group; asking for them declares their table."""
        owner = self._group(group)
        if owner.deadlines is None:
            owner.deadlines = Deadlines(self._id, group)
            self._add(owner.deadlines.table)
        return owner.deadlines

    def agent(  # type: ignore[override]  # Faust's name, our options
        self, topic: Topic, *, name: str | None = None
    ) -> Callable[[Callable[[Any], Any]], Agent[Any]]:
        """Bind a function over a stream to a topic of a group; each topic has one agent."""

        def bind(fun: Callable[[Any], Any]) -> Agent[Any]:
            agent: Agent[Any] = Agent(fun, topic, name or f"{fun.__module__}.{fun.__name__}")
            if topic.group is None:
                raise Misdeclared(f"agent {agent.name} reads {topic.name}, which belongs to no group")
            group = self._group(topic.group)
            if topic.name in group.agents:
                raise Misdeclared(f"{topic.name} has the agent {group.agents[topic.name].name} already")
            group.agents[topic.name] = agent
            cast(dict[str, Any], self.agents.data)[agent.name] = agent
            return agent

        return bind

    def on_web(self, setup: Callable[[Application], None]) -> None:
        """Have `setup` called with the aiohttp application before it serves."""
        self._web_setups.append(setup)

    def add_service(self, service: ServiceT) -> None:
        """Run a service (a sink, for instance) beside the engine, in workers only."""
        self._services.append(service)

    def _group(self, name: str) -> Group:
        return self.groups.setdefault(name, Group(name, self._id))

    def _add(self, table: TableOf[V]) -> TableOf[V]:
        group = self._group(table.group)
        if any(table.name in other.tables for other in self.groups.values()):
            raise Misdeclared(f"table {table.name} is declared twice")
        group.tables[table.name] = table
        cast(dict[str, Any], self.tables.data)[table.name] = table
        return table

    def _declared_config(self, config: Mapping[str, str]) -> dict[str, str]:
        """With three copies, a record is acknowledged when two brokers have it: the loss of one loses nothing."""
        durable = {"min.insync.replicas": "2"} if self.engine_settings().replication_factor >= 3 else {}
        return {**config, **durable}

    def required_topics(self) -> list[admin.TopicConfig]:
        """Every topic that must exist before a worker starts: the declared ones, the changelogs and the journals."""
        replicas = self.engine_settings().replication_factor
        declared = [
            admin.TopicConfig(
                topic.name, topic.partitions, replicas, self._declared_config(topic.config), topic.group is not None
            )
            for topic in self.declared.values()
        ]
        return declared + self.own_topics()

    def own_topics(self) -> list[admin.TopicConfig]:
        """The changelogs and the journals: each version of an application has its own."""
        replicas = self.engine_settings().replication_factor
        journals = [
            admin.TopicConfig(group.journal_topic, group.partitions, replicas, self._declared_config(JOURNAL_CONFIG))
            for group in self.groups.values()
            if group.agents
        ]
        return self.changelog_topics() + journals

    def changelog_topics(self) -> list[admin.TopicConfig]:
        """The topics that tables are rebuilt from; they belong to the engine alone."""
        replicas = self.engine_settings().replication_factor
        return [
            admin.TopicConfig(table.changelog, group.partitions, replicas, self._declared_config(CHANGELOG_CONFIG))
            for group in self.groups.values()
            for table in group.tables.values()
        ]

    def rights(self) -> list[Right]:
        """What this application's user must be allowed to on the brokers."""
        readers = [service for service in self._services if isinstance(service, Sink | Effect)]
        looked_into = [topic.name for topic in self.declared.values() if topic.looked_into]
        fences = [right for service in self._services if isinstance(service, Effect) for right in service.fences()]
        live = None if self.live is None else self.live.partition.topic
        begun = None if self.beginnings is None else self.beginnings.partition.topic
        return of_worker(self._id, self.declared, self.groups, readers, looked_into, live, begun) + fences

    @property
    def effects(self) -> list[Effect]:
        """The effects and movers that workers of this application run."""
        return [service for service in self._services if isinstance(service, Effect)]

    def check_topology(self) -> None:
        """Raise Misdeclared when topics, tables and agents do not fit together."""
        for group in self.groups.values():
            group.check()

    # -- running ------------------------------------------------------------------------------------------------------

    @property
    def bootstrap(self) -> str:
        """`host:port,…` of the brokers."""
        return ",".join(f"{url.host}:{url.port or 9092}" for url in self.conf.broker)

    @property
    def brokers(self) -> Brokers:
        """The brokers and how they are spoken to: what every client of this application is made from."""
        return Brokers(self.bootstrap, self._security)

    def engine_settings(self) -> EngineSettings:
        return EngineSettings(
            app_id=self._id,
            bootstrap=self.bootstrap,
            state_dir=Path(str(self.conf.datadir)),
            security=self._security,
            **self._tuning,
        )

    def services(self) -> list[ServiceT]:
        """What a worker runs beside Faust's own."""
        return [self.engine, *self._services]

    async def on_start(self) -> None:
        """Look before anything runs. What is wrong here ends the worker with a plain message and exit code 1."""
        try:
            self.check_topology()
            require_files()
            self.engine.configure(self.engine_settings(), str(self.conf.canonical_url))
            await admin.check(self.brokers, self.required_topics())
        except admin.BrokerUnreachable as error:
            self._refuse_to_start(f"{error}\n{self._broker_hint}".rstrip())
        except NotLetIn as error:
            self._refuse_to_start(f"{error}\n{self._access_hint}".rstrip())
        except admin.TopicsDiffer as error:
            self._refuse_to_start(f"{error}{self._unseen(error)}")
        except (Misdeclared, TooFewFiles, admin.TopicsRefused, admin.NoLeader) as error:
            self._refuse_to_start(str(error))
        await super().on_start()

    def _refuse_to_start(self, message: str) -> NoReturn:
        """A traceback would bury the sentence that helps. Faust redirects sys.stderr to the log, hence the original."""
        shown = self._show_hint(message)
        log.critical("the worker cannot start: %s", shown)
        atexit.register(print, shown, file=sys.__stderr__)  # as the last line, where a person looks
        raise SystemExit(1)

    def _unseen(self, error: admin.TopicsDiffer) -> str:
        """Brokers do not tell a user of topics that it has no right to."""
        missing = any(difference.what is admin.What.MISSING for difference in error.differences)
        if not (missing and self._security.protocol != "PLAINTEXT"):
            return ""
        return f"\nOr this user may not see what is missing: `{GRANT}` prints the rights that it needs."

    async def on_stop(self) -> None:
        """Take no new request and answer those under way while the tables can still be read; then leave the group.

        In mode's own order the server stops last, and each request would wait in vain for a task to come back.
        """
        if self.in_worker:
            await self.web.stop()
            log.info("stopping: the requests under way are answered; the worker leaves the group")
        await super().on_stop()

    def _create_directories(self) -> None:
        """Faust makes the last directory only, and its errors here are tracebacks."""
        state_dir = Path(str(self.conf.datadir))
        if (obstacle := self._preflight(int(self.conf.web_port), state_dir)) is not None:
            self._refuse_to_start(obstacle)
        state_dir.mkdir(parents=True, exist_ok=True)

    async def _wait_for_table_recovery_completed(self) -> bool:
        return False

    async def _stop_consumer(self) -> None:
        return None

    def _new_web(self) -> Any:
        """Faust's own pages go (they show Faust's tables, which are empty); ours come in their place."""
        web: Any = super()._new_web()
        web.blueprints = BlueprintManager([])
        web._runner = self._make_runner(
            web.web_app, access_log=None, shutdown_timeout=LAST_ANSWERS_S, keepalive_timeout=self._idle_connection_s
        )
        for setup in self._web_setups:
            setup(web.web_app)
        return web

    # -- reads --------------------------------------------------------------------------------------------------------

    def owner(self, group: str, key: str | bytes) -> Owner:
        """Who answers for this key. Raises NotReadable while nobody is known to."""
        return self.routing.owner(group, key)

    def owners(self, group: str) -> list[Owner]:
        """Who answers for each partition of the group. Raises NotReadable while one has no owner."""
        return self.routing.owners(group)

    def log_reader(self) -> AbstractAsyncContextManager[LogReader]:
        """The log itself, for what tables have no answer to. Raises NotReadable while there is no connection."""
        return self.engine.log_reader()

    def reading(
        self, group: str, partition: int, *, min_position: Position | None = None, timeout_s: float = 2.0
    ) -> Reading:
        """Committed reads of a local partition: `async with app.reading("orders", 3): table.get(key)`."""
        return Reading(self.engine, group, partition, min_position, timeout_s)


class TooFewFiles(Exception):
    """This process may not open as many files as a worker needs."""


def require_files() -> None:
    """Raise TooFewFiles: a client without a file to be had takes it for a broker that is away, and tries for ever."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed < LEAST_FILES:
        raise TooFewFiles(
            f"this process may hold {allowed} open files, a worker needs {LEAST_FILES} at least: raise the limit with"
            " `ulimit -n 1024`, or LimitNOFILE= of its service"
        )
