"""the log of checkout -> every domain by itself, the joins between them, and what must be true of all of it at rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.oracle.bought import (
    ACCOUNTS,
    CARRIERS,
    DOMAINS,
    INVENTORY,
    OUTLETS,
    PAYMENTS,
    PURCHASES,
    SHIPPING,
    Told,
    account_of,
    tell,
)
from tests.oracle.joins import judge_joins
from tests.oracle.ledger import Ledger
from tests.oracle.log import Log, Position
from tests.oracle.money import Money
from tests.oracle.numbers import Numbers
from tests.oracle.parcels import Parcels
from tests.oracle.purchases import ENDED, Bought, Order
from tests.oracle.stock import Stock
from tests.oracle.verdict import Kind, Verdict

#: Table -> the domain of its rows, and its members that the fold knows.
TABLES = ("purchases", "payments", "accounts", "items", "bookings")


#: Stage of a parcel -> what its order may have it when nothing is under way. People may be quicker than the carrier's
#: word, and what was called back and came, or was delivered, is no shipment of the order any more.
_FETCHED = ("shipped", "out", "delivered", "returned")
AT_REST = {
    "asked": _FETCHED,
    "registered": _FETCHED,
    "cancelling": _FETCHED,
    "cancelled": ("cancelled", "lost", *_FETCHED),
    "picked_up": _FETCHED,
    "out_for_delivery": _FETCHED[1:],
    "recalled": ("cancelled",),
    "delivered": ("delivered", "lost"),
    "returned_to_origin": ("returned", "cancelled"),
}


@dataclass
class Checkout:
    """All that the log comes to."""

    ledger: Ledger
    stock: Stock = field(default_factory=Stock)
    money: Money = field(default_factory=Money)
    bought: Bought = field(default_factory=Bought)
    numbers: Numbers = field(default_factory=Numbers)
    parcels: Parcels = field(default_factory=Parcels)

    @property
    def restless(self) -> list[str]:
        """What is still to happen, whatever anybody says."""
        orders = [f"order {uid}: {why}" for uid, order in self.bought.orders.items() if (why := order.unfinished)]
        payments = [f"payment {uid}: {why}" for uid, each in self.money.payments.items() if (why := each.unfinished)]
        return orders + payments

    def rows(self, table: str) -> dict[str, dict[str, Any]]:
        """The rows that a table must have, in the members that follow from what is known here."""
        match table:
            case "purchases":
                return {uid: _order_row(order) for uid, order in self.bought.orders.items()}
            case "payments":
                return {
                    uid: {
                        "status": each.status, "version": each.version, "amount_minor": each.amount,
                        "captured_minor": each.captured, "refunded_minor": each.refunded,
                    }
                    for uid, each in self.money.payments.items()
                }  # fmt: skip
            case "items":
                return {
                    id: {"on_hand": item.on_hand, "reserved": item.reserved, "version": item.version}
                    for id, item in self.stock.items.items()
                }
            case "bookings":
                return {
                    "\0".join(key): {
                        "stage": each.stage, "version": each.version, "asks": each.asks,
                        "tracking_number": each.tracking, "failed_attempts": each.failed,
                    }
                    for key, each in self.parcels.parcels.items()
                }  # fmt: skip
            case _:
                return self._accounts()

    def _accounts(self) -> dict[str, dict[str, Any]]:
        rows = {id: {"balance_minor": balance} for id, balance in self.ledger.legs.items() if id.startswith("clearing")}
        for id, account in self.ledger.accounts.items():
            standing = {"balance_minor": account.balance, "held_minor": account.held, "version": account.version}
            rows[id] = standing
        return rows


def _order_row(order: Order) -> dict[str, Any]:
    return {
        "status": order.status,
        "version": order.version,
        "total_minor": order.total,
        "captured_minor": order.captured,
        "refunded_minor": order.refunded,
        "lost_minor": order.lost,
        "order_number": order.number,
    }


def judge_checkout(
    log: Log, verdict: Verdict, *, sent: frozenset[Position] | None = None, clients: frozenset[str] = frozenset()
) -> Checkout:
    """Every command, every event, every join, every row; whether it is at rest is `judge_rest`'s.

    `sent`: where the load's own producers wrote; `clients`: ids of those of its commands that only events lead to.
    """
    homes: Mapping[str, list[Told]] = {domain.name: tell(domain, log, verdict, sent) for domain in DOMAINS}
    found = Checkout(Ledger(log.partitions))
    found.ledger.judge(homes[ACCOUNTS.name], verdict)
    found.stock.judge(homes[INVENTORY.name], verdict)
    found.money.judge(homes[PAYMENTS.name], verdict)
    found.bought.judge(homes[PURCHASES.name], verdict)
    found.numbers.judge(homes[OUTLETS.name], verdict)
    found.parcels.judge(homes[SHIPPING.name], homes[CARRIERS.name], verdict)
    judge_joins(homes, verdict, clients)
    for table, records in log.changelogs.items():
        if table in TABLES:
            kept = [record for record in records if record.key and not record.key.startswith(b"\0")]  # the store's own
            rows = {(record.key or b"").decode(): record.value for record in kept}
            judge_rows(table, found, {key: orjson.loads(value) for key, value in rows.items() if value}, verdict)
    return found


def judge_rows(table: str, found: Checkout, rows: Mapping[str, Mapping[str, Any]], verdict: Verdict) -> None:
    """Rows of a table, or answers over HTTP by key, in the members that the fold knows."""
    expected = found.rows(table)
    known = {key: {name: row.get(name) for name in expected.get(key, row)} for key, row in rows.items()}
    verdict.same_rows(f"rows of {table}", expected, known)


def judge_rest(found: Checkout, verdict: Verdict) -> None:
    """Nothing is under way: every order has ended or waits for somebody, and money equals goods."""
    for what in found.restless:
        verdict.add(Kind.HANGING, "at rest", *what.split(": ", 1))
    reserved, gone = Counter[str](), Counter[str]()
    spent, held = Counter[str](), Counter[str]()
    for uid, order in found.bought.orders.items():
        verdict.looked("orders at rest")
        verdict.equal("order numbers at rest", uid, found.numbers.of_order.get(uid), order.number)
        if order.approved and order.number is None:
            verdict.add(Kind.LOST, "order numbers at rest", uid, "it was approved and has no number")
        kept = order.captured - order.refunded
        due = order.owed if order.captured or order.asked else 0
        if kept + order.lost != due:
            figures = f"{kept} was paid, and {order.lost} lost, for goods of {due}: {order}"
            verdict.add(Kind.WRONG, "money and goods", uid, figures)
        payment = found.money.payments.get(uid)
        if payment is not None and payment.captured - payment.refunded != kept:
            figures = f"the payment has {payment.captured} - {payment.refunded}, the order {kept}"
            verdict.add(Kind.WRONG, "money and goods", uid, figures)
        if order.method == "account" and order.currency is not None:
            whose = account_of(order.user_id, order.currency)
            spent[whose] += kept
            held[whose] += order.authorised if order.status == "paid" else 0
        gone += order.lost_reserved
        _judge_parcels(found, uid, order, verdict)
        if order.status not in ENDED:
            for line in order.lines:
                reserved[line.item_id] += line.wanted - line.shipped
                gone[line.item_id] += line.shipped - line.returned
    for id, item in found.stock.items.items():
        verdict.equal("reserved at rest", id, reserved[id], item.reserved)
        come = sum(item.moved.values()) - item.moved["return"] - item.moved["return_to_origin"]
        verdict.equal("stock at rest", id, come - gone[id], item.on_hand)
    for id, account in found.ledger.accounts.items():
        there = found.ledger.deposited[account.user_id] - spent[id]
        standing = {"balance": account.balance, "held": account.held}
        verdict.equal("balances at rest", id, {"balance": there, "held": held[id]}, standing)


def _judge_parcels(found: Checkout, uid: str, order: Order, verdict: Verdict) -> None:
    """Of what a carrier was asked for there is one parcel, and both sides say the same of it."""
    for id, shipment in order.shipments.items():
        parcel = found.parcels.parcels.get((uid, id))
        if not shipment.carried:
            continue
        verdict.looked("parcels at rest")
        if parcel is None:
            verdict.add(Kind.LOST, "parcels at rest", f"{uid}, {id}", "no carrier was asked")
        elif shipment.state not in AT_REST[parcel.stage]:
            verdict.add(Kind.WRONG, "parcels at rest", f"{uid}, {id}", f"it is {shipment.state}, and {parcel}")
    for of, id in found.parcels.parcels:
        if of == uid and id not in order.shipments:
            verdict.add(Kind.WRONG, "parcels at rest", f"{uid}, {id}", "nobody has asked for it")


def judge_provider(found: Checkout, state: Mapping[str, Any], verdict: Verdict) -> None:
    """I7: the provider took and gave back each sum once, under one key; `state` is what it wrote down of it."""
    asked: Mapping[str, int] = state["asked"]
    by_order: dict[str, list[str]] = {}
    for key in asked:
        uid, _, step = key.partition(":")
        by_order.setdefault(uid, []).append(step)
    for uid, payment in found.money.payments.items():
        if payment.method != "provider":
            continue
        verdict.looked("payments at the provider")
        theirs = state["payments"].get(uid, {"captured": 0, "refunded": 0})
        ours = {"captured": payment.captured, "refunded": payment.refunded}
        verdict.equal("money at the provider", uid, ours, {name: theirs[name] for name in ours})
        voids = {f"void:{number}" for number in range(1, payment.voids + 1)}
        may = {"authorise", *(["capture"] if payment.capturing else []), *voids}
        may |= {f"refund:{id}" for id in payment.refunds}
        for step in set(by_order.get(uid, [])) - may:
            verdict.add(Kind.DOUBLED, "keys at the provider", f"{uid}:{step}", "no event asks for it")
        must = may - {f"void:{number}" for number in range(1, payment.voids)}
        unheard = payment.failures & {"provider_unreachable", "provider_not_configured"}
        if (missing := must - set(by_order.get(uid, []))) and not unheard:
            verdict.add(Kind.LOST, "keys at the provider", uid, f"{sorted(missing)} never arrived")
    for uid in by_order.keys() - found.money.payments.keys():
        verdict.add(Kind.WRONG, "keys at the provider", uid, "no payment of that name is known")
    verdict.looked("keys at the provider", len(asked))
