"""an event's facts -> the event, told of the order as the one before it left it: what all chapters use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from agents.purchases.state import (
    changed_by,
    excess_minor,
    owed_minor,
    stamped,
    status_of,
)
from schemas.base import derived_id, event_id_for, unix_ms
from schemas.orders import OrderStatus
from schemas.outlets import NotedOutlet
from schemas.purchases import (
    CarrierNoted,
    EndReason,
    Freed,
    Part,
    Purchase,
    PurchaseChanged,
    PurchaseEnded,
    PurchaseEvent,
    PurchaseRefusal,
    Shipped,
)


class Outlets(Protocol):
    """What is known of outlets: a dict of them, or the table."""

    def get(self, outlet_id: str, /) -> NotedOutlet | None: ...


class Story:
    """The events of one command, each told of the order as the one before it left it. Each telling gives all so far."""

    def __init__(self, purchase: Purchase, cause: str, occurred_at: str, outlets: Outlets) -> None:
        self.purchase: Purchase = purchase
        self.outlets = outlets
        self.events: tuple[PurchaseEvent, ...] = ()
        self._cause, self._at = cause, occurred_at

    @property
    def now_ms(self) -> int:
        return unix_ms(self._at)

    def refund_id(self) -> str:
        """The id of a refund that the next event asks for."""
        return derived_id(f"refund {event_id_for(self._cause, len(self.events))}")

    def tell(self, kind: type[PurchaseChanged], **facts: Any) -> tuple[PurchaseEvent, ...]:
        head = {
            "event_id": event_id_for(self._cause, len(self.events)),
            "caused_by": self._cause,
            "occurred_at": self._at,
            "order_uid": self.purchase.order_uid,
            "version": self.purchase.version + 1,
        }
        told = kind(**head, status=OrderStatus.PLACED, **facts)
        changed = changed_by(self.purchase, told)
        event = told.model_copy(update={"status": status_of(changed)})
        self.purchase = stamped(changed, event)
        self.events = (*self.events, event)
        return self.events

    def note(self, kind: type[CarrierNoted], **facts: Any) -> tuple[PurchaseEvent, ...]:
        """An event that leaves the order as it is."""
        head = {
            "event_id": event_id_for(self._cause, len(self.events)),
            "caused_by": self._cause,
            "occurred_at": self._at,
            "order_uid": self.purchase.order_uid,
            "version": self.purchase.version,
        }
        self.events = (*self.events, kind(**head, **facts))
        return self.events

    def end(self, reason: EndReason, detail: str) -> tuple[PurchaseEvent, ...]:
        """Nothing will leave: free the stock, let go of the money, give back what was taken."""
        purchase = self.purchase
        return self.tell(
            PurchaseEnded,
            reason=reason,
            detail=detail,
            freed=_freed(purchase),
            withdrawn=[shipment.shipment_id for shipment in purchase.promised],
            # What was asked to be captured comes in (and goes back), or fails by itself.
            void=is_asked(purchase) and reason is not EndReason.PAYMENT_FAILED,
            refund_minor=excess_minor(purchase, owed_minor(purchase)),
            refund_id=self.refund_id(),
        )


def is_asked(purchase: Purchase) -> bool:
    """Whether money is set aside, or may be, that nobody has asked to capture. What is owed may be nothing by now."""
    return bool(purchase.authorised_minor or purchase.total_minor) and purchase.capture_minor == 0


def _freed(purchase: Purchase) -> list[Freed]:
    """All that is set aside, but for what a carrier may fetch any moment: that waits for its word."""
    promised = sums(part for shipment in purchase.promised for part in shipment.parts)
    freed = []
    for line in purchase.lines:
        left = line.wanted - promised[line.line] if line.line in promised else None
        if line.refused is None and left != 0:
            freed.append(Freed(line=line.line, item_id=line.item_id, quantity=left))
    return freed


def free_to_ship(purchase: Purchase) -> dict[int, int]:
    """What of each line has not left, and no carrier is asked to fetch."""
    promised = sums(part for shipment in purchase.promised for part in shipment.parts)
    return {line.line: line.wanted - line.shipped - promised.get(line.line, 0) for line in purchase.lines}


def objection_to_parts(purchase: Purchase, parts: Sequence[Part], there_is: dict[int, int]) -> PurchaseRefusal | None:
    if any(part.line not in there_is for part in parts):
        return PurchaseRefusal.NO_SUCH_LINE
    too_many = any(quantity > there_is[line] for line, quantity in sums(parts).items())
    return PurchaseRefusal.MORE_THAN_THERE_IS if too_many else None


def sums(parts: Iterable[Part]) -> dict[int, int]:
    """How much of each line."""
    asked: dict[int, int] = {}
    for part in parts:
        asked[part.line] = asked.get(part.line, 0) + part.quantity
    return asked


def goods(purchase: Purchase, parts: Iterable[Part]) -> list[Shipped]:
    """The same parts, with what they are."""
    return [
        Shipped(line=part.line, item_id=purchase.lines[part.line - 1].item_id, quantity=part.quantity) for part in parts
    ]
