"""`python -m local up` as a person runs it -> real Kafka and PostgreSQL -> every way of ending, and nothing left."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
from typing import Any

import asyncpg
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

import local
from local.jars import cache_dir
from tests.local.sites import START_TIMEOUT_S, Site, eventually, gone
from tests.processes import ROOT

NOBODY = 65534


async def leave_something(stack: local.Stack) -> None:
    """A record and a row."""
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka)
    await admin.start()
    await admin.create_topics([NewTopic("kept", 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=stack.kafka)
    await producer.start()
    await producer.send_and_wait("kept", b"a record")
    await producer.stop()
    connection = await asyncpg.connect(stack.postgres)
    await connection.execute("CREATE TABLE kept (word text); INSERT INTO kept VALUES ('a row')")
    await connection.close()


async def find_it(stack: local.Stack) -> tuple[bytes, str]:
    consumer = AIOKafkaConsumer("kept", bootstrap_servers=stack.kafka, auto_offset_reset="earliest")
    await consumer.start()
    record = await asyncio.wait_for(consumer.getone(), 20)
    await consumer.stop()
    connection = await asyncpg.connect(stack.postgres)
    row = await connection.fetchval("SELECT word FROM kept")
    await connection.close()
    return record.value, row


def listened_to(process: psutil.Process) -> list[Any]:
    """Its addresses; none when it has ended: PostgreSQL's helpers come and go."""
    try:
        return [row.laddr for row in process.net_connections() if row.status == psutil.CONN_LISTEN]
    except psutil.NoSuchProcess:
        return []


def test_a_day_with_the_stack(site: Site) -> None:
    """Start, be found, refuse a second start and a reset, die by kill -9 without a trace, resume, end by Ctrl-C."""
    assert site.run("status").returncode == 3
    first = site.up()
    stack = local.running(site.data_dir)
    assert stack is not None and stack.pid == first.process.pid
    assert stack.kafka == f"127.0.0.1:{site.kafka_port}" and stack.kafka in first.output
    assert stat.S_IMODE((site.data_dir / "stack.json").stat().st_mode) == 0o600, "it holds the password"
    status = site.run("status")
    assert status.returncode == 0 and status.stdout.count("  answers") == 4

    listening = {address for process in first.family for address in listened_to(process)}
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}, "loopback only"
    assert {site.kafka_port, site.postgres_port} < {address.port for address in listening}

    second = site.run("up")
    assert second.returncode == 1 and f"already runs on {site.data_dir}, by pid {stack.pid}" in second.stderr
    assert local.running(site.data_dir) == stack, "and the first is still found"
    refused = site.run("reset", "--yes")
    assert refused.returncode == 1 and "Stop it first" in refused.stderr
    asyncio.run(leave_something(stack))

    assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert local.running(site.data_dir) is None, "stack.json of a dead process is not believed"
    assert site.run("status").returncode == 3

    again = site.up()
    resumed = local.running(site.data_dir)
    assert resumed is not None and asyncio.run(find_it(resumed)) == (b"a record", "a row")
    code, rest = again.end(signal.SIGINT)
    assert code == 0 and "Stopped." in rest and "Traceback" not in rest
    assert not (site.data_dir / "stack.json").exists()

    (site.data_dir / "mine.txt").write_text("not the stack's")
    # What commands and workers of any version leave there is tied to the log that goes.
    for name in (
        "snapshots/a.snapshot",
        "verified.jsonl",
        "verifying.jsonl",
        "webhooks.key",
        "v2/state-6066/x",
        "state-1/x",
    ):
        (site.data_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (site.data_dir / name).write_text("of this log")
    asked = site.run("reset")
    assert asked.returncode == 1 and "--yes" in asked.stderr and (site.data_dir / "kafka").exists()
    assert site.run("reset", "--yes").returncode == 0
    assert [path.name for path in site.data_dir.iterdir()] == ["mine.txt"], "only what the stack put there goes"


@pytest.mark.parametrize("name", ["java", "postgres"])
def test_a_server_that_dies_takes_the_stack_down_and_is_named(site: Site, name: str) -> None:
    up = site.up()
    up.named(name).kill()
    rest, _ = up.process.communicate(timeout=START_TIMEOUT_S)
    assert up.process.returncode == 1
    assert f"{'Kafka' if name == 'java' else 'PostgreSQL'} ended by itself with code 137" in rest
    assert eventually(lambda: gone(up.family))


@pytest.mark.parametrize("setting", ["KAFKA_PORT", "POSTGRES_PORT"])
def test_a_taken_port_fails_the_start_and_leaves_nothing(site: Site, setting: str) -> None:
    port = site.kafka_port if setting == "KAFKA_PORT" else site.postgres_port
    before = {process.pid for process in psutil.process_iter()}
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier test may linger there
        taken.bind(("127.0.0.1", port))
        taken.listen()
        failed = site.run("up")
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    for part in (f"port {port}", f"pid {os.getpid()}", f"ORDERSTREAM_{setting}="):
        assert part in failed.stderr
    left = [p for p in psutil.process_iter() if p.pid not in before and p.name() in ("java", "postgres")]
    ours = [p for p in left if str(site.data_dir) in " ".join([p.cwd(), *p.cmdline()])]
    assert ours == []


def test_a_parent_that_is_gone_ends_the_stack_when_asked_for(site: Site) -> None:
    """As `make demo` does: after a kill -9 of make nobody would be there to press Ctrl-C."""
    script = f"{' '.join(site.command('up', '--with-parent'))} & echo $!; wait"
    shell = subprocess.Popen(["sh", "-c", script], cwd=ROOT, env=site.env, stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None
    pid = int(shell.stdout.readline())
    assert eventually(lambda: local.running(site.data_dir) is not None, START_TIMEOUT_S)
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    shell.kill()
    shell.wait()
    assert eventually(lambda: gone(family), 30)


def test_an_ordinary_user_can_run_it_and_stop_it_from_another_terminal(site: Site) -> None:
    """PostgreSQL takes another path as root. A root session becomes nobody, who may read (the interpreter can lie
    in root's closed home) but owns nothing."""
    if os.geteuid() == 0:
        to_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        site.as_user = [*to_nobody, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        os.chown(site.data_dir.parent, NOBODY, NOBODY)
        site.extra = {"HOME": "/nonexistent", "ORDERSTREAM_CACHE_DIR": str(cache_dir())}
    up = site.up()
    users = {process.uids().real for process in [psutil.Process(up.process.pid), *up.family]}
    assert users == {NOBODY if os.geteuid() == 0 else os.geteuid()}
    stack = json.loads((site.data_dir / "stack.json").read_text())
    asyncio.run(leave_something(local.Stack(**stack)))
    stopped = site.run("stop")
    assert stopped.returncode == 0 and "Stopped the stack" in stopped.stderr
    assert gone(up.family), "stop returns when nothing is left"
    assert up.process.wait(10) == 0
    again = site.run("stop")
    assert again.returncode == 0 and "No stack runs" in again.stderr


def test_the_embedded_stack_is_not_started_beside_brokers_of_ones_own(site: Site) -> None:
    failed = site.run("up", env={"ORDERSTREAM_KAFKA": "broker:9092"})
    assert failed.returncode == 1 and "ORDERSTREAM_KAFKA is set" in failed.stderr


def test_a_directory_that_cannot_be_written_names_the_setting(site: Site) -> None:
    site.data_dir.parent.mkdir(exist_ok=True)
    site.data_dir.write_text("a file where a directory should be")
    failed = site.run("up")
    assert failed.returncode == 1 and "ORDERSTREAM_DATA_DIR" in failed.stderr and "Traceback" not in failed.stderr
