"""Kafka and PostgreSQL one by one, as fault runs use them -> killed, paused, restarted, refused, broken."""

import asyncio
import uuid
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import asyncpg
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from local import service
from local.errors import LocalError
from local.jars import cache_dir
from local.kafka import Kafka, find_java, java_major, new_cluster_id
from local.ports import find_free
from local.postgres import MAJOR, Postgres
from local.service import Service
from local.threads import run_async
from tests.local.sites import eventually
from tests.processes import RunningStack


@pytest.mark.parametrize("name", ["broker", "database"])
def test_a_paused_server_does_not_answer_and_a_resumed_one_does(stack: RunningStack, name: str) -> None:
    server: Service = getattr(stack, name)
    server.pause()
    try:
        assert not server.answers(timeout_s=0.5)
        assert server.running()
    finally:
        server.resume()
    assert eventually(server.answers, 120), "clients of this process avoid an address for seconds after it was silent"


async def test_a_killed_broker_keeps_its_records_and_its_address(stack: RunningStack) -> None:
    """The records come from Kafka's own console producer, so this is also what `tool` is for."""
    topic = "tests.local.tools"
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()
    command = stack.broker.tool(
        "org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", stack.kafka, "--topic", topic
    )
    tool = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=STDOUT)
    said, _ = await asyncio.wait_for(tool.communicate(b"one\ntwo\n"), 60)
    assert tool.returncode == 0, said
    await asyncio.to_thread(kill_and_start, stack.broker)
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=stack.kafka, auto_offset_reset="earliest")
    await consumer.start()
    found = [(await consumer.getone()).value for _ in range(2)]
    await consumer.stop()
    assert found == [b"one", b"two"]


async def test_a_killed_database_keeps_its_rows_and_its_address(stack: RunningStack) -> None:
    connection = await asyncpg.connect(stack.postgres)
    await connection.execute("CREATE TABLE tests_local_kept AS SELECT 7 AS number")
    await asyncio.to_thread(kill_and_start, stack.database)
    await asyncio.to_thread(stack.database.restart)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.execute("SELECT 1")
    connection = await asyncpg.connect(stack.postgres)
    assert await connection.fetchval("SELECT number FROM tests_local_kept") == 7
    await connection.execute("DROP TABLE tests_local_kept")
    await connection.close()


def kill_and_start(server: Service) -> None:
    assert server.child is not None
    killed = psutil.Process(server.child.pid)
    server.kill()
    assert not killed.is_running() and not server.running() and not server.answers(timeout_s=0.5)
    server.start()
    assert server.answers() and server.child.pid != killed.pid


async def test_a_topic_is_not_made_by_asking_for_it(stack: RunningStack) -> None:
    async with AIOKafkaProducer(bootstrap_servers=stack.kafka, request_timeout_ms=1500) as producer:
        with pytest.raises(KafkaError):
            await producer.send_and_wait("tests.local.mistyped", b"x")
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka)
    await admin.start()
    assert "tests.local.mistyped" not in await admin.list_topics()
    await admin.close()


async def test_the_database_wants_its_password(stack: RunningStack) -> None:
    password = stack.database.password
    assert len(password) > 20
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(stack.postgres.replace(password, "guess"))


def test_a_directory_in_use_is_refused(stack: RunningStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "HANDOVER_S", 0.2)
    second = Kafka(
        stack.broker.directory, find_free()[0], cache=cache_dir(), log=stack.data_dir / "logs" / "second.log"
    )
    with pytest.raises(LocalError, match=f"Kafka already runs on {stack.broker.directory}"):
        second.start()
    assert stack.broker.answers()


def test_a_broker_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    kafka = Kafka(tmp_path / "kafka", find_free()[0], cache=cache_dir(), log=tmp_path / "kafka.log")
    (tmp_path / "kafka" / "data").mkdir(parents=True)
    (tmp_path / "kafka" / "data" / "meta.properties").write_text("version=1\ncluster.id=broken\n")
    with pytest.raises(LocalError, match=r"Kafka ended with code \d+ while starting(?s:.)*meta\.properties"):
        kafka.start()
    assert kafka.child is None
    kafka._lock.acquire(0.0)  # free: nothing that inherited it is left
    kafka._lock.release()


def test_data_of_another_postgresql_version_is_not_touched(tmp_path: Path) -> None:
    postgres = Postgres(tmp_path / "postgres", find_free()[0], log=tmp_path / "postgres.log")
    (tmp_path / "postgres" / "data").mkdir(parents=True)
    (tmp_path / "postgres" / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(LocalError, match=f"made by PostgreSQL 9; this is {MAJOR}"):
        postgres.start()
    assert [path.name for path in (tmp_path / "postgres" / "data").iterdir()] == ["PG_VERSION"]


def test_the_pinned_java_is_recent_enough_and_a_missing_one_counts_as_none(tmp_path: Path) -> None:
    assert java_major(find_java()) >= 17
    assert java_major(str(tmp_path / "java")) == 0


def test_run_async_gives_results_and_errors_inside_a_loop_too() -> None:
    async def outer() -> int:
        async def inner() -> int:
            return 7

        return run_async(inner)

    async def fail() -> None:
        raise KeyError("kept")

    assert run_async(outer) == 7
    with pytest.raises(KeyError, match="kept"):
        run_async(fail)


def test_a_cluster_id_is_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by a bench that did not start: Kafka's tool refused a random id that began with a hyphen."""
    monkeypatch.setattr("local.kafka.uuid.uuid4", lambda: uuid.UUID(int=0xF8 << 120))
    assert new_cluster_id() == "A" + "A" * 21
    monkeypatch.setattr("local.kafka.uuid.uuid4", lambda: uuid.UUID(int=0x10 << 120))
    assert new_cluster_id() == "E" + "A" * 21
