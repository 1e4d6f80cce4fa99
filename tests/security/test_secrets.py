"""A whole run with planted people and passwords, at the chattiest level -> every log -> none of them in it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from app import app
from schemas.orders import samples
from tests.processes import ROOT, Worker, Workers
from tests.security.secured import PASSWORD, Secured, SecuredKafka
from tests.security.test_rights import wait_for

#: Each is in a good order, a spoilt one, a refused one and bytes that are no JSON, and in headers and addresses.
PEOPLE = {
    "name": "Plantagenet Quillfeather",
    "phone": "+49305550199",
    "email": "quillfeather@planted.example",
    "address": "Plantedstrasse 17b",
    "card": "4111111111111111",
}
DSN_PASSWORD = "planted-S3cret-of-the-database"


def order(number: int) -> dict[str, Any]:
    """A sample with the planted person in it."""
    document: dict[str, Any] = json.loads(samples.generate(number))
    document["delivery"] |= {name: PEOPLE[name] for name in ("name", "phone", "email", "address")}
    document["customer_id"] = f"planted{number}"
    document["card_number"] = PEOPLE["card"]
    return document


def ask(worker: Worker, method: str, path: str, body: bytes | None = None, **headers: str) -> int:
    given = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{worker.url}{path}", body, given, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


async def produce(bootstrap: str, values: list[bytes]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for value in values:
            await producer.send_and_wait(
                "orders", value, key=PEOPLE["email"].encode(), headers=[("x", b"+49305550199")]
            )


def spoilt(number: int) -> list[bytes]:
    """Records that cannot be applied, each because of a value that must not be quoted."""
    person = json.dumps(PEOPLE).encode()
    faulty = order(number) | {"locale": PEOPLE["name"] * 20, "date_created": PEOPLE["email"]}
    faulty["payment"] = faulty["payment"] | {"currency": PEOPLE["card"], "amount": PEOPLE["phone"]}
    return [person, person[:-1], b"\xff" + person, json.dumps(faulty).encode(), json.dumps([order(number)]).encode()]


def test_nothing_of_them_is_in_any_log(secured: Secured, tmp_path: Path) -> None:
    assert isinstance(secured.broker, SecuredKafka)
    secured.broker.grant("worker", app.rights())
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    more = {"ORDERSTREAM_LOG_LEVEL": "debug", "ORDERSTREAM_DATA_DIR": str(data_dir)}
    # The database lets nobody in with this password: each try is an error of the sink.
    user, place = secured.postgres.partition("://")[2].partition(":")[0], secured.postgres.partition("@")[2]
    wrong = f"postgresql://{user}:{DSN_PASSWORD}@{place}"
    workers = Workers(replace(secured, data_dir=data_dir, more=more))
    worker = workers.start(env={"ORDERSTREAM_POSTGRES": wrong, "ORDERSTREAM_OUTCOME_WAIT_MS": "20000"})
    try:
        first = order(1)
        assert ask(worker, "POST", "/api/v1/orders", json.dumps(first).encode(), Idempotency_Key="planted-1") in (
            201,
            202,
        )
        other = first | {"locale": "xx", "delivery": first["delivery"] | {"name": PEOPLE["name"] + " II"}}
        assert ask(worker, "POST", "/api/v1/orders", json.dumps(other).encode()) in (409, 202)
        for raw in spoilt(2):
            ask(worker, "POST", "/api/v1/orders", raw)
        ask(worker, "GET", f"/api/v1/orders?customer_id={PEOPLE['email']}", X_Request_Id=PEOPLE["email"])
        ask(worker, "GET", f"/api/v1/orders/{PEOPLE['email']}", Authorization=f"Bearer {PASSWORD}")
        ask(worker, "GET", f"/nowhere/{PEOPLE['email']}?phone={PEOPLE['card']}")
        asyncio.run(produce(secured.kafka, [*spoilt(3), json.dumps(order(4)).encode()]))
        deadline = time.monotonic() + 150
        while ask(worker, "GET", f"/api/v1/orders/{order(4)['order_uid']}") != 200:
            assert time.monotonic() < deadline, worker.log()[-3000:]
            time.sleep(0.3)
        wait_for(worker, "sink postgres")
    finally:
        worker.stop()
        workers.stop_all()
    logs = {path.name: path.read_text(errors="replace") for path in data_dir.rglob("*.log")}
    assert len(worker.log()) > 1000 and logs
    planted = [*PEOPLE.values(), "5550199", "quillfeather", "Quillfeather", PASSWORD, DSN_PASSWORD]
    found = [
        (secret, line[:600])
        for text in logs.values()
        for line in text.splitlines()
        for secret in planted
        if secret in line
    ]
    assert not found, "\n".join(f"{secret}: {line}" for secret, line in found[:20])


def test_libraries_that_quote_what_passes_through_them_stay_quiet_at_any_level() -> None:
    """The run above sees one of a library's lines in five seconds; this one sees each."""
    quoting = (
        "import logging; from streams.logs import configure; configure('json', 'DEBUG');"
        "logging.getLogger('aiokafka.producer.producer').debug('Sending (value=%s)', 'planted');"
        "logging.getLogger('aiokafka.conn').debug('Request %s', b'planted');"
        "logging.getLogger('streams.task').debug('ours')"
    )
    ran = subprocess.run([sys.executable, "-c", quoting], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "ours" in ran.stderr and "planted" not in ran.stderr
