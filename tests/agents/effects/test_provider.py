"""The payment provider's effect against the sandbox over HTTP: every answer, and every way of not answering."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry
from pytest import mark, param

from agents.effects.provider import Asked, Client, Provider, ProviderMetrics, asked_by, recorded, reversal_of
from local.sandbox import Sandbox, switches_of
from schemas.payments import (
    CaptureRequested,
    PaymentMethod,
    PaymentRequested,
    RefundRequested,
    VoidRequested,
)
from schemas.provider import SIGNATURE, ProviderAnswer, ProviderStatus, signature_fault

SECRET, UID = "secret", "order-1"
SAID: dict[str, Any] = {
    "event_id": "e",
    "caused_by": "c",
    "occurred_at": "2026-11-21T18:00:00.000Z",
    "order_uid": UID,
    "version": 1,
    "user_id": "asha",
    "method": "provider",
    "currency": "INR",
}


def requested(switches: str = "", amount: int = 100) -> PaymentRequested:
    instrument = f"sandbox:{switches}"
    return PaymentRequested(**SAID, instrument=instrument, amount_minor=amount, expires_at_ms=None)


CAPTURE = CaptureRequested(**SAID, amount_minor=60)
VOID = VoidRequested(**SAID, amount_minor=100, reason="cancelled", void_number=1)
REFUND = RefundRequested(**SAID, refund_id="r1", amount_minor=40, reason="returned")


REFUSED: dict[str, Any] = {"type": "payment_command_refused", "reason": "wrong_amount"}


class World:
    """The sandbox, a receiver of its callbacks, and the client between them and the log."""

    def __init__(self) -> None:
        self.heard: list[tuple[dict[str, Any], str | None]] = []

    async def start(self) -> None:
        receiver = web.Application()
        receiver.router.add_post("/callback", self._hear)
        self.receiver = TestServer(receiver)
        await self.receiver.start_server()
        self.sandbox = Sandbox(SECRET, str(self.receiver.make_url("/callback")))
        self.http = TestClient(TestServer(self.sandbox.application()))
        await self.http.start_server()
        url = str(self.http.make_url("")).rstrip("/")
        self.provider: Provider | None = Provider(url, SECRET, 0.5, 3, 0.001, 0.002, 60)
        self.client = Client(lambda: self.provider, ProviderMetrics(CollectorRegistry()))

    async def _hear(self, request: web.Request) -> web.Response:
        raw = await request.read()
        header = request.headers[SIGNATURE]
        self.heard.append((orjson.loads(raw), signature_fault(SECRET, raw, header, int(header[2:12]), 1)))
        return web.Response()

    async def stop(self) -> None:
        await self.client.close()
        await self.http.close()
        await self.receiver.close()

    async def ask(self, event: Asked, age_s: float = 0.0) -> dict[str, Any]:
        command = await self.client.record_for(event, age_s)
        return {} if command is None else command.model_dump(mode="json", exclude_none=True)

    async def callbacks(self, count: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(5):
            while len(self.heard) < count:  # noqa: ASYNC110  # nobody says when the last one has come
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.02)
        return [said for said, _ in self.heard]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.start()
    yield made
    await made.stop()


async def test_authorised_captured_and_given_back(world: World) -> None:
    answers = [await world.ask(event) for event in (requested(), CAPTURE, REFUND, REFUND)]
    assert [(each["type"], each["amount_minor"]) for each in answers] == [
        ("record_authorisation", 100),
        ("record_capture", 60),
        ("record_refund", 40),
        ("record_refund", 40),
    ]
    assert answers[2] == answers[3], "the same key: the same answer, the same command"
    assert world.sandbox.money.payments[UID].refunded == 40
    told = await world.callbacks(4)
    assert sorted({each["status"] for each in told}) == ["authorised", "captured", "refunded"]
    assert {fault for _, fault in world.heard} == {None}


async def test_the_sandbox_takes_money_back_by_itself(world: World) -> None:
    for event in (requested("dashboard-refund=25+chargeback"), CAPTURE, CAPTURE):
        await world.ask(event)
    told = await world.callbacks(4)
    taken = {each["movement_id"]: each for each in told if each.get("movement_id")}
    assert {id: (each["status"], each["amount"], each["idempotency_key"]) for id, each in taken.items()} == {
        f"{UID}-dashboard-refund": ("refunded", 25, None),
        f"{UID}-chargeback": ("charged_back", 35, None),
    }
    assert next(n for n, each in enumerate(told) if each["status"] == "captured") < told.index(
        taken[f"{UID}-dashboard-refund"]
    ), "it was captured before"
    assert world.sandbox.money.payments[UID].refunded == 60


@mark.parametrize(
    ("event", "kind"),
    [
        param({"type": "reversal_recorded", "kind": "chargeback", "reversal_id": "m", "amount_minor": 5}, "chargeback"),
        param({"type": "reversal_recorded", "kind": "refund", "reversal_id": "m", "amount_minor": 5}, "refund"),
        param({**REFUSED, "command": "record_reversal"}, "refused"),
        param({**REFUSED, "command": "record_refund", "source": "callback"}, "refused"),
        param({**REFUSED, "command": "record_refund", "source": "account"}, None),
        param({**REFUSED, "command": "record_capture", "source": "callback"}, None),
    ],
)
def test_what_counts_as_money_taken_back_without_a_request(event: dict[str, Any], kind: str | None) -> None:
    assert reversal_of(orjson.dumps({**SAID, **event})) == kind


def test_what_is_no_event_counts_as_nothing() -> None:
    for raw in (None, b"", b"{", b'{"type":"reversal_recorded"}'):
        assert reversal_of(raw) is None


@mark.parametrize(
    ("switches", "then", "expected"),
    [
        param("decline", None, {"type": "record_decline", "reason": "declined_by_provider"}, id="decline"),
        param("pending", None, {}, id="pending: the callback will say"),
        param("paid", None, {"type": "record_capture", "amount_minor": 100}, id="paid at once"),
        param("wrong-amount", None, {"type": "record_authorisation", "amount_minor": 101}, id="wrong amount"),
        param("error=2", None, {"type": "record_authorisation"}, id="two errors"),
        param("lose-answer=2", None, {"type": "record_authorisation"}, id="two lost answers"),
        param("delay=1", None, {"type": "record_decline", "reason": "provider_unreachable"}, id="too slow"),
        param("error=9", None, {"type": "record_decline", "reason": "provider_unreachable"}, id="errors only"),
        param("nonsense", None, {"type": "record_decline", "reason": "refused"}, id="refused outright"),
        param("", VOID, {"type": "record_void", "void_number": 1}, id="void"),
        param("paid", VOID, {"type": "record_capture", "amount_minor": 100}, id="void of what is paid"),
        param("decline", CAPTURE, {"type": "record_failure", "step": "capture"}, id="capture of nothing"),
        param("paid", REFUND, {"type": "record_refund"}, id="refund"),
        param(
            "", REFUND, {"type": "record_failure", "step": "refund", "refund_id": "r1"}, id="refund of what is not paid"
        ),
    ],
)
async def test_what_an_answer_comes_to(
    world: World, switches: str, then: Asked | None, expected: dict[str, Any]
) -> None:
    said = await world.ask(requested(switches))
    if then is not None:
        said = await world.ask(then)
    assert {name: said[name] for name in expected} == expected
    assert said == {} or said["order_uid"] == UID


async def test_a_lost_answer_is_asked_for_under_the_same_key_and_done_once(world: World) -> None:
    await world.ask(requested("paid+lose-answer=2"))
    await world.ask(REFUND)
    assert world.sandbox.calls["payments"] == 3 and world.sandbox.calls["refunds"] == 3
    assert world.sandbox.money.payments[UID].refunded == 40


async def test_a_provider_that_is_away(world: World) -> None:
    assert world.provider is not None
    world.provider = Provider("http://127.0.0.1:9", SECRET, 0.5, 2, 0.001, 0.002)
    assert (await world.ask(requested()))["reason"] == "provider_unreachable"
    assert world.client.wrong and "127.0.0.1" in world.client.wrong
    assert (await world.ask(VOID))["reason"] == "provider_unreachable"


async def test_none_is_configured(world: World) -> None:
    world.provider = None
    said = await world.ask(requested())
    assert (said["type"], said["reason"]) == ("record_decline", "provider_not_configured")
    assert "ORDERSTREAM_PROVIDER_URL" in said["detail"]
    assert (await world.ask(REFUND))["reason"] == "provider_not_configured"


async def test_what_is_older_than_the_key_is_not_sent(world: World) -> None:
    assert (await world.ask(requested(), age_s=61))["reason"] == "provider_unreachable"
    assert not world.sandbox.calls


async def test_another_secret_is_refused_at_once(world: World) -> None:
    assert world.provider is not None
    world.provider = Provider(world.provider.url, "another", 0.5, 3, 0.001)
    said = await world.ask(requested())
    assert (said["reason"], "does not fit" in said["detail"]) == ("refused", True)
    assert UID not in world.sandbox.money.payments


@mark.parametrize(
    ("switches", "count"), [("", 1), ("repeat", 3), ("lose-callback", 0), ("pending", 1), ("pending+repeat", 3)]
)
async def test_callbacks_by_switch(world: World, switches: str, count: int) -> None:
    await world.ask(requested(switches))
    told = await world.callbacks(count)
    assert [each["status"] for each in told] == ["authorised"] * count
    assert len({each["id"] for each in told}) == min(count, 1)


async def test_a_callback_with_another_signature(world: World) -> None:
    await world.ask(requested("wrong-signature"))
    await world.callbacks(1)
    assert world.heard[0][1] == "The signature does not fit the body and the secret."


async def test_what_is_voided_before_it_is_asked_for_is_declined_then(world: World) -> None:
    assert (await world.ask(VOID))["type"] == "record_void"
    said = await world.ask(requested())
    assert (said["type"], said["detail"]) == ("record_decline", "it was voided before it was asked for")
    assert await world.callbacks(0) == []


async def test_switches_of_everybody(world: World) -> None:
    answer = await world.http.put("/switches", json={"switches": "decline"})
    assert answer.status == 200
    event = requested().model_copy(update={"instrument": "upi"})
    assert (await world.ask(event))["type"] == "record_decline"
    assert (await world.http.put("/switches", json={"switches": "explode"})).status == 422
    shown = await (await world.http.get(f"/payments/{UID}")).json()
    assert (shown["status"], shown["captured"]) == ("declined", 0)
    assert (await world.http.get("/payments/none")).status == 404


def test_switches_have_numbers() -> None:
    assert switches_of("delay=0.5+decline") == {"delay": 0.5, "decline": 1.0}


async def test_the_sandbox_knows_its_payments_after_a_restart(world: World, tmp_path: Any) -> None:
    world.sandbox._state = tmp_path / "state.json"
    await world.ask(requested("paid"))
    await world.ask(REFUND)
    again = Sandbox(SECRET, None, tmp_path / "state.json")
    assert again.money == world.sandbox.money


def test_most_events_ask_for_nothing() -> None:
    assert asked_by(requested().model_dump_json().encode()) == requested()
    account = requested().model_copy(update={"method": PaymentMethod.ACCOUNT, "instrument": "provider"})
    assert asked_by(account.model_dump_json().encode()) is None
    assert asked_by(b'{"type":"of_a_later_version","method":"provider"}') is None
    assert asked_by(None) is None


@mark.parametrize("event", [requested(), CAPTURE, VOID, REFUND], ids=lambda event: event.type)
@mark.parametrize("status", list(ProviderStatus))
def test_every_answer_to_every_question_comes_to_something(event: Asked, status: ProviderStatus) -> None:
    command = recorded(event, ProviderAnswer(id="p", status=status, amount=100))
    assert (command is None) == (status is ProviderStatus.PENDING)
    if command is not None:
        assert command.order_uid == UID
        assert command == recorded(event, ProviderAnswer(id="p", status=status, amount=100))
