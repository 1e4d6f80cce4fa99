"""Customers' keys over a log in memory: what a worker knows, when it looks again, and what it forgets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count

import pytest

from schemas.seals import MARK, wrap
from schemas.topics import CUSTOMER_KEYS
from streams import NotReadable, TopicPartition
from streams.driver import MemoryLog
from streams.records import Outgoing
from tables.keys import FRESH_S, LONGEST_UNSEEN_S, MOST_OPEN_KEYS, TICK, Keyring, Said
from tests.agents.effects.outbound import MemoryTail

MASTER = b"m" * 32
_chance = count(1)


class World:
    """A topic of keys, time that is moved by hand, and as many workers as are wanted."""

    def __init__(self) -> None:
        self.log, self.now_s = MemoryLog(), 0.0

    def worker(self, *masters: bytes) -> Keyring:
        tail = MemoryTail(self.log)
        return Keyring(self.write, tail, 4, masters or (MASTER,), chance, lambda: self.now_s)

    async def write(self, records: Sequence[Said]) -> None:
        for partition, key, value in records:
            self.log.append(TopicPartition(CUSTOMER_KEYS.name, partition), Outgoing(0, key.encode(), value))

    def records(self) -> list[tuple[int, bytes | None, bytes | None]]:
        return [(each.partition, each.key, each.value) for records in self.log.topics.values() for each in records]


def chance(length: int) -> bytes:
    return next(_chance).to_bytes(length, "big")


async def test_a_customer_keeps_the_first_key_whatever_comes_later() -> None:
    world = World()
    one, other = world.worker(), world.worker()
    first = await one.seal_for("anna")
    await world.write([other._made("anna")])
    world.now_s += FRESH_S + 0.1
    assert {(await each.seal_for("anna")).key_id for each in (one, other)} == {first.key_id}
    assert len(one.keys_of("anna")) == 2 and one.keys_of("ben") == []


async def test_several_customers_are_one_look() -> None:
    world = World()
    worker = world.worker()
    seals = await worker.seals_for({"anna", "ben/carl", "ben"})
    assert set(seals) == {"anna", "ben/carl", "ben"} and len({seal.key_id for seal in seals.values()}) == 3
    assert worker._follower._done == 2, "before they were made, and after"
    assert set(await worker.seals_for({"ben"})) == {"ben"} and len(world.records()) == 3


async def test_a_destroyed_key_is_forgotten_and_the_next_is_another() -> None:
    world = World()
    worker, operator = world.worker(), world.worker()
    seal = await worker.seal_for("anna")
    kept = (await worker.seal_for("ben")).key_id
    assert await operator.destroy("anna") == [seal.key_id]
    assert await operator.destroy("anna") == [] == await operator.destroy("nobody")
    await worker.look()
    assert set(worker._open) == {kept} == set(worker._held)
    assert (await worker.seal_for("anna")).key_id != seal.key_id


async def test_it_looks_again_when_what_it_knows_is_old_and_not_before() -> None:
    world = World()
    worker, operator = world.worker(), world.worker()
    seal = await worker.seal_for("anna")
    raw = b'{"order_uid":"o","x":"%b"}' % seal.shut(b"1", "o", "$.x").encode()
    assert MARK in raw
    await operator.destroy("anna")
    world.now_s += FRESH_S
    assert await worker.opened(raw) == (b'{"order_uid":"o","x":1}', [])
    world.now_s += 0.1
    assert await worker.opened(raw) == (b'{"order_uid":"o","x":null,"erased":["$.x"]}', ["$.x"])


async def test_while_nothing_can_be_looked_up_nothing_is_opened_or_sealed() -> None:
    world = World()
    worker = world.worker()
    seal = await worker.seal_for("anna")
    raw = b'{"order_uid":"o","x":"%b"}' % seal.shut(b"1", "o", "$.x").encode()
    world.now_s += FRESH_S + 0.1
    worker._follower.tail.fails = True  # type: ignore[attr-defined]
    for work in (worker.opened(raw), worker.seal_for("anna")):
        with pytest.raises(NotReadable, match="no broker answers"):
            await work
    assert await worker.opened(b"{}") == (b"{}", []), "what holds nothing sealed needs no key"


async def test_while_it_reads_anew_nobody_takes_a_key_for_destroyed() -> None:
    """After a failure everything is read again; who asks in between has to wait for the end."""
    world = World()
    worker = world.worker()
    seal = await worker.seal_for("anna")
    raw = b'{"order_uid":"o","x":"%b"}' % seal.shut(b"1", "o", "$.x").encode()
    tail = worker._follower.tail
    tail.fails = True  # type: ignore[attr-defined]
    with pytest.raises(NotReadable):
        await worker.look()
    tail.fails = False  # type: ignore[attr-defined]
    again = asyncio.create_task(worker.look())
    while worker._held:  # noqa: ASYNC110  # nothing to wait on
        await asyncio.sleep(0)
    assert await worker.opened(raw) == (b'{"order_uid":"o","x":1}', [])
    await again


async def test_who_was_away_for_long_reads_anew() -> None:
    """A tombstone is compacted away a day later: who did not see it must not go on with what it knew."""
    world = World()
    worker = world.worker()
    seal = await worker.seal_for("anna")
    raw = b'{"order_uid":"o","x":"%b"}' % seal.shut(b"1", "o", "$.x").encode()
    for partition in world.log.topics.values():
        partition[:] = [each._replace(key=TICK.encode(), value=None) for each in partition]  # as if compacted
    world.now_s += FRESH_S + 0.1
    assert (await worker.opened(raw))[1] == [], "nothing has come since"
    world.now_s += LONGEST_UNSEEN_S + 1
    assert (await worker.opened(raw))[1] == ["$.x"]


async def test_a_newer_master_wraps_and_the_older_still_unwraps() -> None:
    world = World()
    old = await world.worker().seal_for("anna")
    both = world.worker(b"n" * 32, MASTER)
    assert (await both.seal_for("anna")).shut(b"1", "o", "$.x") == old.shut(b"1", "o", "$.x")
    await both.seal_for("ben")
    with pytest.raises(NotReadable, match="which is not at hand"):
        await world.worker().seal_for("ben")


async def test_ticks_and_foreign_records_are_no_keys() -> None:
    world = World()
    worker = world.worker()
    await worker.tick()
    assert sorted(world.records()) == [(partition, b"/tick", None) for partition in range(4)]
    await world.write([Said(0, "no key of ours", b"x"), Said(0, "anna/k", b"{}"), Said(1, "anna/k", None)])
    await worker.look()
    assert (len(worker), worker.strange) == (0, 2)


async def test_the_keys_that_are_kept_open_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tables.keys.MOST_OPEN_KEYS", 2)
    assert MOST_OPEN_KEYS > 2
    world = World()
    worker = world.worker()
    customers = [f"c{number}" for number in range(5)]
    seals = await worker.seals_for(customers)
    assert len(worker._open) == 2 and len({seal.key_id for seal in seals.values()}) == 5


async def test_a_key_stands_in_the_topic_before_it_is_used() -> None:
    world = World()

    async def lost(_: Sequence[Said]) -> None:
        raise NotReadable("the broker did not take the record")

    worker = world.worker()
    worker._write = lost
    with pytest.raises(NotReadable, match="did not take"):
        await worker.seal_for("anna")

    async def swallowed(_: Sequence[Said]) -> None:
        pass

    worker._write = swallowed
    with pytest.raises(NotReadable, match="destroyed as often as it was made"):
        await worker.seal_for("anna")


def test_what_the_topic_holds_is_what_is_documented() -> None:
    key = wrap("anna", "k" * 16, b"s" * 32, MASTER, b"n" * 12)
    assert CUSTOMER_KEYS.values == (type(key),)
