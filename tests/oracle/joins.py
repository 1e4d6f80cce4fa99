"""every event of checkout -> the commands to other domains that must follow from it, once; and nobody else's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tests.oracle.bought import (
    ACCOUNTS,
    CARRIERS,
    INVENTORY,
    OUTLETS,
    PAYMENTS,
    PURCHASES,
    SHIPPING,
    Domain,
    Told,
    account_of,
    each_event,
)
from tests.oracle.log import derived
from tests.oracle.verdict import Kind, Verdict

CHECK = "joins"

#: Commands that only an event leads to; whoever else sends one has to name its id beforehand (`clients`).
INWARD = {
    "purchases": frozenset(
        [
            "record_reservation",
            "record_shortage",
            "record_payment",
            "record_payment_failure",
            "settle_payment",
            "settle_refund",
            "record_number",
            "record_tracking",
            "note_carrier",
            "settle_shipment",
            "expire_order",
            "complete_order",
        ]
    ),
    "payments": frozenset(["authorise_payment", "capture_payment", "void_payment", "refund_payment", "retry_step"]),
    "accounts": frozenset(["hold_funds", "capture_hold", "release_hold", "refund_funds"]),
    "inventory": frozenset(["reserve_stock", "commit_stock", "release_stock"]),
    "outlets": frozenset(["issue_number"]),
    "shipping": SHIPPING.words,
    "carriers": frozenset(),
}

Homes = Mapping[str, list[Told]]


class Follow(NamedTuple):
    """A command that follows from an event. `once`: it must be there; else it may be, by a deadline."""

    domain: Domain
    command_id: str
    says: dict[str, Any]
    once: bool = True


def judge_joins(homes: Homes, verdict: Verdict, clients: frozenset[str] = frozenset()) -> None:
    """Between the domains nothing is lost, doubled or invented. `clients`: ids of commands that a load sent itself."""
    there: dict[tuple[str, str], list[Told]] = defaultdict(list)
    for name, home in homes.items():
        for told in home:
            there[name, told.id].append(told)
    expected: set[tuple[str, str]] = set()
    for domain in (PURCHASES, PAYMENTS, ACCOUNTS, INVENTORY, OUTLETS, SHIPPING, CARRIERS):
        for told, event in each_event(homes[domain.name]):
            for follow in _follows(domain, event):
                expected.add((follow.domain.name, follow.command_id))
                _judge(follow, there, f"{event['type']} of {told}", verdict)
    for (name, id), found in there.items():
        for told in found:
            if _only_followed(told) and (name, id) not in expected and id not in clients:
                verdict.add(Kind.WRONG, CHECK, told, "nothing that happened asks for it")


def _only_followed(told: Told) -> bool:
    """Whether it is a command that no client has to say: what a carrier says that it has fetched among them."""
    fetched = told.said.get("type") == "ship_order" and told.said.get("carrier", False)
    return fetched or told.said[told.domain.type] in INWARD[told.domain.name]


def _judge(follow: Follow, there: Mapping[tuple[str, str], list[Told]], where: str, verdict: Verdict) -> None:
    found = there.get((follow.domain.name, follow.command_id), [])
    if follow.once:
        verdict.looked(CHECK)
        if not found:
            verdict.add(Kind.LOST, CHECK, where, f"{follow.says['type']} did not follow")
    if len(found) > 1:
        verdict.add(Kind.DOUBLED, CHECK, where, f"{follow.says['type']} followed {len(found)} times")
    for told in found[:1]:
        verdict.equal(CHECK, f"{where}, {told}", follow.says, {name: told.said.get(name) for name in follow.says})


def _follows(domain: Domain, event: dict[str, Any]) -> Iterator[Follow]:
    if domain is PURCHASES:
        yield from _of_order(event)
    elif domain is PAYMENTS:
        yield from _of_payment(event)
    elif domain is ACCOUNTS:
        yield from _of_account(event)
    elif domain is OUTLETS:
        yield from _of_outlet(event)
    elif domain in (SHIPPING, CARRIERS):
        yield from _of_carrier(event)
    else:
        yield from _of_stock(event)


def _id(event: Mapping[str, Any], which: int | str = 0) -> str:
    return derived(f"{event['event_id']} {which}")


def _of_order(event: dict[str, Any]) -> Iterator[Follow]:
    uid = {"order_uid": event["order_uid"]}
    match event["type"]:
        case "cart_placed":
            for number, line in enumerate(event["lines"], 1):
                says = {"type": "reserve_stock", "line": number, **line, **uid, "partial": event["split"]}
                yield Follow(INVENTORY, _id(event, number), says)
            yield Follow(PURCHASES, derived(f"expire {event['event_id']}"), {"type": "expire_order", **uid}, False)
        case "order_validated" if event["total_minor"]:
            sum_ = {"amount_minor": event["total_minor"], "currency": event["currency"], "user_id": event["user_id"]}
            method = {"method": event["payment"]["method"]}
            yield Follow(PAYMENTS, _id(event), {"type": "authorise_payment", **uid, **sum_, **method})
        case "order_paid":
            yield Follow(PURCHASES, derived(f"approve {event['event_id']}"), {"type": "approve_order", **uid}, False)
        case "order_approved":
            says = {"type": "issue_number", "outlet_id": event["outlet_id"], **uid}
            yield Follow(OUTLETS, _id(event, "number"), says)
            if event["void"]:
                yield Follow(PAYMENTS, _id(event), {"type": "void_payment", **uid})
        case "order_shipped":
            for number, part in enumerate(event["parts"]):
                yield Follow(INVENTORY, _id(event, number), {"type": "commit_stock", **uid, **part})
        case "purchase_ended" | "parts_cancelled":
            for number, freed in enumerate(event["freed"]):
                yield Follow(INVENTORY, _id(event, number), {"type": "release_stock", **uid, **freed})
            if event.get("void"):
                yield Follow(PAYMENTS, _id(event, "void"), {"type": "void_payment", **uid})
            for shipment_id in event.get("withdrawn", ()):
                yield _let_go(event, shipment_id)
        case "return_received" | "shipment_returned":
            for again in event.get("replacements", ()):
                says = {name: again[name] for name in ("item_id", "line", "quantity")}
                yield Follow(
                    INVENTORY, _id(event, f"replace {again['line']}"), {"type": "reserve_stock", **uid, **says}
                )
            for number, part in enumerate(event["parts"]):
                says = {"type": "adjust_stock", "item_id": part["item_id"], "delta": part["quantity"]}
                yield Follow(INVENTORY, _id(event, number), says)
        case "shipment_requested":
            says = {name: event[name] for name in ("shipment_id", "parts", "user_id", "address")}
            yield Follow(SHIPPING, _id(event), {"type": "book_shipment", **uid, **says})
        case "shipment_withdrawn":
            yield _let_go(event, event["shipment_id"])
        case "shipment_settled":
            yield from _of_settled(event)
        case "purchase_command_refused" if event["command"] == "ship_order" and event.get("shipment_id"):
            says = {"shipment_id": event["shipment_id"], "reason": event["reason"]}
            yield Follow(SHIPPING, _id(event), {"type": "recall_shipment", **uid, **says})
    if event.get("complete_at_ms") is not None:
        yield Follow(PURCHASES, derived(f"complete {event['event_id']}"), {"type": "complete_order", **uid}, False)
    if event.get("capture_minor"):
        says = {"type": "capture_payment", **uid, "amount_minor": event["capture_minor"]}
        yield Follow(PAYMENTS, _id(event, "capture"), says)
    if event.get("refund_minor"):
        says = {"type": "refund_payment", **uid, "amount_minor": event["refund_minor"], "refund_id": event["refund_id"]}
        yield Follow(PAYMENTS, _id(event, "refund"), says)


def _let_go(event: Mapping[str, Any], shipment_id: str) -> Follow:
    says = {"type": "cancel_booking", "order_uid": event["order_uid"], "shipment_id": shipment_id}
    return Follow(SHIPPING, _id(event, f"cancel {shipment_id}"), says)


def _of_settled(event: Mapping[str, Any]) -> Iterator[Follow]:
    """What is gone leaves the stock, set aside or not; what never left is free again once its order has ended."""
    lost = event["outcome"] == "lost"
    for number, part in enumerate(event["parts"]):
        says: dict[str, Any] = {"order_uid": event["order_uid"], **part}
        if lost and not event["reserved"]:
            says = {"type": "adjust_stock", "item_id": part["item_id"], "delta": -part["quantity"], "reason": "lost"}
            yield Follow(INVENTORY, _id(event, number), says)
        elif lost or event["ended"] is not None:
            yield Follow(INVENTORY, _id(event, number), {"type": "commit_stock" if lost else "release_stock", **says})


_REPORTED = {
    "registered": "record_tracking",
    "picked_up": "ship_order",
    "out_for_delivery": "send_out",
    "delivered": "deliver_shipment",
    "returned_to_origin": "return_shipment",
    "failed": "note_carrier",
    "cancelled": "settle_shipment",
}


def _of_carrier(event: dict[str, Any]) -> Iterator[Follow]:
    """What the order has to know of its shipment; and, by a deadline, what is asked when nothing more is heard."""
    about = {"order_uid": event["order_uid"], "shipment_id": event["shipment_id"]}
    kind, more = None, dict[str, Any]()
    match event["type"]:
        case "carrier_reported":
            kind = "note_carrier" if event["recalled"] else _REPORTED[event["status"]]
            more = {"tracking_number": event["tracking_number"]} if kind == "record_tracking" else more
            more = {"carrier": True} if kind == "ship_order" else more
            more = {"outcome": "cancelled"} if kind == "settle_shipment" else more
        case "recall_ended":
            kind, more = "settle_shipment", {"outcome": "lost" if event["lost"] else "cancelled"}
        case "carrier_asked" if event["what"] == "recall" and event["ask"] == 1:
            kind = "note_carrier"
        case "response_held" | "response_refused" | "booking_given_up":
            kind = "note_carrier"
    if kind is not None:
        yield Follow(PURCHASES, _id(event), {"type": kind, **about, **more})
    if "stage" in event:
        base = f"{event['order_uid']} {event['shipment_id']} {event['version']}"
        asks = {"type": "ask_again", **about, "stage": event["stage"]}
        yield Follow(SHIPPING, derived(f"ask again {base}"), asks, False)
        yield Follow(SHIPPING, derived(f"release {base}"), {"type": "release_held", **about}, False)


def _of_outlet(event: dict[str, Any]) -> Iterator[Follow]:
    if event["type"] == "number_issued":
        says = {name: event[name] for name in ("order_uid", "order_number")}
        yield Follow(PURCHASES, _id(event), {"type": "record_number", **says})


def _of_stock(event: dict[str, Any]) -> Iterator[Follow]:
    about = {"order_uid": event.get("order_uid"), "line": event.get("line")}
    if event["type"] == "stock_reserved":
        says = {name: event[name] for name in ("quantity", "price_minor", "currency")}
        yield Follow(PURCHASES, _id(event), {"type": "record_reservation", **about, **says})
    if event["type"] == "inventory_command_refused" and event["command"] == "reserve_stock":
        yield Follow(PURCHASES, _id(event), {"type": "record_shortage", **about, "reason": event["reason"]})


def _of_payment(event: dict[str, Any]) -> Iterator[Follow]:
    uid, amount = {"order_uid": event["order_uid"]}, {"amount_minor": event.get("amount_minor")}
    match event["type"]:
        case "payment_authorised":
            yield Follow(PURCHASES, _id(event), {"type": "record_payment", **uid, **amount})
        case "payment_declined" | "payment_voided":
            says = {"type": "record_payment_failure", **uid, "reason": event["reason"]}
            yield Follow(PURCHASES, _id(event), says)
        case "payment_captured":
            asked = event["amount_minor"] - event["excess_minor"]
            yield Follow(PURCHASES, _id(event), {"type": "settle_payment", **uid, "amount_minor": asked})
        case "payment_refunded" if event["refund_id"] not in ("late", "excess"):  # those no order asked for
            says = {"type": "settle_refund", **uid, **amount, "refund_id": event["refund_id"]}
            yield Follow(PURCHASES, _id(event), says)
        case "payment_step_failed" if event["retry_at_ms"] is not None:
            id = derived(f"retry {event['event_id']}")
            yield Follow(PAYMENTS, id, {"type": "retry_step", **uid, "step": event["step"]}, False)
        case "payment_requested" | "capture_requested" | "void_requested" | "refund_requested":
            if event["type"] == "payment_requested":
                yield Follow(PAYMENTS, derived(f"expire {event['event_id']}"), {"type": "void_payment", **uid}, False)
            if event["method"] == "account":
                yield _asked_of_account(event)


_OF_ACCOUNT = {
    "payment_requested": "hold_funds",
    "capture_requested": "capture_hold",
    "void_requested": "release_hold",
    "refund_requested": "refund_funds",
}


def _asked_of_account(event: dict[str, Any]) -> Follow:
    uid, kind = event["order_uid"], _OF_ACCOUNT[event["type"]]
    says = {"type": kind, "account_id": account_of(event["user_id"], event["currency"]), "hold_id": uid}
    if kind != "release_hold":
        says["amount_minor"] = event["amount_minor"]
    if kind == "refund_funds":
        says["refund_id"] = event["refund_id"]
    return Follow(ACCOUNTS, _id(event), says)


_OF_REFUSAL = {
    "hold_funds": "record_decline",
    "capture_hold": "record_failure",
    "release_hold": "record_void",
    "refund_funds": "record_failure",
}
_ANSWERS = {
    "funds_held": "record_authorisation",
    "hold_captured": "record_capture",
    "hold_released": "record_void",
    "funds_refunded": "record_refund",
}


def _of_account(event: dict[str, Any]) -> Iterator[Follow]:
    if event["type"] == "funds_held" and event["expires_at_ms"] is not None:
        id = derived(f"expire {event['event_id']}")
        yield Follow(ACCOUNTS, id, {"type": "release_hold", "hold_id": event["hold_id"]}, False)
    if event.get("order_uid") is None:
        return
    says: dict[str, Any] = {"order_uid": event["order_uid"], "source": "account"}
    if event["type"] == "account_command_refused":
        yield Follow(PAYMENTS, _id(event), {"type": _OF_REFUSAL[event["command"]], **says})
        return
    if "movement" in event or event["type"] == "funds_held":
        says["amount_minor"] = event["movement"]["amount_minor"] if "movement" in event else event["amount_minor"]
    yield Follow(PAYMENTS, _id(event), {"type": _ANSWERS[event["type"]], **says})
