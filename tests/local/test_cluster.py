"""`python -m local up --brokers 3` as a person runs it: three real brokers, and the mistakes around them."""

import asyncio
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

import local
from local.errors import LocalError
from local.kafka import Quorum
from local.ports import find_free, find_free_run, require_free
from local.stack import Embedded, brokers_in
from schemas.settings import Settings
from tests.local.sites import Site, eventually, gone


async def describe(bootstrap: str) -> tuple[set[int], list[dict[str, Any]]]:
    """The node ids of the cluster, and the partitions of a topic with three copies."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        nodes = {int(broker["node_id"]) for broker in (await admin.describe_cluster())["brokers"]}
        await admin.create_topics([NewTopic("kept", 3, 3)])
        for _ in range(100):
            found = await admin.describe_topics(["kept"])
            if found[0]["error_code"] == 0 and all(row["leader"] >= 0 for row in found[0]["partitions"]):
                break
        resource = ConfigResource(ConfigResourceType.TOPIC, "kept", {"min.insync.replicas": None})
        (answer,) = await admin.describe_configs([resource])
        assert answer.resources[0][4][0][1] == "2", "a record is acknowledged when two brokers have it"
        return nodes, found[0]["partitions"]
    finally:
        await admin.close()


def test_three_brokers_are_one_stack(site: Site) -> None:
    """Start, list, replicate, refuse another number of brokers, and end without anything left behind."""
    site.kafka_port = find_free_run(3)
    up = site.up("up", "--brokers", "3")
    addresses = [f"127.0.0.1:{site.kafka_port + number}" for number in range(3)]
    assert f"ORDERSTREAM_KAFKA={','.join(addresses)} ORDERSTREAM_REPLICATION_FACTOR=3" in up.output
    status = site.run("status")
    assert status.returncode == 0 and status.stdout.count("  answers") == 6
    assert all(
        f"Kafka {node}" in status.stdout and address in status.stdout for node, address in enumerate(addresses, 1)
    )

    stack = local.running(site.data_dir)
    assert stack is not None and stack.brokers == 3
    settings = Settings.load({}, data_dir=site.data_dir)
    assert local.bootstrap(settings) == ",".join(addresses)
    assert local.replication_factor(settings) == 3, "workers on this directory need no setting"
    nodes, partitions = asyncio.run(describe(stack.kafka))
    assert nodes == {1, 2, 3}
    assert all(sorted(row["replicas"]) == [1, 2, 3] for row in partitions)

    code, rest = up.end(signal.SIGINT)
    assert code == 0 and "Stopped." in rest and eventually(lambda: gone(up.family))
    refused = site.run("up")
    assert refused.returncode == 1 and "up --brokers 3" in refused.stderr and "Traceback" not in refused.stderr
    assert site.run("reset", "--yes").returncode == 0 and not (site.data_dir / "kafka").exists()


def test_data_of_one_broker_is_not_started_as_a_cluster(tmp_path: Path) -> None:
    (tmp_path / "kafka" / "data").mkdir(parents=True)
    assert brokers_in(tmp_path / "kafka") == 1
    with pytest.raises(LocalError, match=r"one Kafka broker, and 3 Kafka brokers should start.*--brokers 1"):
        Embedded(tmp_path, kafka_port=[1, 2, 3], postgres_port=4).start()
    assert brokers_in(tmp_path / "none") is None


def test_a_cut_off_first_start_keeps_its_cluster_id(tmp_path: Path) -> None:
    """The brokers that were not formatted yet get the id of the one that was."""
    directories = [tmp_path / str(node) for node in (1, 2, 3)]
    (directories[1] / "data").mkdir(parents=True)
    (directories[1] / "data" / "meta.properties").write_text("version=1\ncluster.id=abc_DEF\nnode.id=2\n")
    quorum = Quorum(directories)
    assert quorum.cluster_id == "abc_DEF"
    assert quorum.voters == ",".join(f"{node}@127.0.0.1:{port}" for node, port in enumerate(quorum.controllers, 1))
    assert len(set(quorum.controllers)) == 3


def test_a_taken_port_is_answered_with_room_for_all_brokers() -> None:
    (port,) = find_free()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(LocalError, match="set SETTING to the first of 3 free ports in a row, for example SETTING="):
            require_free(port, "Kafka broker 2", "SETTING", in_a_row=3)
