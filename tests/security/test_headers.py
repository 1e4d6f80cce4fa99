"""Records with headers that nobody expects -> a real worker -> dead letters or orders, and the stream goes on."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c_py

from agents.effects.postgres.rows import headers_json
from schemas.dead_letters import DeadLetter, read_dead_letter
from schemas.orders import samples
from streams.dead_letters import attempt_of, dead_letter
from streams.errors import Poison
from streams.partitioner import partition_for
from streams.record_batches import _Records
from streams.records import StoredRecord
from tests.processes import RunningStack, Workers

#: As long as the name that it takes the place of; no UTF-8 in any reading.
NO_TEXT = b"\xff\xfe\xed\xa0"


def bent(raw: bytearray) -> bytes:
    """The batch with another header name, and a checksum that says so."""
    raw[raw.index(b"QQQQ") : raw.index(b"QQQQ") + 4] = NO_TEXT
    raw[17:21] = struct.pack(">I", calc_crc32c_py(bytes(raw[21:])))
    return bytes(raw)


def batch(*names: str) -> bytearray:
    builder: Any = DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1 << 16,
    )  # fmt: skip
    for number, name in enumerate(names):
        builder.append(number, timestamp=7, key=b"k%d" % number, value=b"v", headers=[(name, b"1"), ("b", None)])
    return bytearray(builder.build())


def test_every_record_of_such_a_batch_is_read_and_those_around_it_as_ever() -> None:
    records = _Records(bytes(batch("café", "c")) + bent(batch("a", "QQQQ", "z")) + bytes(batch("d")))
    found = []
    while records.has_next():
        found += [(each.key, each.value, each.headers) for each in records.next_batch()]
    assert [key for key, _, _ in found] == [b"k0", b"k1", b"k0", b"k1", b"k2", b"k0"]
    assert [headers[0][0] for _, _, headers in found] == ["café", "c", "a", "\\xff\\xfe\\xed\\xa0", "z", "d"]
    assert all(type(value) is bytes and headers[1] == ("b", None) for _, value, headers in found)


def test_a_number_of_attempts_that_is_none_is_the_first() -> None:
    for value in (None, b"", b"x", b"9" * 40):
        headers: Any = [("dead-letter-attempt", value)]
        record = StoredRecord("orders", 0, 1, 1, None, b"{", headers)
        assert attempt_of(record) == 1
        assert dead_letter(record, "intake", Poison([])).value == b"{"


def test_a_header_without_a_value_is_kept_as_one() -> None:
    headers: Any = [("a", None), ("b", b"1"), ("c", b"\xff")]
    assert json.loads(headers_json(headers)) == [
        {"name": "a"},
        {"name": "b", "value": "1"},
        {"name": "c", "base64": "/w=="},
    ]
    record = StoredRecord("orders", 0, 1, 1, None, b"{", headers)
    letter = dead_letter(record, "intake", Poison([]))
    read = read_dead_letter(letter.key, letter.value, letter.headers)
    assert isinstance(read, DeadLetter) and read.headers == tuple(headers)
    assert read.details()["headers"][0] == {"name": "a", "value": None}


async def send_bent(bootstrap: str, partition: int, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=False) as producer:
        builder = producer.create_batch()
        builder.append(timestamp=None, key=None, value=value, headers=[("QQQQ", b"1"), ("dead-letter-attempt", None)])
        builder.close()
        builder._buffer = bytearray(bent(bytearray(builder._build())))
        await (await producer.send_batch(builder, "orders", partition=partition))


def test_a_worker_gets_past_a_header_that_is_no_text(clean_stack: RunningStack, workers: Workers) -> None:
    clean_stack.faust("topics", "create")
    worker = workers.start()
    bad, order = b"no order", samples.generate(11)
    uid = json.loads(order)["order_uid"]
    partition = partition_for(uid.encode(), 4)
    for value in (bad, order):
        asyncio.run(send_bent(clean_stack.kafka, partition, value))
    deadline = time.monotonic() + 150
    while worker.get(f"/api/v1/orders/{uid}")[0] != 200:
        assert time.monotonic() < deadline, worker.log()[-4000:]
        time.sleep(0.2)
    (letter,) = json.loads(clean_stack.faust("--json", "dead-letters", "list").stdout)
    assert letter["topic"] == "orders" and letter["kind"] == "poison"
    assert clean_stack.faust("sink", "verify").stdout.startswith("Equal: 1 orders")
