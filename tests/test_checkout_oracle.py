"""The oracle of checkout judged: honest histories are clean, and what is planted in one is found (I9)."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from pytest import mark, param

from schemas.purchases.lifecycle import LEGAL
from streams.driver import Driver
from tests.agents.checkout_histories import DAY_MS, PARTITIONS, Shop
from tests.agents.domain import make_app
from tests.oracle.bought import ACCOUNTS, CARRIERS, INVENTORY, OUTLETS, PAYMENTS, PURCHASES, SHIPPING, TOPICS
from tests.oracle.checkout import TABLES, Checkout, judge_checkout, judge_provider, judge_rest
from tests.oracle.inlet import PREFIX
from tests.oracle.log import LETTERS, Log, Record, derived
from tests.oracle.parcels import judge_depot
from tests.oracle.purchases import MOVES, Order
from tests.oracle.verdict import Kind, Verdict

ORDERS = 60
SEEDS = (7, 9, 14, 16)  # between them they have all that is looked for
Change = Callable[[dict[str, Any]], None]


async def played(seed: int) -> Log:
    """The shop of tests/agents/checkout_histories.py, once, to its end: what stands on the topics then."""
    chance = random.Random(seed)
    app, _ = make_app(Path("unused"), PARTITIONS)
    async with Driver(app) as driver:
        shop = Shop(driver, chance)
        await shop.open()
        while len(shop.orders) < ORDERS:
            for _ in range(chance.randint(1, 9)):
                shop.buy()
            for _ in range(chance.randint(0, 40)):
                shop.act()
            for _ in range(chance.randint(0, 8)):
                shop.exchange()
            for _ in range(chance.randint(0, 6)):
                shop.hand_over()
            shop.regret()
            await driver.run()
            shop.provider.answer()
            shop.carrier.answer()
            await driver.advance(chance.choice([0, 10, 1_000, 20_000]))
        for value in (b"no command", b'{"type":"bribe","command_id":"x"}', b'{"type":"pack_order","command_id":"y"}'):
            driver.produce(PURCHASES.commands, key=shop.orders[0], value=value)
        for _ in range(12):
            shop.provider.answer(faithful=True)
            shop.carrier.answer(faithful=True)
            await driver.advance(90_000)
        await driver.advance(30 * DAY_MS)
        return Log(
            PARTITIONS,
            {topic: _read(driver, topic) for topic in (*TOPICS, LETTERS)},
            {table: _read(driver, f"orderstream-{table}-changelog") for table in TABLES},
        )


def _read(driver: Driver, topic: str) -> list[Record]:
    return [Record(topic, *each[1:6], tuple(each.headers)) for each in driver.read(topic)]


@cache
def honest(seed: int = 7) -> Log:
    return asyncio.run(played(seed))


def judged(log: Log) -> tuple[Verdict, Checkout]:
    verdict = Verdict()
    found = judge_checkout(log, verdict)
    judge_rest(found, verdict)
    return verdict, found


@mark.parametrize("seed", SEEDS)
def test_honest_histories_are_clean(seed: int) -> None:
    verdict, found = judged(honest(seed))
    verdict.require(commands=500, joins=300, payments=20, movements=10, **{"orders at rest": ORDERS})
    verdict.require(**{"refusals of orders": 20, "brought home": 3, "rows of purchases": ORDERS})
    verdict.require(**{"parcels": 30, "parcels at rest": 3, "rows of bookings": 3})
    assert len({order.status for order in found.bought.orders.values()}) >= 5


# --- planted ----------------------------------------------------------------------------------------------------------


def said(record: Record) -> dict[str, Any]:
    try:
        told = orjson.loads(record.value or b"")
    except orjson.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}


def is_a(kind: str, **members: Any) -> Callable[[Record], bool]:
    return lambda record: {"type": kind, **members}.items() <= said(record).items()


def first(log: Log, topic: str, which: Callable[[Record], bool]) -> Record:
    return next(record for record in log.of(topic) if which(record))


def with_topic(log: Log, topic: str, records: list[Record]) -> Log:
    return replace(log, topics={**log.topics, topic: records})


def without(topic: str, kind: str, **members: Any) -> Callable[[Log], Log]:
    def plant(log: Log) -> Log:
        gone = first(log, topic, is_a(kind, **members))
        return with_topic(log, topic, [record for record in log.of(topic) if record is not gone])

    return plant


def doubled(topic: str, kind: str, *, other_id: bool = False) -> Callable[[Log], Log]:
    def plant(log: Log) -> Log:
        again = first(log, topic, is_a(kind))
        last = max(record.offset for record in log.of(topic) if record.partition == again.partition)
        value = {**said(again), **({"event_id": derived("other")} if other_id else {})}
        copy = again._replace(offset=last + 1, value=orjson.dumps(value))
        return with_topic(log, topic, [*log.of(topic), copy])

    return plant


def changed(topic: str, kind: str, change: Change, **members: Any) -> Callable[[Log], Log]:
    def plant(log: Log) -> Log:
        victim = first(
            log, topic, is_a(kind, **members) if kind else lambda record: members.items() <= said(record).items()
        )
        told = said(victim)
        change(told)
        other = victim._replace(value=orjson.dumps(told))
        return with_topic(log, topic, [other if record is victim else record for record in log.of(topic)])

    return plant


def sets(**members: Any) -> Change:
    return lambda told: told.update(members)


def adds(name: str, more: int) -> Change:
    return lambda told: told.update({name: told[name] + more})


def moves(**members: Any) -> Change:
    return lambda told: told["movement"].update(members)


def moved_more(told: dict[str, Any]) -> None:
    told["movement"]["amount_minor"] += 1


def part_more(told: dict[str, Any]) -> None:
    told["parts"][0]["quantity"] += 9


def asked_again(log: Log) -> Log:
    """A second parcel of what is packed already: another id, and the same pieces."""
    asked = first(log, PURCHASES.events, is_a("shipment_requested"))
    records = [record for record in log.of(PURCHASES.events) if record.partition == asked.partition]
    told = {**said(asked), "shipment_id": "again", "event_id": derived(f"{said(asked)['caused_by']}-again")}
    told["version"] += 1
    copy = asked._replace(offset=records[-1].offset + 1, value=orjson.dumps(told))
    at = log.of(PURCHASES.events).index(asked) + 1
    return with_topic(log, PURCHASES.events, [*log.of(PURCHASES.events)[:at], copy, *log.of(PURCHASES.events)[at:]])


def swapped(log: Log) -> Log:
    """Two events of two accounts of one partition change places."""
    records = list(log.of(ACCOUNTS.events))
    here = [n for n, record in enumerate(records) if record.partition == 0]
    one, other = next((a, b) for a, b in pairwise(here) if records[a].key != records[b].key)
    a, b = records[one], records[other]
    records[one], records[other] = b._replace(offset=a.offset), a._replace(offset=b.offset)
    return with_topic(log, ACCOUNTS.events, records)


def without_letter(log: Log) -> Log:
    return with_topic(log, LETTERS, list(log.of(LETTERS))[1:])


def another_letter(log: Log) -> Log:
    """A command that was carried out has a dead letter besides."""
    letter, good = log.of(LETTERS)[0], first(log, PURCHASES.commands, is_a("place_cart"))
    at = {"partition": str(good.partition).encode(), "offset": str(good.offset).encode()}
    headers = tuple((name, at.get(name.removeprefix(PREFIX), value)) for name, value in letter.headers)
    return with_topic(log, LETTERS, [*log.of(LETTERS), letter._replace(headers=headers)])


def nobodys(log: Log) -> Log:
    """A command that only an event leads to, and no event did."""
    asked = first(log, ACCOUNTS.commands, is_a("capture_hold"))
    last = max(record.offset for record in log.of(ACCOUNTS.commands) if record.partition == asked.partition)
    value = orjson.dumps({**said(asked), "command_id": "out-of-the-blue"})
    return with_topic(
        log, ACCOUNTS.commands, [*log.of(ACCOUNTS.commands), asked._replace(offset=last + 1, value=value)]
    )


@mark.parametrize(
    ("plant", "kind", "check"),
    [
        # I1, I2
        param(without(ACCOUNTS.events, "funds_held"), Kind.LOST, "accounts", id="an event of an account is lost"),
        param(without(INVENTORY.events, "stock_released"), Kind.LOST, "items", id="an event of an item is lost"),
        param(without(PAYMENTS.events, "payment_captured"), Kind.LOST, "payments", id="an event of a payment is lost"),
        param(without(PURCHASES.events, "order_shipped"), Kind.LOST, "bought orders", id="a shipment is lost"),
        param(doubled(ACCOUNTS.events, "hold_captured"), Kind.DOUBLED, "events of checkout", id="an event comes twice"),
        param(
            doubled(ACCOUNTS.events, "hold_captured", other_id=True), Kind.DOUBLED, "accounts",
            id="a deed is done twice under another id",
        ),
        param(without_letter, Kind.LOST, "commands", id="a dead letter is lost"),
        param(another_letter, Kind.WRONG, "commands", id="a good command is a dead letter"),
        param(swapped, Kind.REORDERED, "events of checkout", id="events of one partition change places"),
        # the joins
        param(without(INVENTORY.commands, "reserve_stock"), Kind.LOST, "joins", id="nothing is reserved for a line"),
        param(without(PAYMENTS.commands, "capture_payment"), Kind.LOST, "joins", id="nobody asks for the money"),
        param(without(PURCHASES.commands, "settle_refund"), Kind.LOST, "joins", id="the order never hears of a refund"),
        param(doubled(INVENTORY.commands, "commit_stock"), Kind.DOUBLED, "joins", id="a join comes twice"),
        param(without(OUTLETS.commands, "issue_number"), Kind.LOST, "joins", id="nobody asks for a number"),
        param(without(OUTLETS.events, "number_issued"), Kind.LOST, "order numbers", id="a number is lost"),
        param(
            changed(OUTLETS.events, "number_issued", sets(sequence=7)), Kind.WRONG, "order numbers", id="a gap"
        ),
        param(
            changed(PURCHASES.commands, "record_number", sets(order_number="o/2026/000009")), Kind.WRONG, "joins",
            id="another number is told",
        ),
        param(
            without(PURCHASES.events, "order_numbered"), Kind.LOST, "order numbers at rest", id="an order has none",
        ),
        param(doubled(PAYMENTS.commands, "refund_payment"), Kind.DOUBLED, "joins", id="a refund is asked for twice"),
        param(
            changed(PAYMENTS.commands, "capture_payment", adds("amount_minor", 1)), Kind.WRONG, "joins",
            id="more is captured than the order said",
        ),
        param(nobodys, Kind.WRONG, "joins", id="a command that nothing asks for"),
        # I3
        param(changed(ACCOUNTS.events, "hold_captured", moves(credit="")), Kind.WRONG, "legs", id="a leg is missing"),
        param(changed(ACCOUNTS.events, "hold_captured", moved_more), Kind.WRONG, "legs", id="a leg is too long"),
        param(
            changed(ACCOUNTS.events, "funds_held", adds("balance_minor", 1)), Kind.WRONG, "accounts", id="a balance"
        ),
        param(changed(INVENTORY.events, "stock_reserved", adds("quantity", 1)), Kind.WRONG, "items", id="a quantity"),
        param(
            changed(INVENTORY.events, "stock_reserved", sets(on_hand=1, reserved=2)), Kind.WRONG, "oversold",
            id="oversold",
        ),
        param(without(INVENTORY.events, "stock_out"), Kind.WRONG, "warnings", id="a warning is missing"),
        param(
            changed(PAYMENTS.events, "payment_refunded", adds("amount_minor", 1)), Kind.WRONG, "money of payments",
            id="more is refunded than was asked",
        ),
        param(
            changed(PURCHASES.events, "order_validated", adds("total_minor", -1)), Kind.WRONG, "sums of orders",
            id="a total that is not the price",
        ),
        param(without(PURCHASES.events, "payment_lost"), Kind.LOST, "bought orders", id="nobody says what is lost"),
        param(
            changed(PURCHASES.events, "payment_lost", adds("amount_minor", -1)), Kind.WRONG, "sums of orders",
            id="less is lost than was asked for",
        ),
        # parcels and exchanges
        param(without(SHIPPING.commands, "book_shipment"), Kind.LOST, "joins", id="no carrier is asked"),
        param(without(SHIPPING.commands, "cancel_booking"), Kind.LOST, "joins", id="no carrier is told to stay away"),
        param(without(SHIPPING.commands, "recall_shipment"), Kind.LOST, "joins", id="nobody calls a parcel back"),
        param(without(PURCHASES.commands, "settle_shipment"), Kind.LOST, "joins", id="an order waits for its parcel"),
        param(without(PURCHASES.commands, "record_tracking"), Kind.LOST, "joins", id="nobody hears of the number"),
        param(doubled(SHIPPING.commands, "book_shipment"), Kind.DOUBLED, "joins", id="a carrier is asked twice"),
        param(without(SHIPPING.events, "carrier_reported"), Kind.LOST, "parcels", id="a carrier's word is lost"),
        param(without(SHIPPING.events, "response_refused"), Kind.LOST, "parcels", id="a refusal is lost"),
        param(
            changed(SHIPPING.events, "carrier_reported", sets(stage="delivered")), Kind.WRONG, "parcels",
            id="a parcel is where no carrier said it is",
        ),
        param(
            changed(CARRIERS.commands, "", sets(status="delivered"), status="registered"), Kind.WRONG, "parcels",
            id="a carrier said something else",
        ),
        param(
            changed(SHIPPING.events, "carrier_asked", sets(booking_id="another")), Kind.WRONG, "parcels",
            id="a parcel under another name",
        ),
        param(asked_again, Kind.WRONG, "sums of orders", id="a second parcel of the same pieces"),
        param(
            changed(PURCHASES.events, "shipment_requested", part_more), Kind.WRONG, "sums of orders",
            id="more is to be fetched than was paid",
        ),
        param(
            changed(PURCHASES.events, "shipment_returned", adds("refund_minor", -1)), Kind.WRONG, "sums of orders",
            id="less goes back than came back",
        ),
        param(
            changed(PURCHASES.events, "shipment_settled", sets(outcome="lost"), outcome="cancelled", ended=None),
            Kind.LOST, "joins", id="what is lost stays on the shelf",
        ),
        param(
            without(INVENTORY.commands, "adjust_stock", reason="return_to_origin"), Kind.LOST, "joins",
            id="what came back is nowhere",
        ),
        param(
            changed(PURCHASES.events, "return_received", sets(replacements=[]), refund_minor=0), Kind.WRONG,
            "sums of orders", id="nothing takes its place, and no money goes back",
        ),
        param(
            changed(PURCHASES.events, "replacement_reserved", adds("quantity", 1)), Kind.WRONG, "sums of orders",
            id="more is sent again than came back",
        ),
        param(without(PURCHASES.events, "replacement_reserved"), Kind.LOST, "bought orders", id="an exchange is lost"),
        param(
            changed(PURCHASES.events, "replacement_refused", adds("refund_minor", -1)), Kind.WRONG, "sums of orders",
            id="what cannot be had again is not paid back",
        ),
        # I4
        param(
            changed(PURCHASES.events, "payment_lost", sets(status="rejected")), Kind.WRONG, "moves of orders",
            id="a loss that moves an order",
        ),
        param(
            changed(PURCHASES.events, "order_packed", sets(status="delivered")), Kind.WRONG, "moves of orders",
            id="a move of an order that is none",
        ),
        param(
            changed(PURCHASES.events, "order_packed", adds("version", 1)), Kind.WRONG, "versions of orders",
            id="a version of an order",
        ),
        param(
            without(PAYMENTS.events, "payment_authorised"), Kind.WRONG, "moves of payments",
            id="a move of a payment that is none",
        ),
        param(
            changed(
                PURCHASES.events, "purchase_command_refused", sets(reason="no_such_order"), reason="not_in_this_status"
            ),
            Kind.WRONG, "refusals of orders", id="a refusal without a cause",
        ),
    ],
)  # fmt: skip
def test_planted_in_the_log(plant: Callable[[Log], Log], kind: Kind, check: str) -> None:
    verdict, _ = judged(planted(plant))
    assert verdict.examples.get((kind, check)), f"it was not caught: {verdict}"


def planted(plant: Callable[[Log], Log]) -> Log:
    """In the first history in which there is such a thing."""
    for seed in SEEDS:
        with contextlib.suppress(StopIteration):
            return plant(honest(seed))
    raise AssertionError("no history has what it needs")


def found_where(which: Callable[[Order], bool]) -> Checkout:
    """What the first history comes to that has such an order."""
    found = (judged(honest(seed))[1] for seed in SEEDS)
    return next(each for each in found if any(map(which, each.bought.orders.values())))


@mark.parametrize("table", TABLES)
def test_planted_in_a_changelog(table: str) -> None:
    log = honest()
    rows = [record for record in log.changelogs[table] if record.key and not record.key.startswith(b"\0")]
    last = next(record for record in reversed(rows) if record.value)
    other = last._replace(value=orjson.dumps({**orjson.loads(last.value or b""), "version": -1, "balance_minor": -1}))
    for kept, kind in (([r for r in rows if r.key != last.key], Kind.LOST), ([*rows, other], Kind.WRONG)):
        verdict, _ = judged(replace(log, changelogs={**log.changelogs, table: kept}))
        assert verdict.counts == {kind: 1}, str(verdict)


def test_what_is_not_at_rest_is_found() -> None:
    _, found = judged(honest())
    orders = found.bought.orders.values()
    order = next(order for order in orders if order.captured and order.method == "account" and not order.asked_back)
    order.captured += 1  # taken, and for nothing
    verdict = Verdict()
    judge_rest(found, verdict)
    assert {check for _, check in verdict.examples} == {"money and goods", "balances at rest"}
    order.captured -= 1
    order.status, before = "awaiting_payment", order.status
    verdict = Verdict()
    judge_rest(found, verdict)
    assert verdict.examples[Kind.HANGING, "at rest"], str(verdict)
    order.status = before
    uid, id, shipment = next(
        (uid, id, each)
        for uid, order in found.bought.orders.items()
        for id, each in order.shipments.items()
        if each.carried
    )
    shipment.state, before = "requested", shipment.state  # the carrier never comes
    verdict = Verdict()
    judge_rest(found, verdict)
    assert verdict.examples[Kind.HANGING, "at rest"] and verdict.examples[Kind.WRONG, "parcels at rest"], str(verdict)
    shipment.state = before
    parcel = found.parcels.parcels.pop((uid, id))
    verdict = Verdict()
    judge_rest(found, verdict)
    assert set(verdict.examples) == {(Kind.LOST, "parcels at rest")}, str(verdict)
    found.parcels.parcels[uid, id] = found.parcels.parcels[uid, "another"] = parcel
    verdict = Verdict()
    judge_rest(found, verdict)
    assert set(verdict.examples) == {(Kind.WRONG, "parcels at rest")}, str(verdict)
    del found.parcels.parcels[uid, "another"]
    exchanged = next(line for order in orders for line in order.lines if line.exchanged)
    exchanged.exchanging += 1  # nobody says whether there is another one
    verdict = Verdict()
    judge_rest(found, verdict)
    assert verdict.examples[Kind.HANGING, "at rest"], str(verdict)
    exchanged.exchanging -= 1
    item = next(item for item in found.stock.items.values() if item.free)
    item.reserved += 1  # for nobody
    verdict = Verdict()
    judge_rest(found, verdict)
    assert verdict.examples[Kind.WRONG, "reserved at rest"] and verdict.counts == {Kind.WRONG: 1}


def test_a_loss_may_be_told_of_what_has_left_and_moves_nothing() -> None:
    legal = LEGAL["record_payment_failure"]
    stays = {str(status): (str(status),) for status, after in legal.items() if after == (status,)}
    assert MOVES["payment_lost"] == stays and len(stays) == 6
    found = found_where(lambda order: order.lost > 0)
    lost = next(order for order in found.bought.orders.values() if order.lost)
    lost.failed = 0  # it is neither taken nor known to be lost
    verdict = Verdict()
    judge_rest(found, verdict)
    assert set(verdict.examples) == {(Kind.HANGING, "at rest"), (Kind.WRONG, "money and goods")}, str(verdict)
    assert found_where(lambda order: order.lost < order.failed), "some of it came back"


def test_what_the_provider_did_is_held_to_what_was_asked() -> None:
    _, found = judged(honest())
    payments = {uid: each for uid, each in found.money.payments.items() if each.method == "provider"}
    keys: dict[str, int] = {}
    for uid, each in payments.items():
        steps = ["authorise", *(["capture"] if each.capturing else []), *(f"refund:{id}" for id in each.refunds)]
        keys |= {f"{uid}:{step}": 1 for step in [*steps, *(f"void:{n + 1}" for n in range(each.voids))]}
    state: dict[str, Any] = {
        "asked": keys,
        "payments": {uid: {"captured": p.captured, "refunded": p.refunded} for uid, p in payments.items()},
    }
    verdict = Verdict()
    judge_provider(found, state, verdict)
    verdict.require(**{"payments at the provider": 5})
    uid = next(uid for uid, payment in payments.items() if payment.captured)
    fewer = {key: count for key, count in keys.items() if key != f"{uid}:capture"}
    twice = {"captured": 2 * payments[uid].captured, "refunded": 0}
    for planted, kind, check in (
        ({**state, "asked": {**keys, f"{uid}:capture:2": 1}}, Kind.DOUBLED, "keys at the provider"),
        ({**state, "asked": {**keys, "nobody:capture": 1}}, Kind.WRONG, "keys at the provider"),
        ({**state, "asked": fewer}, Kind.LOST, "keys at the provider"),
        ({**state, "payments": {**state["payments"], uid: twice}}, Kind.WRONG, "money at the provider"),
    ):
        verdict = Verdict()
        judge_provider(found, planted, verdict)
        assert verdict.examples.get((kind, check)), f"it was not caught: {verdict}"
    with pytest.raises(AssertionError):
        verdict.require()


def test_what_a_carrier_did_is_held_to_what_the_orders_say() -> None:
    _, found = judged(honest())
    did = {
        "delivered": ["registered", "picked_up", "delivered"],
        "returned": ["picked_up", "failed", "returned_to_origin"],
        "cancelled": ["registered", "cancelled"],
        "shipped": ["picked_up"],
    }
    depot: dict[str, dict[str, Any]] = {}
    for uid, order in found.bought.orders.items():
        for id, shipment in order.shipments.items():
            if shipment.carried and shipment.state in did:
                parcel = {"order_uid": uid, "shipment_id": id, "done": did[shipment.state], "switches": {}}
                depot[derived(f"booking {uid} {id}")] = parcel

    def judge(changed: dict[str, dict[str, Any]]) -> Verdict:
        verdict = Verdict()
        judge_depot(found.bought.orders, {**depot, **changed}, verdict)
        return verdict

    judge({}).require(**{"parcels at the carrier": 4})
    name, parcel = next((name, each) for name, each in depot.items() if each["done"][-1] == "delivered")
    for changed, kind in (
        ({"another": parcel}, Kind.DOUBLED),
        ({name: {**parcel, "shipment_id": "nobody's"}}, Kind.DOUBLED),
        ({name: {**parcel, "done": ["picked_up", "delivered", "delivered"]}}, Kind.DOUBLED),
        ({name: {**parcel, "done": ["registered", "cancelled"]}}, Kind.WRONG),
    ):
        assert judge(changed).examples.get((kind, "parcels at the carrier")), f"it was not caught: {changed}"
