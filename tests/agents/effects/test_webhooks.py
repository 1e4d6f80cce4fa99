"""The effects of webhooks against a receiver over HTTP: real rules and tasks, a log in memory, time moved by hand."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from pytest import mark, param
from standardwebhooks import Webhook

from agents.effects.webhooks import sending
from agents.effects.webhooks.routing import payload_of
from schemas import signatures
from schemas.base import derived_id
from schemas.seals import Seal, open_json, seal_address
from schemas.topics import TOLD, event_names
from schemas.webhooks import MAX_PAYLOAD_BYTES, delivery_id_of
from streams.driver import Driver
from streams.errors import NotReadable
from streams.records import StoredRecord, TopicPartition
from tests.agents.domain import PARTITIONS, home, make_app
from tests.agents.effects.outbound import KEY, Outbound, Receiver, subscription

COMMANDS = "webhooks.commands.v1"


class World(Outbound):
    """The effects, the receiver, and the words to move them with."""

    receiver: Receiver

    async def subscribe(self, number: int = 1, url: str | None = None, **more: Any) -> str:
        id, said = subscription(url or self.receiver.url(), number, **more)
        self.driver.produce(COMMANDS, key=id, value=said)
        await self.driver.run()
        return id

    async def say(self, kind: str, id: str, **more: Any) -> None:
        said = {"type": kind, "command_id": derived_id(f"{kind} {more}"), "subscription_id": id, **more}
        self.driver.produce(COMMANDS, key=id, value=orjson.dumps(said))
        await self.driver.run()

    def happen(self, number: int, topic: str = "orders.events.v1", **more: Any) -> str:
        """An event on a topic; gives its id."""
        event_id, headers = f"e{number}", more.pop("headers", ())
        event = {"type": "order_cancelled", "event_id": event_id, "occurred_at": "2026-11-21T21:00:00.000Z", **more}
        self.driver.produce(topic, key=f"k{number}", value=orjson.dumps(event), headers=headers)
        return event_id

    def deliveries(self, id: str) -> dict[str, Any]:
        rows = self.driver.rows("webhook_deliveries")
        return {row.event_id: row for key, row in rows.items() if key.startswith(id)}

    def attempts(self, outcome: str) -> float:
        return self.registry.get_sample_value("orderstream_webhook_attempts_total", {"outcome": outcome}) or 0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    app, _ = make_app(tmp_path)
    async with Driver(app, now_ms=1_795_262_400_000) as driver:
        app.engine.produce = produce_to(driver)  # type: ignore[method-assign]
        made = World(driver, PARTITIONS)
        made.receiver = Receiver()
        await made.receiver.start()
        yield made
        await made.close()
        await made.receiver.stop()


def produce_to(driver: Driver) -> Any:
    async def produce(topic: str, partition: int, key: Any, value: Any, headers: Any) -> Any:
        return driver.produce(topic, key=key, value=value, partition=partition, headers=headers)

    return produce


# -- delivered ---------------------------------------------------------------------------------------------------------


async def test_an_event_is_delivered_once_signed_for_its_receiver(world: World) -> None:
    id = await world.subscribe()
    event_id = world.happen(1, order_uid="o1")
    await world.work()
    ((headers, body),) = world.receiver.got
    assert headers["webhook-id"] == delivery_id_of(id, event_id)
    assert headers["Content-Type"] == "application/json"
    at_s = int(headers["webhook-timestamp"])
    secret = signatures.secret_of(KEY, id, "s1")
    assert headers["webhook-signature"] == signatures.sign(secret, headers["webhook-id"], at_s, body)
    assert at_s == 1_795_262_400
    told = orjson.loads(body)
    assert (told["type"], told["timestamp"]) == ("orders.order_cancelled", "2026-11-21T21:00:00.000Z")
    assert told["data"]["order_uid"] == "o1" and told["data"]["event_id"] == event_id
    row = world.deliveries(id)[event_id]
    assert (row.state, row.attempts, row.last_status) == ("delivered", 1, 204)
    assert row.position.startswith("orders.events.v1-") and row.position.endswith("-0")
    assert world.attempts("delivered") == 1


async def test_what_is_sealed_is_opened_for_the_receiver_and_signed_so(world: World) -> None:
    seals = {"anna-anna-anna-1": Seal("anna-anna-anna-1", b"a" * 32)}
    unknown: list[str] = ["the customers' keys cannot be looked up"]

    async def opened(raw: bytes) -> tuple[bytes, list[str]]:
        if unknown:
            raise NotReadable(unknown.pop())
        return open_json(raw, seals.get)

    await world.kill()
    world.opened = opened
    world.start()
    id = await world.subscribe()
    address = seal_address({"street": "Ploshad Mira 15"}, "o1", seals["anna-anna-anna-1"])
    world.happen(1, order_uid="o1", address=address)
    await world.work()
    # While keys are not known it counts as an attempt that failed, and nothing is sent.
    assert world.receiver.got == [] and world.attempts("no_key") == 1
    await world.driver.advance(10_000)
    await world.work()
    seals.clear()
    world.happen(2, order_uid="o1", address=address)
    await world.work()
    told = [orjson.loads(body) for _, body in world.receiver.got]
    assert [each["data"]["address"] for each in told] == [{"street": "Ploshad Mira 15"}, {"street": None}]
    assert "erased" not in told[0] and told[1]["erased"] == ["$.data.address.street"]
    secret = signatures.secret_of(KEY, id, "s1")
    for headers, body in world.receiver.got:
        at = int(headers[signatures.TIMESTAMP])
        assert headers[signatures.SIGNATURE] == signatures.sign(secret, headers[signatures.ID], at, body)


async def test_an_independent_library_verifies_it_now(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "OLDEST_S", float("inf"))  # the records are of the driver's date
    world.sender._now = __import__("time").time
    id = await world.subscribe()
    world.happen(1)
    await world.work()
    ((headers, body),) = world.receiver.got
    Webhook(signatures.written(signatures.secret_of(KEY, id, "s1"))).verify(body.decode(), dict(headers))


async def test_what_is_routed_twice_is_delivered_once(world: World) -> None:
    await world.subscribe()
    world.happen(1)
    await world.work()
    await world.kill()
    world.kept = {p: at for p, at in world.kept.items() if p.topic != "orders.events.v1"}
    world.start()
    await world.work()
    assert len(world.receiver.got) == 1


@mark.parametrize(
    ("wants", "customer", "expected"),
    [
        param(["*"], None, ["e1", "e2", "e3", "e4", "e5"], id="all"),
        param(["orders.*"], None, ["e1", "e2", "e5"], id="a domain"),
        param(["payments.payment_captured"], None, ["e3"], id="a type"),
        param(["orders.order_placed", "payments.*"], None, ["e1", "e3", "e5"], id="some"),
        param(["payments.order_placed"], None, [], id="a type of another domain"),
        param(["*"], "asha", ["e1", "e2", "e3"], id="a customer: by customer_id, header, user_id"),
        param(["orders.*"], "asha", ["e1", "e2"], id="a customer and a domain"),
        param(["*"], "ash", [], id="nobody"),
    ],
)
async def test_who_hears_what(world: World, wants: list[str], customer: str | None, expected: list[str]) -> None:
    id = await world.subscribe(events=wants, customer_id=customer)
    world.happen(1, type="order_placed", customer_id="asha")
    world.happen(2, headers=[("customer", b"asha")])
    world.happen(3, "payments.events.v1", type="payment_captured", user_id="asha")
    world.happen(4, "accounts.events.v1", type="funds_held", headers=[("customer", b"ravi")])
    world.happen(5, type="order_placed", customer_id="ravi", headers=[("customer", b"asha")])
    await world.work()
    assert sorted(world.deliveries(id)) == expected


async def test_a_subscription_hears_from_where_it_began_and_not_before(world: World) -> None:
    world.happen(1)
    starts = await world.router.starts()
    assert set(starts) == {spec.name for spec in TOLD} and sum(starts["orders.events.v1"]) == 1
    id = await world.subscribe(starts=starts)
    world.happen(1_001)
    world.happen(2)
    await world.work()
    assert set(world.deliveries(id)) == {"e1001", "e2"}


async def test_an_event_after_the_creation_is_never_missed_whoever_routes_it(world: World) -> None:
    """A router that has known nothing yet, or knew everything before: each time it asks where the log ends."""
    await world.work()
    first = await world.subscribe(1)
    world.happen(1)
    await world.work()
    second = await world.subscribe(2)
    world.happen(2)
    await world.work()
    await world.say("change_subscription", first, events=["payments.*"])
    world.happen(3)
    await world.work()
    await world.say("delete_subscription", second)
    world.happen(4)
    await world.work()
    assert set(world.deliveries(first)) == {"e1", "e2"} and world.deliveries(second) == {}
    assert [orjson.loads(body)["data"]["event_id"] for _, body in world.receiver.got] == ["e1", "e2", "e2", "e3"]


async def test_while_subscriptions_cannot_be_known_nothing_is_passed_over(world: World) -> None:
    await world.subscribe()
    world.happen(1)
    world.tail.fails = True
    await world.work(lambda: "ConnectionError" in (world.routes.error or ""))
    assert world.receiver.got == [] and not world.kept.get(TopicPartition("orders.events.v1", home("k1")))
    world.tail.fails = False
    await world.work()
    assert len(world.receiver.got) == 1


async def test_those_who_ask_at_the_same_time_share_a_pass(world: World) -> None:
    await world.subscribe()
    for number in range(30):
        world.happen(number)
    await world.work()
    assert world.tail.reads == 1, "what is known is not read again"
    assert len(world.receiver.got) == 30


# -- failed ------------------------------------------------------------------------------------------------------------


@mark.parametrize("status", [400, 401, 404, 408, 429, 500, 503])
async def test_no_2xx_is_tried_again_under_the_same_id(world: World, status: int) -> None:
    id = await world.subscribe()
    event_id = world.happen(1)
    world.receiver.answers = [status, status]
    await world.work()
    assert (world.deliveries(id)[event_id].state, world.deliveries(id)[event_id].last_status) == ("pausing", status)
    await world.driver.advance(10_000)
    await world.work()
    await world.driver.advance(30_000)
    await world.work()
    assert world.receiver.ids == [delivery_id_of(id, event_id)] * 3
    stamps = [int(headers["webhook-timestamp"]) for headers, _ in world.receiver.got]
    assert stamps == [1_795_262_400, 1_795_262_410, 1_795_262_440], "each attempt has its own time"
    assert world.deliveries(id)[event_id].state == "delivered"


async def test_the_targets_wish_is_heard(world: World) -> None:
    async def busy(request: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "600"})

    world.receiver.answer = busy
    id = await world.subscribe()
    world.happen(1)
    await world.work()
    assert world.deliveries(id)["e1"].next_attempt_at_ms == 1_795_262_400_000 + 600_000


@mark.parametrize(
    ("said", "wish_ms"), [("5", 5_000), ("Sat, 21 Nov 2026 12:00:30 GMT", None), ("soon", None), ("-1", None)]
)
async def test_how_a_wish_is_read(world: World, said: str, wish_ms: int | None) -> None:
    world.sender._now = lambda: 1_795_262_400.0
    read = world.sender._wish_ms(said)
    assert read == wish_ms or (said.endswith("GMT") and read is not None)


async def test_a_redirect_is_a_refusal_and_nobody_goes_there(world: World) -> None:
    other = Receiver()
    await other.start()

    async def elsewhere(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": other.url("/private")})

    world.receiver.answer = elsewhere
    id = await world.subscribe()
    world.happen(1)
    await world.work()
    row = world.deliveries(id)["e1"]
    assert (row.state, row.last_status) == ("pausing", 307)
    assert row.last_error == f"HTTP 307: redirects are not followed (to {other.url('/private')})"
    assert other.got == []
    await other.stop()


async def test_a_target_that_says_nothing_is_let_go_in_time_and_holds_nobody_up(world: World) -> None:
    gate = asyncio.Event()

    async def silent(request: web.Request) -> web.Response:
        if request.path == "/silent":
            await gate.wait()
        return web.Response(status=204)

    world.receiver.answer = silent
    world.rules = type(world.rules)(timeout_s=1.0, loopback=True)
    world.start()
    slow = await world.subscribe(1, world.receiver.url("/silent"))
    well = await world.subscribe(2)
    for number in range(20):
        world.happen(number)
    await world.work(
        lambda: (
            all(row.state == "delivered" for row in world.deliveries(well).values())
            and len(world.deliveries(well)) == 20
        )
    )
    assert {row.state for row in world.deliveries(slow).values()} == {"under_way", "waiting"}
    assert world.sends.open_records == 4, "a few attempts, and no more, are held here"
    await world.work()
    assert world.attempts("timed_out") >= 4
    assert {row.last_error for row in world.deliveries(slow).values()} >= {"no answer within 1 s"}
    gate.set()


async def test_an_open_breaker_spares_the_target_and_the_backlog_drains_after_it(world: World) -> None:
    world.receiver.answers = [500] * 8
    id = await world.subscribe(policy={"breaker_failures": 5, "breaker_pause_ms": 60_000, "first_pause_ms": 1_000})
    for number in range(12):
        world.happen(number)
    await world.work()
    tried = len(world.receiver.got)
    assert tried == 8, "the fifth opened it; those that were under way went on"
    await world.driver.advance(10_000)
    await world.work()
    assert len(world.receiver.got) == tried
    await world.driver.advance(80_000)
    await world.work()
    await world.driver.advance(10_000)
    await world.work()
    assert {row.state for row in world.deliveries(id).values()} == {"delivered"}
    assert len(set(world.receiver.ids)) == 12


async def test_nobody_there(world: World) -> None:
    id = await world.subscribe(1, "http://127.0.0.1:1/hook")
    world.happen(1)
    await world.work()
    assert world.deliveries(id)["e1"].last_error.startswith("ClientConnectorError: Cannot connect")
    assert world.attempts("no_answer") == 1


async def test_rotated_both_sign_until_the_old_one_retires(world: World) -> None:
    id = await world.subscribe()
    new = signatures.secret_of(KEY, id, "s2")
    name = {"secret_id": "s2", "fingerprint": signatures.fingerprint(new)}
    await world.say("rotate_secret", id, secret=name, keep_previous_ms=60_000)
    world.happen(1)
    await world.work()
    await world.driver.advance(60_000)
    world.happen(2)
    await world.work()
    both, one = (headers["webhook-signature"].split() for headers, _ in world.receiver.got)
    old = signatures.secret_of(KEY, id, "s1")
    ((first, body), (second, body_2)) = world.receiver.got
    assert both == [signatures.sign(s, first["webhook-id"], int(first["webhook-timestamp"]), body) for s in (new, old)]
    assert one == [signatures.sign(new, second["webhook-id"], int(second["webhook-timestamp"]), body_2)]


async def test_a_new_key_in_front_leaves_older_secrets_as_they_are(world: World) -> None:
    world.keys = [b"n" * 32, KEY]
    await world.subscribe()
    world.happen(1)
    await world.work()
    assert len(world.receiver.got) == 1


async def test_without_the_key_nothing_is_sent_and_it_is_said(world: World) -> None:
    world.keys = [b"n" * 32]
    id = await world.subscribe()
    world.happen(1)
    await world.work()
    assert world.receiver.got == [] and world.attempts("no_key") == 1
    assert world.deliveries(id)["e1"].last_error == "this worker has not the key of its secret"
    assert world.sender.wrong is not None and "ORDERSTREAM_WEBHOOK_KEYS" in world.sender.wrong


async def test_resent_it_has_the_same_id(world: World) -> None:
    id = await world.subscribe()
    world.happen(1)
    await world.work()
    await world.say("resend_delivery", id, delivery_id=delivery_id_of(id, "e1"))
    await world.work()
    assert world.receiver.ids == [delivery_id_of(id, "e1")] * 2
    assert world.receiver.got[0][1] == world.receiver.got[1][1]


async def test_killed_between_the_request_and_its_record_it_is_sent_again_under_the_same_id(world: World) -> None:
    id = await world.subscribe()
    reached, gate = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        reached.set()
        await gate.wait()
        return web.Response(status=200)

    world.receiver.answer = slow
    world.happen(1)
    await world.work(reached.is_set)
    await world.kill()
    world.receiver.answer = None
    gate.set()
    world.start()
    await world.work()
    assert world.receiver.ids == [delivery_id_of(id, "e1")] * 2
    row = world.deliveries(id)["e1"]
    assert (row.state, row.attempts) == ("delivered", 1), "it counts as one attempt: only one is known of"


async def test_killed_between_the_record_and_the_commit_nothing_is_lost_or_counted_twice(world: World) -> None:
    id = await world.subscribe()
    world.happen(1)
    world.receiver.answers = [500]
    await world.work()
    await world.kill()
    world.kept = {}
    world.start()
    await world.work()
    assert world.receiver.ids == [delivery_id_of(id, "e1")] * 2
    row = world.deliveries(id)["e1"]
    assert (row.state, row.attempts) == ("pausing", 1)


async def test_a_replay_of_the_tables_delivers_nothing_again(world: World) -> None:
    await world.subscribe()
    for number in range(5):
        world.happen(number)
    await world.work()
    await world.driver.replay()
    await world.driver.run()
    await world.work()
    assert len(world.receiver.got) == 5


# -- where no request goes ---------------------------------------------------------------------------------------------


def resolving(*answers: Sequence[str]) -> tuple[Callable[..., Any], list[str]]:
    """A look-up whose n-th answer is the n-th of these, the last one for ever; and who was asked for."""
    asked: list[str] = []

    def lookup(host: str, port: int, **_: Any) -> list[Any]:
        found = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        kinds = {4: socket.AF_INET, 6: socket.AF_INET6}
        return [(kinds[ipaddress.ip_address(each).version], socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    return lookup, asked


@mark.parametrize(
    "url",
    [
        "https://127.0.0.1:{port}/x",
        "https://[::1]:{port}/x",
        "https://[::ffff:127.0.0.1]:{port}/x",
        "https://[::ffff:7f00:1]:{port}/x",
        "https://0.0.0.0:{port}/x",
        "https://2130706433:{port}/x",  # 127.0.0.1, written as one number
        "https://0x7f.1:{port}/x",
        "https://127.1:{port}/x",
        "https://0177.0.0.1:{port}/x",
        "https://localhost:{port}/x",
        "https://localhost.:{port}/x",
        "https://10.0.0.1:{port}/x",
        "https://169.254.169.254/latest/meta-data",
        "https://[64:ff9b::7f00:1]/x",
    ],
)
async def test_no_request_leaves_for(world: World, url: str) -> None:
    """Over TLS too: the connection is refused before there is one. The receiver would show it."""
    touched = asyncio.Event()

    async def touch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        touched.set()
        writer.close()

    server = await asyncio.start_server(touch, "127.0.0.1", 0)
    world.rules = type(world.rules)(timeout_s=2.0, loopback=False)
    world.start()
    id = await world.subscribe(1, url.format(port=server.sockets[0].getsockname()[1]))
    world.happen(1)
    await world.work()
    row = world.deliveries(id)["e1"]
    # Some ways to write an address are no address, or no name, for the client already.
    refusals = ("is not a public address", "its address is not public", "is not a canonical IPv4", "not known")
    assert row.state == "pausing" and any(words in row.last_error for words in refusals), row.last_error
    assert world.attempts("delivered") == 0 and not touched.is_set()
    server.close()
    await server.wait_closed()


@mark.parametrize(
    "addresses",
    [
        ["10.0.0.1"],
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["fd00::1"],
        ["::ffff:10.0.0.1"],
        ["10.0.0.1", "10.0.0.2"],
    ],
    ids=str,
)
async def test_a_name_that_leads_inside_is_no_way_in(world: World, addresses: list[str]) -> None:
    world.rules = type(world.rules)(timeout_s=2.0, loopback=False)
    world.start()
    world.lookup, asked = resolving(addresses)
    id = await world.subscribe(1, "https://innocent.example/hook")
    world.happen(1)
    await world.work()
    assert world.deliveries(id)["e1"].last_error == "its address is not public"
    assert world.attempts("not_public") == 1 and asked == ["innocent.example"]


async def test_a_name_that_changes_its_mind_is_asked_once_for_each_connection(world: World) -> None:
    """DNS rebinding: what was looked at is what is connected to, and the next attempt looks again."""
    world.lookup, asked = resolving(["127.0.0.1"], ["10.0.0.1"])
    id = await world.subscribe(1, f"http://rebind.localhost:{world.receiver.port}/hook")
    world.happen(1)
    await world.work()
    assert (len(world.receiver.got), asked) == (1, ["rebind.localhost"])
    world.happen(2)
    await world.work()
    assert (len(world.receiver.got), len(asked)) == (1, 2)
    assert world.deliveries(id)["e2"].last_error == "its address is not public"


async def test_plain_http_goes_no_further_than_this_machine(world: World) -> None:
    world.lookup, asked = resolving(["93.184.215.14"])
    id = await world.subscribe(1, "http://plain.example/hook")
    world.happen(1)
    await world.work()
    assert world.deliveries(id)["e1"].last_error == "https is required" and asked == []


async def test_an_environment_with_a_proxy_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would look the name up itself, somewhere else."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    await world.subscribe()
    world.happen(1)
    await world.work()
    assert len(world.receiver.got) == 1


# -- words -------------------------------------------------------------------------------------------------------------


def test_an_event_that_is_too_large_is_told_by_its_names() -> None:
    event = {"type": "order_placed", "event_id": "e", "occurred_at": "t", "order_uid": "o", "customer_id": "c"}
    small, large = event | {"document": {"x": 1.50}}, event | {"document": "x" * MAX_PAYLOAD_BYTES}
    told = payload_of("orders.order_placed", small, b'{"spaced":  1.50}')
    assert told == '{"type":"orders.order_placed","timestamp":"t","data":{"spaced":  1.50}}', "byte for byte"
    told = payload_of("orders.order_placed", large, orjson.dumps(large))
    assert orjson.loads(told)["data"] == event | {"truncated": True}


def test_every_event_has_a_name() -> None:
    names = event_names()
    assert {"orders.order_placed", "purchases.order_paid", "payments.payment_captured", "inventory.stock_low"} <= names
    assert "purchases.payment_lost" in names
    assert not any(name.startswith(("webhooks.", "deliveries.")) for name in names), "no echo of ourselves"


async def test_a_new_word_is_no_wish_and_no_attempt(world: World) -> None:
    """What a newer worker writes is passed over, not stumbled over."""
    for topic in ("webhooks.events.v1", "deliveries.events.v1"):
        world.driver.produce(topic, key="k", value=b'{"type":"attempt_due_in_another_way"}')
    record = StoredRecord("deliveries.events.v1", 0, 0, 0, b"k", b'{"type":"attempt_due","attempt":1}')
    await world.sender.act(record)
    await world.subscribe()
    world.happen(1)
    await world.work()
    assert len(world.receiver.got) == 1


async def test_an_answer_that_is_none_is_a_failure(world: World) -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 099 No\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(rude, "127.0.0.1", 0)
    id = await world.subscribe(1, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x")
    world.happen(1)
    await world.work()
    assert world.deliveries(id)["e1"].state == "pausing"
    server.close()
    await server.wait_closed()
