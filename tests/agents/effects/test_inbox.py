"""Orders that producers send in clear -> sealed on `orders`, each once; over the log in memory."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry

from agents.effects.seals import attach
from agents.effects.seals.inbox import FROM, Inbox
from agents.effects.seals.keeping import TICK_S, Keeper
from agents.wiring import declare_topics
from schemas.dead_letters import DeadLetter, read_dead_letter
from schemas.orders import MAX_DOCUMENT_BYTES
from schemas.settings import Settings
from schemas.topics import CUSTOMER_KEYS, ORDER_INBOX, topics
from streams import App, Record, TopicPartition
from streams.effects import EffectMetrics
from streams.errors import Fenced
from streams.log import Transactions
from streams.moving import Mover
from streams.sink import Backoff
from tests.agents.effects.outbound import MemorySource
from tests.web.platform import PARTITIONS, Platform, document, platform


class Place:
    """A platform whose producers write to the inbox."""

    def __init__(self, running: Platform) -> None:
        self.running, self.log = running, running.driver.log
        self.mover = self.another()

    def another(self) -> Mover:
        """The same effect on another worker."""
        source = MemorySource(self.log, [ORDER_INBOX.name], PARTITIONS, self.log.offsets)
        seal = Inbox(self.running.keyring(), PARTITIONS).seal
        metrics = EffectMetrics(CollectorRegistry())
        return Mover("inbox", source, lambda what: self.log.transactions(what), seal, metrics, Backoff(0.001, 0.001))

    async def send(self, value: bytes | None, key: bytes | None = None, partition: int = 0, **headers: bytes) -> None:
        await self.running.produce(ORDER_INBOX.name, partition, key, value, list(headers.items()))

    async def move(self, mover: Mover | None = None) -> None:
        for _ in range(3):
            await (mover or self.mover).step()
        async with self.running.turn:
            await self.running.driver.run()

    def letters(self) -> list[DeadLetter]:
        found = [read_dead_letter(each.key, each.value, each.headers) for each in self.read("dead_letters.v1")]
        return [letter for letter in found if isinstance(letter, DeadLetter)]

    def ticks(self) -> int:
        return len([record for record in self.read(CUSTOMER_KEYS.name) if record.key == b"/tick"])

    def read(self, topic: str) -> list[Any]:
        return self.running.driver.read(topic)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    master = tmp_path / "master.key"
    master.write_bytes(b64encode(b"m" * 32))
    async with platform(1, seal=True, seal_master_key_file=master) as running:
        yield Place(running)


async def shown(place: Place, order: dict[str, Any]) -> Any:
    return await (await place.running.workers[0].client.get(f"/api/v1/orders/{order['order_uid']}")).json()


async def test_an_order_in_clear_is_sealed_on_its_way_and_shown_in_clear(place: Place) -> None:
    orders = [document(customer_id=f"c{number % 2}") for number in range(5)]
    for number, order in enumerate(orders):
        await place.send(orjson.dumps(order), b"anything", number % PARTITIONS, trace=b"t1")
    await place.move()
    moved = place.read("orders")
    assert len(moved) == 5 and len(place.read("customers.keys.v1")) == 2
    for record in moved:
        uid = orjson.loads(record.value)["order_uid"]
        assert (record.key, record.partition) == (uid.encode(), place.running.home(uid))
        assert b"Test Testov" not in record.value and b"sealed:v1:" in record.value
        assert [name for name, _ in record.headers] == ["trace", FROM]
    for order in orders:
        assert (await shown(place, order))["document"] == order
    [sent] = [each for each in place.read(ORDER_INBOX.name) if orjson.loads(each.value) == orders[0]]
    [came] = [each for each in moved if each.key == orders[0]["order_uid"].encode()]
    assert came.timestamp == sent.timestamp and dict(came.headers)[FROM] == b"orders.inbox.v1-0-0"
    # The same again is nothing new, and something else under its number is refused, as in clear.
    await place.send(orjson.dumps(orders[0]))
    await place.send(orjson.dumps({**orders[0], "locale": "de"}))
    await place.move()
    assert len(place.read("orders.events.v1")) == 6


@pytest.mark.parametrize(
    ("value", "reason", "path"),
    [
        (b"Anna, third floor", "not_json", "$"),
        (None, "not_json", "$"),
        (orjson.dumps(document(delivery__phone="Anna")), "invalid", "$.delivery.phone"),
        (orjson.dumps(document(delivery__note="Anna" * (MAX_DOCUMENT_BYTES // 5))), "too_large", "$"),
    ],
)
async def test_what_cannot_be_sealed_leaves_a_letter_without_it(
    place: Place, value: bytes | None, reason: str, path: str
) -> None:
    good = document()
    await place.send(value, b"Anna", 1, trace=b"t1")
    await place.send(orjson.dumps(good), partition=1)
    await place.move()
    [letter] = place.letters()
    assert (letter.kind, letter.reason, letter.id) == ("poison", reason, "orders.inbox.v1-1-0")
    assert (letter.key, letter.value, letter.headers) == (None, None, (("trace", b"t1"),))
    assert [fault.path for fault in letter.faults] == [path]
    beyond = {name: records for name, records in place.log.topics.items() if name.topic != ORDER_INBOX.name}
    assert not [record for records in beyond.values() for record in records if b"Anna" in (record.value or b"")]
    assert (await shown(place, good))["document"] == good


async def test_a_bug_of_ours_holds_up_nobody(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> bytes:
        raise ValueError("Test Testov")

    monkeypatch.setattr("agents.effects.seals.inbox.seal_document", broken)
    await place.send(orjson.dumps(document()))
    await place.move()
    [letter] = place.letters()
    assert (letter.kind, letter.faults[0].message) == ("failed", "ValueError")


async def test_each_comes_once_whatever_dies_when(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step of a transaction fails once, before and after it is done; another worker goes on."""
    orders = [document() for _ in range(10)]
    for number, order in enumerate(orders):
        if number < 8:
            await _fail_once(place, monkeypatch, ("begin", "send", "send_offsets", "commit")[number % 4], number < 4)
        await place.send(orjson.dumps(order))
        await place.mover.step()
        if number % 2:
            place.mover = place.another()
    await place.move()
    assert sorted(record.key.decode() for record in place.read("orders")) == sorted(o["order_uid"] for o in orders)
    assert place.log.offsets[TopicPartition(ORDER_INBOX.name, 0)] == 10


async def _fail_once(place: Place, monkeypatch: pytest.MonkeyPatch, step: str, before: bool) -> None:
    make = place.mover.transactions
    left = [1]

    def failing(what: str) -> Transactions:
        producer = make(what)
        real = getattr(producer, step)

        async def once(*args: Any) -> Any:
            if left and before:
                left.pop()
                raise ConnectionError("no answer")
            done = await real(*args)
            if left:
                left.pop()
                raise ConnectionError("no answer")
            return done

        setattr(producer, step, once)
        return producer

    place.mover.transactions = failing
    place.mover._generation = None


async def test_who_was_away_cannot_move_any_more(place: Place) -> None:
    await place.move()
    other = place.another()
    await place.move(other)
    await place.send(orjson.dumps(document()))
    await place.move(other)
    place.mover.source.seek({TopicPartition(ORDER_INBOX.name, 0): 0})
    with pytest.raises(Fenced):
        await place.mover._move(await place.mover.source.poll(10, 0))
    assert len(place.read("orders")) == 1


async def test_what_was_read_before_a_rebalance_is_left_to_whoever_has_the_partition_then(place: Place) -> None:
    await place.move()
    await place.send(orjson.dumps(document()))
    source, poll = place.mover.source, place.mover.source.poll

    async def meanwhile(max_records: int, timeout_s: float) -> Sequence[Record]:
        records = await poll(max_records, timeout_s)
        await source.close()
        return records

    source.poll = meanwhile  # type: ignore[method-assign]
    await place.mover.step()
    assert place.read("orders") == [] and place.mover.error is None
    source.poll = poll  # type: ignore[method-assign]
    await place.move()
    assert len(place.read("orders")) == 1


async def test_without_keys_it_waits(place: Place) -> None:
    order = document()
    await place.send(orjson.dumps(order))
    keyring = place.mover.make.__self__._keyring  # type: ignore[attr-defined]
    keyring._follower.tail.fails = True
    assert await place.mover.step() > 0
    assert "keys cannot be looked up" in str(place.mover.error) and place.read("orders") == []
    keyring._follower.tail.fails = False
    await place.move()
    assert place.mover.error is None and (await shown(place, order))["document"] == order


def test_a_worker_that_seals_needs_a_few_rights_more(tmp_path: Path) -> None:
    master = tmp_path / "master.key"
    master.write_bytes(b64encode(b"m" * 32))

    def rights(settings: Settings) -> dict[tuple[str, str], tuple[str, ...]]:
        app = App("shop", data_dir=tmp_path, broker="kafka://127.0.0.1:9")
        attach(app, declare_topics(app, topics(2, 1, sealing=settings.seal)), settings)
        return {(right.resource, right.name): right.operations for right in app.rights()}

    clear, sealing = rights(Settings.load({})), rights(Settings.load({}, seal=True, seal_master_key_file=master))
    more = {what: operations for what, operations in sealing.items() if what not in clear}
    assert more == {
        ("topic", "customers.keys.v1"): ("Read", "Write", "DescribeConfigs"),
        ("topic", "orders.inbox.v1"): ("Read", "Write", "DescribeConfigs"),
        ("group", "shop-inbox"): ("Read",),
        ("transactional-id", "shop-inbox-orders.inbox.v1-"): ("Write",),
    }


async def test_a_worker_looks_at_all_keys_at_its_start_and_keeps_their_topic_going(place: Place) -> None:
    keyring, registry = place.running.keyring(), CollectorRegistry()
    await place.running.keyring().seal_for("anna")
    keyring._follower.tail.fails = True  # type: ignore[attr-defined]
    keeper = Keeper(keyring, registry, tick_s=0.01, again_s=0.01)
    await keeper.on_start()
    await asyncio.sleep(0.03)
    assert place.ticks() == 0 and registry.get_sample_value("orderstream_customer_keys") == 0
    keyring._follower.tail.fails = False  # type: ignore[attr-defined]
    async with asyncio.timeout(5):
        while place.ticks() < 2 * PARTITIONS:  # noqa: ASYNC110  # nothing to wait on
            await asyncio.sleep(0.01)
    assert registry.get_sample_value("orderstream_customer_keys") == 1
    await keeper.on_stop()
    ticks = place.ticks()
    await asyncio.sleep(0.05)
    assert place.ticks() == ticks and CUSTOMER_KEYS.compact_within_ms == TICK_S * 1000 * 2
