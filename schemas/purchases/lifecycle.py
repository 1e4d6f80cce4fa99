"""The life of a purchase as data: which command may meet which status, and where the order can stand after it.

The rules refuse what is not here, a test walks every pair, and `faust -A app lifecycle` draws it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from schemas.orders.words import OrderStatus as S

#: On its way, wholly or in part; what is exchanged is on its way again.
_STAYS: Mapping[S, tuple[S, ...]] = {S.SHIPPED: (S.SHIPPED,), S.OUT_FOR_DELIVERY: (S.OUT_FOR_DELIVERY,)}
_HAS_LEFT = (S.SHIPPED, S.OUT_FOR_DELIVERY, S.DELIVERED, S.COMPLETED, S.RETURN_REQUESTED, S.RETURNED)
#: command -> status that it may meet -> statuses that it may leave the order in.
LEGAL: Mapping[str, Mapping[S, tuple[S, ...]]] = {
    # Straight to paid or approved: what costs nothing.
    # Later: of what is to take the place of something that came back.
    "record_reservation": {
        S.PLACED: (S.PLACED, S.AWAITING_PAYMENT, S.PAID, S.APPROVED, S.REJECTED),
        S.RETURN_REQUESTED: (S.SHIPPED,),
        **_STAYS,
    },
    "record_shortage": {
        S.PLACED: (S.PLACED, S.AWAITING_PAYMENT, S.PAID, S.APPROVED, S.REJECTED),
        S.RETURN_REQUESTED: (S.RETURN_REQUESTED, S.DELIVERED, S.COMPLETED, S.RETURNED),
        **_STAYS,
    },
    "record_payment": {S.AWAITING_PAYMENT: (S.PAID, S.APPROVED)},
    "record_payment_failure": {
        S.AWAITING_PAYMENT: (S.REJECTED,),
        S.PAID: (S.REJECTED,),
        S.APPROVED: (S.REJECTED,),
        S.PACKED: (S.REJECTED,),
        # What has left does not come back by that: the money is lost, and the order says so.
        **{status: (status,) for status in _HAS_LEFT},
    },
    # Given with the approval, and told a moment later: whatever came in between, the number is the order's.
    "record_number": {
        status: (status,)
        for status in (
            S.APPROVED,
            S.PACKED,
            *_HAS_LEFT,
            S.CANCELLED,
            S.REJECTED,
        )
    },
    "expire_order": {S.PLACED: (S.EXPIRED,), S.AWAITING_PAYMENT: (S.EXPIRED,)},
    "approve_order": {S.PAID: (S.APPROVED,)},
    "reject_order": {S.PAID: (S.REJECTED,)},
    "pack_order": {S.APPROVED: (S.PACKED,)},
    # Whether a carrier comes for it is no status of the order: it may come for one part and not for another.
    "request_shipment": {status: (status,) for status in (S.APPROVED, S.PACKED, S.SHIPPED, S.OUT_FOR_DELIVERY)},
    "withdraw_shipment": {status: (status,) for status in (S.APPROVED, S.PACKED, S.SHIPPED, S.OUT_FOR_DELIVERY)},
    "ship_order": {
        S.APPROVED: (S.SHIPPED,),
        S.PACKED: (S.SHIPPED,),
        S.SHIPPED: (S.SHIPPED,),
        S.OUT_FOR_DELIVERY: (S.OUT_FOR_DELIVERY,),
    },
    "send_out": {S.SHIPPED: (S.OUT_FOR_DELIVERY,), S.OUT_FOR_DELIVERY: (S.OUT_FOR_DELIVERY,)},
    # To return_requested: what was exchanged has arrived, and another return is open.
    "deliver_shipment": {
        S.SHIPPED: (S.SHIPPED, S.DELIVERED, S.RETURN_REQUESTED),
        S.OUT_FOR_DELIVERY: (S.SHIPPED, S.OUT_FOR_DELIVERY, S.DELIVERED, S.RETURN_REQUESTED),
    },
    "return_shipment": {
        S.SHIPPED: (S.SHIPPED, S.DELIVERED, S.RETURN_REQUESTED, S.RETURNED),
        S.OUT_FOR_DELIVERY: (S.SHIPPED, S.OUT_FOR_DELIVERY, S.DELIVERED, S.RETURN_REQUESTED, S.RETURNED),
    },
    "complete_order": {S.DELIVERED: (S.COMPLETED,), S.RETURN_REQUESTED: (S.RETURN_REQUESTED,)},
    "cancel_purchase": {
        S.PLACED: (S.CANCELLED,),
        S.AWAITING_PAYMENT: (S.CANCELLED,),
        S.PAID: (S.PAID, S.CANCELLED),
        S.APPROVED: (S.APPROVED, S.CANCELLED),
        S.PACKED: (S.PACKED, S.CANCELLED),
        S.SHIPPED: (S.SHIPPED, S.DELIVERED, S.RETURN_REQUESTED, S.RETURNED),
    },
    "request_return": {S.DELIVERED: (S.RETURN_REQUESTED,), S.RETURN_REQUESTED: (S.RETURN_REQUESTED,)},
    "approve_return": {S.RETURN_REQUESTED: (S.RETURN_REQUESTED,), **_STAYS},
    "refuse_return": {S.RETURN_REQUESTED: (S.RETURN_REQUESTED, S.DELIVERED, S.COMPLETED), **_STAYS},
    "receive_return": {
        S.RETURN_REQUESTED: (S.RETURN_REQUESTED, S.DELIVERED, S.COMPLETED, S.RETURNED),
        **_STAYS,
    },
}
#: What other domains report: where it meets another status it came late, and there is nothing to refuse to anybody.
REPORTS = frozenset({"record_reservation", "record_shortage", "record_payment", "record_payment_failure"})
#: Sent by deadlines: one that comes too late has lost its race, which is no refusal either.
DEADLINES = frozenset({"expire_order", "complete_order"})
#: Money is told in every status: it may come when the order has ended, and goes back then. So are a carrier's words.
ANY_STATUS = frozenset({"settle_payment", "settle_refund", "record_tracking", "note_carrier", "settle_shipment"})


class Move(NamedTuple):
    """One arrow of the life cycle."""

    command: str
    before: S
    after: S


def moves() -> Iterator[Move]:
    """Every arrow that leads to another status."""
    for command, statuses in LEGAL.items():
        for before, afters in statuses.items():
            for after in afters:
                if after is not before:
                    yield Move(command, before, after)


def mermaid() -> str:
    """A Mermaid state diagram. Commands that lead from and to the same statuses share an arrow."""
    arrows: dict[tuple[S, S], list[str]] = {}
    for move in moves():
        arrows.setdefault((move.before, move.after), []).append(move.command)
    lines = [f"    {before} --> {after}: {', '.join(commands)}" for (before, after), commands in arrows.items()]
    ends = [status for status in S if not any(move.before is status for move in moves())]
    return "\n".join(
        [
            "stateDiagram-v2",
            f"    [*] --> {S.PLACED}: place_cart",
            *lines,
            *(f"    {status} --> [*]" for status in ends),
        ]
    )
