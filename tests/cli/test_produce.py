"""documents in files, pipes and series -> `produce` -> records on a real intake topic, as they were given."""

import asyncio
import io
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka.partitioner import DefaultPartitioner

from cli.produce import Outgoing, generated, produce, read_documents
from schemas.orders import InvalidDocument, read_document
from schemas.topics import TOPICS
from streams import admin
from streams.admin import TopicConfig
from tests.cli.running import Desk, desk
from tests.reading import read_all


def documents(raw: bytes, lines: bool = False) -> list[Outgoing]:
    return list(read_documents(io.BytesIO(raw), lines))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(b'{"order_uid":"a"}', [(b"a", b'{"order_uid":"a"}')], id="one document"),
        pytest.param(b'{\n "order_uid": "a"\n}\n', [(b"a", b'{\n "order_uid": "a"\n}')], id="one over several lines"),
        pytest.param(
            b'{"order_uid":"a"}\n\n{"x":1.0}\n', [(b"a", b'{"order_uid":"a"}'), (None, b'{"x":1.0}')], id="lines"
        ),
        pytest.param(b'[{"order_uid":"a"},\n 7]', [(b"a", b'{"order_uid":"a"}'), (None, b"7")], id="array"),
        pytest.param(
            b'{"order_uid":"a"}\nbad\n', [(b"a", b'{"order_uid":"a"}'), (None, b"bad")], id="a bad line is sent"
        ),
        pytest.param(b'{"order_uid":7}', [(None, b'{"order_uid":7}')], id="no key from a number"),
    ],
)
def test_what_a_file_holds(raw: bytes, expected: list[tuple[bytes | None, bytes]]) -> None:
    assert documents(raw) == expected


def test_with_lines_every_line_is_a_record() -> None:
    assert documents(b"\xff\xfe\nnot json\n", lines=True) == [(None, b"\xff\xfe"), (None, b"not json")]


@pytest.mark.parametrize(
    ("raw", "message"), [(b"", "empty"), (b"\n \n", "empty"), (b"{\n", "neither JSON nor JSON lines")]
)
def test_a_file_with_nothing_to_send_is_a_usage_error(tmp_path: Path, raw: bytes, message: str) -> None:
    file = tmp_path / "orders.json"
    file.write_bytes(raw)
    result = desk("127.0.0.1:1", tmp_path).run(produce, str(file))
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("arguments", [[], ["--count", "0"], ["--count", "1", "--rate", "0"], ["-", "--count", "1"]])
def test_usage(tmp_path: Path, arguments: list[str]) -> None:
    assert desk("127.0.0.1:1", tmp_path).run(produce, *arguments).exit_code == 2


def poison(records: Iterable[Outgoing]) -> int:
    found = 0
    for record in records:
        try:
            read_document(record.value)
        except InvalidDocument:
            found += 1
    return found


def test_generated_orders_repeat_and_as_many_are_poison_as_asked() -> None:
    first = list(generated(400, 3, 25.0))
    assert first == list(generated(400, 3, 25.0)), "the same seed gives other orders"
    assert 60 <= poison(first) <= 140
    assert poison(generated(200, 3, 0.0)) == 0
    assert poison(generated(50, 3, 100.0)) == 50


def test_a_dry_run_prints_the_documents_and_needs_no_broker(tmp_path: Path) -> None:
    mine = desk("127.0.0.1:1", tmp_path)
    shown = mine.run(produce, "--count", "3", "--seed", "5", "--dry-run")
    assert [line.encode() for line in shown.stdout.splitlines()] == [record.value for record in generated(3, 5, 0.0)]
    assert mine.json(produce, "--count", "3", "--dry-run") == {
        "topic": "orders",
        "sent": 0,
        "would_send": 3,
        "dry_run": True,
    }


@pytest.fixture
async def mine(stack: Any, tmp_path: Path) -> Desk:
    """The intake topic is there."""
    specs = [TopicConfig(each.name, each.partitions, 1, each.config()) for each in TOPICS if each.name == "orders"]
    await admin.create(stack.kafka, specs)
    return desk(stack.kafka, tmp_path)


async def sent(mine: Desk, summary: dict[str, Any]) -> list[Any]:
    """The records that a run says it has sent, read by somebody else."""
    ranges = {int(partition): range(first, last + 1) for partition, (first, last) in summary["offsets"].items()}
    return [
        each for each in await read_all(mine.app.bootstrap, "orders") if each.offset in ranges.get(each.partition, ())
    ]


def in_thread(mine: Desk, *arguments: str) -> Any:
    """The command runs an event loop of its own, as in a process of its own."""
    return mine.json(produce, *arguments)


async def test_records_arrive_as_given(mine: Desk, tmp_path: Path) -> None:
    given = list(generated(40, 11, 20.0))
    file = tmp_path / "orders.jsonl"
    file.write_bytes(b"\n".join(record.value for record in given if orjson_reads(record.value)))
    given = [record for record in given if orjson_reads(record.value)]
    summary = await asyncio.to_thread(in_thread, mine, str(file))
    assert (summary["sent"], summary["failed"]) == (len(given), {})
    found = await sent(mine, summary)
    assert sorted((each.key, each.value) for each in found) == sorted((each.key, each.value) for each in given)
    for each in found:
        assert each.partition == DefaultPartitioner()(each.key, [0, 1, 2, 3], [0, 1, 2, 3])


def orjson_reads(raw: bytes) -> bool:
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError:
        return False
    return True


@pytest.mark.parametrize(("by", "keyed"), [("no-key", False), ("random", True)])
async def test_other_partitions(mine: Desk, by: str, keyed: bool) -> None:
    summary = await asyncio.to_thread(in_thread, mine, "--count", "60", "--seed", "12", "--partition-by", by)
    found = await sent(mine, summary)
    assert len(found) == 60
    assert {each.partition for each in found} == {0, 1, 2, 3}
    assert {each.key is not None for each in found} == {keyed}
    home = [json.loads(each.value)["order_uid"].encode() for each in found]
    strays = [
        each
        for each, uid in zip(found, home, strict=True)
        if each.partition != DefaultPartitioner()(uid, [0, 1, 2, 3], [0, 1, 2, 3])
    ]
    assert strays, "every record is at home: this tests nothing"


def test_rate(mine: Desk) -> None:
    started = time.perf_counter()
    summary = mine.json(produce, "--count", "51", "--seed", "13", "--rate", "100")
    assert time.perf_counter() - started >= 0.49  # the last of 51 is due after 0.5 s, and paced in steps of 10 ms
    assert summary["records_per_s"] <= 110


def test_what_the_broker_refuses_is_counted(mine: Desk, tmp_path: Path) -> None:
    file = tmp_path / "orders.jsonl"
    file.write_bytes(b'{"order_uid":"large","x":"' + b"x" * (2 << 20) + b'"}')
    summary = mine.json(produce, str(file), exit_code=1)
    assert summary["sent"] == 0
    assert summary["failed"] == {"MessageSizeTooLargeError": 1}


def test_without_the_topic_nothing_is_sent(stack: Any, clean_stack: Any, tmp_path: Path) -> None:
    result = desk(stack.kafka, tmp_path).run(produce, "--count", "1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no topic orders" in result.stderr
    assert "faust -A app topics create" in result.stderr
