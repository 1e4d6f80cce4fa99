"""one way to fold orders (ours, the product, a peer) -> started, fed behind a gate, judged by what it wrote."""

from __future__ import annotations

import re
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Literal, NamedTuple, Self

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient

from bench import loading, orders
from bench.ground import PARTITIONS, STAMPED, Ground, NotReady, Served, alive, wait_for_shares
from bench.loading import QUIET, Record
from bench.peers.install import HERE, java_with, python_with
from bench.processes import Processes
from bench.watching import Outputs, Stuck, Watch, read_outputs, until_still
from local.ports import find_free
from local.process import Child
from schemas.topics import ORDER_EVENTS
from streams.app import CHANGELOG_CONFIG, JOURNAL_CONFIG


class Fed(NamedTuple):
    """What one load came to."""

    per_s: float  # records, from the opening of the gate until the broker had appended the last output
    cpu_ms: float  # of all processes but the broker, per record
    peak_mb: float
    broker_cpu_ms: float  # per record
    database_cpu_ms: float  # per record; PostgreSQL works for the product's sink only


class Fold(ABC):
    """Processes that fold orders from `source` into a table and `output`. Topics, group and state are of this run."""

    #: How it is called in tables.
    title: str
    #: Reads committed records only, so that the gate holds for it.
    gated = True

    def __init__(self, ground: Ground, what: str) -> None:
        self.ground, self.id = ground, ground.name(what)
        self.source, self.output, self.group = f"{self.id}-in", f"{self.id}-out", self.id
        self.folder = ground.folder(self.id)
        self.children: list[Child] = []
        self._read_to: dict[int, int] | None = None

    def __enter__(self) -> Self:
        self.create()
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.delete()

    def create(self) -> None:
        self.ground.create_topics(self.source)
        self.ground.create_topics(self.output, config=STAMPED)

    def delete(self) -> None:
        self.ground.delete_topics(self.id)
        shutil.rmtree(self.folder, ignore_errors=True)

    @abstractmethod
    def start(self) -> None:
        """Returns when every process has its share of the partitions."""

    def stop(self) -> None:
        for child in self.children:
            child.stop()
        self.children = []

    @property
    def processes(self) -> Processes:
        return Processes(child.pid for child in self.children)

    def expect(self, count: int) -> int:
        """How many outputs so many records become."""
        return count

    def records(self, count: int, first: int) -> Iterable[Record]:
        return orders.plain(count, first)

    def feed(self, count: int, first: int = 0, at_gate: Callable[[], None] | None = None) -> Fed:
        """Give it `count` records at once and wait until it has folded and committed all of them.

        Raises Stuck when it stops before, and when its output does not hold each order once.
        """
        watch = Watch(self.ground.bootstrap, self.group, self.source, self.output)
        processes, beside = (
            self.processes,
            [Processes([pid]) for pid in (self.ground.broker_pid, self.ground.database_pid)],
        )
        before, start, peak = watch.input_ends(), [0.0, 0.0, 0.0, 0.0], [0.0]

        def open_gate() -> None:
            if at_gate is not None:
                at_gate()
            start[:] = processes.cpu_s(), *(one.cpu_s() for one in beside), time.time() * 1000

        def sample() -> float:
            peak[0] = max(peak[0], processes.rss_mb())
            return processes.cpu_s()

        try:
            write = loading.load if self.gated else loading.load_openly
            write(self.ground.bootstrap, self.source, self.records(count, first), open_gate)
            end = until_still(watch, lambda: self.done(watch, before, count), sample, lambda: alive(self.children))
            broker_s, database_s = (one.cpu_s() - at for one, at in zip(beside, start[1:3], strict=True))
        except Stuck as error:
            logs = "\n".join(f"--- {child.name}\n{child.log_tail(20)}" for child in self.children)
            raise Stuck(f"{self.title}: {error}\n{logs}") from None
        finally:
            watch.close()
        per_s = count * 1000 / (self._judged(count).last_ms - start[3])
        each = 1000 / count
        return Fed(per_s, (end - start[0]) * each, peak[0], broker_s * each, database_s * each)

    def done(self, watch: Watch, before: list[int], count: int) -> bool:
        return watch.caught_up(before)

    def _judged(self, count: int) -> Outputs:
        """Read what it wrote: as many committed outputs as orders, no key twice."""
        since = self._read_to
        found, self._read_to = read_outputs(self.ground.bootstrap, self.output, since)
        wanted = self.expect(count)
        if found.records != wanted or (wanted == count and found.keys != wanted):
            raise Stuck(
                f"{self.title}: {wanted} outputs were expected of {count} orders; there are {found.records}, for "
                f"{found.keys} keys"
            )
        return found


class OnOurEngine(Fold):
    """What both of ours share: workers on ports of their own, ready when they share the partitions evenly."""

    def __init__(self, ground: Ground, id: str, workers: int) -> None:
        super().__init__(ground, id)
        self._ports = find_free(workers)
        self.servers: list[Served] = []

    @abstractmethod
    def launch(self) -> None:
        """Start the workers without waiting for them. A second launch finds the stores of the first."""

    def start(self) -> None:
        self.launch()
        wait_for_shares(self.servers)

    def stop(self) -> None:
        super().stop()
        self.servers = []

    def lose_stores(self) -> None:
        for state in self.folder.glob("state-*"):
            shutil.rmtree(state)


class OurFold(OnOurEngine):
    """The bare fold of bench/fold_app.py on our engine."""

    def __init__(self, ground: Ground, workers: int = 1, way: Literal["kept", "whole"] = "kept") -> None:
        super().__init__(ground, f"ours-{way}-{workers}", workers)
        self.title, self.way = f"ours ({way}, {workers} workers)", way

    def create(self) -> None:
        super().create()
        self.ground.create_topics(f"{self.id}-letters")
        self.ground.create_topics(f"{self.id}-orders-changelog", config=CHANGELOG_CONFIG)
        self.ground.create_topics(f"{self.id}-orders-journal", config=JOURNAL_CONFIG)

    def launch(self) -> None:
        for port in self._ports:
            env = {
                "BENCH_ID": self.id,
                "BENCH_KAFKA": self.ground.bootstrap,
                "BENCH_PORT": str(port),
                "BENCH_DATA_DIR": str(self.folder),
                "BENCH_FOLD": self.way,
            }
            command = self.ground.python("faust", "-A", "bench.fold_app", "worker", "--web-port", str(port))
            child = self.ground.start(f"{self.id}-{port}", command, env)
            self.children.append(child)
            self.servers.append(Served(child, port))


class Product(OnOurEngine):
    """The real app: full validation, timeline, indexes, refusals, dead letters; the sink beside it unless `sink` is
    off. Its topics have fixed names, so there is one at a time."""

    def __init__(
        self,
        ground: Ground,
        workers: int = 1,
        sink: bool = True,
        mixed: bool = True,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """`more`: settings besides."""
        super().__init__(ground, f"product-{workers}", workers)
        self.title, self.mixed = f"product ({workers} workers)", mixed
        self.source, self.output, self.group = "orders", "orders.events.v1", "orderstream"
        self._sink, self._more = sink, dict(more or {})

    @property
    def env(self) -> dict[str, str]:
        return {
            "ORDERSTREAM_KAFKA": self.ground.bootstrap,
            "ORDERSTREAM_POSTGRES": self.ground.dsn,
            "ORDERSTREAM_DATA_DIR": str(self.folder),
            "ORDERSTREAM_SINK": "1" if self._sink else "0",
            **self._more,
        }

    def create(self) -> None:
        self.ground.delete_product()
        # Before the others: `topics create` leaves a topic that exists as it is, and this one has one setting more.
        self.ground.create_topics(self.output, config=ORDER_EVENTS.config() | STAMPED)
        self.ground.run(f"{self.id}-topics", self.ground.python("faust", "-A", "app", "topics", "create"), env=self.env)

    def delete(self) -> None:
        self.ground.delete_product()
        shutil.rmtree(self.folder, ignore_errors=True)

    def launch(self) -> None:
        for port in self._ports:
            env = self.env | {"ORDERSTREAM_WEB_PORT": str(port)}
            child = self.ground.start(f"{self.id}-{port}", self.ground.python("faust", "-A", "app", "worker"), env)
            self.children.append(child)
            self.servers.append(Served(child, port))

    def records(self, count: int, first: int) -> Iterable[Record]:
        return orders.mixed(count, first) if self.mixed else orders.plain(count, first)

    def expect(self, count: int) -> int:
        return orders.mixed_load(count).events if self.mixed else count


class KafkaStreams(Fold):
    """bench/peers/kstreams on the JVM that the broker runs on."""

    def __init__(self, ground: Ground, threads: int = 2, guarantee: str = "exactly_once_v2") -> None:
        self._command = java_with("kstreams")
        super().__init__(ground, f"kstreams-{guarantee.replace('_', '-')}")
        self.title = f"Kafka Streams {guarantee}, {threads} threads"
        self._threads, self._guarantee = threads, guarantee

    def launch(self) -> None:
        arguments = (self.ground.bootstrap, self.id, self.source, self.output, str(self.folder / "state"))
        command = [*self._command, "bench.FoldPeer", *arguments, str(self._threads), self._guarantee]
        self.children = [self.ground.start(self.id, command)]

    def start(self) -> None:
        """Running, and silent for a second: a second thread that joins moves half of the tasks to it."""
        self.launch()
        while time.time() * 1000 - self.running_at() < 1_000:
            alive(self.children)
            time.sleep(0.05)

    def lose_stores(self) -> None:
        shutil.rmtree(self.folder / "state", ignore_errors=True)

    def running_at(self, timeout_s: float = 90.0) -> float:
        """When it last came to RUNNING, in ms since the epoch; waits for it."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            alive(self.children)
            states = re.findall(r"^state (\w+) (\d+)$", self._log(), re.MULTILINE)
            if states and states[-1][0] == "RUNNING":
                return float(states[-1][1])
            time.sleep(0.02)
        raise NotReady(f"{self.title} is not running after {timeout_s} s:\n{self.children[0].log_tail(30)}")

    def restored(self) -> tuple[int, float]:
        """Records that were restored and the seconds from the first restore's beginning to the last one's end."""
        told = re.findall(r"^restored (\d+) (\d+) (\d+)$", self._log(), re.MULTILINE)
        if not told:
            return 0, 0.0
        records, began, ended = map(int, told[-1])
        return records, (ended - began) / 1000

    def _log(self) -> str:
        return self.children[0].log.read_text(errors="replace")


class Quix(Fold):
    """bench/peers/quix_fold.py: one process, or several that share the partitions."""

    def __init__(self, ground: Ground, processes: int = 1) -> None:
        self._python = python_with("quix")
        super().__init__(ground, f"quix-{processes}")
        self.title, self._count = f"Quix Streams exactly-once, {processes} processes", processes

    def start(self) -> None:
        for number in range(self._count):
            arguments = (self.ground.bootstrap, self.group, self.source, self.output, str(self.folder / str(number)))
            command = [str(self._python), str(HERE / "quix_fold.py"), *arguments]
            self.children.append(self.ground.start(f"{self.id}-{number}", command))
        self._wait_for_members()

    def _wait_for_members(self) -> None:
        wait_for_members(self.ground.bootstrap, self.group, self.source, self._count, self.children)


class StockFaust(Fold):
    """bench/peers/faust_fold.py. It reads uncommitted records, so the load is written when all workers have joined."""

    gated = False

    def __init__(self, ground: Ground, workers: int = 1) -> None:
        self._python = python_with("faust")
        super().__init__(ground, f"faust-{workers}")
        self.title, self._ports = f"stock Faust, {workers} workers", find_free(workers)

    def start(self) -> None:
        env = {
            "BENCH_KAFKA": self.ground.bootstrap,
            "BENCH_ID": self.id,
            "BENCH_IN": self.source,
            "BENCH_OUT": self.output,
        }
        for port in self._ports:
            options = ("--datadir", str(self.folder / str(port)), "worker", "--web-port", str(port))
            command = [str(self._python), str(HERE / "faust_fold.py"), *options]
            self.children.append(self.ground.start(f"{self.id}-{port}", command, env))
        wait_for_members(self.ground.bootstrap, self.group, self.source, len(self._ports), self.children)

    def done(self, watch: Watch, before: list[int], count: int) -> bool:
        return watch.output_end() >= count

    def _judged(self, count: int) -> Outputs:
        if self._read_to is not None:
            raise Stuck("stock Faust is fed once: its outputs are counted from the beginning")
        return super()._judged(count)


def wait_for_members(bootstrap: str, group: str, topic: str, members: int, children: list[Child]) -> None:
    """Until the group is stable and its members share the topic's partitions evenly."""
    admin = AdminClient({"bootstrap.servers": bootstrap, **QUIET})
    deadline = time.monotonic() + 90
    shares: list[int] = []
    while time.monotonic() < deadline:
        alive(children)
        time.sleep(0.2)
        try:
            found = admin.describe_consumer_groups([group])[group].result(10)
        except KafkaException:
            continue  # on a new broker the topic that holds the groups is still being made
        shares = [
            len([tp for tp in member.assignment.topic_partitions if tp.topic == topic]) for member in found.members
        ]
        if found.state == ConsumerGroupState.STABLE and shares == [PARTITIONS // members] * members:
            return
    raise NotReady(f"the members of {group} never shared {topic} evenly: {shares}\n{children[0].log_tail(30)}")
