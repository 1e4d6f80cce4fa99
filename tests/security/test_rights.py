"""The rights that `acls` prints -> granted on a broker that asks -> a worker with these, and one with one less."""

from __future__ import annotations

import json
import shlex
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest import mark, param

from app import app
from cli.acls import acls
from cli.topics import topics
from schemas.settings import Settings
from streams import App
from streams.rights import Operation, Resource, Right, with_more
from tests.cli.running import Desk
from tests.processes import RunningStack, Worker, Workers
from tests.security.secured import PASSWORD, Secured, SecuredKafka


@pytest.fixture(scope="session")
def broker(secured: Secured) -> SecuredKafka:
    assert isinstance(secured.broker, SecuredKafka)
    return secured.broker


@pytest.fixture
def secured_workers(secured: Secured) -> Iterator[Workers]:
    factory = Workers(secured)
    yield factory
    factory.stop_all()


@pytest.fixture
def operator(tmp_path: Path) -> Desk:
    return Desk(app, Settings.load({}, data_dir=tmp_path))


def post(worker: Worker) -> Any:
    request = urllib.request.Request(f"{worker.url}/api/orders/test", method="POST")
    with urllib.request.urlopen(request, timeout=30) as response:
        return response.status, json.loads(response.read())


# -- what is printed ---------------------------------------------------------------------------------------------------


def test_every_topic_group_and_fence_of_the_app_is_there_once(operator: Desk) -> None:
    printed = operator.json(acls, "--principal", "User:orders")
    assert printed["principal"] == "User:orders"
    names = [(row["resource"], row["name"], row["pattern"]) for row in printed["acls"]]
    assert len(set(names)) == len(names)
    assert {name for kind, name, _ in names if kind == "topic"} == {topic.name for topic in app.required_topics()}
    assert sorted(name for name in names if name[0] != "topic") == [
        ("group", "orderstream", "literal"),
        ("group", "orderstream-postgres", "literal"),
        ("group", "orderstream-provider", "literal"),
        ("group", "orderstream-webhook-routes", "literal"),
        ("group", "orderstream-webhook-sends", "literal"),
        *(("transactional-id", f"orderstream-{group}-", "prefixed") for group in sorted(app.groups)),
    ]


def test_lines_for_kafkas_own_tool_say_the_same(operator: Desk) -> None:
    rows = operator.json(acls, "--principal", "User:orders", "--for", "operator")["acls"]
    result = operator.run(acls, "--principal", "User:orders", "--for", "operator", "--commands")
    said = set()
    for line in result.stdout.splitlines():
        words = shlex.split(line)
        assert words[:6] == [
            "kafka-acls.sh",
            "--bootstrap-server",
            str(app.brokers),
            "--add",
            "--allow-principal",
            "User:orders",
        ]
        pairs = list(zip(words[6::2], words[7::2], strict=True))
        operations = {value for option, value in pairs if option == "--operation"}
        pattern = dict(pairs).get("--resource-pattern-type", "literal")
        for option, name in pairs:
            if option not in ("--operation", "--resource-pattern-type"):
                said |= {(option[2:], name, pattern, operation) for operation in operations}
    assert said == {(row["resource"], row["name"], row["pattern"], each) for row in rows for each in row["operations"]}


def test_the_table_and_whose_rights(operator: Desk) -> None:
    shown = operator.run(acls, "--principal", "User:orders")
    assert "orderstream-orders-*" in shown.stdout and "--principal User:orders" in shown.stderr
    unknown = operator.run(acls)
    assert unknown.exit_code == 2 and "Give --principal User:name, or set ORDERSTREAM_KAFKA_USER" in unknown.output
    assert "User:orders is meant?" in operator.run(acls, "--principal", "orders").output
    user = Desk(app, operator.settings.model_copy(update={"kafka_user": "from-settings"}))
    assert user.json(acls)["principal"] == "User:from-settings"


def test_rights_of_one_resource_are_joined() -> None:
    one = Right(Resource.GROUP, "a", (Operation.READ,), "x")
    more = Right(Resource.GROUP, "a", (Operation.READ, Operation.DELETE), "y")
    assert with_more([one], [more]) == [Right(Resource.GROUP, "a", (Operation.READ, Operation.DELETE), "x; y")]
    apart = replace(one, prefixed=True)
    assert with_more([one], [apart]) == [one, apart]


# -- what is granted ---------------------------------------------------------------------------------------------------


def test_a_worker_does_all_its_work_with_exactly_what_is_printed(
    secured: Secured, broker: SecuredKafka, secured_workers: Workers
) -> None:
    """By the printed lines, run with Kafka's own tool; over TLS with SCRAM to Kafka, over TLS to PostgreSQL."""
    by_tool = {(right.resource, right.prefixed): right for right in app.rights()}.values()  # each is a Java process
    broker.grant_by_tool("worker", by_tool)
    broker.grant("worker", [right for right in app.rights() if right not in by_tool])
    worker = secured_workers.start(
        env={"ORDERSTREAM_OUTCOME_WAIT_MS": "20000", "ORDERSTREAM_REQUEST_TIMEOUT_MS": "30000"}
    )
    status, order = post(worker)
    assert status == 201
    assert worker.get(f"/api/v1/orders/{order['order_uid']}")[1]["status"] == "placed"
    assert secured.faust("produce", "--count", "20", "--seed", "4").returncode == 0
    assert secured.faust("sink", "verify").stdout.startswith("Equal: ")
    refused = secured.faust("reset", "--yes", check=False)
    assert refused.returncode == 1, "an operator's right, which a worker has not"
    assert PASSWORD not in worker.log() + refused.stdout + refused.stderr


def wait_for(worker: Worker, text: str, timeout_s: float = 150.0) -> str:
    """The log, once the text is in it."""
    deadline = time.monotonic() + timeout_s
    while text not in (log := worker.log()):
        assert time.monotonic() < deadline, f"{text!r} is not in the log:\n{log}"
        time.sleep(0.2)
    return log


def without(name: str, operation: Operation) -> list[Right]:
    """A worker's rights but one."""
    return [
        replace(right, operations=tuple(each for each in right.operations if each != operation))
        if right.name == name
        else right
        for right in app.rights()
    ]


@mark.parametrize(
    ("name", "operation", "said", "exit_code"),
    [
        param("orders", Operation.DESCRIBE_CONFIGS, "refused topic orders", 1, id="the start's comparison"),
        param("orderstream", Operation.READ, "GroupAuthorizationFailedError('orderstream')", None, id="group"),
        param("orders.events.v1", Operation.WRITE, "('orders.events.v1')", None, id="an output"),
    ],
)
def test_one_right_less_and_the_worker_names_it(
    secured: Secured, broker: SecuredKafka, name: str, operation: Operation, said: str, exit_code: int | None
) -> None:
    """All with the same user: what the one before had more is taken away."""
    open_door = RunningStack(broker.bootstrap, secured.postgres, secured.data_dir, broker, secured.database)
    open_door.faust("topics", "create")  # no other test has to come first
    broker.revoke("short")
    broker.grant("short", without(name, operation))
    workers = Workers(replace(secured, user="short"))
    worker = workers.start(wait=False, env={"ORDERSTREAM_SINK": "false"})
    try:
        if name == "orders.events.v1":  # only an order shows it
            open_door.faust("produce", "--count", "8")
        told = wait_for(worker, said)
        assert "faust -A app acls` prints" in told
        if exit_code is not None:
            assert worker.child.wait(20) == exit_code
    finally:
        workers.stop_all()


@mark.parametrize(
    ("more", "said"),
    [
        param({}, "faust -A app acls` prints", id="no right"),
        param(
            {"ORDERSTREAM_KAFKA_PASSWORD_FILE": "", "ORDERSTREAM_KAFKA_PASSWORD": "no"},
            "ORDERSTREAM_KAFKA_PASSWORD (or ORDERSTREAM_KAFKA_PASSWORD_FILE)",
            id="another password",
        ),
    ],
)
def test_a_worker_that_cannot_work_ends_at_once(secured: Secured, more: dict[str, str], said: str) -> None:
    stopped = replace(secured, user="nobody", more=more).faust("worker", check=False, timeout_s=90)
    assert stopped.returncode == 1
    assert said in stopped.stderr and "Traceback" not in stopped.stderr


def test_a_command_says_the_same_with_its_exit_code(broker: SecuredKafka, tmp_path: Path) -> None:
    where = broker.brokers("worker", password="no")
    mine = App("desk", data_dir=tmp_path, broker=[f"kafka://{where}"], security=where.security)
    settings = Settings.load(
        {},
        kafka=where.addresses,
        data_dir=tmp_path,
        kafka_security_protocol="SASL_SSL",
        kafka_user="worker",
        kafka_password="no",
    )
    shown = Desk(mine, settings).run(topics, "check")
    assert shown.exit_code == 1
    assert "invalid credentials" in shown.stderr and "ORDERSTREAM_KAFKA_CA_FILE" in shown.stderr
